//! `tributary-agent allowlist`: checks an allowlist, and shows what it would do to the series of a real Prometheus.
//!
//! What is removed is shown by the names of labels only; their values are never printed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use tributary_model::exposition::{Entry, Format, Parser};
use tributary_model::label::Labels;

use super::rules::{Merge, Rules};
use crate::source::federate;
use crate::source::http::{Credentials, Fetcher, chain};

/// A check failed.
const FAILED: u8 = 1;
/// The file or a flag is at fault.
const USAGE: u8 = 2;
/// The Prometheus cannot be asked.
const CANNOT_CONNECT: u8 = 3;

/// What to do with an allowlist.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check an allowlist file
    #[command(after_help = "Example:\n  tributary-agent allowlist check allowlist.yml")]
    Check {
        /// The allowlist
        file: PathBuf,
    },
    /// Show what an allowlist would send of the series that a Prometheus has now
    #[command(
        after_help = "Example:\n  tributary-agent allowlist preview --prometheus http://127.0.0.1:9090 --file allowlist.yml\n\n\
                      REMOVED names the labels that would be removed; their values are not shown.\n\
                      COLLISIONS counts series that would be dropped because another one has the same labels left:\n\
                      keep a label that tells them apart, or set merge."
    )]
    Preview(Preview),
}

/// `tributary-agent allowlist preview`
#[derive(Debug, Args)]
pub(crate) struct Preview {
    /// Address of the Prometheus to ask
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    prometheus: String,
    /// The allowlist
    #[arg(long, default_value = "allowlist.yml")]
    file: PathBuf,
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Show metrics that are not listed, too
    #[arg(long)]
    all: bool,
    /// User for basic authentication
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// File that holds the user's password
    #[arg(long, requires = "user")]
    password_file: Option<PathBuf>,
    /// Longest wait for the answer, in seconds
    #[arg(long, default_value_t = 60)]
    wait: u64,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// All metrics as JSON
    Json,
}

/// Runs the command.
pub(crate) async fn command(command: Command) -> anyhow::Result<ExitCode> {
    let (text, code) = match command {
        Command::Check { file } => check(&file),
        Command::Preview(preview) => preview.run().await,
    };
    let answered = code == 0;
    let written = if answered {
        std::io::stdout().lock().write_all(text.as_bytes())
    } else {
        std::io::stderr().lock().write_all(text.as_bytes())
    };
    // A reader that has seen enough (`| head`) is no fault.
    match written {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(ExitCode::from(code)),
    }
}

fn check(file: &std::path::Path) -> (String, u8) {
    match Rules::load(file) {
        Ok(rules) => (format!("{}: {} rules\n", file.display(), rules.iter().count()), 0),
        Err(e @ super::rules::AllowlistError::Fault(_)) => (format!("error: {e}\n"), FAILED),
        Err(e) => (format!("error: {}\n", chain(&e)), USAGE),
    }
}

impl Preview {
    async fn run(self) -> (String, u8) {
        let rules = match Rules::load(&self.file) {
            Ok(rules) => rules,
            Err(e) => return (format!("error: {}\n", chain(&e)), USAGE),
        };
        let everything = ["{__name__!=\"\"}".to_owned()];
        let wait = Duration::from_secs(self.wait);
        let mut page = match federate::page(&self.prometheus, &everything, wait) {
            Ok(page) => page,
            Err(e) => return (format!("error: {e}\n"), USAGE),
        };
        page.credentials = self.user.clone().map(|username| Credentials::Basic {
            username,
            password_file: self.password_file.clone(),
        });
        let text = match Fetcher::new().fetch(&page).await {
            Ok(fetched) => fetched.text,
            Err(e) => {
                let what =
                    format!("error: asking {} for its series: {}", self.prometheus, chain(&e));
                let help = "give the address of a Prometheus with --prometheus";
                return (format!("{what}\n  = help: {help}\n"), CANNOT_CONNECT);
            }
        };
        let plan = match Plan::new(&rules, series(&text)) {
            Ok(plan) => plan,
            Err(e) => {
                return (
                    format!("error: reading the series of {}: {e}\n", self.prometheus),
                    FAILED,
                );
            }
        };
        match self.output {
            Output::Json => match serde_json::to_string_pretty(&plan) {
                Ok(json) => (json + "\n", 0),
                Err(e) => (format!("error: {e}\n"), FAILED),
            },
            Output::Table => (plan.table(self.all), 0),
        }
    }
}

type Series = Result<Labels, tributary_model::exposition::ExpositionError>;

fn series(text: &str) -> impl Iterator<Item = Series> {
    Parser::new(text, Format::Text).filter_map(|entry| match entry {
        Ok(Entry::Row(row)) => Some(row.labels()),
        Ok(_) => None,
        Err(e) => Some(Err(e)),
    })
}

/// What an allowlist does to series.
#[derive(Debug, Default, Serialize)]
struct Plan {
    total: Counts,
    metrics: BTreeMap<String, MetricPlan>,
}

/// What becomes of the series of one metric.
#[derive(Debug, Default, Serialize)]
struct MetricPlan {
    #[serde(flatten)]
    counts: Counts,
    /// Names of labels that are removed.
    removed: BTreeSet<String>,
    /// The rules that list series of it.
    rules: BTreeMap<usize, RulePlan>,
}

#[derive(Debug, Default, Clone, Serialize)]
struct Counts {
    /// Series there are.
    series: usize,
    /// Series that no rule lists.
    not_listed: usize,
    /// Series that leave.
    sent: usize,
    /// Series that are merged with another into one.
    merged: usize,
    /// Series that are dropped because another has the same labels left.
    collisions: usize,
    /// Series beyond a rule's `max_series`.
    over_budget: usize,
}

#[derive(Debug, Serialize)]
struct RulePlan {
    line: usize,
    why: String,
}

impl Plan {
    fn new(
        rules: &Rules,
        all: impl Iterator<Item = Series>,
    ) -> Result<Self, tributary_model::exposition::ExpositionError> {
        let mut plan = Self::default();
        let mut outputs: HashMap<Labels, usize> = HashMap::new();
        let mut used: HashMap<usize, usize> = HashMap::new();
        for labels in all {
            let labels = labels?;
            let metric = plan.metrics.entry(labels.metric_name().to_owned()).or_default();
            let mut fate = |fate: fn(&mut Counts) -> &mut usize| {
                for counts in [&mut plan.total, &mut metric.counts] {
                    counts.series += 1;
                    *fate(counts) += 1;
                }
            };
            let decided = rules.decide(&labels);
            let Some((at, rule)) = decided.and_then(|at| Some((at, rules.rule(at)?))) else {
                fate(|counts| &mut counts.not_listed);
                continue;
            };
            let left = rule.strip(&labels);
            let used = used.entry(at).or_default();
            match outputs.get(&left) {
                Some(by) if *by == at && rule.merge != Merge::Refuse => {
                    fate(|counts| &mut counts.merged);
                }
                Some(_) => fate(|counts| &mut counts.collisions),
                None if rule.max_series.is_some_and(|max| *used >= max) => {
                    fate(|counts| &mut counts.over_budget);
                }
                None => {
                    fate(|counts| &mut counts.sent);
                    *used += 1;
                    outputs.insert(left.clone(), at);
                }
            }
            let gone = labels.iter().filter(|label| left.find(&label.name).is_none());
            metric.removed.extend(gone.map(|label| label.name.to_string()));
            metric
                .rules
                .entry(at + 1)
                .or_insert_with(|| RulePlan { line: rule.line, why: rule.why.clone() });
        }
        Ok(plan)
    }

    fn table(&self, all: bool) -> String {
        let header = [
            "METRIC",
            "SERIES",
            "SENT",
            "MERGED",
            "COLLISIONS",
            "OVER BUDGET",
            "REMOVED",
            "RULE",
            "WHY",
        ];
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        for (n, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if (1..=5).contains(&n) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for (name, metric) in &self.metrics {
            if metric.rules.is_empty() && !all {
                continue;
            }
            let list = |items: Vec<String>| {
                if items.is_empty() { "-".to_owned() } else { items.join(", ") }
            };
            let counts = &metric.counts;
            let numbers =
                [counts.series, counts.sent, counts.merged, counts.collisions, counts.over_budget];
            let rules = metric.rules.iter().map(|(n, rule)| format!("{n} (line {})", rule.line));
            let why = metric.rules.values().filter(|rule| !rule.why.is_empty());
            let mut row = vec![name.clone()];
            row.extend(numbers.map(|n| n.to_string()));
            row.push(list(metric.removed.iter().cloned().collect()));
            row.push(list(rules.collect()));
            row.push(list(why.map(|rule| rule.why.clone()).collect()));
            table.add_row(row);
        }
        let mut out = String::new();
        for line in table.to_string().lines() {
            let _ = writeln!(out, "{}", line.trim_end());
        }
        let total = &self.total;
        let unlisted = self.metrics.values().filter(|metric| metric.rules.is_empty()).count();
        let _ = writeln!(
            out,
            "\n{} of {} series would be sent; {} merged, {} dropped by collisions, {} over budget, {} not listed.\n\
             {} of {} metrics are not listed{}.",
            total.sent,
            total.series,
            total.merged,
            total.collisions,
            total.over_budget,
            total.not_listed,
            unlisted,
            self.metrics.len(),
            if all || unlisted == 0 { "" } else { " (--all shows them)" },
        );
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
up{job=\"a\",pod=\"secret-1\"} 1
up{job=\"a\",pod=\"secret-2\"} 1
up{job=\"b\",pod=\"secret-3\"} 1
x_total{pod=\"secret-1\"} 1
x_total{pod=\"secret-2\"} 1
y{pod=\"1\"} 1
y{pod=\"2\"} 1
z 1
";

    fn plan() -> Plan {
        let rules = "rules:
- {match: up, labels: [job], why: liveness}
- {match: x_total, labels: [], merge: sum}
- {match: '{__name__=\"y\"}', max_series: 1}
";
        Plan::new(&Rules::parse(rules, "a.yml").unwrap(), series(TEXT)).unwrap()
    }

    #[test]
    fn a_preview_counts_and_names_no_removed_value() {
        let table = plan().table(false);
        let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["up", "3", "2", "0", "1", "0", "pod", "1", "(line", "2)", "liveness"]);
        assert_eq!(rows[2], ["x_total", "2", "1", "1", "0", "0", "pod", "2", "(line", "3)", "-"]);
        assert_eq!(rows[3], ["y", "2", "1", "0", "0", "1", "-", "3", "(line", "4)", "-"]);
        assert!(table.ends_with(
            "4 of 8 series would be sent; 1 merged, 1 dropped by collisions, 1 over budget, 1 not listed.\n\
             1 of 4 metrics are not listed (--all shows them).\n"
        ));
        let json = serde_json::to_string(&plan()).unwrap();
        assert!(!table.contains("secret") && !json.contains("secret"));
        assert!(json.contains("\"up\":{\"series\":3,\"not_listed\":0,\"sent\":2,"), "{json}");
        assert!(plan().table(true).lines().any(|line| line.starts_with("z ")));
    }

    #[test]
    fn a_check_says_what_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("allowlist.yml");
        assert_eq!(check(&file).1, USAGE);
        std::fs::write(&file, "rules: [{match: up}]").unwrap();
        assert_eq!(check(&file), (format!("{}: 1 rules\n", file.display()), 0));
        std::fs::write(&file, "rules: [{match: 'up{'}]").unwrap();
        let (text, code) = check(&file);
        assert_eq!(code, FAILED);
        assert!(
            text.starts_with("error: reading allowlist rule 1 (match 'up{'): expected"),
            "{text}"
        );
    }
}
