//! Replays recorded requests against a server, and compares status, headers and the shape of what comes back.

mod openapi;
mod replay;
mod shape;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use serde_json::Value;

/// Replays a file of recorded requests and answers of a Prometheus against a collector, and prints every difference.
///
/// The file is a list of `{name, request: {method, path, params, headers}, status, headers, body}`. Times in it are
/// moved by as much as has passed since it was recorded. Exit code 0 if nothing differs but what is known.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server that is asked.
    #[arg(long, value_name = "URL")]
    url: String,
    /// The recorded requests and answers.
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// An OpenAPI 3.1 document; every answer of a path that it has is held against it.
    #[arg(long, value_name = "FILE")]
    openapi: Option<PathBuf>,
    /// Say what was answered where something differs.
    #[arg(long)]
    verbose: bool,
}

/// Where the collector differs from a Prometheus on purpose, and why.
const KNOWN: &[(&str, &str)] = &[
    ("root", "the collector has a page there, which clients take for a sign of life"),
    ("write-disabled", "the receiver is on, or the text names the collector's own key"),
];

/// Where the OpenAPI document does not allow what a Prometheus answers, either.
const LOOSE: &[&str] = &["string", "targets"];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
    };
    let recorded: Vec<Value> = serde_json::from_str(&read(&arguments.golden)?)?;
    let document = match &arguments.openapi {
        Some(path) => Some(openapi::Document::parse(&read(path)?)?),
        None => None,
    };
    let (mut same, mut known, mut different) = (0, 0, 0);
    let (mut fit, mut unfit) = (0, 0);
    for record in &recorded {
        let name = record["name"].as_str().unwrap_or("?");
        let answer = replay::ask(&arguments.url, record).await?;
        let faults = replay::compare(record, &answer);
        match KNOWN.iter().find(|(of, _)| *of == name) {
            _ if faults.is_empty() => same += 1,
            Some((_, why)) => {
                known += 1;
                println!("known      {name}: {why}");
            }
            None => {
                different += 1;
                println!("DIFFERENT  {name}: {}", faults.join("; "));
                if arguments.verbose {
                    println!("           {}", answer.text());
                }
            }
        }
        match document.as_ref().and_then(|document| document.check(record, &answer)) {
            None => {}
            Some(Ok(())) => fit += 1,
            Some(Err(_)) if LOOSE.contains(&name) && faults.is_empty() => {
                println!("loose      {name}: as a Prometheus, but not as the OpenAPI document");
            }
            Some(Err(why)) => {
                unfit += 1;
                println!("OPENAPI    {name}: {why}");
            }
        }
    }
    println!("{same} the same, {known} known differences, {different} differences");
    if document.is_some() {
        println!("{fit} fit the OpenAPI document, {unfit} do not");
    }
    Ok(if different + unfit > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
