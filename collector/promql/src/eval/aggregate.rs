//! Aggregations over groups of series.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use tributary_model::label::{Label, Labels, METRIC_NAME};
use tributary_model::sample::is_stale;

use super::grid::Grid;
use super::series::{Points, Series, without_empty};
use super::{Evaluator, workers};
use crate::ast::operator::AggregateOp;
use crate::ast::{Aggregate, Span};
use crate::functions::native_sum::{HistogramAccumulator, HistogramMean, HistogramSum};
use crate::functions::number::{self, Mean, Sum, is_quantile};
use crate::functions::remark::{Remark, Remarks};
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
    labels.filter(|label| groups_by(label, aggregate))
}

/// Whether series that differ in this label belong to different groups.
fn groups_by(label: &Label, aggregate: &Aggregate) -> bool {
    let listed = aggregate.grouping.iter().any(|name| **name == *label.name);
    if aggregate.without { !listed && &*label.name != METRIC_NAME } else { listed }
}

/// The groups in order of their first series.
pub(super) fn groups(series: &[Series], aggregate: &Aggregate) -> Vec<Group> {
    let hasher = RandomState::new();
    // Groups by the hash of their labels: most series find their group without a label set being made for them.
    let mut places: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (index, series) in series.iter().enumerate() {
        let kept = || series.labels.iter().filter(|label| groups_by(label, aggregate));
        let mut hash = hasher.build_hasher();
        kept().for_each(|label| label.hash(&mut hash));
        let places = places.entry(hash.finish()).or_default();
        let same = |place: &&usize| groups.get(**place).is_some_and(|g| kept().eq(g.labels.iter()));
        let known = places.iter().find(same).copied();
        let place = known.unwrap_or_else(|| {
            let labels = grouping_labels(&series.labels, aggregate);
            places.push(groups.len());
            groups.push(Group { labels, drop_name: false, members: Vec::new() });
            groups.len() - 1
        });
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
            AggregateOp::Sum => self.fold::<Total, Among<HistogramSum>>(aggregate, grid),
            AggregateOp::Avg => self.fold::<Mean, Among<HistogramMean>>(aggregate, grid),
            AggregateOp::Count => self.fold::<Count, Counted>(aggregate, grid),
            AggregateOp::Group => self.fold::<One, Counted>(aggregate, grid),
            AggregateOp::Min => self.fold::<Least, Ignored>(aggregate, grid),
            AggregateOp::Max => self.fold::<Most, Ignored>(aggregate, grid),
            AggregateOp::Stddev => self.fold::<Deviation, Ignored>(aggregate, grid),
            AggregateOp::Stdvar => self.fold::<Variance, Ignored>(aggregate, grid),
        }
    }

    /// An aggregation that takes one value after the other.
    fn fold<A: Accumulator, H: OfHistograms>(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let series = self.vector(&aggregate.expr, grid)?;
        let groups = groups(&series, aggregate);
        let weight = series.len() / groups.len().max(1) * grid.count;
        let budget = &self.budget;
        let folded =
            workers::map(budget, &groups, weight, |states: &mut Vec<Option<A>>, group| {
                budget.check()?;
                let (points, remarks) = fold::<A, H>(&series, group, states, grid);
                budget.hold(points.size())?;
                Ok((points, remarks))
            })?;
        let mut out = Vec::with_capacity(groups.len());
        for (group, (points, remarks)) in groups.into_iter().zip(folded) {
            self.remark_histograms(aggregate, remarks);
            out.push(Series { labels: group.labels, drop_name: group.drop_name, points });
        }
        Ok(without_empty(out))
    }

    fn remark_histograms(&mut self, aggregate: &Aggregate, mut remarks: HistogramRemarks) {
        let span = aggregate.expr.span();
        if remarks.ignored {
            self.ignored_histogram(aggregate.op, span);
        }
        if remarks.mixed_samples {
            let text = "encountered a mix of histograms and floats for aggregation";
            self.annotations.warning(text, span);
        }
        for metric in &remarks.mixed_schemas {
            let mut remark = Remarks::default();
            remark.add(Remark::MixedSchemas);
            self.annotations.remarks(&mut remark, metric, span);
        }
        self.annotations.remarks(&mut remarks.other, "", span);
    }

    /// An aggregation of numbers met a histogram.
    pub(super) fn ignored_histogram(&mut self, op: AggregateOp, span: Span) {
        let text = format!("ignored histogram in {} aggregation", op.as_str());
        self.annotations.info(&text, span);
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
        if series.iter().any(|series| !series.points.histograms().is_empty()) {
            self.ignored_histogram(aggregate.op, aggregate.expr.span());
        }
        let mut out = Vec::new();
        let mut values = Vec::new();
        for group in groups(&series, aggregate) {
            self.check()?;
            let mut points = Points::with_capacity(grid.count);
            for (step, q) in quantiles.iter().enumerate() {
                values.clear();
                let members = group.members.iter().filter_map(|index| series.get(*index));
                values.extend(members.filter_map(|member| member.points.float(step)));
                if !values.is_empty() {
                    points.push(step, number::quantile(*q, &mut values));
                }
            }
            self.hold(points.size())?;
            out.push(Series { labels: group.labels, drop_name: group.drop_name, points });
        }
        Ok(without_empty(out))
    }
}

/// What the series of a group come to. `states` is room that is reused from group to group.
fn fold<A: Accumulator, H: OfHistograms>(
    series: &[Series],
    group: &Group,
    states: &mut Vec<Option<A>>,
    grid: Grid,
) -> (Points, HistogramRemarks) {
    states.clear();
    states.resize_with(grid.count, || None);
    let mut histograms = H::default();
    for member in group.members.iter().filter_map(|index| series.get(*index)) {
        let (first, values) = member.points.column();
        for (state, value) in states.iter_mut().skip(first).zip(values) {
            if is_stale(*value) {
                continue;
            }
            match state {
                Some(state) => state.add(*value),
                none => *none = Some(A::first(*value)),
            }
        }
        histograms.add(member, states);
    }
    let mut points = Points::with_capacity(grid.count);
    let mut remarks = HistogramRemarks::default();
    histograms.finish(states, &mut points, &mut remarks);
    for (step, state) in states.iter().enumerate() {
        if let Some(state) = state {
            points.push(step, state.result());
        }
    }
    (points, remarks)
}

/// The values of a parameter worth a remark: NaN if there is one, the largest and the smallest.
pub(super) fn extremes(values: &[f64]) -> Vec<f64> {
    let nan = values.iter().copied().find(|value| value.is_nan());
    let largest = values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::max);
    let smallest = values.iter().copied().filter(|v| !v.is_nan()).reduce(f64::min);
    nan.into_iter().chain(largest).chain(smallest).collect()
}

/// What is to be said of the histograms of a group.
#[derive(Default)]
struct HistogramRemarks {
    ignored: bool,
    mixed_samples: bool,
    /// The metrics that could not be added to those before.
    mixed_schemas: BTreeSet<String>,
    other: Remarks,
}

/// What an aggregation makes of the histograms of a group.
trait OfHistograms: Default {
    /// Takes the histograms of a series after its numbers.
    fn add<A: Accumulator>(&mut self, series: &Series, states: &mut [Option<A>]);

    /// Adds results; takes back those of numbers where nothing can come of both.
    fn finish<A: Accumulator>(
        self,
        states: &mut [Option<A>],
        points: &mut Points,
        remarks: &mut HistogramRemarks,
    );
}

/// They are left out, which is remarked.
#[derive(Default)]
struct Ignored(bool);

impl OfHistograms for Ignored {
    fn add<A: Accumulator>(&mut self, series: &Series, _: &mut [Option<A>]) {
        self.0 |= !series.points.histograms().is_empty();
    }

    fn finish<A: Accumulator>(
        self,
        _: &mut [Option<A>],
        _: &mut Points,
        remarks: &mut HistogramRemarks,
    ) {
        remarks.ignored = self.0;
    }
}

/// They count like numbers.
#[derive(Default)]
struct Counted;

impl OfHistograms for Counted {
    fn add<A: Accumulator>(&mut self, series: &Series, states: &mut [Option<A>]) {
        for (step, _) in series.points.histograms() {
            match states.get_mut(*step) {
                Some(Some(state)) => state.add(0.0),
                Some(none) => *none = Some(A::first(0.0)),
                None => {}
            }
        }
    }

    fn finish<A: Accumulator>(self, _: &mut [Option<A>], _: &mut Points, _: &mut HistogramRemarks) {
    }
}

/// They are aggregated among themselves: by step, the state, or nothing if they cannot be.
struct Among<H> {
    states: BTreeMap<usize, Option<H>>,
    mixed_schemas: BTreeSet<String>,
}

impl<H> Default for Among<H> {
    fn default() -> Self {
        Self { states: BTreeMap::new(), mixed_schemas: BTreeSet::new() }
    }
}

impl<H: HistogramAccumulator> OfHistograms for Among<H> {
    fn add<A: Accumulator>(&mut self, series: &Series, _: &mut [Option<A>]) {
        for (step, histogram) in series.points.histograms() {
            match self.states.get_mut(step) {
                Some(state) => {
                    if state.as_mut().is_some_and(|state| state.add(histogram).is_err()) {
                        self.mixed_schemas.insert(series.labels.metric_name().to_owned());
                        *state = None;
                    }
                }
                None => {
                    self.states.insert(*step, Some(H::first(histogram)));
                }
            }
        }
    }

    fn finish<A: Accumulator>(
        self,
        states: &mut [Option<A>],
        points: &mut Points,
        remarks: &mut HistogramRemarks,
    ) {
        remarks.mixed_schemas = self.mixed_schemas;
        for (step, histograms) in self.states {
            if let Some(numbers) = states.get_mut(step)
                && numbers.take().is_some()
            {
                remarks.mixed_samples = true;
            } else if let Some(histograms) = histograms {
                let result = histograms.result(&mut remarks.other).compacted();
                points.push_histogram(step, Arc::new(result));
            }
        }
    }
}

/// The state of an aggregation after at least one value.
trait Accumulator: Send {
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
