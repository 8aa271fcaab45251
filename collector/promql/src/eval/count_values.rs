//! `count_values`: how many series have each value.

use std::collections::HashMap;

use tributary_model::label::Labels;
use tributary_model::number::format_plain;
use tributary_model::quote::quote;

use super::Evaluator;
use super::aggregate::grouping_labels;
use super::grid::Grid;
use super::labels::{is_label_name, text};
use super::series::{Points, Series};
use crate::ast::Aggregate;
use crate::value::EvalError;

impl Evaluator<'_> {
    pub(super) fn count_values(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let label = aggregate.param.as_ref().map_or("", text);
        if !is_label_name(label) {
            // As it was written: what is not UTF-8 is no longer in the text.
            let span = aggregate.param.as_ref().map(|p| p.unparenthesised().span());
            let written = span.and_then(|span| self.options.query.get(span.start..span.end));
            return Err(EvalError::LabelName(written.map_or_else(|| quote(label), str::to_owned)));
        }
        let series = self.vector(&aggregate.expr, grid)?;
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut out: Vec<Series> = Vec::new();
        for series in &series {
            self.check()?;
            let common = grouping_labels(&series.labels, aggregate);
            // The values of one series are few: look labels up once per value.
            let mut by_value: HashMap<u64, usize> = HashMap::new();
            for (step, value) in series.points.floats() {
                let known = by_value.get(&value.to_bits());
                let place = if let Some(place) = known {
                    *place
                } else {
                    let labels = common.with(label, &format_plain(value));
                    let place = self.place(labels, &mut places, &mut out, grid)?;
                    by_value.insert(value.to_bits(), place);
                    place
                };
                count(&mut out, place, step);
            }
            for (step, histogram) in series.points.histograms() {
                let labels = common.with(label, &histogram.to_string());
                let place = self.place(labels, &mut places, &mut out, grid)?;
                count(&mut out, place, *step);
            }
        }
        self.unite(out, grid)
    }

    /// The place of the result with these labels, which may be a new one.
    fn place(
        &self,
        labels: Labels,
        places: &mut HashMap<Labels, usize>,
        out: &mut Vec<Series>,
        grid: Grid,
    ) -> Result<usize, EvalError> {
        let next = out.len();
        let place = *places.entry(labels.clone()).or_insert(next);
        if place == next {
            self.hold(grid.count)?;
            let points = Points::empty_slots(grid.count);
            out.push(Series { labels, drop_name: false, points });
        }
        Ok(place)
    }
}

fn count(out: &mut [Series], place: usize, step: usize) {
    let slots = out.get_mut(place).map(|series| series.points.slots());
    if let Some(count) = slots.and_then(|slots| slots.get_mut(step)) {
        *count = if count.is_nan() { 1.0 } else { *count + 1.0 };
    }
}
