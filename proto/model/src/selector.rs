//! A vector selector by itself, `name{label="value",…}`: what allowlists and `match[]` are written in.
//!
//! This is the part of PromQL that the agent knows; it cannot evaluate expressions.

use std::fmt;
use std::str::FromStr;

use crate::label::{Labels, METRIC_NAME};
use crate::matcher::{MatchOp, Matcher};
use crate::quote::unquote;

/// Longest selector, in bytes.
pub const MAX_SELECTOR_BYTES: usize = 64 << 10;

/// A conjunction of matchers, at least one of which does not match the empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    matchers: Vec<Matcher>,
}

impl Selector {
    /// The matchers; the metric name is one on `__name__`.
    pub fn matchers(&self) -> &[Matcher] {
        &self.matchers
    }

    /// Whether a series satisfies every matcher.
    pub fn matches(&self, labels: &Labels) -> bool {
        Matcher::all_match(&self.matchers, labels)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("{")?;
        for (i, matcher) in self.matchers.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            matcher.fmt(f)?;
        }
        f.write_str("}")
    }
}

/// Why a text is not a selector, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at column {column}")]
pub struct SelectorError {
    /// Column, from 1, in characters.
    pub column: usize,
    /// What was found or expected there.
    pub what: String,
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parser = Parser { text, at: 0 };
        let matchers = parser.selector()?;
        if matchers.iter().all(Matcher::matches_empty) {
            parser.at = 0;
            return Err(
                parser.fail("expected at least one matcher that does not match the empty value")
            );
        }
        Ok(Self { matchers })
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn selector(&mut self) -> Result<Vec<Matcher>, SelectorError> {
        if self.text.len() > MAX_SELECTOR_BYTES {
            return Err(
                self.fail(&format!("the selector is longer than {MAX_SELECTOR_BYTES} bytes"))
            );
        }
        let mut matchers = Vec::new();
        self.skip_space();
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':');
        if !name.is_empty() {
            if name.starts_with(|c: char| c.is_ascii_digit()) {
                self.at -= name.len();
                return Err(self.fail("expected a metric name or '{'"));
            }
            matchers.push(Matcher::equal(METRIC_NAME, name));
            self.skip_space();
        }
        if self.eat("{") {
            self.matchers(&mut matchers)?;
        } else if name.is_empty() {
            return Err(self.fail("expected a metric name or '{'"));
        }
        self.skip_space();
        if self.at < self.text.len() {
            return Err(self.fail("expected the end of the selector"));
        }
        Ok(matchers)
    }

    fn matchers(&mut self, out: &mut Vec<Matcher>) -> Result<(), SelectorError> {
        loop {
            self.skip_space();
            if self.eat("}") {
                return Ok(());
            }
            out.push(self.matcher(out)?);
            self.skip_space();
            if !self.eat(",") && !self.rest().starts_with('}') {
                return Err(self.fail("expected ',' or '}'"));
            }
        }
    }

    /// `name op "value"`, or a quoted metric name by itself (UTF-8 names of Prometheus 3).
    fn matcher(&mut self, before: &[Matcher]) -> Result<Matcher, SelectorError> {
        let start = self.at;
        let quoted = self.rest().starts_with(['"', '\'', '`']);
        let name = if quoted { self.string()? } else { self.label_name()?.to_owned() };
        self.skip_space();
        if quoted && self.rest().starts_with([',', '}']) {
            if before.iter().any(|m| m.name() == METRIC_NAME) {
                self.at = start;
                return Err(self.fail("the metric name is given twice"));
            }
            return Ok(Matcher::equal(METRIC_NAME, name));
        }
        let op = [
            ("=~", MatchOp::Match),
            ("!~", MatchOp::NotMatch),
            ("!=", MatchOp::NotEqual),
            ("=", MatchOp::Equal),
        ]
        .into_iter()
        .find_map(|(text, op)| self.eat(text).then_some(op))
        .ok_or_else(|| self.fail("expected '=', '!=', '=~' or '!~'"))?;
        self.skip_space();
        let value_at = self.at;
        let value = self.string()?;
        Matcher::new(name, op, value).map_err(|e| {
            self.at = value_at;
            self.fail(&e.to_string())
        })
    }

    fn label_name(&mut self) -> Result<&'a str, SelectorError> {
        let name = self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            self.at -= name.len();
            return Err(self.fail("expected a label name"));
        }
        Ok(name)
    }

    fn string(&mut self) -> Result<String, SelectorError> {
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'' | '`')) else {
            return Err(self.fail("expected a quoted value"));
        };
        let mut escaped = false;
        let end = rest.char_indices().skip(1).find(|(_, c)| {
            let closes = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped && quote != '`';
            closes
        });
        let Some(literal) = end.and_then(|(at, _)| rest.get(..=at)) else {
            return Err(self.fail("the quoted value does not end"));
        };
        match unquote(literal) {
            Ok(text) => {
                self.at += literal.len();
                Ok(text)
            }
            Err(e) => {
                self.at += e.offset.min(literal.len());
                Err(self.fail(e.what))
            }
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or("")
    }

    fn skip_space(&mut self) {
        self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
    }

    fn fail(&self, what: &str) -> SelectorError {
        let before = self.text.char_indices().take_while(|(at, _)| *at < self.at).count();
        SelectorError { column: before + 1, what: what.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_selectors() {
        for (text, printed) in [
            ("up", r#"{__name__="up"}"#),
            (r#"up{job="a", x!~'b|c',}"#, r#"{__name__="up",job="a",x!~"b|c"}"#),
            (r#"{__name__=~"node_.+", mode!="idle"}"#, r#"{__name__=~"node_.+",mode!="idle"}"#),
            (r#" {"a.b", "c d"=`e\`} "#, r#"{__name__="a.b","c d"="e\\"}"#),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), printed);
            assert_eq!(printed.parse::<Selector>().unwrap(), selector);
        }
    }

    #[test]
    fn faults_have_columns() {
        for (text, message) in [
            ("", "expected a metric name or '{' at column 1"),
            ("{job=}", "expected a quoted value at column 6"),
            (r#"{job="a" x="b"}"#, "expected ',' or '}' at column 10"),
            (r#"{job="a""#, "expected ',' or '}' at column 9"),
            (r#"{job="a"#, "the quoted value does not end at column 6"),
            (r#"{job~"a"}"#, "expected '=', '!=', '=~' or '!~' at column 5"),
            ("up[5m]", "expected the end of the selector at column 3"),
            ("{}", "expected at least one matcher that does not match the empty value at column 1"),
            (r#"{"a","b"}"#, "the metric name is given twice at column 6"),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap_err().to_string(), message, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a{}=~!\"'`, \\\\ä]{0,16}") {
            let _ = text.parse::<Selector>();
        }
    }
}
