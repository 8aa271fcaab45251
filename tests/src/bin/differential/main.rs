//! Asks a Prometheus and this project's evaluator the same questions about the same made-up series, and prints every
//! difference.

mod compare;
mod engine;
mod fuzz;
mod generate;
mod histogram;
mod known;
mod magnified;
mod native;
mod ties;
mod unsteady;

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use compare::{Verdict, compare};
use engine::{Engine, Question};
use generate::Generated;
use known::known;

/// Asks a Prometheus and this project's evaluator, or a collector, the same questions about the same made-up series,
/// and prints every difference.
///
/// The reference is a Prometheus with --web.enable-remote-write-receiver and a long retention; the series are sent to
/// it first. Exit code 0 if nothing differs but what is known, with its reason.
#[derive(Debug, Parser)]
struct Arguments {
    /// The Prometheus that is believed.
    #[arg(long, value_name = "URL")]
    reference: String,
    /// What is asked beside it; the evaluator in this process, on the same series in memory, if it is not given.
    #[arg(long, value_name = "URL")]
    target: Option<String>,
    /// A file with an expression on each line; the made-up series are those that it selects.
    #[arg(long, value_name = "FILE")]
    expressions: String,
    /// Ask the expressions of this file instead, of the same series: those that differed, of a reference that was started
    /// anew, for one.
    #[arg(long, value_name = "FILE", conflicts_with = "fuzz")]
    ask: Option<String>,
    /// Ask so many random expressions instead of those of the file.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    fuzz: usize,
    /// Decides the random expressions.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    fuzz_seed: u64,
    /// Send native histograms as well, and draw the random expressions mostly from them.
    #[arg(long)]
    histograms: bool,
    /// Decides the values of the series.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The time of the newest sample.
    #[arg(long, value_name = "UNIX_SECONDS", default_value_t = 1_763_700_000)]
    end: i64,
    /// A label and value that the target adds to all series, as a collector adds its local cluster; the reference gets
    /// them with the series.
    #[arg(long, value_name = "LABEL=VALUE", requires = "target", value_parser = label)]
    stamp: Option<(String, String)>,
    /// Do not send the series: they are there from a run before.
    #[arg(long)]
    no_write: bool,
    /// Do not compare warnings and infos.
    #[arg(long)]
    no_remarks: bool,
    /// The reference runs with --enable-feature=promql-delayed-name-removal.
    #[arg(long)]
    delayed_name_removal: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it like cluster=local")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let expressions = expressions_of(&arguments.expressions)?;
    let mut sent = generate::generate(&expressions, arguments.seed, 1000 * arguments.end)?;
    if arguments.histograms {
        sent = sent.with_histograms(arguments.seed)?;
    }
    let generated = match &arguments.stamp {
        Some((name, value)) => sent.stamped(name, value)?,
        None => sent.clone(),
    };
    println!("{} series, {} samples", generated.series_count(), generated.sample_count());
    if !arguments.no_write {
        generated.send(&arguments.reference).await;
        if let Some(target) = &arguments.target {
            sent.send(target).await;
        }
    }
    let reference = Engine::Remote(arguments.reference.clone(), Box::default());
    let target = match &arguments.target {
        Some(url) => Engine::Remote(url.clone(), Box::default()),
        None => Engine::Here(generated.memory.clone(), arguments.delayed_name_removal),
    };
    let mut fuzz = fuzz::Fuzz::new(&generated, arguments.fuzz_seed);
    let expressions = match &arguments.ask {
        Some(file) => expressions_of(file)?,
        None if arguments.fuzz > 0 => (0..arguments.fuzz).map(|_| fuzz.expression()).collect(),
        None => expressions,
    };
    let differences =
        ask_all(&expressions, &reference, &target, &generated, !arguments.no_remarks).await?;
    println!("{differences} differences");
    Ok(if differences > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The lines of a file.
fn expressions_of(file: &str) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
}

/// Asks every question and prints the differences and a summary; returns the number of differences.
async fn ask_all(
    expressions: &[String],
    reference: &Engine,
    target: &Engine,
    generated: &Generated,
    remarks: bool,
) -> anyhow::Result<usize> {
    let mut tally: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differences = 0;
    for expression in expressions {
        for question in generated.questions() {
            let asked = (reference.ask(expression, question), target.ask(expression, question));
            let (wanted, got) = tokio::try_join!(asked.0, asked.1)?;
            let mut verdict = compare(expression, &wanted, &got);
            let unordered = fuzz::depends_on_order(expression) && question.kind() == "range";
            if let Verdict::Different(_) = verdict {
                let answers = (&wanted, &got);
                if let Some(why) = known(expression, question, answers, reference).await? {
                    verdict = Verdict::Known(why);
                } else if unordered {
                    verdict = Verdict::Unordered;
                } else if ties::tied(expression, question, reference).await? {
                    verdict = Verdict::Tied;
                } else if magnified::magnified(expression, question, reference, target).await? {
                    verdict = Verdict::Magnified;
                } else if unsteady::agrees_later(expression, question, &got, reference).await? {
                    verdict = Verdict::Unsteady;
                } else if unsteady::agrees_by_steps(expression, question, &got, reference).await? {
                    verdict = Verdict::Contradicted;
                }
            }
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
