//! Reads YAML that people write: strictly, and with the place of every fault.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _};

use crate::diagnostic::{Diagnostic, Place};

/// Reads `text`, the content of `file`. Unknown keys are errors for types that say `deny_unknown_fields`; duplicate keys
/// and alias bombs are errors always. An empty text reads as an empty mapping.
pub fn parse<T: DeserializeOwned>(text: &str, file: &str) -> Result<T, Box<Diagnostic>> {
    let content = text.lines().any(|line| {
        let line = line.trim();
        !(line.is_empty() || line.starts_with('#') || line == "---")
    });
    serde_saphyr::from_str(if content { text } else { "{}" })
        .map_err(|e| Box::new(explain(&e, text, file)))
}

/// A value and where it stands, for faults that are found only after reading. Not inside flattened or untagged types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<T> {
    /// The value.
    pub value: T,
    /// Its line, from 1.
    pub line: usize,
    /// Its column, from 1.
    pub column: usize,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Located<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = serde_saphyr::Spanned::deserialize(deserializer)?;
        let at = spanned.referenced;
        Ok(Self { value: spanned.value, line: number(at.line()), column: number(at.column()) })
    }
}

/// What, where, and the next step, from a fault that the YAML reader found.
fn explain(error: &Error, text: &str, file: &str) -> Diagnostic {
    let error = error.without_snippet();
    let (what, help, width) = match error {
        Error::SerdeUnknownField { field, expected, .. } => (
            format!("unknown key \"{}\"", field.escape_debug()),
            did_you_mean(field, expected),
            field.chars().count(),
        ),
        Error::SerdeUnknownVariant { variant, expected, .. } => (
            format!("unknown value \"{}\"", variant.escape_debug()),
            Some(format!("use one of {}", expected.join(", "))),
            variant.chars().count(),
        ),
        Error::SerdeMissingField { field, .. } => {
            (format!("the key \"{field}\" is missing"), None, 1)
        }
        other => {
            (DefaultMessageFormatter.format_message(other).escape_debug().to_string(), None, 1)
        }
    };
    let place = error.location().map(|location| {
        Place::at_line(text, number(location.line()), number(location.column()), width)
    });
    Diagnostic { what: what.replace("\\\"", "\""), file: file.to_owned(), place, help }
}

fn number(n: u64) -> usize {
    usize::try_from(n).unwrap_or(1).max(1)
}

/// The nearest of the keys that may stand there, or all of them.
fn did_you_mean(field: &str, expected: &[&'static str]) -> Option<String> {
    let nearest = expected.iter().map(|key| (distance(field, key), key)).min()?;
    Some(if nearest.0 <= 2.max(field.len() / 3) {
        format!("did you mean \"{}\"?", nearest.1)
    } else {
        format!("known keys here: {}", expected.join(", "))
    })
}

/// Levenshtein's distance, in characters.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (y, cell) in b.iter().zip(row.iter_mut().skip(1)) {
            let above = *cell;
            let here = (diagonal + usize::from(x != *y)).min(above + 1).min(left + 1);
            diagonal = above;
            left = here;
            *cell = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        #[serde(default)]
        labels: Vec<String>,
        #[serde(default)]
        count: u32,
    }

    #[test]
    fn faults_have_a_place_and_a_next_step() {
        for (text, expected) in [
            (
                "count: 3\nlables: [job]\n",
                "unknown key \"lables\"\n  --> rules.yml:2:1\n 2 | lables: [job]\n   | ^^^^^^\n   = help: did you mean \"labels\"?",
            ),
            (
                "nothing_like_it: 1\n",
                "unknown key \"nothing_like_it\"\n  --> rules.yml:1:1\n 1 | nothing_like_it: 1\n   | ^^^^^^^^^^^^^^^\n   = help: known keys here: labels, count",
            ),
        ] {
            assert_eq!(parse::<Rule>(text, "rules.yml").unwrap_err().to_string(), expected);
        }
        let duplicate = parse::<Rule>("count: 1\ncount: 2\n", "r.yml").unwrap_err().to_string();
        assert!(duplicate.contains("r.yml:2:1") && duplicate.contains("duplicate"), "{duplicate}");
        let kind = parse::<Rule>("count: [1]\n", "r.yml").unwrap_err().to_string();
        assert!(kind.contains("r.yml:1:8"), "{kind}");
        let open = parse::<Rule>("labels: [a\n", "r.yml").unwrap_err().to_string();
        assert!(open.contains("r.yml:"), "{open}");
    }

    #[test]
    fn nothing_is_an_empty_mapping() {
        for text in ["", "# a comment\n", "---\n"] {
            assert_eq!(parse::<Rule>(text, "r").unwrap(), Rule { labels: vec![], count: 0 });
        }
    }

    #[test]
    fn distances() {
        assert_eq!(
            (distance("kitten", "sitting"), distance("", "ab"), distance("a", "a")),
            (3, 2, 0)
        );
    }
}
