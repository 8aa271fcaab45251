//! The `sort` functions, which order the elements of an instant vector.

use std::cmp::Ordering;

use super::Evaluator;
use super::call::arg;
use super::grid::Grid;
use super::labels::text;
use super::series::{Series, without_empty};
use crate::ast::Call;
use crate::functions::natural;
use crate::signature::Function;
use crate::value::EvalError;

impl Evaluator<'_> {
    pub(super) fn sort(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        if grid.count > 1 {
            self.annotations.warning(
                "sort is ineffective for range queries since results are always ordered by labels",
                call.span,
            );
        }
        let mut series = self.vector(arg(call, 0)?, grid)?;
        let names: Vec<&str> = call.args.iter().skip(1).map(text).collect();
        if matches!(call.function, Function::Sort | Function::SortDesc) {
            // Histograms have no order.
            for series in &mut series {
                series.points.drop_histograms();
            }
            series = without_empty(series);
        }
        match call.function {
            Function::Sort => series.sort_by(|a, b| by_value(a, b, false)),
            Function::SortDesc => series.sort_by(|a, b| by_value(a, b, true)),
            Function::SortByLabelDesc => series.sort_by(|a, b| by_labels(b, a, &names)),
            _ => series.sort_by(|a, b| by_labels(a, b, &names)),
        }
        self.unite(series, grid)
    }
}

/// By the value at the first step; NaN last either way.
fn by_value(a: &Series, b: &Series, descending: bool) -> Ordering {
    let value = |series: &Series| series.points.float(0).unwrap_or(f64::NAN);
    let (a, b) = (value(a), value(b));
    match a.partial_cmp(&b) {
        Some(order) if descending => order.reverse(),
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

/// By the given labels in natural order, then by all labels.
fn by_labels(a: &Series, b: &Series, names: &[&str]) -> Ordering {
    let mut orders = names
        .iter()
        .map(|name| natural::compare(a.labels.value(name), b.labels.value(name)))
        .filter(|order| order.is_ne());
    orders.next().unwrap_or_else(|| a.labels.cmp(&b.labels))
}
