//! Whether two answers are the same: labels and times exactly, values up to a billionth.

use std::collections::BTreeMap;

use super::engine::{Answer, Point, Series};

/// Names and values.
type Labels = BTreeMap<String, String>;

/// By how much equal values may differ: relatively, or else absolutely.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    pub relative: f64,
    pub absolute: f64,
}

impl Tolerance {
    pub const fn relative(relative: f64) -> Self {
        Self { relative, absolute: 0.0 }
    }
}

/// Of equal values.
pub const TOLERANCE: Tolerance = Tolerance::relative(1e-9);

/// The same where an expression has something that makes the last bits of a large number the first ones of a small one.
const LOOSE_TOLERANCE: Tolerance = Tolerance::relative(1e-5);

/// What does that.
const MAGNIFIERS: [&str; 6] = [" % ", "sin(", "cos(", "tan(", "stddev", "stdvar"];

/// What is said of a difference within [`LOOSE_TOLERANCE`].
const MAGNIFIED: &str =
    "different by rounding, which a remainder, an angle function or a small spread magnifies";

pub enum Verdict {
    /// Equal, with at least one value.
    Equal,
    /// Equal, both without any value.
    Empty,
    /// The same error.
    SameError,
    /// Different where the reference has no fixed order.
    Unordered,
    /// Different where a choice is made among equal values.
    Tied,
    /// Different because a part differs by rounding, which is magnified.
    Magnified,
    /// Different, but the reference says the same when it is asked again.
    Unsteady,
    /// Different, but the reference says the same of each step alone.
    Contradicted,
    /// Different for a known reason.
    Known(&'static str),
    Different(String),
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Empty => "equal and empty",
            Self::SameError => "the same error",
            Self::Known(why) => why,
            Self::Magnified => "different, but only by rounding in a part, which is magnified",
            Self::Unsteady => "different at first, but not when the reference was asked again",
            Self::Contradicted => {
                "different, but not from what the reference says of each step alone"
            }
            Self::Tied => "different, but equal values were chosen from",
            Self::Unordered => "different, but the reference has no order",
            Self::Different(_) => "different",
        }
    }
}

pub fn compare(expression: &str, wanted: &Answer, got: &Answer) -> Verdict {
    match (&wanted.result, &got.result) {
        (Ok(wanted), Ok(got)) => match difference(wanted, got, TOLERANCE) {
            Some(_)
                if MAGNIFIERS.iter().any(|part| expression.contains(part))
                    && difference(wanted, got, LOOSE_TOLERANCE).is_none() =>
            {
                Verdict::Known(MAGNIFIED)
            }
            Some(why) => Verdict::Different(why),
            None if wanted.series.is_empty() => Verdict::Empty,
            None => Verdict::Equal,
        },
        (Err(wanted), Err(got)) if same_error(wanted, got) => Verdict::SameError,
        (Err(wanted), Err(got)) => Verdict::Different(format!("errors:\n    {wanted}\n    {got}")),
        (Ok(_), Err(got)) => Verdict::Different(format!("unexpected error: {got}")),
        (Err(wanted), Ok(_)) => Verdict::Different(format!("error expected: {wanted}")),
    }
}

/// Which two of several duplicates a message names depends on the order of the series.
fn same_error(wanted: &str, got: &str) -> bool {
    let kind = |text: &str| {
        let text = text.strip_prefix("invalid parameter \"query\": ").unwrap_or(text);
        text.split("for the match group").next().unwrap_or("").to_owned()
    };
    kind(wanted) == kind(got)
}

/// What differs by more than the tolerance.
pub fn difference(wanted: &Series, got: &Series, tolerance: Tolerance) -> Option<String> {
    if wanted.kind != got.kind {
        return Some(format!("{} expected, got {}", wanted.kind, got.kind));
    }
    for (labels, points) in &wanted.series {
        let exact = got.series.iter().find(|(other, _)| other == labels);
        let near = || got.series.iter().find(|(other, _)| same_labels(labels, other, tolerance));
        let Some((_, own)) = exact.or_else(near) else {
            return Some(format!(
                "missing: {labels:?} ({} of {})",
                got.series.len(),
                wanted.series.len()
            ));
        };
        if points.len() != own.len() {
            return Some(format!("{labels:?}: {} points, got {}", points.len(), own.len()));
        }
        for ((at, value), (own_at, own_value)) in points.iter().zip(own) {
            if at != own_at || !same_point(value, own_value, tolerance) {
                return Some(format!(
                    "{labels:?}: {value:?} at {at}, got {own_value:?} at {own_at}"
                ));
            }
        }
    }
    let extra = got.series.iter().find(|(labels, _)| {
        !wanted.series.iter().any(|(other, _)| same_labels(other, labels, tolerance))
    });
    if let Some((labels, _)) = extra {
        return Some(format!("unexpected: {labels:?}"));
    }
    (wanted.series.len() != got.series.len()).then(|| "series given twice".to_owned())
}

fn same_point(a: &Point, b: &Point, tolerance: Tolerance) -> bool {
    match (a, b) {
        (Point::Number(a), Point::Number(b)) => nearly_equal(*a, *b, tolerance),
        (Point::Histogram(a), Point::Histogram(b)) => a.nearly_equals(b, tolerance),
        _ => false,
    }
}

/// The label `value`, which `count_values` makes of numbers, is compared as a number.
fn same_labels(a: &Labels, b: &Labels, tolerance: Tolerance) -> bool {
    let number = |labels: &Labels| labels.get("value").and_then(|text| text.parse::<f64>().ok());
    a.len() == b.len()
        && a.iter().zip(b).all(|((name, value), (other, own))| {
            let near = |(x, y)| name == "value" && nearly_equal(x, y, tolerance);
            name == other && (value == own || number(a).zip(number(b)).is_some_and(near))
        })
}

/// Up to a difference.
pub fn nearly_equal(a: f64, b: f64, tolerance: Tolerance) -> bool {
    let apart = (a - b).abs();
    let relative = tolerance.relative * a.abs().max(b.abs());
    (a.is_nan() && b.is_nan()) || a == b || apart <= relative || apart <= tolerance.absolute
}
