//! The same query with its time fixed by `@`: it must give the same at any time.

use tributary_model::sample::Timestamp;
use tributary_promql::ast::{At, Expr, TimeShift};
use tributary_promql::signature::Function;

/// The query with `@ at` on every selector and subquery that has no time yet, as text; `None` if it would not mean the
/// same at another time.
pub(crate) fn pin(expr: &Expr, at: Timestamp) -> Option<String> {
    let mut expr = expr.clone();
    let text = pin_node(&mut expr, at).then(|| expr.to_string())?;
    // Durations may be computed from the query's own times.
    (!text.contains("step()") && !text.contains("range()")).then_some(text)
}

/// Whether the node can be pinned.
fn pin_node(expr: &mut Expr, at: Timestamp) -> bool {
    match expr {
        Expr::Number(_) | Expr::String(_) => true,
        Expr::Vector(selector) => pin_time(&mut selector.time, at),
        Expr::Matrix(matrix) => pin_time(&mut matrix.selector.time, at),
        // What is inside is fixed by the subquery's own time.
        Expr::Subquery(subquery) => pin_time(&mut subquery.time, at) && is_safe(&subquery.expr),
        Expr::Unary(unary) => pin_node(&mut unary.expr, at),
        Expr::Paren(paren) => pin_node(&mut paren.expr, at),
        Expr::Binary(binary) => pin_node(&mut binary.lhs, at) && pin_node(&mut binary.rhs, at),
        Expr::Aggregate(aggregate) => {
            aggregate.param.as_mut().is_none_or(|param| pin_node(param, at))
                && pin_node(&mut aggregate.expr, at)
        }
        Expr::Call(call) => {
            is_safe_function(call.function) && call.args.iter_mut().all(|arg| pin_node(arg, at))
        }
    }
}

fn pin_time(time: &mut TimeShift, at: Timestamp) -> bool {
    match time.at {
        None => {
            time.at = Some(At::Time(at));
            true
        }
        Some(At::Time(_)) => true,
        Some(At::Start | At::End) => false,
    }
}

fn is_safe(expr: &Expr) -> bool {
    let own = match expr {
        Expr::Call(call) => is_safe_function(call.function),
        _ => true,
    };
    own && expr.children().into_iter().all(is_safe)
}

fn is_safe_function(function: Function) -> bool {
    !matches!(
        function,
        Function::DaysInMonth
            | Function::DayOfMonth
            | Function::DayOfWeek
            | Function::DayOfYear
            | Function::End
            | Function::Hour
            | Function::Minute
            | Function::Month
            | Function::Year
            | Function::PredictLinear
            | Function::Range
            | Function::Start
            | Function::Step
            | Function::Time
            | Function::Timestamp
    )
}
