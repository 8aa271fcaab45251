//! Asks a Prometheus and this project's evaluator the same questions about the same made-up series, and prints every
//! difference.
//!
//! `differential --reference URL [--target URL] --expressions FILE [--fuzz N] [--fuzz-seed N] [--seed N] [--end UNIX_SECONDS] [--write no]
//! [--remarks no] [--delayed-name-removal yes]`
//!
//! The reference is a Prometheus with `--web.enable-remote-write-receiver`; the series are sent to it first. Without a
//! target, the evaluator runs here, on the same series in memory; with one, they are sent to it as well and it is asked
//! over its API. With `--fuzz`, so many random expressions are asked instead of those of the file.

mod compare;
mod engine;
mod fuzz;
mod generate;

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use compare::{Verdict, compare};
use engine::{Engine, Question};
use generate::Generated;

/// Where a Prometheus 3.5 is known to differ, and why.
const KNOWN: &[(&str, &str)] = &[
    (
        "histogram_fraction",
        "different: Prometheus 3.5 does not sort classic buckets for histogram_fraction and gives NaN",
    ),
    ("mad_over_time", "different: in later versions of Prometheus, NaN makes mad_over_time NaN"),
];

struct Arguments {
    reference: String,
    target: Option<String>,
    expressions: String,
    fuzz: usize,
    seed: u64,
    fuzz_seed: u64,
    end_ms: i64,
    write: bool,
    remarks: bool,
    delayed_name_removal: bool,
}

impl Arguments {
    fn read() -> anyhow::Result<Self> {
        let mut values: BTreeMap<String, String> = BTreeMap::new();
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let Some(name) = word.strip_prefix("--") else { bail!("unexpected argument {word}") };
            let value = words.next().with_context(|| format!("--{name} needs a value"))?;
            values.insert(name.to_owned(), value);
        }
        let mut take = |name: &str| values.remove(name);
        let arguments = Self {
            reference: take("reference").context("--reference URL is missing")?,
            target: take("target"),
            expressions: take("expressions").context("--expressions FILE is missing")?,
            fuzz: take("fuzz").map_or(Ok(0), |text| text.parse()).context("--fuzz")?,
            seed: take("seed").map_or(Ok(1), |text| text.parse()).context("--seed")?,
            fuzz_seed: take("fuzz-seed")
                .map_or(Ok(1), |text| text.parse())
                .context("--fuzz-seed")?,
            end_ms: 1000
                * take("end").map_or(Ok(1_763_700_000), |text| text.parse()).context("--end")?,
            delayed_name_removal: take("delayed-name-removal").is_some_and(|text| text == "yes"),
            remarks: take("remarks").is_none_or(|text| text != "no"),
            write: take("write").is_none_or(|text| text != "no"),
        };
        if let Some(name) = values.keys().next() {
            bail!("unknown argument --{name}");
        }
        Ok(arguments)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::read()?;
    let text = std::fs::read_to_string(&arguments.expressions)
        .with_context(|| format!("reading {}", arguments.expressions))?;
    let expressions: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let generated = generate::generate(&expressions, arguments.seed, arguments.end_ms)?;
    println!("{} series, {} samples", generated.series_count(), generated.sample_count());
    if arguments.write {
        generated.send(&arguments.reference).await;
        if let Some(target) = &arguments.target {
            generated.send(target).await;
        }
    }
    let reference = Engine::Remote(arguments.reference.clone());
    let target = match &arguments.target {
        Some(url) => Engine::Remote(url.clone()),
        None => Engine::Here(generated.memory.clone(), arguments.delayed_name_removal),
    };
    let mut fuzz = fuzz::Fuzz::new(&generated.memory, arguments.fuzz_seed);
    let random: Vec<String> = (0..arguments.fuzz).map(|_| fuzz.expression()).collect();
    let expressions =
        if random.is_empty() { expressions } else { random.iter().map(String::as_str).collect() };
    let differences =
        ask_all(&expressions, &reference, &target, &generated, arguments.remarks).await?;
    if differences > 0 {
        bail!("{differences} differences");
    }
    Ok(())
}

/// Asks every question and prints the differences and a summary; returns the number of differences.
async fn ask_all(
    expressions: &[&str],
    reference: &Engine,
    target: &Engine,
    generated: &Generated,
    remarks: bool,
) -> anyhow::Result<usize> {
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differences = 0;
    for expression in expressions {
        for question in generated.questions() {
            let wanted = reference.ask(expression, question).await?;
            let got = target.ask(expression, question).await?;
            let mut verdict = compare(&wanted, &got);
            let unordered = fuzz::depends_on_order(expression) && question.kind() == "range";
            let known = KNOWN.iter().find(|(part, _)| expression.contains(part));
            verdict = match (verdict, known) {
                (Verdict::Different(_), Some((_, why))) => Verdict::Known(why),
                (Verdict::Different(_), None) if unordered => Verdict::Unordered,
                (verdict, _) => verdict,
            };
            *tally.entry(verdict.name()).or_default() += 1;
            if let Verdict::Different(why) = verdict {
                differences += 1;
                println!("DIFFERENT {question}: {expression}\n    {why}");
            }
            if remarks && wanted.remarks != got.remarks {
                *tally.entry("other remarks").or_default() += 1;
                println!(
                    "REMARKS {question}: {expression}\n    {:?}\n    {:?}",
                    wanted.remarks, got.remarks
                );
            }
        }
    }
    for question in [Question::Instant(0), Question::Range(0, 0, 0)] {
        println!("asked as {} query: {} expressions", question.kind(), expressions.len());
    }
    for (name, count) in tally {
        println!("{count:6} {name}");
    }
    Ok(differences)
}
