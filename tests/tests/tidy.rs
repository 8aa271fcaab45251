//! Keeps the house rules that a machine can check: the top level, the arrows between crates, one owner per foreign
//! crate, the size of files, and the sentence that opens each.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Longest Rust file, in lines before its tests.
const MAX_FILE_LINES: usize = 500;

/// Everything that may stand at the top, beside dot-files and build output.
const TOP_LEVEL: &[&str] = &[
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "agent",
    "certs",
    "collector",
    "deploy",
    "proto",
    "target",
    "tests",
];

/// Our packages, their folders, and what each may depend on of ours. An absent arrow is a promise.
const ARROWS: &[(&str, &str, &[&str])] = &[
    ("tributary-model", "proto/model", &[]),
    ("tributary-journal", "proto/journal", &[]),
    ("tributary-certs", "certs", &[]),
    ("tributary-proto", "proto", &["tributary-model"]),
    ("tributary-promql", "collector/promql", &["tributary-model"]),
    ("tributary-store", "collector/store", &["tributary-journal", "tributary-model"]),
    (
        "tributary-agent",
        "agent",
        &["tributary-certs", "tributary-journal", "tributary-model", "tributary-proto"],
    ),
    (
        "tributary-collector",
        "collector",
        &[
            "tributary-certs",
            "tributary-journal",
            "tributary-model",
            "tributary-promql",
            "tributary-proto",
            "tributary-store",
        ],
    ),
    ("tributary-tests", "tests", &["tributary-model", "tributary-promql", "tributary-proto"]),
];

/// Foreign crates that have owners: nobody else may name them, whatever the kind of dependency.
const OWNERS: &[(&str, &[&str])] = &[
    ("aws-lc-rs", &["tributary-certs"]),
    ("axum", &["tributary-agent", "tributary-collector"]),
    ("config", &["tributary-agent", "tributary-collector"]),
    ("gotmpl", &["tributary-collector"]),
    ("lettre", &["tributary-collector"]),
    ("prost", &["tributary-proto", "tributary-tests"]),
    ("protox", &["tributary-proto"]),
    ("rcgen", &["tributary-certs"]),
    ("regex", &["tributary-model"]),
    ("roaring", &["tributary-store"]),
    ("rustls", &["tributary-certs"]),
    ("serde-saphyr", &["tributary-collector", "tributary-model"]),
    ("sled", &["tributary-store"]),
    ("snap", &["tributary-agent", "tributary-collector", "tributary-tests"]),
    ("tokio-rustls", &["tributary-certs"]),
    ("tonic", &["tributary-agent", "tributary-collector", "tributary-proto"]),
    ("x509-parser", &["tributary-certs"]),
];

/// Crates that a package must not reach, even through others.
const ABSENCES: &[(&str, &[&str])] = &[
    ("tributary-agent", &["lettre", "roaring", "sled", "tributary-promql", "tributary-store"]),
    ("tributary-journal", &["tokio", "tonic"]),
    ("tributary-promql", &["axum", "sled", "tokio", "tonic"]),
    ("tributary-store", &["axum", "tokio", "tonic"]),
];

#[test]
fn top_level_is_what_the_design_says() {
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let known = name.starts_with('.') || TOP_LEVEL.contains(&name.as_str());
        assert!(known, "{name} does not belong to the top level");
    }
}

#[test]
fn arrows_between_our_crates_hold() {
    let packages = packages();
    assert_eq!(
        packages.len(),
        ARROWS.len(),
        "a package is new or gone: say so here and in ARCHITECTURE.md"
    );
    for (package, dependencies) in packages {
        let (_, _, allowed) = ARROWS.iter().find(|(name, _, _)| *name == package).unwrap();
        for dependency in dependencies.iter().filter(|d| d.starts_with("tributary-")) {
            assert!(
                allowed.contains(&dependency.as_str()),
                "{package} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn foreign_crates_have_owners() {
    for (package, dependencies) in packages() {
        for (name, owners) in OWNERS {
            if dependencies.iter().any(|d| d == name) {
                assert!(
                    owners.contains(&package.as_str()),
                    "{name} belongs to {owners:?}, not to {package}"
                );
            }
        }
    }
}

#[test]
fn what_must_be_absent_is_absent() {
    for (package, absent) in ABSENCES {
        let arguments = [
            "tree",
            "-p",
            package,
            "-e",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--offline",
        ];
        let tree = cargo(&arguments);
        let reached: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split(' ').next()).collect();
        assert!(reached.contains(package));
        for name in *absent {
            assert!(!reached.contains(name), "{package} reaches {name}");
        }
    }
}

#[test]
fn files_are_short_and_open_with_a_sentence() {
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        let shown = path.strip_prefix(root()).unwrap().display();
        assert!(text.starts_with("//! "), "{shown} does not open with a //! sentence");
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").count();
        let is_test = shown.to_string().contains("tests/");
        assert!(
            lines <= MAX_FILE_LINES || is_test,
            "{shown} has {lines} lines before its tests, over {MAX_FILE_LINES}"
        );
    }
}

#[test]
fn no_test_is_switched_off() {
    // Written in two halves, so that this file does not find itself.
    let marks = [
        concat!("#[ig", "nore"),
        concat!("should_", "panic"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    for path in sources() {
        let text = fs::read_to_string(&path).unwrap();
        for mark in marks {
            assert!(!text.contains(mark), "{} contains {mark}", path.display());
        }
    }
}

#[test]
fn versions_stand_in_one_place() {
    for (package, folder, _) in ARROWS {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let mut in_dependencies = false;
        for line in text.lines() {
            if line.starts_with('[') {
                in_dependencies = line.ends_with("dependencies]");
            } else if in_dependencies && line.contains('=') && !line.starts_with('#') {
                assert!(
                    line.contains("workspace = true"),
                    "{package} gives a version of its own: {line}"
                );
            }
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        TOP_LEVEL.iter().filter(|d| **d != "target").map(|d| root().join(d)).collect();
    folders.retain(|path| path.is_dir());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the source files are not where this test looks for them");
    found
}

/// Every package of the workspace with the names of its direct dependencies.
fn packages() -> Vec<(String, Vec<String>)> {
    let metadata = cargo(&["metadata", "--format-version", "1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let name = |v: &Value| v["name"].as_str().unwrap().to_owned();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .map(|p| (name(p), p["dependencies"].as_array().unwrap().iter().map(name).collect()))
        .collect()
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
