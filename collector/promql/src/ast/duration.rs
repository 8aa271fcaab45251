//! Durations in expressions: ranges, steps, offsets.

use std::time::Duration;

use super::{Number, Span};

/// A duration: usually one literal, with `promql-duration-expr` an arithmetic expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DurationExpr {
    /// `5m`, `300`, `-5m`: seconds.
    Literal(Number),
    /// `step()`
    Step(Span),
    /// `range()`
    Range(Span),
    /// `-…`; a plus sign is not kept.
    Negate(Box<DurationExpr>, Span),
    /// `(…)`
    Paren(Box<DurationExpr>, Span),
    /// `… + …`
    Binary(DurationOp, Box<DurationExpr>, Box<DurationExpr>),
    /// `min_of(…, …)`
    Min(Box<DurationExpr>, Box<DurationExpr>, Span),
    /// `max_of(…, …)`
    Max(Box<DurationExpr>, Box<DurationExpr>, Span),
}

impl DurationExpr {
    /// A literal duration without a place.
    pub fn literal(duration: Duration) -> Self {
        Self::Literal(Number {
            value: duration.as_secs_f64(),
            duration: true,
            span: Span::default(),
        })
    }

    /// Its place.
    pub fn span(&self) -> Span {
        match self {
            Self::Literal(number) => number.span,
            Self::Step(span)
            | Self::Range(span)
            | Self::Negate(_, span)
            | Self::Paren(_, span)
            | Self::Min(_, _, span)
            | Self::Max(_, _, span) => *span,
            Self::Binary(_, lhs, rhs) => lhs.span().to(rhs.span()),
        }
    }

    /// Whether it is a single literal, so that no feature flag is needed.
    pub fn is_literal(&self) -> bool {
        matches!(self, Self::Literal(_))
    }

    /// Its value in seconds, given what `step()` and `range()` stand for. May be negative, zero, infinite or NaN: the
    /// caller decides what it accepts.
    pub fn seconds(&self, step: Duration, range: Duration) -> f64 {
        match self {
            Self::Literal(number) => number.value,
            Self::Step(_) => step.as_secs_f64(),
            Self::Range(_) => range.as_secs_f64(),
            Self::Negate(inner, _) => -inner.seconds(step, range),
            Self::Paren(inner, _) => inner.seconds(step, range),
            Self::Min(a, b, _) => a.seconds(step, range).min(b.seconds(step, range)),
            Self::Max(a, b, _) => a.seconds(step, range).max(b.seconds(step, range)),
            Self::Binary(op, lhs, rhs) => {
                op.apply(lhs.seconds(step, range), rhs.seconds(step, range))
            }
        }
    }
}

/// An operator between durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DurationOp {
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
    /// `%`
    Mod,
    /// `^`
    Pow,
}

impl DurationOp {
    /// The operator as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Sub => "-",
            Self::Mul => "*",
            Self::Div => "/",
            Self::Mod => "%",
            Self::Pow => "^",
        }
    }

    fn apply(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
            Self::Mod => a % b,
            Self::Pow => a.powf(b),
        }
    }
}
