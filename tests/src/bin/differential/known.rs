//! Differences that have a known reason: a Prometheus 3.5 is asked, and later versions answer otherwise, or it keeps what
//! no answer shows.

use tributary_promql::ast::Expr;
use tributary_promql::ast::operator::BinaryOp;
use tributary_promql::signature::Function;

use super::compare::{TOLERANCE, Tolerance, difference};
use super::engine::{Answer, Engine, Point, Question};

const BELOW_ZERO: &str =
    "different: later versions of Prometheus do not extrapolate histograms to below zero";

/// Where such rates are computed of what may be no counter.
const NESTED: [&str; 2] = ["rate((", "increase(("];

const LAYOUT: &str =
    "different: Prometheus also counts it as a change where a new chunk has other empty buckets";

const EQUALITY: &str =
    "different: Prometheus also counts histograms as different whose empty buckets differ";

const STATISTICS: &str = "different: Prometheus 3.5 adds up exponential and custom buckets where only counts and sums are wanted";

const BOUNDS: &str = "different: later versions of Prometheus reconcile custom bounds that differ";

/// How words of an expression begin or end where a Prometheus 3.5 is known to differ, and why.
const KNOWN: &[(&[&str], &str)] = &[
    (
        &["histogram_fraction", "_bucket"],
        "different: Prometheus 3.5 does not sort classic buckets for histogram_fraction and gives NaN",
    ),
    (&["mad_over_time"], "different: in later versions of Prometheus, NaN makes mad_over_time NaN"),
    (&["native_queue_depth", "rate"], BELOW_ZERO),
    (&["native_queue_depth", "increase"], BELOW_ZERO),
    (&["native_drift", "rate"], BELOW_ZERO),
    (&["native_drift", "increase"], BELOW_ZERO),
    (&["changes", "native_"], LAYOUT),
    (&["histogram_count", "native_bounds_seconds"], STATISTICS),
    (&["histogram_sum", "native_bounds_seconds"], STATISTICS),
    (&["histogram_avg", "native_bounds_seconds"], STATISTICS),
    (
        &["avg", "native_", "Inf"],
        "different: later versions of Prometheus take the mean of infinite counts from their sum",
    ),
];

const FILTERED: &str = "different: later versions of Prometheus also count matches that a comparison drops (prometheus#17668)";

const COLUMN: &str = "different: Prometheus 3.5 loses count of columns behind parentheses";

const EMPTY_BUCKETS: &str =
    "different: with counts below zero, empty buckets matter, which Prometheus keeps";

const COLLISION: &str = "different: later versions of Prometheus leave out sums of histograms whose hints on resets conflict";

const FAILED: &str = "different: Prometheus 3.5 failed by a fault of its own: ask what differs afterwards again (--ask)";

const SHARES: &str = "different: shares of nearly nothing by rounding";

/// Of shares of observations that are equal.
const SHARE: Tolerance = Tolerance { absolute: 1e-12, ..TOLERANCE };

/// Why the answers of the reference and of the target differ, if that is known.
pub async fn known(
    expression: &str,
    question: Question,
    (wanted, got): (&Answer, &Answer),
    reference: &Engine,
) -> anyhow::Result<Option<&'static str>> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let has = |part: &&str| words.clone().any(|w| w.starts_with(*part) || w.ends_with(*part));
    let incompatible = || wanted.remarks.iter().any(|remark| remark.contains("incompatible"));
    if let Some((_, why)) = KNOWN.iter().find(|(parts, _)| parts.iter().all(has)) {
        return Ok(Some(why));
    }
    if has(&"native_") && NESTED.iter().any(|part| expression.contains(part)) {
        return Ok(Some(BELOW_ZERO));
    }
    if has(&"native_bounds_seconds") && incompatible() {
        return Ok(Some(BOUNDS));
    }
    match (&wanted.result, &got.result) {
        (Err(wanted), Err(got)) if other_column(expression, wanted, got) => {
            return Ok(Some(COLUMN));
        }
        (Err(_), Err(_)) => return Ok(None),
        (Err(wanted), Ok(_)) if wanted.contains("runtime error") => return Ok(Some(FAILED)),
        _ => {}
    }
    let remark = "conflicting counter resets during histogram";
    let collision = [" addition", " subtraction"].map(|operation| format!("{remark}{operation}"));
    if got.remarks.iter().any(|remark| collision.iter().any(|part| remark.contains(part))) {
        return Ok(Some(COLLISION));
    }
    if let (Ok(wanted), Ok(got)) = (&wanted.result, &got.result)
        && expression.contains("histogram_fraction(")
        && difference(wanted, got, SHARE).is_none()
    {
        return Ok(Some(SHARES));
    }
    let Ok(read) = tributary_promql::parse(expression) else { return Ok(None) };
    let clash = got.result.as_ref().is_err_and(|why| why.contains("multiple matches for labels"));
    if clash && all(&read).iter().any(|expr| is_filter(expr)) {
        return Ok(Some(FILTERED));
    }
    if has(&"native_") && all(&read).iter().any(|expr| compares_for_equality(expr)) {
        return Ok(Some(EQUALITY));
    }
    for expr in all(&read) {
        if let Expr::Call(call) = expr
            && matches!(call.function, Function::HistogramQuantile | Function::Resets)
            && let Some(argument) = call.args.last()
        {
            let histograms = match argument {
                Expr::Subquery(subquery) => &subquery.expr,
                argument => argument,
            };
            if has_counts_below_zero(&histograms.to_string(), question, reference).await? {
                return Ok(Some(EMPTY_BUCKETS));
            }
        }
    }
    Ok(None)
}

/// The expression and everything in it.
fn all(expr: &Expr) -> Vec<&Expr> {
    let mut found = vec![expr];
    let mut next = 0;
    while let Some(expr) = found.get(next).copied() {
        found.extend(expr.children());
        next += 1;
    }
    found
}

fn compares_for_equality(expr: &Expr) -> bool {
    matches!(expr, Expr::Binary(binary) if matches!(binary.op, BinaryOp::Equal | BinaryOp::NotEqual))
}

fn is_filter(expr: &Expr) -> bool {
    matches!(expr, Expr::Binary(binary)
        if binary.op.is_comparison() && !binary.return_bool && binary.matching.is_some())
}

async fn has_counts_below_zero(
    expression: &str,
    question: Question,
    reference: &Engine,
) -> anyhow::Result<bool> {
    let Ok(found) = reference.ask(expression, question).await?.result else { return Ok(false) };
    let points = found.series.iter().flat_map(|(_, points)| points);
    Ok(points.into_iter().any(|(_, point)| match point {
        Point::Number(_) => false,
        Point::Histogram(histogram) => histogram.has_counts_below_zero(),
    }))
}

/// Whether two messages differ only in the column, and the target's is behind a closing parenthesis.
fn other_column(expression: &str, wanted: &str, got: &str) -> bool {
    let parts = |text: &str| {
        let text = text.strip_prefix("invalid parameter \"query\": ").unwrap_or(text);
        let (place, message) = text.split_once(": ")?;
        let column: usize = place.strip_prefix("1:")?.parse().ok()?;
        Some((column, message.to_owned()))
    };
    let (Some((_, message)), Some((own, own_message))) = (parts(wanted), parts(got)) else {
        return false;
    };
    let before = expression.get(..own.saturating_sub(1));
    message == own_message && before.is_some_and(|text| text.trim_end().ends_with(')'))
}
