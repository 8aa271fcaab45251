//! Aggregations over groups of series.

use std::collections::HashMap;

use tributary_model::label::{Labels, METRIC_NAME};

use super::Evaluator;
use super::grid::Grid;
use super::series::{Points, Series, without_empty};
use crate::ast::Aggregate;
use crate::ast::operator::AggregateOp;
use crate::functions::number::{self, Mean, Sum, is_quantile};
use crate::value::EvalError;

/// Series that are aggregated together, by index.
pub(super) struct Group {
    /// The labels they have in common.
    pub(super) labels: Labels,
    /// Whether one of them is to lose its name at the end.
    pub(super) drop_name: bool,
    /// Their indices, in order.
    pub(super) members: Vec<usize>,
}

/// The labels of the group that a series belongs to.
pub(super) fn grouping_labels(labels: &Labels, aggregate: &Aggregate) -> Labels {
    let listed = |name: &str| aggregate.grouping.iter().any(|label| label == name);
    if aggregate.without {
        labels.filter(|label| &*label.name != METRIC_NAME && !listed(&label.name))
    } else {
        labels.filter(|label| listed(&label.name))
    }
}

/// The groups in order of their first series.
pub(super) fn groups(series: &[Series], aggregate: &Aggregate) -> Vec<Group> {
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (index, series) in series.iter().enumerate() {
        let labels = grouping_labels(&series.labels, aggregate);
        let next = groups.len();
        let place = *places.entry(labels.clone()).or_insert(next);
        if place == next {
            groups.push(Group { labels, drop_name: false, members: Vec::new() });
        }
        if let Some(group) = groups.get_mut(place) {
            group.members.push(index);
            group.drop_name |= series.drop_name;
        }
    }
    groups
}

impl Evaluator<'_> {
    pub(super) fn aggregate(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        match aggregate.op {
            AggregateOp::CountValues => self.count_values(aggregate, grid),
            AggregateOp::Topk
            | AggregateOp::Bottomk
            | AggregateOp::Limitk
            | AggregateOp::LimitRatio => self.rank(aggregate, grid),
            AggregateOp::Quantile => self.quantile(aggregate, grid),
            AggregateOp::Sum => self.fold::<Total>(aggregate, grid),
            AggregateOp::Avg => self.fold::<Mean>(aggregate, grid),
            AggregateOp::Count => self.fold::<Count>(aggregate, grid),
            AggregateOp::Group => self.fold::<One>(aggregate, grid),
            AggregateOp::Min => self.fold::<Least>(aggregate, grid),
            AggregateOp::Max => self.fold::<Most>(aggregate, grid),
            AggregateOp::Stddev => self.fold::<Deviation>(aggregate, grid),
            AggregateOp::Stdvar => self.fold::<Variance>(aggregate, grid),
        }
    }

    /// An aggregation that takes one value after the other.
    fn fold<A: Accumulator>(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let series = self.vector(&aggregate.expr, grid)?;
        let mut out = Vec::new();
        let mut states: Vec<Option<A>> = Vec::new();
        for group in groups(&series, aggregate) {
            self.check()?;
            states.clear();
            states.resize_with(grid.count, || None);
            for member in group.members.iter().filter_map(|index| series.get(*index)) {
                for (step, value) in member.points.iter() {
                    match states.get_mut(step) {
                        Some(Some(state)) => state.add(value),
                        Some(none) => *none = Some(A::first(value)),
                        None => {}
                    }
                }
            }
            let mut points = Points::with_capacity(grid.count);
            for (step, state) in states.iter().enumerate() {
                if let Some(state) = state {
                    points.push(step, state.result());
                }
            }
            self.hold(points.count())?;
            out.push(Series { labels: group.labels, drop_name: group.drop_name, points });
        }
        Ok(without_empty(out))
    }

    fn quantile(&mut self, aggregate: &Aggregate, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let Some(param) = &aggregate.param else {
            return Err(EvalError::Unsupported("quantile without a parameter"));
        };
        let quantiles = self.scalar(param, grid)?;
        let series = self.vector(&aggregate.expr, grid)?;
        for bad in extremes(&quantiles).into_iter().filter(|q| !is_quantile(*q)) {
            self.annotations.bad_quantile(bad, param.span());
        }
        let mut out = Vec::new();
        let mut values = Vec::new();
        for group in groups(&series, aggregate) {
            self.check()?;
            let mut points = Points::with_capacity(grid.count);
            for (step, q) in quantiles.iter().enumerate() {
                values.clear();
                let members = group.members.iter().filter_map(|index| series.get(*index));
                values.extend(members.filter_map(|member| member.points.get(step)));
                if !values.is_empty() {
                    points.push(step, number::quantile(*q, &mut values));
                }
            }
            self.hold(points.count())?;
            out.push(Series { labels: group.labels, drop_name: group.drop_name, points });
        }
        Ok(without_empty(out))
    }
}

/// The values of a parameter worth a remark: NaN if there is one, the largest and the smallest.
pub(super) fn extremes(values: &[f64]) -> Vec<f64> {
    let nan = values.iter().copied().find(|value| value.is_nan());
    let largest = values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::max);
    let smallest = values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::min);
    nan.into_iter().chain(largest).chain(smallest).collect()
}

/// The state of an aggregation after at least one value.
trait Accumulator {
    fn first(value: f64) -> Self;
    fn add(&mut self, value: f64);
    fn result(&self) -> f64;
}

struct Total(Sum);

impl Accumulator for Total {
    fn first(value: f64) -> Self {
        Self(Sum::of(value))
    }

    fn add(&mut self, value: f64) {
        self.0 = self.0.plus(value);
    }

    fn result(&self) -> f64 {
        self.0.total()
    }
}

impl Accumulator for Mean {
    fn first(value: f64) -> Self {
        Self::of(value)
    }

    fn add(&mut self, value: f64) {
        Self::add(self, value);
    }

    fn result(&self) -> f64 {
        self.value()
    }
}

struct Count(f64);

impl Accumulator for Count {
    fn first(_: f64) -> Self {
        Self(1.0)
    }

    fn add(&mut self, _: f64) {
        self.0 += 1.0;
    }

    fn result(&self) -> f64 {
        self.0
    }
}

struct One;

impl Accumulator for One {
    fn first(_: f64) -> Self {
        Self
    }

    fn add(&mut self, _: f64) {}

    fn result(&self) -> f64 {
        1.0
    }
}

struct Least(f64);

impl Accumulator for Least {
    fn first(value: f64) -> Self {
        Self(value)
    }

    fn add(&mut self, value: f64) {
        if self.0 > value || self.0.is_nan() {
            self.0 = value;
        }
    }

    fn result(&self) -> f64 {
        self.0
    }
}

struct Most(f64);

impl Accumulator for Most {
    fn first(value: f64) -> Self {
        Self(value)
    }

    fn add(&mut self, value: f64) {
        if self.0 < value || self.0.is_nan() {
            self.0 = value;
        }
    }

    fn result(&self) -> f64 {
        self.0
    }
}

/// Welford's running variance.
struct Variance {
    mean: f64,
    squares: f64,
    count: f64,
}

impl Accumulator for Variance {
    fn first(value: f64) -> Self {
        let squares = if value.is_finite() { 0.0 } else { f64::NAN };
        Self { mean: value, squares, count: 1.0 }
    }

    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    fn result(&self) -> f64 {
        self.squares / self.count
    }
}

struct Deviation(Variance);

impl Accumulator for Deviation {
    fn first(value: f64) -> Self {
        Self(Variance::first(value))
    }

    fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    fn result(&self) -> f64 {
        self.0.result().sqrt()
    }
}
