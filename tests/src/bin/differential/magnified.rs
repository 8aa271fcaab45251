//! Whether a difference is only that of the last digits of a part, which what stands above it magnifies: the sine of a
//! large number, a value that becomes a label.

use tributary_promql::ast::{Expr, ValueType};

use super::compare::{TOLERANCE, Tolerance, difference};
use super::engine::{Answer, Engine, Question};

/// Parts that differ by no more than this differ by rounding.
const ROUNDING: Tolerance = Tolerance::relative(1e-13);

const NONE: Tolerance = Tolerance::relative(0.0);

/// Looks for the innermost parts of an expression at which the engines differ. Each must have an argument of which they
/// give the same but for rounding.
pub async fn magnified(
    expression: &str,
    question: Question,
    reference: &Engine,
    target: &Engine,
) -> anyhow::Result<bool> {
    let Ok(read) = tributary_promql::parse(expression) else { return Ok(false) };
    let mut open = vec![&read];
    while let Some(expr) = open.pop() {
        let (mut rounded, mut deeper) = (false, false);
        for child in arguments(expr) {
            let text = child.to_string();
            let asked = (reference.ask(&text, question), target.ask(&text, question));
            let (wanted, got) = tokio::try_join!(asked.0, asked.1)?;
            if apart(&wanted, &got, TOLERANCE) {
                deeper = true;
                open.push(child);
            } else {
                rounded |= apart(&wanted, &got, NONE) && !apart(&wanted, &got, ROUNDING);
            }
        }
        if !deeper && !rounded {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What an expression is made of and can be asked for; of a subquery, what it asks for.
fn arguments(expr: &Expr) -> Vec<&Expr> {
    let parts = expr.children().into_iter().flat_map(|child| match child {
        Expr::Subquery(subquery) => vec![&subquery.expr],
        child => vec![child],
    });
    parts
        .filter(|part| matches!(part.value_type(), ValueType::Scalar | ValueType::Vector))
        .collect()
}

fn apart(wanted: &Answer, got: &Answer, tolerance: Tolerance) -> bool {
    match (&wanted.result, &got.result) {
        (Ok(wanted), Ok(got)) => difference(wanted, got, tolerance).is_some(),
        (Err(_), Err(_)) => false,
        _ => true,
    }
}
