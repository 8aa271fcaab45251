//! Labels: sorted, unique name-value pairs that identify a series.

use std::fmt;
use std::sync::Arc;

use crate::quote;

/// The label that holds the metric name.
pub const METRIC_NAME: &str = "__name__";

/// One name-value pair. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label {
    /// The name; UTF-8, never empty.
    pub name: Arc<str>,
    /// The value; UTF-8, never empty (an empty value means "no such label").
    pub value: Arc<str>,
}

/// A label set: sorted by name (bytes), unique names, no empty values. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Arc<[Label]>);

impl Default for Labels {
    fn default() -> Self {
        Self::empty()
    }
}

impl Labels {
    /// The label set without labels.
    pub fn empty() -> Self {
        Self(Arc::from([]))
    }

    /// Sorts the pairs, drops those with empty values, and refuses a name given twice or an empty name.
    pub fn from_pairs<N, V>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, LabelError>
    where
        N: Into<Arc<str>>,
        V: Into<Arc<str>>,
    {
        let mut labels: Vec<Label> = pairs
            .into_iter()
            .map(|(name, value)| Label { name: name.into(), value: value.into() })
            .collect();
        labels.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let mut previous: Option<&Label> = None;
        for label in &labels {
            if label.name.is_empty() {
                return Err(LabelError::EmptyName);
            }
            if previous.is_some_and(|p| p.name == label.name) {
                return Err(LabelError::Duplicate(label.name.to_string()));
            }
            previous = Some(label);
        }
        labels.retain(|label| !label.value.is_empty());
        Ok(Self(labels.into()))
    }

    /// The value of `name`, if the label is there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|label| &*label.value)
    }

    /// The value of `name`, or the empty string: PromQL's view of a missing label.
    pub fn value(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// The metric name, or the empty string.
    pub fn metric_name(&self) -> &str {
        // Nearly always the first label.
        self.find_near(METRIC_NAME, &mut 0).map_or("", |label| &label.value)
    }

    /// The pair with this name, if it is there.
    pub fn find(&self, name: &str) -> Option<&Label> {
        let at = self.0.binary_search_by(|label| (*label.name).cmp(name)).ok()?;
        self.0.get(at)
    }

    /// As [`Labels::find`] does; looks at the place at which the label was found before, and keeps where it is.
    pub fn find_near(&self, name: &str, place: &mut usize) -> Option<&Label> {
        if let Some(label) = self.0.get(*place).filter(|label| *label.name == *name) {
            return Some(label);
        }
        *place = self.0.binary_search_by(|label| (*label.name).cmp(name)).ok()?;
        self.0.get(*place)
    }

    /// The pairs in order of their names.
    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    /// The number of labels.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same labels, those kept for which `keep` says so.
    #[must_use]
    pub fn filter(&self, mut keep: impl FnMut(&Label) -> bool) -> Self {
        if self.0.iter().all(&mut keep) {
            return self.clone();
        }
        Self(self.0.iter().filter(|label| keep(label)).cloned().collect())
    }

    /// The same labels without the metric name.
    #[must_use]
    pub fn without_name(&self) -> Self {
        self.filter(|label| &*label.name != METRIC_NAME)
    }

    /// The same labels with `name` set to `value`; an empty value removes the label.
    #[must_use]
    pub fn with(&self, name: &str, value: &str) -> Self {
        if self.value(name) == value {
            return self.clone();
        }
        let mut labels: Vec<Label> = self.0.iter().filter(|l| &*l.name != name).cloned().collect();
        if !value.is_empty() {
            let at = labels.partition_point(|label| *label.name < *name);
            labels.insert(at, Label { name: name.into(), value: value.into() });
        }
        Self(labels.into())
    }
}

impl<'a> IntoIterator for &'a Labels {
    type Item = &'a Label;
    type IntoIter = std::slice::Iter<'a, Label>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Prometheus' text form: `name{a="b"}`; a name that is not a legacy one is written inside the braces.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.metric_name();
        let outside = is_legacy_metric_name(name);
        if outside {
            f.write_str(name)?;
        }
        let mut rest = self.iter().filter(|l| !(outside && &*l.name == METRIC_NAME)).peekable();
        if rest.peek().is_none() {
            return if outside { Ok(()) } else { f.write_str("{}") };
        }
        f.write_str("{")?;
        for (i, label) in rest.enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            if is_legacy_label_name(&label.name) {
                f.write_str(&label.name)?;
            } else {
                f.write_str(&quote::quote(&label.name))?;
            }
            write!(f, "={}", quote::quote(&label.value))?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether `name` is `[a-zA-Z_:][a-zA-Z0-9_:]*`, the metric names that need no quotes.
pub fn is_legacy_metric_name(name: &str) -> bool {
    is_identifier(name, |b| b == b':')
}

/// Whether `name` is `[a-zA-Z_][a-zA-Z0-9_]*`, the label names that need no quotes.
pub fn is_legacy_label_name(name: &str) -> bool {
    is_identifier(name, |_| false)
}

fn is_identifier(name: &str, extra: impl Fn(u8) -> bool) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_' || extra(b);
    name.bytes().next().is_some_and(letter) && name.bytes().all(|b| letter(b) || b.is_ascii_digit())
}

/// Why pairs are not a label set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A name occurs twice.
    #[error("label name \"{0}\" is given twice")]
    Duplicate(String),
    /// A label has no name.
    #[error("a label has an empty name")]
    EmptyName,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn sorted_unique_and_never_empty() {
        let set = labels(&[("b", "2"), ("a", "1"), ("c", "")]);
        assert_eq!(set.to_string(), r#"{a="1", b="2"}"#);
        assert_eq!(set.value("c"), "");
        assert_eq!(
            Labels::from_pairs([("a", "1"), ("a", "")]),
            Err(LabelError::Duplicate("a".into()))
        );
        assert_eq!(Labels::from_pairs([("", "1")]), Err(LabelError::EmptyName));
    }

    #[test]
    fn text_form_is_prometheus() {
        let set = labels(&[("__name__", "up"), ("job", "a\"b\\c\nd")]);
        assert_eq!(set.to_string(), r#"up{job="a\"b\\c\nd"}"#);
        assert_eq!(labels(&[("__name__", "up")]).to_string(), "up");
        assert_eq!(Labels::empty().to_string(), "{}");
        let utf8 = labels(&[("__name__", "a.b"), ("c.d", "e")]);
        assert_eq!(utf8.to_string(), r#"{__name__="a.b", "c.d"="e"}"#);
    }

    #[test]
    fn with_replaces_adds_and_removes() {
        let set = labels(&[("a", "1"), ("c", "3")]);
        assert_eq!(set.with("b", "2"), labels(&[("a", "1"), ("b", "2"), ("c", "3")]));
        assert_eq!(set.with("a", "9").value("a"), "9");
        assert_eq!(set.with("a", ""), labels(&[("c", "3")]));
        assert_eq!(set.with("x", ""), set);
    }
}
