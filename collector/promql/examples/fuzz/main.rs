//! Random and mutated expressions over generated numbers and native histograms: nothing may panic, overflow, hang or
//! print what reads back differently.
//!
//! `CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true cargo run --release -p tributary-promql --example fuzz -- --seconds N
//! --seed S`

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_precision_loss,
    reason = "a tool that reports to whoever runs it"
)]

mod data;
mod expression;
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tributary_model::sample::Timestamp;
use tributary_promql::ast::Expr;
use tributary_promql::eval::{Options, instant, range};
use tributary_promql::feature::Features;
use tributary_promql::parse;
use tributary_promql::source::Memory;
use tributary_promql::value::{EvalError, Interrupted};

use random::Random;

/// Longer than this and it hangs: the data are small.
const TOO_LONG: Duration = Duration::from_secs(5);

/// An evaluation is broken off after this, and has to obey.
const DEADLINE: Duration = Duration::from_secs(1);

/// The stack that parser and evaluator have to get by with.
const STACK: usize = 2 << 20;

/// Expressions over one set of data before others are made.
const PER_DATA: usize = 2000;

#[derive(Default)]
struct Tally {
    texts: AtomicUsize,
    parsed: AtomicUsize,
    evaluated: AtomicUsize,
    failed: AtomicUsize,
}

fn main() -> ExitCode {
    let Some((seconds, seed)) = arguments() else {
        eprintln!("usage: fuzz [--seconds N] [--seed S]");
        return ExitCode::from(2);
    };
    std::panic::set_hook(Box::new(|_| {}));
    if !has_overflow_checks() {
        eprintln!("overflow checks are off: set CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true");
    }
    let tally = Arc::new(Tally::default());
    let counted = Arc::clone(&tally);
    let until = Instant::now() + Duration::from_secs(seconds);
    let worker =
        std::thread::Builder::new().stack_size(STACK).spawn(move || run(seed, until, &counted));
    let found = match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(found)) => found,
        other => Some(format!("the thread ended: {other:?}")),
    };
    println!(
        "seed {seed}: {} texts, {} parsed, {} evaluations, {} of them errors",
        tally.texts.load(Relaxed),
        tally.parsed.load(Relaxed),
        tally.evaluated.load(Relaxed),
        tally.failed.load(Relaxed),
    );
    match found {
        None => ExitCode::SUCCESS,
        Some(found) => {
            println!("{found}");
            ExitCode::FAILURE
        }
    }
}

/// The first fault found.
fn run(seed: u64, until: Instant, tally: &Tally) -> Option<String> {
    let mut random = Random::new(seed);
    let mut texts: Vec<String> = expression::SEEDS.iter().map(|text| (*text).to_owned()).collect();
    while Instant::now() < until {
        let data_seed = random.next();
        let memory = data::memory(&mut Random::new(data_seed));
        for _ in 0..PER_DATA {
            if Instant::now() >= until {
                return None;
            }
            let text = expression::next(&mut random, &mut texts);
            tally.texts.fetch_add(1, Relaxed);
            let at = data::time(&mut random);
            let step = data::step(&mut random);
            let look = || {
                let begun = Instant::now();
                let checked =
                    catch_unwind(AssertUnwindSafe(|| check(&text, &memory, at, step, tally)));
                (checked, begun.elapsed())
            };
            let mut looked = look();
            if looked.1 > TOO_LONG {
                // A busy machine makes one slow; what is slow by itself is so twice.
                looked = look();
            }
            let fault = match looked.0 {
                Ok(Ok(())) if looked.1 > TOO_LONG => format!("took {:?}", looked.1),
                Ok(Ok(())) => continue,
                Ok(Err(fault)) => fault,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text =
                        text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                    format!("panicked: {}", text.unwrap_or_default())
                }
            };
            return Some(format!("data {data_seed} at {at} step {step:?}: {text:?} {fault}"));
        }
    }
    None
}

fn check(
    text: &str,
    memory: &Memory,
    at: Timestamp,
    step: Duration,
    tally: &Tally,
) -> Result<(), String> {
    let Ok(expr) = parse(text) else { return Ok(()) };
    tally.parsed.fetch_add(1, Relaxed);
    let printed = expr.to_string();
    match parse(&printed) {
        // Infinity is printed with its sign, which reads as an operator and changes nothing.
        Ok(again) if again == expr || unsigned(&printed) == unsigned(&again.to_string()) => {}
        Ok(again) => return Err(format!("prints as {printed:?}, which reads as {again:?}")),
        Err(e) => return Err(format!("prints as {printed:?}, which does not read: {e}")),
    }
    evaluate(&expr, text, memory, at, step, tally)
}

fn unsigned(text: &str) -> String {
    text.replace('+', "")
}

fn evaluate(
    expr: &Expr,
    text: &str,
    memory: &Memory,
    at: Timestamp,
    step: Duration,
    tally: &Tally,
) -> Result<(), String> {
    let mut outcomes = Vec::new();
    for threads in [1, 3] {
        let options = options(text, threads);
        let end = at.plus(step * 20);
        let both =
            [instant(expr, memory, at, &options), range(expr, memory, at, end, step, &options)];
        tally.evaluated.fetch_add(both.len(), Relaxed);
        tally.failed.fetch_add(both.iter().filter(|outcome| outcome.is_err()).count(), Relaxed);
        // Broken off at different points, they differ.
        if both.iter().any(|o| matches!(o, Err(EvalError::Timeout | EvalError::TooManySamples))) {
            return Ok(());
        }
        outcomes.push(both.map(|outcome| match outcome {
            Ok(outcome) => format!("{:?}", outcome.value),
            Err(e) => e.to_string(),
        }));
    }
    match outcomes.as_slice() {
        [one, several] if one != several => {
            Err(format!("depends on the number of threads: {one:?} and {several:?}"))
        }
        _ => Ok(()),
    }
}

fn options(text: &str, threads: usize) -> Options {
    let begun = Instant::now();
    let interrupt = move || (begun.elapsed() > DEADLINE).then_some(Interrupted::Timeout);
    Options {
        max_samples: 200_000,
        interrupt: Some(Arc::new(interrupt)),
        features: Features::ALL,
        query: text.into(),
        threads,
        ..Options::default()
    }
}

fn has_overflow_checks() -> bool {
    catch_unwind(|| std::hint::black_box(u8::MAX) + std::hint::black_box(1)).is_err()
}

fn arguments() -> Option<(u64, u64)> {
    let (mut seconds, mut seed) = (60, 1);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next()?.parse().ok()?;
        match word.as_str() {
            "--seconds" => seconds = value,
            "--seed" => seed = value,
            _ => return None,
        }
    }
    Some((seconds, seed))
}
