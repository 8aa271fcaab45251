//! Runs scripts in Prometheus' test format: own ones always, a folder of others where `PROMQLTEST_DIR` names it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and reports by printing"
)]

mod expectation;
mod load;
mod pinned;
mod run;
mod script;
mod series;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What a folder of scripts came to.
#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
}

/// Runs every script of a folder, prints a line per file and one for all.
fn run_folder(folder: &Path) -> Tally {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("reading {}: {e}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "test"))
        .collect();
    files.sort();
    let mut all = Tally::default();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let (passed, failures) = run::run(&text);
        for failure in &failures {
            println!("{name}:{failure}");
        }
        println!("{name}: {passed} passed, {} failed", failures.len());
        all.passed += passed;
        all.failed += failures.len();
    }
    println!("{} passed, {} failed", all.passed, all.failed);
    all
}

fn main() -> ExitCode {
    series::check();
    let mut failed = 0;
    let own = run_folder(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata")));
    assert!(own.passed > 0, "there are no scripts");
    failed += own.failed;
    if let Some(folder) = std::env::var_os("PROMQLTEST_DIR") {
        failed += run_folder(Path::new(&folder)).failed;
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
