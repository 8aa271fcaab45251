//! A fault in a text that a person wrote: what, where (line and column with a caret), and what to do next.

use std::fmt;

/// Renders as
/// ```text
/// unknown key "lables"
///   --> allowlist.yml:3:5
///  3 |     lables: [job]
///    |     ^^^^^^
///    = help: did you mean "labels"?
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, one sentence without a full stop.
    pub what: String,
    /// The file's path, or another name for the text.
    pub file: String,
    /// The place, if it is known.
    pub place: Option<Place>,
    /// The next step.
    pub help: Option<String>,
}

/// A place in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How many characters the carets underline; at least one is drawn.
    pub width: usize,
    /// The line's text.
    pub source: String,
}

impl Place {
    /// The place at a line and column, both from 1.
    pub fn at_line(text: &str, line: usize, column: usize, width: usize) -> Self {
        let source = text.lines().nth(line.saturating_sub(1)).unwrap_or("").to_owned();
        Self { line, column, width, source }
    }

    /// The place of a byte offset in `text`.
    pub fn at_offset(text: &str, offset: usize, width: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Self::at_line(text, line, column, width)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n  --> {}", self.what, self.file)?;
        let mut margin = 2;
        if let Some(place) = &self.place {
            let number = place.line.to_string();
            margin = number.len() + 1;
            // Tabs would move the caret: they are drawn as one space in both lines.
            let source = place.source.replace('\t', " ");
            let room = source.chars().count().saturating_sub(place.column.saturating_sub(1)).max(1);
            write!(
                f,
                ":{}:{}\n {number} | {source}\n{:margin$} | {:indent$}{}",
                place.line,
                place.column,
                "",
                "",
                "^".repeat(place.width.clamp(1, room)),
                indent = place.column.saturating_sub(1),
            )?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n{:margin$} = help: {help}", "")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_at_the_fault() {
        let text = "rules:\n  - match: up\n    lables: [job]\n";
        let diagnostic = Diagnostic {
            what: "unknown key \"lables\"".into(),
            file: "allowlist.yml".into(),
            place: Some(Place::at_offset(text, text.find("lables").unwrap(), 6)),
            help: Some("did you mean \"labels\"?".into()),
        };
        assert_eq!(
            diagnostic.to_string(),
            "unknown key \"lables\"\n  --> allowlist.yml:3:5\n 3 |     lables: [job]\n   |     ^^^^^^\n   = help: did you mean \"labels\"?"
        );
    }
}
