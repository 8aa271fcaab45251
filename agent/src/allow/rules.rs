//! The allowlist file, read and compiled: which series may leave, with which labels.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{self, SeqAccess, Visitor};
use tributary_model::diagnostic::{Diagnostic, Place};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::selector::Selector;
use tributary_model::yaml::{self, Located};

use super::digest::Key;

/// Most rules of one file; more are refused, for every new series is held against each of them.
pub(crate) const MAX_RULES: usize = 10_000;

/// What a file says, compiled, without any state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    fingerprint: u128,
}

/// One rule.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    /// Any of these lets a series through.
    pub(crate) selectors: Vec<Selector>,
    /// The labels that stay beside the metric name; `None`: all.
    pub(crate) keep: Option<BTreeSet<String>>,
    /// What happens to series that become equal.
    pub(crate) merge: Merge,
    /// Most series that leave by this rule at a time.
    pub(crate) max_series: Option<usize>,
    /// Why the rule is there, in its author's words.
    pub(crate) why: String,
    /// The line of its `match`.
    pub(crate) line: usize,
}

/// What to do when removed labels make series equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Merge {
    /// The first series is sent, the others are dropped.
    #[default]
    Refuse,
    /// Their sum; of counters, the sum of their increases.
    Sum,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The mean.
    Avg,
    /// How many there are.
    Count,
    /// The newest.
    Last,
}

/// Why there is no allowlist.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AllowlistError {
    /// The file cannot be read.
    #[error("reading the allowlist {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file's text is at fault.
    #[error("{0}")]
    Fault(#[from] Box<Diagnostic>),
}

impl Rules {
    /// Reads and compiles an allowlist file.
    pub(crate) fn load(path: &Path) -> Result<Self, AllowlistError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| AllowlistError::Read { path: path.to_owned(), source })?;
        Ok(Self::parse(&text, &path.display().to_string())?)
    }

    /// Compiles the text of an allowlist; `file` is its name in messages.
    pub(crate) fn parse(text: &str, file: &str) -> Result<Self, Box<Diagnostic>> {
        let raw: RawAllowlist = yaml::parse(text, file)?;
        if raw.rules.len() > MAX_RULES {
            return Err(Box::new(Diagnostic {
                what: format!("{} rules are too many: {MAX_RULES} is the limit", raw.rules.len()),
                file: file.to_owned(),
                place: None,
                help: Some("join selectors with a regular expression on __name__".to_owned()),
            }));
        }
        let rules = (1..)
            .zip(raw.rules)
            .map(|(number, raw)| raw.compile(number, Source { text, file }))
            .collect::<Result<_, _>>()?;
        // Told apart, not kept secret: the key is fixed.
        Ok(Self { rules, fingerprint: Key(0, 0).bytes(text.as_bytes()).0 })
    }

    /// Differs when the files differ.
    pub(crate) fn fingerprint(&self) -> u128 {
        self.fingerprint
    }

    /// The first rule that lets the series through.
    pub(crate) fn decide(&self, labels: &Labels) -> Option<usize> {
        self.rules.iter().position(|rule| rule.selectors.iter().any(|s| s.matches(labels)))
    }

    /// A rule by its place.
    pub(crate) fn rule(&self, at: usize) -> Option<&Rule> {
        self.rules.get(at)
    }

    /// The rules in their order.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }
}

impl Rule {
    /// What is left of a series' labels.
    pub(crate) fn strip(&self, labels: &Labels) -> Labels {
        match &self.keep {
            None => labels.clone(),
            Some(keep) => labels.filter(|l| &*l.name == METRIC_NAME || keep.contains(&*l.name)),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAllowlist {
    #[serde(default)]
    rules: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    #[serde(rename = "match")]
    selectors: Located<Texts>,
    labels: Option<Vec<Located<String>>>,
    #[serde(default)]
    merge: Merge,
    max_series: Option<usize>,
    #[serde(default)]
    why: String,
}

/// The file a fault is in.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    file: &'a str,
}

impl RawRule {
    fn compile(self, number: usize, source: Source<'_>) -> Result<Rule, Box<Diagnostic>> {
        let at = (self.selectors.line, self.selectors.column);
        let texts = match self.selectors.value {
            Texts::One(text) => vec![(text, at)],
            Texts::Many(texts) => {
                texts.into_iter().map(|t| (t.value, (t.line, t.column))).collect()
            }
        };
        if texts.is_empty() {
            let what = format!("reading allowlist rule {number}: match is an empty list");
            return Err(source.fault(what, at, 0, "give at least one selector, like 'up'"));
        }
        let mut selectors = Vec::with_capacity(texts.len());
        for (text, at) in texts {
            selectors.push(text.parse::<Selector>().map_err(|e| {
                let what = format!("reading allowlist rule {number} (match '{text}'): {e}");
                let help = "match is a PromQL selector: name{label=\"value\", other=~\"a|b\"}";
                source.fault(what, at, e.column, help)
            })?);
        }
        let keep = match self.labels {
            None => None,
            Some(names) => Some(
                names
                    .into_iter()
                    .map(|name| {
                        if !name.value.is_empty() {
                            return Ok(name.value);
                        }
                        let what =
                            format!("reading allowlist rule {number}: a label name is empty");
                        Err(source.fault(
                            what,
                            (name.line, name.column),
                            0,
                            "name the labels to keep",
                        ))
                    })
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Rule {
            selectors,
            keep,
            merge: self.merge,
            max_series: self.max_series,
            why: self.why,
            line: at.0,
        })
    }
}

impl Source<'_> {
    #[expect(clippy::unnecessary_box_returns, reason = "every caller returns it as it is")]
    /// A fault at `column` (from 1) inside the scalar at `at`; 0: at its beginning.
    fn fault(self, what: String, at: (usize, usize), column: usize, help: &str) -> Box<Diagnostic> {
        let mut place = Place::at_line(self.text, at.0, at.1, 1);
        let first = place.source.chars().nth(place.column - 1);
        // Inside a block scalar the column would point elsewhere.
        if column > 0 && !matches!(first, Some('|' | '>')) {
            place.column += column - 1 + usize::from(matches!(first, Some('"' | '\'')));
        }
        Box::new(Diagnostic {
            what,
            file: self.file.to_owned(),
            place: Some(place),
            help: Some(help.to_owned()),
        })
    }
}

/// A text, or a list of texts.
enum Texts {
    One(String),
    Many(Vec<Located<String>>),
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextsVisitor;
        impl<'de> Visitor<'de> for TextsVisitor {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a selector or a list of selectors")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Texts, E> {
                Ok(Texts::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Texts, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Texts::Many(texts))
            }
        }
        deserializer.deserialize_any(TextsVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let text = r#"
rules:
  - match: '{__name__=~"node_cpu.+", mode!="idle"}'
    labels: [instance, mode]
    merge: sum
    max_series: 5000
    why: capacity planning
  - match: [up, 'node_load1{instance="a"}']
  - match: 'node_cpu_seconds_total'
    labels: []
"#;
        let rules = Rules::parse(text, "allowlist.yml").unwrap();
        for (pairs, rule, left) in [
            (
                &[("__name__", "node_cpu_seconds_total"), ("mode", "user"), ("cpu", "0")][..],
                Some(0),
                r#"node_cpu_seconds_total{mode="user"}"#,
            ),
            (
                &[("__name__", "node_cpu_seconds_total"), ("mode", "idle")],
                Some(2),
                "node_cpu_seconds_total",
            ),
            (&[("__name__", "up"), ("job", "x")], Some(1), r#"up{job="x"}"#),
            (&[("__name__", "node_load1"), ("instance", "b")], None, ""),
        ] {
            let labels = labels(pairs);
            let decided = rules.decide(&labels);
            assert_eq!(decided, rule, "{labels}");
            if let Some(rule) = decided.and_then(|at| rules.rule(at)) {
                assert_eq!(rule.strip(&labels).to_string(), left);
            }
        }
        let first = rules.rule(0).unwrap();
        assert_eq!((first.merge, first.max_series, first.line), (Merge::Sum, Some(5000), 3));
    }

    #[test]
    fn faults_have_a_place() {
        for (text, expected) in [
            (
                "rules:\n  - match: up\n    lables: [job]\n",
                "unknown key \"lables\"\n  --> a.yml:3:5\n 3 |     lables: [job]\n   |     ^^^^^^\n   = help: did you mean \"labels\"?",
            ),
            (
                "rules:\n  - match: up\n  - match: up\n  - match: '{job=}'\n",
                "reading allowlist rule 3 (match '{job=}'): expected a quoted value at column 6\n  --> a.yml:4:18\n 4 |   - match: '{job=}'\n   |                  ^\n   = help: match is a PromQL selector: name{label=\"value\", other=~\"a|b\"}",
            ),
            (
                "rules:\n  - match:\n    - up\n    - up{\n",
                "reading allowlist rule 1 (match 'up{'): expected a label name at column 4\n  --> a.yml:4:10\n",
            ),
            (
                "rules:\n  - match: []\n",
                "reading allowlist rule 1: match is an empty list\n  --> a.yml:2:12",
            ),
            ("rules:\n  - labels: [a]\n", "the key \"match\" is missing\n  --> a.yml:2:5"),
            ("rules:\n  - match: up\n    merge: add\n", "unknown value \"add\"\n  --> a.yml:3:12"),
            ("rules: 3\n", "a.yml:1:8"),
        ] {
            let message = Rules::parse(text, "a.yml").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}\n---\n{expected}");
        }
        assert_eq!(Rules::parse("", "a.yml").unwrap().iter().count(), 0);
    }
}
