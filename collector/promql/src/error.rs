//! Why a text is not PromQL, and where.

use crate::ast::Span;

/// The first fault of a text. `Display` has Prometheus' shape: `1:5: parse error: unexpected identifier "x"`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: parse error: {message}")]
pub struct ParseError {
    /// The faulty part of the text; may be empty (the end of the text).
    pub span: Span,
    /// What is wrong.
    pub message: String,
    place: String,
}

impl ParseError {
    pub(crate) fn new(text: &str, fault: Fault) -> Self {
        let place = if text.is_empty() {
            "unknown position".to_owned()
        } else {
            let before = text.get(..fault.span.start).unwrap_or(text);
            let line = before.matches('\n').count() + 1;
            let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
            format!("{line}:{column}")
        };
        Self { span: fault.span, message: fault.message, place }
    }
}

/// A fault whose line and column are not computed yet.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) span: Span,
    pub(crate) message: String,
}

impl Fault {
    pub(crate) fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into() }
    }
}
