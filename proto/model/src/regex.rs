//! Regular expressions in RE2 syntax with Go's meaning, anchored as PromQL anchors them.

mod literal;
mod template;
mod translate;

use std::fmt;
use std::sync::{Arc, OnceLock};

use literal::Shape;

/// Largest compiled size of one expression, in bytes. A larger one is refused when it is parsed.
pub const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 16 << 10;

/// Largest compiled size of an alternation of literals, which is bounded by its pattern already.
const MAX_LITERAL_BYTES: usize = 32 << 20;

/// A compiled expression that must match the whole text: `^(?s:…)$`, as in Prometheus 3. Cheap to clone.
#[derive(Clone)]
pub struct Regex(Arc<Inner>);

struct Inner {
    source: String,
    translated: String,
    /// The capture groups' names by their number, the whole match first; empty for groups without one.
    groups: Vec<String>,
    shape: Shape,
    /// Compiled when it is first needed if the shape alone decides what matches, otherwise at once.
    compiled: OnceLock<Option<regex::Regex>>,
}

impl Regex {
    /// Compiles RE2 syntax.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let fail = |why: String| RegexError { pattern: pattern.to_owned(), why };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(fail(format!("it is longer than {MAX_PATTERN_BYTES} bytes")));
        }
        let translation = translate::translate(pattern).map_err(fail)?;
        let translated = format!("^(?s:{})$", translation.pattern);
        let shape = literal::shape(pattern);
        let compiled = OnceLock::new();
        if matches!(shape, Shape::Other) {
            let regex = compile(&translated, MAX_COMPILED_BYTES).map_err(fail)?;
            compiled.get_or_init(|| Some(regex));
        }
        let (source, groups) = (pattern.to_owned(), translation.groups);
        Ok(Self(Arc::new(Inner { source, translated, groups, shape, compiled })))
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &str) -> bool {
        match self.0.shape.is_match(text) {
            Some(decided) => decided,
            None => self.compiled().is_some_and(|regex| regex.is_match(text)),
        }
    }

    /// If the whole text matches, the template with `$1`, `${1}`, `$name` and `$$` filled in, as Go's `Regexp.Expand`.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        let captures = self.compiled()?.captures(text)?;
        Some(template::expand(template, &self.0.groups, &captures))
    }

    /// Every text that matches, sorted, if the pattern is nothing but literals and alternatives of them.
    pub fn literals(&self) -> Option<&[String]> {
        match &self.0.shape {
            Shape::Literals(texts) => Some(texts),
            _ => None,
        }
    }

    /// What every matching text begins with; may be empty.
    pub fn prefix(&self) -> &str {
        match &self.0.shape {
            Shape::Around { prefix, .. } => prefix,
            _ => "",
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0.source
    }

    fn compiled(&self) -> Option<&regex::Regex> {
        self.0.compiled.get_or_init(|| compile(&self.0.translated, MAX_LITERAL_BYTES).ok()).as_ref()
    }
}

/// A compiled expression that may match anywhere in a text, as Go's `regexp` by itself.
#[derive(Debug, Clone)]
pub struct Search {
    groups: Vec<String>,
    compiled: regex::Regex,
}

impl Search {
    /// Compiles RE2 syntax.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let fail = |why: String| RegexError { pattern: pattern.to_owned(), why };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(fail(format!("it is longer than {MAX_PATTERN_BYTES} bytes")));
        }
        let translation = translate::translate(pattern).map_err(fail)?;
        let compiled = compile(&translation.pattern, MAX_COMPILED_BYTES).map_err(fail)?;
        Ok(Self { groups: translation.groups, compiled })
    }

    /// Whether it matches somewhere.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// The text with every match replaced by the template, filled in as [`Regex::expand`] does.
    pub fn replace_all(&self, text: &str, template: &str) -> String {
        let expand =
            |captures: &regex::Captures<'_>| template::expand(template, &self.groups, captures);
        self.compiled.replace_all(text, expand).into_owned()
    }
}

/// Compiles translated syntax; the error is the compiler's last line.
fn compile(pattern: &str, size: usize) -> Result<regex::Regex, String> {
    regex::RegexBuilder::new(pattern).size_limit(size).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(_) => "it is too big when compiled".to_owned(),
        other => {
            let text = other.to_string();
            let last = text.lines().last().unwrap_or(&text).trim();
            last.strip_prefix("error: ").unwrap_or(last).to_owned()
        }
    })
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.source, f)
    }
}

/// The pattern does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("regular expression {pattern:?}: {why}")]
pub struct RegexError {
    /// The pattern as it was written.
    pub pattern: String,
    /// What the compiler says of it.
    pub why: String,
}

#[cfg(test)]
mod tests;
