//! Makes the system calls of the store's commit path fail, one after the other, and checks that nothing that was
//! acknowledged is lost.

mod run;
mod trace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use run::{Outcome, Subject};

/// Makes the system calls of the store's commit path fail, one after the other, and checks that nothing that was
/// acknowledged is lost.
///
/// A first run without faults shows which calls each thread makes on the store's files, and how many. Each further run
/// lets one of them fail, or kills the writer as it makes it, and then opens what is left without faults.
/// Exit code 1 if a run lost a round, ended without a clear error, or acknowledged after a failed sync.
#[derive(Debug, Parser)]
struct Arguments {
    /// A program with `write DIR LOG`, which notes every acknowledged round in LOG, and `check DIR LOG`.
    #[arg(long, value_name = "FILE", default_value = "target/debug/examples/powercut")]
    example: PathBuf,
    /// Stop a writer that goes on after this many acknowledged rounds.
    #[arg(long, default_value_t = 400)]
    rounds: usize,
    /// Let at most so many of the calls of each name fail, from the first to the last.
    #[arg(long, default_value_t = 12)]
    bound: usize,
    /// A writer or check that takes longer is stuck.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    patience: u64,
    /// Runs at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// The system calls; those that do not occur are passed over.
    #[arg(long, value_delimiter = ',', default_value = CALLS)]
    calls: Vec<String>,
    /// The faults: an error's name, or KILL.
    #[arg(long, value_delimiter = ',', default_value = "EIO,ENOSPC,KILL")]
    faults: Vec<String>,
    /// Where the stores are made; the folder for temporary files if it is not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Arguments for the program, behind the others.
    #[arg(last = true)]
    extra: Vec<String>,
}

/// Every call that changes a file, a folder, or what the disk has of them. Of `openat` only those that may make a file.
const CALLS: &str = "write,writev,pwrite64,pwritev,pwritev2,fsync,fdatasync,sync_file_range,syncfs,rename,renameat,\
                     renameat2,link,linkat,openat,mkdir,mkdirat,unlink,unlinkat,rmdir,ftruncate,fallocate";

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let subject = Subject {
        example: arguments.example.canonicalize().with_context(|| {
            format!("{} is not there; `tests/faults` builds it", arguments.example.display())
        })?,
        extra: arguments.extra.clone(),
        rounds: arguments.rounds,
        patience: Duration::from_secs(arguments.patience),
        scratch: arguments.dir.clone().unwrap_or_else(std::env::temp_dir),
    };
    let seen = subject.watch(&arguments.calls)?;
    println!(
        "{} rounds without faults: {} calls on {} files",
        arguments.rounds,
        seen.ordinals.values().map(|ordinals| ordinals.last().copied().unwrap_or(0)).sum::<usize>(),
        seen.paths.len()
    );
    let mut cases = Vec::new();
    for (call, ordinals) in &seen.ordinals {
        for fault in &arguments.faults {
            let spread = spread(ordinals, arguments.bound);
            cases.extend(spread.into_iter().map(|nth| Case { call, fault, nth }));
        }
    }
    let table = run_all(&subject, &seen.paths, cases, arguments.jobs)?;
    print(&table)
}

/// The `nth` call of this name, in every thread that makes so many.
#[derive(Debug, Clone, Copy)]
struct Case<'a> {
    call: &'a str,
    fault: &'a str,
    nth: usize,
}

type Table<'a> = BTreeMap<(&'a str, &'a str), Row>;

/// What became of the runs with one call and one fault.
#[derive(Debug, Default)]
struct Row {
    runs: usize,
    /// The call did not come that often this time.
    missed: usize,
    /// Ended with an error that says what failed.
    ended: usize,
    /// Went on to the last round.
    went_on: usize,
    killed: usize,
    lost: usize,
    unclear: usize,
    late: usize,
}

impl Row {
    fn add(&mut self, outcome: &Outcome) {
        let one = |yes: bool| usize::from(yes);
        if !outcome.fired {
            self.missed += 1;
            return;
        }
        self.runs += 1;
        self.ended += one(outcome.end.is_error());
        self.went_on += one(outcome.end.went_on());
        self.killed += one(outcome.end.is_kill());
        self.lost += one(outcome.lost.is_some());
        self.unclear += one(outcome.unclear.is_some());
        self.late += one(outcome.late > 0);
    }
}

/// At most `bound` of them, evenly from the first to the last.
fn spread(ordinals: &[usize], bound: usize) -> Vec<usize> {
    if ordinals.len() <= bound {
        return ordinals.to_vec();
    }
    let last = ordinals.len() - 1;
    let parts = bound.saturating_sub(1).max(1);
    (0..bound).map(|part| ordinals[part * last / parts]).collect()
}

fn run_all<'a>(
    subject: &Subject,
    paths: &[String],
    cases: Vec<Case<'a>>,
    jobs: usize,
) -> anyhow::Result<Table<'a>> {
    let (queue, table) = (Mutex::new(cases.into_iter()), Mutex::new(Table::new()));
    let work = || -> anyhow::Result<()> {
        loop {
            let next = queue.lock().unwrap().next();
            let Some(case) = next else { return Ok(()) };
            let Case { call, fault, nth } = case;
            let outcome = subject
                .fail(paths, call, fault, nth)
                .with_context(|| format!("{call} {fault} {nth}"))?;
            for (what, said) in [("lost", &outcome.lost), ("unclear", &outcome.unclear)] {
                if let Some(said) = said {
                    println!("{what}: {call} {fault} when={nth}: {said}");
                }
            }
            if outcome.late > 0 {
                println!(
                    "acknowledged after a failed sync: {call} {fault} when={nth}: {} rounds",
                    outcome.late
                );
            }
            table.lock().unwrap().entry((call, fault)).or_default().add(&outcome);
        }
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker panicked"))
    })?;
    Ok(table.into_inner().unwrap())
}

fn print(table: &Table<'_>) -> anyhow::Result<()> {
    println!(
        "call             fault    runs  missed  killed  ended  went on    lost  unclear  late acknowledgements"
    );
    let mut bad = 0;
    for ((call, fault), row) in table {
        let Row { runs, missed, ended, went_on, killed, lost, unclear, late } = row;
        println!(
            "{call:<16} {fault:<7} {runs:>5}  {missed:>6}  {killed:>6}  {ended:>5}  {went_on:>7}  {lost:>6}  {unclear:>7}  {late:>4}"
        );
        bad += lost + unclear + late;
    }
    if table.values().all(|row| row.runs == 0) {
        bail!("no call was made to fail");
    }
    if bad > 0 {
        bail!("{bad} findings");
    }
    Ok(())
}

/// A path as strace must be told it.
fn text(path: &Path) -> anyhow::Result<String> {
    Ok(path.to_str().context("a path is not UTF-8")?.to_owned())
}
