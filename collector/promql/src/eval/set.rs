//! `and`, `or` and `unless`.

use std::collections::HashMap;

use tributary_model::label::{Labels, METRIC_NAME};

use super::Evaluator;
use super::grid::Grid;
use super::series::{Series, without_empty};
use crate::ast::operator::BinaryOp;
use crate::ast::{Binary, Matching};
use crate::value::EvalError;

/// The labels by which two series are partners.
pub(super) fn group_of(labels: &Labels, matching: &Matching) -> Labels {
    let listed = |name: &str| matching.labels.iter().any(|label| label == name);
    if matching.on {
        labels.filter(|label| listed(&label.name))
    } else {
        labels.filter(|label| &*label.name != METRIC_NAME && !listed(&label.name))
    }
}

/// At which steps some series of each group has a value.
struct Presence(HashMap<Labels, Vec<bool>>);

impl Presence {
    fn of(series: &[Series], matching: &Matching, grid: Grid) -> Self {
        let mut groups: HashMap<Labels, Vec<bool>> = HashMap::new();
        for series in series {
            let steps = groups
                .entry(group_of(&series.labels, matching))
                .or_insert_with(|| vec![false; grid.count]);
            for step in series.points.steps() {
                if let Some(present) = steps.get_mut(step) {
                    *present = true;
                }
            }
        }
        Self(groups)
    }

    /// Keeps the values of `series` at steps where its group is (or is not) present.
    fn filter(&self, series: &mut Series, matching: &Matching, wanted: bool) {
        let steps = self.0.get(&group_of(&series.labels, matching));
        series.points.retain(|step| {
            steps.and_then(|steps| steps.get(step)).copied().unwrap_or(false) == wanted
        });
    }
}

impl Evaluator<'_> {
    pub(super) fn set_operation(
        &mut self,
        binary: &Binary,
        mut lhs: Vec<Series>,
        mut rhs: Vec<Series>,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let Some(matching) = &binary.matching else {
            return Err(EvalError::Unsupported("a set operator between scalars"));
        };
        self.check()?;
        if binary.op == BinaryOp::Or {
            let left = Presence::of(&lhs, matching, grid);
            for series in &mut rhs {
                left.filter(series, matching, false);
            }
            lhs.append(&mut rhs);
        } else {
            let right = Presence::of(&rhs, matching, grid);
            for series in &mut lhs {
                right.filter(series, matching, binary.op == BinaryOp::And);
            }
        }
        self.unite(without_empty(lhs), grid)
    }
}
