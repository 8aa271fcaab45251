//! Compares what was expected with what came, and tells the difference in promtool's form.

use std::fmt::Write as _;
use std::sync::Arc;

use tributary_model::histogram::{Histogram, notation};
use tributary_model::label::Labels;
use tributary_model::number;
use tributary_model::quote::quote;

/// An alert, expected or found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Expected {
    /// What identifies it.
    pub(super) labels: Labels,
    /// Texts for people.
    pub(super) annotations: Labels,
}

/// Series with one value each.
pub(super) type Values = Vec<(Labels, Compared)>;

/// A value, expected or found.
#[derive(Debug, Clone)]
pub(super) enum Compared {
    /// A number.
    Number(f64),
    /// A native histogram, and whether it says what is known of resets.
    Histogram(Arc<Histogram>, bool),
}

impl Compared {
    /// Whether something found is what was wanted.
    fn is(&self, found: &Self, fuzzy: bool) -> bool {
        match (self, found) {
            (Self::Number(a), Self::Number(b)) => {
                a == b || (fuzzy && (a.next_down() == *b || a.next_up() == *b))
            }
            (Self::Histogram(a, hint), Self::Histogram(b, _)) => {
                let compacted = |histogram: &Histogram| histogram.clone().compacted();
                (!hint || a.hint() == b.hint()) && compacted(a).has_data_of(&compacted(b))
            }
            _ => false,
        }
    }
}

/// The difference between two lists of alerts; nothing if there is none.
pub(super) fn alerts_differ(
    head: &str,
    mut wanted: Vec<Expected>,
    mut got: Vec<Expected>,
) -> Option<String> {
    wanted.sort();
    got.sort();
    let text = |alerts: &[Expected]| indented(&alerts_text(alerts), "            ");
    (wanted != got)
        .then(|| format!("{head}, \n        exp:{}, \n        got:{}", text(&wanted), text(&got)))
}

/// The difference between two lists of values; nothing if there is none.
pub(super) fn samples_differ(
    head: &str,
    mut wanted: Values,
    mut got: Values,
    fuzzy: bool,
) -> Option<String> {
    wanted.sort_by(|(a, _), (b, _)| a.cmp(b));
    got.sort_by(|(a, _), (b, _)| a.cmp(b));
    let equal = wanted.len() == got.len()
        && wanted.iter().zip(&got).all(|((a, x), (b, y))| a == b && x.is(y, fuzzy));
    (!equal).then(|| {
        format!(
            "{head},\n        exp: {}\n        got: {}",
            values_text(&wanted),
            values_text(&got)
        )
    })
}

fn alerts_text(alerts: &[Expected]) -> String {
    if alerts.is_empty() {
        return "[]".to_owned();
    }
    let mut out = "[".to_owned();
    for (i, alert) in alerts.iter().enumerate() {
        let (labels, annotations) = (braced(&alert.labels), braced(&alert.annotations));
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(out, "{comma}\n{i}:\n  Labels:{labels}\n  Annotations:{annotations}");
    }
    out + "\n]"
}

/// Every line but the first with `by` before it.
fn indented(text: &str, by: &str) -> String {
    text.replace('\n', &format!("\n{by}"))
}

fn values_text(values: &[(Labels, Compared)]) -> String {
    if values.is_empty() {
        return "nil".to_owned();
    }
    let text = |(labels, value): &(Labels, Compared)| {
        let value = match value {
            Compared::Number(value) => number_text(*value),
            Compared::Histogram(histogram, _) => notation::text(histogram),
        };
        format!("{} {value}", braced(labels))
    };
    values.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn number_text(value: f64) -> String {
    let text = number::format_exponent(value);
    let exponent = text.contains("e+") || text.contains("e-");
    if exponent { text.to_ascii_uppercase() } else { text }
}

/// Labels in braces, the metric name among them.
fn braced(labels: &Labels) -> String {
    let pair = |label: &tributary_model::label::Label| {
        let plain = tributary_model::label::is_legacy_label_name(&label.name);
        let name = if plain { label.name.to_string() } else { quote(&label.name) };
        format!("{name}={}", quote(&label.value))
    };
    let pairs: Vec<String> = labels.iter().map(pair).collect();
    format!("{{{}}}", pairs.join(", "))
}
