//! Label matchers: `name="v"`, `!=`, `=~`, `!~`. A missing label has the empty value.

use std::fmt;

use crate::label::{Labels, is_legacy_label_name};
use crate::quote::quote;
use crate::regex::{Regex, RegexError};

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Match,
    /// `!~`
    NotMatch,
}

impl MatchOp {
    /// The operator as PromQL writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Match => "=~",
            Self::NotMatch => "!~",
        }
    }
}

/// One matcher, its expression compiled. Two are equal when name, operator and value are.
#[derive(Debug, Clone)]
pub struct Matcher {
    name: String,
    op: MatchOp,
    value: String,
    regex: Option<Regex>,
}

impl Matcher {
    /// A matcher; fails only for an expression that does not compile.
    pub fn new(
        name: impl Into<String>,
        op: MatchOp,
        value: impl Into<String>,
    ) -> Result<Self, RegexError> {
        let value = value.into();
        let regex = match op {
            MatchOp::Match | MatchOp::NotMatch => Some(Regex::new(&value)?),
            MatchOp::Equal | MatchOp::NotEqual => None,
        };
        Ok(Self { name: name.into(), op, value, regex })
    }

    /// `name="value"`, which cannot fail.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// The label's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How it compares.
    pub fn op(&self) -> MatchOp {
        self.op
    }

    /// The value or pattern, as written.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether a label value satisfies the matcher.
    pub fn matches(&self, value: &str) -> bool {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => value == self.value,
            (MatchOp::NotEqual, _) => value != self.value,
            (MatchOp::Match, regex) => regex.as_ref().is_some_and(|r| r.is_match(value)),
            (MatchOp::NotMatch, regex) => !regex.as_ref().is_some_and(|r| r.is_match(value)),
        }
    }

    /// Whether a series without the label satisfies the matcher.
    pub fn matches_empty(&self) -> bool {
        self.matches("")
    }

    /// Whether the labels satisfy every one of the matchers.
    pub fn all_match(matchers: &[Self], labels: &Labels) -> bool {
        matchers.iter().all(|m| m.matches(labels.value(&m.name)))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.op == other.op && self.name == other.name && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_label_name(&self.name) {
            f.write_str(&self.name)?;
        } else {
            f.write_str(&quote(&self.name))?;
        }
        write!(f, "{}{}", self.op.as_str(), quote(&self.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_label_is_the_empty_value() {
        let labels = Labels::from_pairs([("__name__", "up"), ("job", "node")]).unwrap();
        for (op, value, expected) in [
            (MatchOp::Equal, "", true),
            (MatchOp::NotEqual, "", false),
            (MatchOp::Match, ".*", true),
            (MatchOp::Match, ".+", false),
            (MatchOp::NotMatch, ".+", true),
        ] {
            let matcher = Matcher::new("zone", op, value).unwrap();
            assert_eq!(
                Matcher::all_match(std::slice::from_ref(&matcher), &labels),
                expected,
                "{matcher}"
            );
        }
    }

    #[test]
    fn expressions_are_anchored_and_dot_matches_line_breaks() {
        let matcher = Matcher::new("a", MatchOp::Match, "x.y|z").unwrap();
        assert!(matcher.matches("x\ny") && matcher.matches("z"));
        assert!(!matcher.matches("xx.y") && !matcher.matches("zz"));
        assert!(Matcher::new("a", MatchOp::Match, "(").is_err());
    }
}
