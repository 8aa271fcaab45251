//! How long range queries take over series in memory: nanoseconds per sample read, with one thread and with more.
//!
//! `cargo run --release -p tributary-promql --example speed -- [--series N] [--samples N] [--threads N] [--rounds N]
//! [--expression TEXT]`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a tool that reports to whoever runs it"
)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_promql::eval::{Options, range};
use tributary_promql::parse;
use tributary_promql::source::Memory;

/// Between two samples of a series.
const SCRAPE: i64 = 30_000;

/// Between two steps of the query.
const STEP: Duration = Duration::from_secs(60);

/// Different values of the label `cluster`.
const CLUSTERS: usize = 20;

const EXPRESSIONS: [&str; 10] = [
    "sum by (cluster) (rate(x[5m]))",
    "rate(x[5m])",
    "sum by (cluster) (x)",
    "sum(x) by (cluster) / count(x) by (cluster)",
    "max_over_time(x[1h])",
    "avg_over_time(x[1h])",
    "topk(5, rate(x[5m]))",
    "quantile by (cluster) (0.9, x)",
    "x * 2 > 100",
    "sum by (cluster) (increase(x[1h]))",
];

struct Arguments {
    series: usize,
    samples: usize,
    threads: usize,
    rounds: usize,
    /// Only this one.
    expression: Option<String>,
}

fn main() -> ExitCode {
    let Some(arguments) = arguments() else {
        eprintln!(
            "usage: speed [--series N] [--samples N] [--threads N] [--rounds N] [--expression TEXT]"
        );
        return ExitCode::from(2);
    };
    let memory = memory(&arguments);
    let read = arguments.series * arguments.samples;
    let last = i64::try_from(arguments.samples).unwrap_or(0) * SCRAPE;
    println!(
        "{} series x {} samples, step {} s, best of {}",
        arguments.series,
        arguments.samples,
        STEP.as_secs(),
        arguments.rounds
    );
    let expressions = match &arguments.expression {
        Some(expression) => vec![expression.as_str()],
        None => EXPRESSIONS.to_vec(),
    };
    for text in expressions {
        print!("{text:48}");
        for threads in [1, arguments.threads] {
            let Some(best) = measure(text, &memory, last, threads, arguments.rounds) else {
                eprintln!("{text} cannot be evaluated");
                return ExitCode::FAILURE;
            };
            let nanos = best.as_nanos() as f64 / read as f64;
            let millis = best.as_secs_f64() * 1e3;
            print!(" {threads} thread(s): {millis:7.1} ms {nanos:6.2} ns/sample");
            if threads == arguments.threads {
                break;
            }
        }
        println!();
    }
    ExitCode::SUCCESS
}

fn measure(
    text: &str,
    memory: &Memory,
    last: i64,
    threads: usize,
    rounds: usize,
) -> Option<Duration> {
    let expr = parse(text).ok()?;
    let options = Options { threads, ..Options::default() };
    let (start, end) = (Timestamp::from_millis(0), Timestamp::from_millis(last));
    let mut best = Duration::MAX;
    for _ in 0..rounds {
        let (begun, worked) = (Instant::now(), processor_time());
        let outcome = range(&expr, memory, start, end, STEP, &options).ok()?;
        // Of one thread, what it worked: on a busy machine it also waits.
        let worked = match (worked, processor_time()) {
            (Some(before), Some(after)) if threads == 1 => after.saturating_sub(before),
            _ => begun.elapsed(),
        };
        best = best.min(worked);
        drop(outcome);
    }
    Some(best)
}

/// How long this thread has had a processor, where the system says so.
fn processor_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Counters that rise at different speeds and start again now and then.
fn memory(arguments: &Arguments) -> Memory {
    let mut memory = Memory::default();
    for index in 0..arguments.series {
        let pairs = [
            ("__name__", "x".to_owned()),
            ("cluster", format!("cluster-{}", index % CLUSTERS)),
            ("instance", format!("node-{index}")),
            ("job", "node".to_owned()),
        ];
        let labels = Labels::from_pairs(pairs).unwrap_or_default();
        let offset = i64::try_from(index * 7919 % 30_000).unwrap_or(0);
        let samples = (0..arguments.samples).map(|at| {
            let value = (at % 997 * (index % 13 + 1)) as f64;
            Sample::new(offset + i64::try_from(at).unwrap_or(0) * SCRAPE, value)
        });
        memory.add(&labels, samples);
    }
    memory
}

fn arguments() -> Option<Arguments> {
    let mut out =
        Arguments { series: 3000, samples: 1440, threads: 2, rounds: 5, expression: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?;
        if word == "--expression" {
            out.expression = Some(value);
            continue;
        }
        let value: usize = value.parse().ok()?;
        match word.as_str() {
            "--series" => out.series = value.max(1),
            "--samples" => out.samples = value.max(1),
            "--threads" => out.threads = value.max(1),
            "--rounds" => out.rounds = value.max(1),
            _ => return None,
        }
    }
    Some(out)
}
