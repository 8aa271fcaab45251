//! Subqueries: an expression evaluated at its own steps, which are multiples of the step since the epoch.

use super::Evaluator;
use super::duration;
use super::grid::Grid;
use super::series::{Data, Points, Series};
use crate::ast::Subquery;
use crate::value::EvalError;

impl Evaluator<'_> {
    /// The series of a subquery and the steps they were evaluated at, for all steps of `grid` together.
    pub(super) fn subquery(
        &mut self,
        subquery: &Subquery,
        grid: Grid,
    ) -> Result<(Vec<Series>, Grid), EvalError> {
        let reference = self.reference(&subquery.time)?;
        let durations = self.durations();
        let range = duration::positive(&subquery.range, durations)?;
        let step = match &subquery.step {
            Some(step) => duration::positive(step, durations)?,
            None => i64::try_from(self.options.default_step.as_millis()).unwrap_or(i64::MAX),
        };
        let step = step.max(1);
        let before = reference.of(grid.start).saturating_sub(range);
        // The first multiple of the step after the window's start.
        let start = before.div_euclid(step).saturating_add(1).saturating_mul(step);
        let steps = Grid::new(start, reference.of(grid.last()), step)?;
        if steps.count == 0 {
            return Ok((Vec::new(), steps));
        }
        let outer = self.wanted;
        self.wanted.buckets = true;
        let data = self.eval(&subquery.expr, steps);
        self.wanted = outer;
        let series = match data? {
            Data::Vector(series) => series,
            Data::Scalar(values) => vec![Series {
                labels: tributary_model::label::Labels::empty(),
                drop_name: false,
                points: Points::dense(values),
            }],
            Data::Text(_) => Vec::new(),
        };
        Ok((series, steps))
    }
}
