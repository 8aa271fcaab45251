//! Durations in ranges, steps and offsets, in milliseconds.

use std::time::Duration;

use crate::ast::duration::{DurationExpr, DurationOp};
use crate::ast::{Number, Span};
use crate::functions::number::{max, min, to_i64};
use crate::value::{DurationFault, EvalError};

/// Longest duration in seconds: 292 years, what signed nanoseconds hold.
const LONGEST: f64 = 9_223_372_036.0;

/// What `step()` and `range()` stand for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context {
    /// The step of the query; zero for an instant query.
    pub(crate) step: Duration,
    /// The time between start and end of the query.
    pub(crate) range: Duration,
}

/// A duration that may be negative or zero, in milliseconds.
pub(crate) fn offset(duration: &DurationExpr, context: Context) -> Result<i64, EvalError> {
    millis(duration, context, true)
}

/// A duration that must be positive, in milliseconds.
pub(crate) fn positive(duration: &DurationExpr, context: Context) -> Result<i64, EvalError> {
    millis(duration, context, false)
}

fn millis(duration: &DurationExpr, context: Context, any: bool) -> Result<i64, EvalError> {
    let seconds = seconds(duration, context)?;
    let fault = if !seconds.is_finite() {
        DurationFault::NotFinite
    } else if seconds <= 0.0 && !any {
        DurationFault::NotPositive
    } else if seconds.abs() > LONGEST {
        DurationFault::OutOfRange
    } else {
        return Ok(if duration.is_literal() {
            // Whole nanoseconds first, so that 1.001 s are 1001 ms.
            to_i64((seconds * 1e9).round() / 1e6)
        } else {
            to_i64(seconds * 1e3)
        });
    };
    Err(fail(duration.span(), fault))
}

fn fail(span: Span, fault: DurationFault) -> EvalError {
    EvalError::Duration { span, fault }
}

fn seconds(duration: &DurationExpr, context: Context) -> Result<f64, EvalError> {
    let of = |inner: &DurationExpr| seconds(inner, context);
    Ok(match duration {
        DurationExpr::Literal(Number { value, .. }) => *value,
        DurationExpr::Step(_) => context.step.as_secs_f64(),
        DurationExpr::Range(_) => context.range.as_secs_f64(),
        DurationExpr::Negate(inner, _) => -of(inner)?,
        DurationExpr::Paren(inner, _) => of(inner)?,
        DurationExpr::Min(a, b, _) => min(of(a)?, of(b)?),
        DurationExpr::Max(a, b, _) => max(of(a)?, of(b)?),
        DurationExpr::Binary(op, a, b) => {
            let (a, b) = (of(a)?, of(b)?);
            match op {
                DurationOp::Add => a + b,
                DurationOp::Sub => a - b,
                DurationOp::Mul => a * b,
                DurationOp::Pow => a.powf(b),
                DurationOp::Div if b == 0.0 => {
                    return Err(fail(duration.span(), DurationFault::DivisionByZero));
                }
                DurationOp::Mod if b == 0.0 => {
                    return Err(fail(duration.span(), DurationFault::ModuloByZero));
                }
                DurationOp::Div => a / b,
                DurationOp::Mod => a % b,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(value: f64) -> DurationExpr {
        DurationExpr::Literal(Number { value, duration: false, span: Span::new(3, 4) })
    }

    #[test]
    fn literals_and_arithmetic() {
        let context = Context { step: Duration::from_secs(10), range: Duration::from_secs(60) };
        assert_eq!(positive(&literal(1.001), context).unwrap(), 1001);
        assert_eq!(offset(&literal(-0.5), context).unwrap(), -500);
        let binary = |op, a: DurationExpr, b: DurationExpr| {
            DurationExpr::Binary(op, Box::new(a), Box::new(b))
        };
        let sum = binary(DurationOp::Add, DurationExpr::Step(Span::default()), literal(5.0));
        assert_eq!(positive(&sum, context).unwrap(), 15_000);
        for (bad, text) in [
            (literal(0.0), "3:4: duration must be greater than 0"),
            (literal(f64::NAN), "3:4: duration is NaN or infinite"),
            (literal(1e10), "3:4: duration is out of range"),
            (binary(DurationOp::Div, literal(1.0), literal(0.0)), "3:4: division by zero"),
        ] {
            assert_eq!(positive(&bad, context).unwrap_err().to_string(), text);
        }
    }
}
