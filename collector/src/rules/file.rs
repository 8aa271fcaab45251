//! Reads rule files: Prometheus' own and `PrometheusRule` objects, strictly, with the place of every fault.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tributary_model::diagnostic::{Diagnostic, Place};
use tributary_model::label::METRIC_NAME;
use tributary_model::yaml::{self, Located};
use tributary_model::{duration, quote};
use tributary_promql::ast::{Expr, Span};
use tributary_promql::feature::{self, Features};
use tributary_promql::scope::scope;

use super::{place, template};
use crate::config::Scope;

/// Most rules of a file.
pub const MAX_RULES: usize = 10_000;

/// What the rules of a file may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scoping {
    /// The scope.
    pub scope: Scope,
    /// The label that holds a series' cluster.
    pub label: String,
    /// The collector's own name in that label.
    pub local: String,
    /// What expressions may use beyond the stable language.
    pub features: Features,
}

/// A group of rules that are evaluated one after the other.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupSpec {
    /// Its name, unique in its file.
    pub name: String,
    /// How often it is evaluated; the default interval if it does not say.
    pub interval: Option<Duration>,
    /// Most series or alerts of a rule; 0 is no bound.
    pub limit: usize,
    /// How far in the past it is evaluated, so that late samples count.
    pub query_offset: Duration,
    /// Its rules in order.
    pub rules: Vec<RuleSpec>,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct RuleSpec {
    /// What it records, or the alert's name.
    pub name: String,
    /// The expression; narrowed already in the scope `local`.
    pub expr: Expr,
    /// Labels that it sets, the group's included.
    pub labels: BTreeMap<String, String>,
    /// What it is for.
    pub kind: RuleKind,
}

/// What a rule is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuleKind {
    /// Stores the result under the rule's name.
    Recording,
    /// Alerts about every series of the result.
    Alerting {
        /// How long a series must be there before its alert fires.
        hold: Duration,
        /// How long an alert fires on after its series went.
        keep_firing_for: Duration,
        /// Texts for people, as templates.
        annotations: BTreeMap<String, String>,
    },
}

/// Reads `text`, the content of `file`. All faults are found, the first ones of the file first.
pub fn parse(text: &str, file: &str, scoping: &Scoping) -> Result<Vec<GroupSpec>, Vec<Diagnostic>> {
    let raw = read(text, file)?;
    let mut door = Door { text, file, scoping, faults: Vec::new(), rules: 0 };
    let mut names = HashSet::new();
    let mut groups = Vec::new();
    for group in raw {
        if !names.insert(group.name.value.clone()) {
            let what = format!("group {:?} is there twice", group.name.value);
            door.at(&group.name, what, Some("give each group of a file its own name"));
        }
        groups.push(door.group(group));
    }
    if door.rules > MAX_RULES {
        let what = format!("the file has {} rules, {MAX_RULES} are allowed", door.rules);
        door.faults.push(Diagnostic { what, file: file.to_owned(), place: None, help: None });
    }
    if door.faults.is_empty() { Ok(groups) } else { Err(door.faults) }
}

/// The groups of every document of a file.
fn read(text: &str, file: &str) -> Result<Vec<RawGroup>, Vec<Diagnostic>> {
    let mut groups = Vec::new();
    for document in documents(text) {
        match kind(&document).as_deref() {
            None => {
                let raw: RawFile = yaml::parse(&document, file).map_err(|e| vec![*e])?;
                groups.extend(raw.groups);
            }
            Some("List" | "PrometheusRuleList") => {
                let list: RawList = yaml::parse(&document, file).map_err(|e| vec![*e])?;
                groups.extend(list.items.into_iter().flat_map(|item| item.spec.groups));
            }
            Some(_) => {
                let object: RawObject = yaml::parse(&document, file).map_err(|e| vec![*e])?;
                if object.kind.value != "PrometheusRule" {
                    let place = Place::at_line(
                        text,
                        object.kind.line,
                        object.kind.column,
                        object.kind.value.len(),
                    );
                    return Err(vec![Diagnostic {
                        what: format!("{:?} is not a kind of rule file", object.kind.value),
                        file: file.to_owned(),
                        place: Some(place),
                        help: Some("use a PrometheusRule object or a file with \"groups:\"".into()),
                    }]);
                }
                groups.extend(object.spec.groups);
            }
        }
    }
    Ok(groups)
}

/// The documents of a YAML stream, each after as many empty lines as there are lines before it.
pub(super) fn documents(text: &str) -> Vec<String> {
    let mut documents = Vec::new();
    let mut current = String::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let separator = line.trim_end() == "---";
        if separator {
            if !is_blank(&current) {
                documents.push(std::mem::take(&mut current));
            }
            current = "\n".repeat(number + 1);
        } else {
            current.push_str(line);
        }
    }
    if !is_blank(&current) || documents.is_empty() {
        documents.push(current);
    }
    documents
}

fn is_blank(text: &str) -> bool {
    text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'))
}

/// `kind:` of a Kubernetes object.
pub(super) fn kind(document: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Probe {
        kind: Option<String>,
    }
    yaml::parse::<Probe>(document, "").ok()?.kind
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    groups: Vec<RawGroup>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawObject {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    kind: Located<String>,
    #[serde(default, rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    spec: RawFile,
    #[serde(default, rename = "status")]
    _status: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawList {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    #[serde(default, rename = "metadata")]
    _metadata: Option<IgnoredAny>,
    items: Vec<RawObject>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    name: Located<String>,
    interval: Option<Located<String>>,
    limit: Option<usize>,
    query_offset: Option<Located<String>>,
    #[serde(default)]
    labels: BTreeMap<String, Located<String>>,
    #[serde(default)]
    rules: Vec<RawRule>,
    /// A key of Thanos that the PrometheusRule object has; without a meaning here.
    #[serde(rename = "partial_response_strategy")]
    _partial_response_strategy: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    record: Option<Located<String>>,
    alert: Option<Located<String>>,
    expr: Located<String>,
    #[serde(rename = "for")]
    hold: Option<Located<String>>,
    keep_firing_for: Option<Located<String>>,
    #[serde(default)]
    labels: BTreeMap<String, Located<String>>,
    #[serde(default)]
    annotations: BTreeMap<String, Located<String>>,
}

/// Turns what a file says into what the program uses, and collects what is wrong.
struct Door<'a> {
    text: &'a str,
    file: &'a str,
    scoping: &'a Scoping,
    faults: Vec<Diagnostic>,
    rules: usize,
}

impl Door<'_> {
    fn group(&mut self, raw: RawGroup) -> GroupSpec {
        if raw.name.value.is_empty() {
            self.at(&raw.name, "the group's name is empty".into(), None);
        }
        let interval = self.duration(raw.interval.as_ref()).filter(|d| !d.is_zero());
        let query_offset = self.duration(raw.query_offset.as_ref()).unwrap_or_default();
        let labels = self.labels(&raw.labels, false);
        let rules = raw.rules.iter().filter_map(|rule| self.rule(rule, &labels)).collect();
        let limit = raw.limit.unwrap_or(0);
        GroupSpec { name: raw.name.value, interval, limit, query_offset, rules }
    }

    fn rule(&mut self, raw: &RawRule, group: &BTreeMap<String, String>) -> Option<RuleSpec> {
        self.rules += 1;
        let expr = self.expr(&raw.expr);
        let alerting = raw.alert.is_some();
        let mut labels = group.clone();
        labels.extend(self.labels(&raw.labels, alerting));
        let hold = self.duration(raw.hold.as_ref());
        let keep_firing_for = self.duration(raw.keep_firing_for.as_ref());
        let (name, kind) = match (&raw.record, &raw.alert) {
            (Some(record), Some(_)) => {
                let help = "make two rules of it";
                self.at(
                    record,
                    "a rule has either \"record\" or \"alert\", not both".into(),
                    Some(help),
                );
                return None;
            }
            (None, None) => {
                let help = "say \"record: NAME\" or \"alert: NAME\"";
                self.at(
                    &raw.expr,
                    "the rule has neither \"record\" nor \"alert\"".into(),
                    Some(help),
                );
                return None;
            }
            (Some(record), None) => {
                self.recording(record, raw);
                (record.value.clone(), RuleKind::Recording)
            }
            (None, Some(alert)) => {
                if alert.value.is_empty() {
                    self.at(alert, "the alert's name is empty".into(), None);
                }
                let annotations = self.annotations(&raw.annotations);
                let hold = hold.unwrap_or_default();
                let keep_firing_for = keep_firing_for.unwrap_or_default();
                (alert.value.clone(), RuleKind::Alerting { hold, keep_firing_for, annotations })
            }
        };
        Some(RuleSpec { name, expr: expr?, labels, kind })
    }

    fn recording(&mut self, record: &Located<String>, raw: &RawRule) {
        let name = &record.value;
        if name.is_empty() || name.contains(['{', '}']) {
            let what = format!("{} is not a metric name", quote::quote(name));
            self.at(record, what, Some("write the series' labels under \"labels:\""));
        }
        let alert_only = [("for", &raw.hold), ("keep_firing_for", &raw.keep_firing_for)];
        for (key, value) in alert_only {
            if let Some(value) = value {
                let what = format!("a recording rule has no \"{key}\"");
                self.at(value, what, Some("only rules with \"alert:\" have it"));
            }
        }
        if let Some(annotation) = raw.annotations.values().next() {
            let help = "only rules with \"alert:\" have them";
            self.at(annotation, "a recording rule has no annotations".into(), Some(help));
        }
    }

    fn expr(&mut self, raw: &Located<String>) -> Option<Expr> {
        let text = &raw.value;
        let parsed = tributary_promql::parse(text)
            .and_then(|expr| feature::check(text, &expr, self.scoping.features).map(|()| expr));
        let expr = match parsed {
            Ok(expr) => expr,
            Err(e) => {
                self.in_expr(raw, e.span, e.message, None);
                return None;
            }
        };
        let scoping = self.scoping;
        // No cluster has this name, so that every matcher on the label is a fault in the scope `each`.
        let value = match scoping.scope {
            Scope::Local => scoping.local.as_str(),
            Scope::Each => "\0",
            Scope::Global => return Some(expr),
        };
        match scope(&expr, &scoping.label, value) {
            Ok(scoped) if scoping.scope == Scope::Local => Some(scoped),
            Ok(_) => Some(expr),
            Err(e) => {
                let (sees, move_to) = match scoping.scope {
                    Scope::Each => ("one cluster at a time".to_owned(), "global"),
                    _ => (format!("only {}", e.wanted), "global"),
                };
                let what = format!("already selects {}, but rules here see {sees}", e.found);
                let help =
                    format!("remove the matcher, or move the rule to files of scope \"{move_to}\"");
                self.in_expr(raw, e.span, what, Some(&help));
                None
            }
        }
    }

    fn labels(
        &mut self,
        raw: &BTreeMap<String, Located<String>>,
        templates: bool,
    ) -> BTreeMap<String, String> {
        for (name, value) in raw {
            if name.is_empty() || name == METRIC_NAME {
                let what = format!("a rule cannot set the label {}", quote::quote(name));
                self.at(value, what, Some("the name comes from \"record\" or \"alert\""));
            }
            let stamped = self.scoping.scope != Scope::Global && *name == self.scoping.label;
            let same = self.scoping.scope == Scope::Local && value.value == self.scoping.local;
            if stamped && !same {
                let what = format!("the label {name} is set by the scope of the file");
                self.at(
                    value,
                    what,
                    Some("remove the label, or move the rule to files of scope \"global\""),
                );
            }
            if templates {
                self.template(value);
            }
        }
        raw.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect()
    }

    fn annotations(&mut self, raw: &BTreeMap<String, Located<String>>) -> BTreeMap<String, String> {
        for value in raw.values() {
            self.template(value);
        }
        raw.iter().map(|(name, value)| (name.clone(), value.value.clone())).collect()
    }

    fn template(&mut self, raw: &Located<String>) {
        if let Err(e) = template::check(&raw.value) {
            self.at(raw, format!("the template cannot be read: {e}"), None);
        }
    }

    fn duration(&mut self, raw: Option<&Located<String>>) -> Option<Duration> {
        let raw = raw?;
        duration::parse(&raw.value).map_err(|e| self.at(raw, e.to_string(), None)).ok()
    }

    /// A fault of a whole value.
    fn at(&mut self, value: &Located<String>, what: String, help: Option<&str>) {
        let width = value.value.lines().next().unwrap_or("").chars().count();
        self.fault(value.line, value.column, width, (what, help));
    }

    /// A fault inside an expression.
    fn in_expr(&mut self, raw: &Located<String>, span: Span, what: String, help: Option<&str>) {
        let start = (raw.line, raw.column);
        let (line, column) = place::of_offset(self.text, start, &raw.value, span.start);
        let part = raw.value.get(span.start..span.end).unwrap_or("");
        let width = part.lines().next().unwrap_or("").chars().count();
        self.fault(line, column, width, (what, help));
    }

    fn fault(&mut self, line: usize, column: usize, width: usize, why: (String, Option<&str>)) {
        let place = Some(Place::at_line(self.text, line, column, width));
        let (what, help) = (why.0, why.1.map(str::to_owned));
        self.faults.push(Diagnostic { what, file: self.file.to_owned(), place, help });
    }
}
