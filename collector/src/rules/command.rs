//! `rules scope` and `check rules`: what happens to rule files, without a running collector.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use tributary_model::duration;
use tributary_model::label::is_legacy_label_name;
use tributary_promql::feature::Features;

use super::engine::{self, RulesError};
use super::file::{self, GroupSpec, RuleKind, RuleSpec, Scoping};
use crate::config::Scope;

/// `rules scope`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tributary-collector rules scope --cluster local kubernetes.yml > local.yml\n\nA rule whose expression selects another cluster already is an error; the caret shows where."
)]
pub struct ScopeArgs {
    /// The cluster whose series the rules shall see; their output is stamped with it.
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// The label that holds a series' cluster.
    #[arg(long, value_name = "NAME", default_value = "cluster")]
    pub label: String,
    /// Prometheus rule files or PrometheusRule objects.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `check rules`
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example:\n  tributary-collector check rules --scope local rules/local/*.yml"
)]
pub struct CheckArgs {
    /// The scope that the files have in the configuration.
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
    /// Prometheus rule files or PrometheusRule objects.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// A scope on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ScopeName {
    /// Only the collector's own series.
    Local,
    /// Each cluster by itself.
    Each,
    /// Everything.
    Global,
}

impl From<ScopeName> for Scope {
    fn from(name: ScopeName) -> Self {
        match name {
            ScopeName::Local => Self::Local,
            ScopeName::Each => Self::Each,
            ScopeName::Global => Self::Global,
        }
    }
}

/// Why a command on rule files failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The files cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// An argument is not valid.
    #[error(
        "--label {0:?} is not a label name\n  = help: use letters, digits and '_', not beginning with a digit"
    )]
    Label(String),
    /// A cluster's name is empty.
    #[error("--cluster is empty\n  = help: give the name that the label has on the series")]
    Cluster,
    /// The result cannot be written as YAML.
    #[error("writing YAML: {0}")]
    Yaml(String),
    /// There is no such feature.
    #[error("\"{0}\" is not a feature of the language; there are {names}", names = Features::NAMES.join(", "))]
    Feature(String),
    /// A pattern for names of tests cannot be read.
    #[error("--run: {0}")]
    Run(String),
    /// The result cannot be written.
    #[error("writing the result: {0}")]
    Write(#[from] std::io::Error),
}

/// Prints the files' rules as YAML, narrowed to a cluster and stamped with it.
pub fn scope(args: &ScopeArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let scoping = scoping(Scope::Local, &args.label, &args.cluster, Features::ALL)?;
    let mut groups = Vec::new();
    let mut faults = Vec::new();
    for path in &args.files {
        let text = engine::read(path)?;
        match file::parse(&text, &path.display().to_string(), &scoping) {
            Ok(more) => groups.extend(more),
            Err(more) => faults.extend(more),
        }
    }
    if !faults.is_empty() {
        return Err(RulesError::Faults(faults).into());
    }
    let groups = groups.iter().map(|group| written(group, &scoping)).collect();
    // An expression stays on one line.
    let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
    let yaml = serde_saphyr::to_string_with_options(&File { groups }, options);
    out.write_all(yaml.map_err(|e| CommandError::Yaml(e.to_string()))?.as_bytes())?;
    Ok(())
}

/// Reads the files and says what is in them, or what is wrong.
pub fn check(args: &CheckArgs, out: &mut dyn Write) -> Result<(), CommandError> {
    let mut features = Features::default();
    for name in &args.features {
        if !features.enable(name) {
            return Err(CommandError::Feature(name.clone()));
        }
    }
    let scoping = scoping(args.scope.into(), &args.label, &args.cluster, features)?;
    let mut faults = Vec::new();
    for path in &args.files {
        let text = engine::read(path)?;
        match file::parse(&text, &path.display().to_string(), &scoping) {
            Ok(groups) => {
                let rules: usize = groups.iter().map(|group| group.rules.len()).sum();
                writeln!(out, "{}: ok, {} groups, {rules} rules", path.display(), groups.len())?;
            }
            Err(more) => faults.extend(more),
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(RulesError::Faults(faults).into()) }
}

fn scoping(
    scope: Scope,
    label: &str,
    cluster: &str,
    features: Features,
) -> Result<Scoping, CommandError> {
    if !is_legacy_label_name(label) || label.starts_with("__") {
        return Err(CommandError::Label(label.to_owned()));
    }
    if cluster.is_empty() {
        return Err(CommandError::Cluster);
    }
    Ok(Scoping { scope, label: label.to_owned(), local: cluster.to_owned(), features })
}

#[derive(Serialize)]
struct File {
    groups: Vec<WrittenGroup>,
}

#[derive(Serialize)]
struct WrittenGroup {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    interval: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_offset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<usize>,
    rules: Vec<WrittenRule>,
}

#[derive(Serialize)]
struct WrittenRule {
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alert: Option<String>,
    expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

fn written(group: &GroupSpec, scoping: &Scoping) -> WrittenGroup {
    let offset = (!group.query_offset.is_zero()).then_some(group.query_offset);
    WrittenGroup {
        name: group.name.clone(),
        interval: group.interval.map(duration::format),
        query_offset: offset.map(duration::format),
        limit: (group.limit > 0).then_some(group.limit),
        rules: group.rules.iter().map(|rule| written_rule(rule, scoping)).collect(),
    }
}

fn written_rule(rule: &RuleSpec, scoping: &Scoping) -> WrittenRule {
    let mut labels = rule.labels.clone();
    labels.insert(scoping.label.clone(), scoping.local.clone());
    let mut out = WrittenRule {
        record: None,
        alert: None,
        expr: rule.expr.to_string(),
        hold: None,
        keep_firing_for: None,
        labels,
        annotations: BTreeMap::new(),
    };
    match &rule.kind {
        RuleKind::Recording => out.record = Some(rule.name.clone()),
        RuleKind::Alerting { hold, keep_firing_for, annotations } => {
            let written = |d: &std::time::Duration| (!d.is_zero()).then(|| duration::format(*d));
            out.alert = Some(rule.name.clone());
            out.hold = written(hold);
            out.keep_firing_for = written(keep_firing_for);
            out.annotations = annotations.clone();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yml");
        std::fs::write(&path, text).unwrap();
        let args =
            ScopeArgs { cluster: "local".into(), label: "cluster".into(), files: vec![path] };
        let mut out = Vec::new();
        let prefix = folder.path().display().to_string();
        scope(&args, &mut out).map_err(|e| e.to_string().replace(&prefix, ""))?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn prints_narrowed_rules() {
        let out = run("groups:\n- name: a\n  interval: 30s\n  rules:\n  - record: job:up:sum\n    expr: sum by (job) (up) / on() group_left count(up{job=\"x\"})\n  - alert: Down\n    expr: |\n      up == 0\n      and on (job) topk(scalar(n), m)\n    for: 5m\n    labels: {severity: page}\n    annotations: {summary: \"{{ $labels.job }} is down\"}\n").unwrap();
        assert_eq!(
            out,
            r#"groups:
- name: a
  interval: 30s
  rules:
  - record: job:up:sum
    expr: sum by (job) (up{cluster="local"}) / on () group_left () count(up{cluster="local",job="x"})
    labels:
      cluster: local
  - alert: Down
    expr: up{cluster="local"} == 0 and on (job) topk(scalar(n{cluster="local"}), m{cluster="local"})
    for: 5m
    labels:
      cluster: local
      severity: page
    annotations:
      summary: "{{ $labels.job }} is down"
"#
        );
        // What is printed reads as the same rules.
        assert_eq!(run(&out).unwrap(), out);
    }

    #[test]
    fn reads_kubernetes_objects_and_streams_of_them() {
        let object = "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata: {name: x, labels: {a: b}}\nspec:\n  groups:\n  - name: NAME\n    rules:\n    - {record: r, expr: 1}\n";
        let text =
            format!("---\n{}---\n{}", object.replace("NAME", "a"), object.replace("NAME", "b"));
        let out = run(&text).unwrap();
        assert!(out.contains("name: a") && out.contains("name: b"), "{out}");
        let list =
            format!("apiVersion: v1\nkind: List\nitems:\n- {}", object.replace('\n', "\n  "));
        assert!(run(&list).unwrap().contains("name: NAME"));
        let other = run("apiVersion: v1\nkind: ConfigMap\nspec: {}\n").unwrap_err();
        assert!(
            other.contains("\"ConfigMap\" is not a kind of rule file\n  --> /rules.yml:2:7"),
            "{other}"
        );
    }

    #[test]
    fn faults_have_a_caret() {
        for (text, fault) in [
            (
                "groups:\n- name: a\n  rules:\n  - record: x\n    expr: sum(kube_pod_info{cluster=\"eu-1\"})\n",
                "already selects cluster=\"eu-1\", but rules here see only cluster=\"local\"\n  --> /rules.yml:5:29\n 5 |     expr: sum(kube_pod_info{cluster=\"eu-1\"})\n   |                             ^^^^^^^^^^^^^^\n   = help: remove the matcher, or move the rule to files of scope \"global\"",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - record: x\n    expr: |\n      sum(up)\n      + bad bad\n",
                "unexpected identifier \"bad\"\n  --> /rules.yml:7:13\n 7 |       + bad bad\n   |             ^^^",
            ),
            (
                "groups:\n- name: a\n  rulez: []\n",
                "unknown key \"rulez\"\n  --> /rules.yml:3:3\n 3 |   rulez: []\n   |   ^^^^^\n   = help: did you mean \"rules\"?",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - alert: x\n    expr: up\n    for: 5x\n",
                "\"5x\" is not a duration: write numbers with units from long to short, like 1h30m or 15s (y w d h m s ms)\n  --> /rules.yml:6:10\n 6 |     for: 5x\n   |          ^^",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - alert: x\n    expr: up\n    annotations:\n      a: \"{{ nix }}\"\n",
                "the template cannot be read: function \"nix\" not defined\n  --> /rules.yml:7:10\n 7 |       a: \"{{ nix }}\"\n   |          ^^^^^^^^^",
            ),
            (
                "groups:\n- name: a\n- name: a\n",
                "group \"a\" is there twice\n  --> /rules.yml:3:9\n 3 | - name: a\n   |         ^\n   = help: give each group of a file its own name",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - expr: up\n",
                "the rule has neither \"record\" nor \"alert\"\n  --> /rules.yml:4:11\n 4 |   - expr: up\n   |           ^^\n   = help: say \"record: NAME\" or \"alert: NAME\"",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - record: x\n    expr: up\n    labels: {cluster: eu-1}\n",
                "the label cluster is set by the scope of the file\n  --> /rules.yml:6:23\n 6 |     labels: {cluster: eu-1}\n   |                       ^^^^\n   = help: remove the label, or move the rule to files of scope \"global\"",
            ),
            (
                "groups:\n- name: a\n  rules:\n  - record: x\n    expr: up\n    for: 1m\n",
                "a recording rule has no \"for\"\n  --> /rules.yml:6:10\n 6 |     for: 1m\n   |          ^^\n   = help: only rules with \"alert:\" have it",
            ),
        ] {
            assert_eq!(run(text).unwrap_err(), fault);
        }
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let text = "groups:\n- name: a\n  rules:\n  - {record: x, expr: 'rate('}\n  - {record: y, expr: 'rate(up)'}\n";
        let faults = run(text).unwrap_err();
        assert!(
            faults.contains("unclosed left parenthesis") && faults.contains("range vector"),
            "{faults}"
        );
    }
}
