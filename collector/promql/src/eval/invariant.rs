//! Whether an expression has the same value at every step, so that one evaluation is enough.

use crate::ast::{Expr, TimeShift};
use crate::signature::Function;

/// Whether the value does not depend on the time of the step.
pub(crate) fn is_step_invariant(expr: &Expr) -> bool {
    match expr {
        Expr::Number(_) | Expr::String(_) => true,
        Expr::Vector(selector) => is_fixed(&selector.time),
        Expr::Matrix(matrix) => is_fixed(&matrix.selector.time),
        Expr::Subquery(subquery) => is_fixed(&subquery.time),
        Expr::Call(call) => {
            let safe = !depends_on_time(call.function)
                || (call.function == Function::Timestamp
                    && matches!(call.args.as_slice(), [arg] if matches!(arg.unparenthesised(), Expr::Vector(_))));
            safe && call.args.iter().all(is_step_invariant)
        }
        other => other.children().into_iter().all(is_step_invariant),
    }
}

fn is_fixed(time: &TimeShift) -> bool {
    time.at.is_some()
}

/// Whether a function looks at the time of the step, or at the times of its argument's samples.
pub(crate) fn depends_on_time(function: Function) -> bool {
    matches!(
        function,
        Function::DaysInMonth
            | Function::DayOfMonth
            | Function::DayOfWeek
            | Function::DayOfYear
            | Function::Hour
            | Function::Minute
            | Function::Month
            | Function::Year
            | Function::PredictLinear
            | Function::Time
            | Function::Timestamp
    )
}
