//! Regular expressions in RE2 syntax with Go's meaning, anchored as PromQL anchors them.

use std::fmt;

/// Largest compiled size of one expression, in bytes. A larger one is refused when it is parsed.
pub const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Longest pattern, in bytes.
pub const MAX_PATTERN_BYTES: usize = 16 << 10;

/// A compiled expression that must match the whole text: `^(?s:…)$`, as in Prometheus 3. Cheap to clone.
#[derive(Clone)]
pub struct Regex {
    source: String,
    compiled: regex::Regex,
}

impl Regex {
    /// Compiles RE2 syntax.
    pub fn new(pattern: &str) -> Result<Self, RegexError> {
        let fail = |why: String| RegexError { pattern: pattern.to_owned(), why };
        if pattern.len() > MAX_PATTERN_BYTES {
            return Err(fail(format!("it is longer than {MAX_PATTERN_BYTES} bytes")));
        }
        let compiled = regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
            .size_limit(MAX_COMPILED_BYTES)
            .build()
            .map_err(|e| fail(e.to_string()))?;
        Ok(Self { source: pattern.to_owned(), compiled })
    }

    /// Whether the whole text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.compiled.is_match(text)
    }

    /// If the whole text matches, the template with `$1`, `${1}`, `$name` and `$$` filled in, as Go's `Regexp.Expand`.
    pub fn expand(&self, text: &str, template: &str) -> Option<String> {
        let captures = self.compiled.captures(text)?;
        let mut out = String::new();
        captures.expand(template, &mut out);
        Some(out)
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.source, f)
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
