//! `test rules`: runs rules on made-up series and compares what they yield, in promtool's file format and words.

mod bench;
mod compare;
mod file;
mod series;

use std::io::Write;
use std::path::{Path, PathBuf};

use tributary_model::duration;
use tributary_model::label::Labels;
use tributary_model::regex::Regex;
use tributary_model::sample::Timestamp;
use tributary_promql::feature::Features;

use self::bench::Bench;
use self::compare::{Expected, alerts_differ, samples_differ};
use self::file::{TestFile, TestGroup};
use super::command::{CommandError, ScopeName};
use super::engine::{self, RulesError, expand};
use super::file::Scoping;
use super::group::{self, Context, Group, state::GroupState};
use super::metrics::Metrics;
use super::status::Health;
use super::{Settings, alerting};
use crate::config::Scope;

/// `test rules`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tributary-collector test rules rules/local/*.test.yml --scope local\n\nThe files are those of `promtool test rules`: rule_files, evaluation_interval, group_eval_order, and tests with\ninput_series, alert_rule_test and promql_expr_test. Exit code 1 if a test fails."
)]
pub struct TestArgs {
    /// The scope that the rule files have in the configuration.
    #[arg(long, value_enum, default_value = "global")]
    pub scope: ScopeName,
    /// The collector's own name.
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub cluster: String,
    /// The label that holds a series' cluster.
    #[arg(long, value_name = "NAME", default_value = "cluster")]
    pub label: String,
    /// A feature of the language that query.enable_features names in the configuration; several with commas.
    #[arg(long = "enable-feature", value_name = "NAME", value_delimiter = ',')]
    pub features: Vec<String>,
    /// Only tests whose names match the regular expression; can be given several times.
    #[arg(long, value_name = "REGEX")]
    pub run: Vec<String>,
    /// Test files.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// Where results go: what passed, and what did not.
pub struct Output<'a> {
    /// For programs.
    pub out: &'a mut dyn Write,
    /// For people.
    pub err: &'a mut dyn Write,
}

/// Runs the tests of every file; true if all pass.
pub async fn command(args: &TestArgs, output: Output<'_>) -> Result<bool, CommandError> {
    let mut features = Features::default();
    for name in &args.features {
        if !features.enable(name) {
            return Err(CommandError::Feature(name.clone()));
        }
    }
    let local_cluster = args.cluster.parse().map_err(|_| CommandError::Cluster)?;
    let mut wanted = Vec::new();
    for pattern in &args.run {
        // Anywhere in the name, as in promtool.
        let regex = Regex::new(&format!(".*(?:{pattern}).*"));
        wanted.push(regex.map_err(|e| CommandError::Run(e.to_string()))?);
    }
    let settings = Settings {
        cluster_label: args.label.clone(),
        local_cluster,
        external_url: String::new(),
        external_labels: Labels::empty(),
        builtin: false,
        features,
    };
    let runner = Runner { settings, scope: args.scope.into(), wanted };
    let mut passed = true;
    for path in &args.files {
        let (faults, warnings) = runner.file(path).await;
        for warning in warnings {
            writeln!(output.err, "  WARNING: {warning}")?;
        }
        if faults.is_empty() {
            writeln!(output.out, "  SUCCESS")?;
        } else {
            passed = false;
            writeln!(output.err, "  FAILED:")?;
            for fault in faults {
                writeln!(output.err, "{fault}")?;
                writeln!(output.out)?;
            }
        }
        writeln!(output.out)?;
    }
    Ok(passed)
}

/// Runs test files under one set of flags.
struct Runner {
    settings: Settings,
    scope: Scope,
    wanted: Vec<Regex>,
}

impl Runner {
    /// What is wrong with a file or fails in it, and what may be unintended.
    async fn file(&self, path: &Path) -> (Vec<String>, Vec<String>) {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) => return (vec![format!("reading {}: {e}", path.display())], Vec::new()),
        };
        let file = match TestFile::parse(&text, &path.display().to_string()) {
            Ok(file) => file,
            Err(fault) => return (vec![fault], Vec::new()),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let patterns = file.rule_files.iter().map(|pattern| folder.join(pattern));
        let warnings = patterns
            .filter(|pattern| expand(pattern).is_ok_and(|paths| paths.is_empty()))
            .map(|pattern| format!("no file match pattern {}", pattern.display()));
        let warnings = warnings.collect();
        let mut faults = Vec::new();
        for test in &file.tests {
            let selected = |regex: &Regex| regex.is_match(&test.name);
            if self.wanted.is_empty() || self.wanted.iter().any(selected) {
                faults.extend(self.test(&file, test, folder).await);
            }
        }
        (faults, warnings)
    }

    async fn test(&self, file: &TestFile, test: &TestGroup, folder: &Path) -> Vec<String> {
        let mut settings = self.settings.clone();
        settings.external_labels = test.external_labels.clone();
        settings.external_url.clone_from(&test.external_url);
        let groups = match groups(&settings, self.scope, file, folder) {
            Ok(groups) => groups,
            Err(error) => return vec![error.to_string()],
        };
        let bench = Bench::new(test, &settings);
        let mut faults = Vec::new();
        if !run(&groups, &bench, &settings, (file, test), &mut faults).await {
            return faults;
        }
        for check in &test.expressions {
            let at = Timestamp::from_millis(check.at);
            let head = format!("    expr: {:?}, time: {}", check.expr, shown(check.at));
            let got = match bench.value(&check.expr, at) {
                Ok(got) => got,
                Err(why) => {
                    faults.push(format!("{head}, err: {why}"));
                    continue;
                }
            };
            match check.samples() {
                Ok(wanted) => faults.extend(samples_differ(&head, wanted, got, file.fuzzy)),
                Err(why) => faults.push(format!("{head}, err: {why}")),
            }
        }
        faults
    }
}

/// The groups of the test file's rule files, in the order in which they are evaluated.
fn groups(
    settings: &Settings,
    scope: Scope,
    file: &TestFile,
    folder: &Path,
) -> Result<Vec<Group>, RulesError> {
    let scoping: Scoping = settings.scoping(scope);
    let mut groups = Vec::new();
    let mut faults = Vec::new();
    for pattern in &file.rule_files {
        for path in expand(&folder.join(pattern))? {
            let text = engine::read(&path)?;
            let name = path.display().to_string();
            match super::file::parse(&text, &name, &scoping) {
                Ok(specs) => groups.extend(specs.into_iter().map(|spec| Group {
                    file: name.clone(),
                    scope,
                    spec,
                })),
                Err(more) => faults.extend(more),
            }
        }
    }
    if !faults.is_empty() {
        return Err(RulesError::Faults(faults));
    }
    // Groups that the order does not name count as its first one, as in promtool.
    let place = |group: &Group| file.order.iter().position(|name| *name == group.spec.name);
    groups.sort_by_key(|group| place(group).unwrap_or(0));
    Ok(groups)
}

/// Evaluates all groups at each interval and compares alerts; false if a rule fails, which ends the test.
async fn run(
    groups: &[Group],
    bench: &Bench,
    settings: &Settings,
    (file, test): (&TestFile, &TestGroup),
    faults: &mut Vec<String>,
) -> bool {
    let metrics = Metrics::default();
    let context = Context { host: bench, settings, metrics: &metrics };
    let mut states: Vec<GroupState> = groups.iter().map(|_| GroupState::default()).collect();
    let last = test.last();
    let mut at = 0;
    while at <= last {
        bench.advance(at);
        let now = Timestamp::from_millis(at);
        let before = faults.len();
        for (group, state) in groups.iter().zip(&mut states) {
            group::evaluate(group, state, &context, now).await;
            let failed = state.status(group).rules.into_iter().filter(|r| r.health == Health::Err);
            faults.extend(failed.map(|rule| {
                let time = shown_in_go(at);
                format!("    rule: {}, time: {time}, err: {}", rule.name, rule.last_error)
            }));
        }
        if faults.len() > before {
            return false;
        }
        let due = test.alerts.iter().filter(|c| c.at >= at && c.at < at + file.interval);
        for check in due {
            let got = firing(groups, &states, &check.name);
            let named = match test.name.as_str() {
                "" => String::new(),
                name => format!("    name: {name},\n"),
            };
            let head = format!("{named}    alertname: {}, time: {}", check.name, shown(check.at));
            faults.extend(alerts_differ(&head, check.expected.clone(), got));
        }
        at += file.interval;
    }
    true
}

/// The firing alerts of every rule of a name.
fn firing(groups: &[Group], states: &[GroupState], name: &str) -> Vec<Expected> {
    let statuses = groups.iter().zip(states).flat_map(|(group, state)| state.status(group).rules);
    let rules = statuses.filter(|rule| rule.name == name).filter_map(|rule| rule.alerting);
    rules
        .flat_map(|rule| rule.alerts)
        .filter(|alert| alert.state == alerting::State::Firing)
        .map(|alert| Expected {
            labels: alert.labels,
            annotations: Labels::from_pairs(alert.annotations).unwrap_or_default(),
        })
        .collect()
}

/// A time since the beginning, as Prometheus writes durations.
fn shown(millis: i64) -> String {
    duration::format(std::time::Duration::from_millis(millis.unsigned_abs()))
}

/// The same as Go writes durations: `1m0s`.
fn shown_in_go(millis: i64) -> String {
    let (minutes, rest) = (millis / 60_000, (millis % 60_000) as f64 / 1000.0);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{rest}s"),
        (0, minutes) => format!("{minutes}m{rest}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{rest}s"),
    }
}

#[cfg(test)]
mod tests;
