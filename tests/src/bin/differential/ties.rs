//! Whether an answer may depend on which of several equal values comes first.

use tributary_promql::ast::Expr;
use tributary_promql::ast::operator::AggregateOp;

use super::engine::{Engine, Point, Question};

/// Whether some aggregation of an expression chooses among series that have the same value: then the order of the
/// series, which nothing defines, decides.
pub async fn tied(expression: &str, question: Question, engine: &Engine) -> anyhow::Result<bool> {
    let Ok(read) = tributary_promql::parse(expression) else { return Ok(false) };
    let mut chosen_from = Vec::new();
    choices(&read, &mut chosen_from);
    for (op, inner) in chosen_from {
        if op == AggregateOp::Limitk {
            return Ok(true);
        }
        let Ok(series) = engine.ask(&inner, question).await?.result else { continue };
        let mut values: Vec<(i64, u64)> = series
            .series
            .iter()
            .flat_map(|(_, points)| points)
            .filter_map(|(at, point)| match point {
                Point::Number(value) => Some((*at, value.to_bits())),
                // These aggregations leave histograms out.
                Point::Histogram(_) => None,
            })
            .collect();
        let all = values.len();
        values.sort_unstable();
        values.dedup();
        if values.len() < all {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The aggregations that choose series, and what each chooses from.
fn choices(expr: &Expr, out: &mut Vec<(AggregateOp, String)>) {
    if let Expr::Aggregate(aggregate) = expr
        && matches!(aggregate.op, AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk)
    {
        out.push((aggregate.op, aggregate.expr.to_string()));
    }
    for child in expr.children() {
        choices(child, out);
    }
}
