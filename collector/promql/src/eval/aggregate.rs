//! Aggregations over groups of series.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::quality::RandomState;

use tributary_model::label::{Label, Labels, METRIC_NAME};

use super::grid::Grid;
use super::labels::hash_of;
use super::series::{Column, Points, Series, without_empty};
use super::states::{Count, Deviation, Each, Least, Most, One, States, Sums, Variance};
use super::{Evaluator, workers};
use crate::ast::operator::AggregateOp;
use crate::ast::{Aggregate, Span};
use crate::functions::native_sum::{HistogramAccumulator, HistogramMean, HistogramSum};
use crate::functions::number::{self, Mean, is_quantile};
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
    let mut kept = Kept::new(aggregate);
    let hasher = RandomState::default();
    // Groups by the hash of their labels: most series find their group without a label set being made for them.
    let mut places: HashMap<u64, Vec<usize>, RandomState> = HashMap::with_hasher(hasher.clone());
    let mut groups: Vec<Group> = Vec::new();
    let mut last = 0;
    for (index, series) in series.iter().enumerate() {
        let labels = kept.of(&series.labels);
        let is = |group: &Group| labels.iter().copied().eq(group.labels.iter());
        // Neighbours are often of one group.
        if !groups.get(last).is_some_and(is) {
            let places = places.entry(hash_of(&hasher, labels.iter().copied())).or_default();
            let known = places.iter().find(|place| groups.get(**place).is_some_and(is)).copied();
            last = known.unwrap_or_else(|| {
                let labels = grouping_labels(&series.labels, aggregate);
                places.push(groups.len());
                groups.push(Group { labels, drop_name: false, members: Vec::new() });
                groups.len() - 1
            });
        }
        if let Some(group) = groups.get_mut(last) {
            group.members.push(index);
            group.drop_name |= series.drop_name;
        }
    }
    groups
}

/// Picks the labels by which an aggregation groups.
struct Kept<'a, 'l> {
    aggregate: &'a Aggregate,
    /// For `by`: the names in order, and where each stood in the labels before. Series have their labels in the same
    /// places, mostly.
    names: Vec<(&'a str, usize)>,
    labels: Vec<&'l Label>,
}

impl<'a, 'l> Kept<'a, 'l> {
    fn new(aggregate: &'a Aggregate) -> Self {
        let mut names: Vec<_> = aggregate.grouping.iter().map(|name| (name.as_str(), 0)).collect();
        names.sort_unstable();
        names.dedup();
        Self { aggregate, names, labels: Vec::new() }
    }

    fn of(&mut self, labels: &'l Labels) -> &[&'l Label] {
        self.labels.clear();
        if self.aggregate.without {
            self.labels.extend(labels.iter().filter(|label| groups_by(label, self.aggregate)));
        } else {
            let names = self.names.iter_mut();
            self.labels.extend(names.filter_map(|(name, place)| labels.find_near(name, place)));
        }
        &self.labels
    }
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
            AggregateOp::Sum => self.fold::<Sums, Among<HistogramSum>>(aggregate, grid),
            AggregateOp::Avg => self.fold::<Each<Mean>, Among<HistogramMean>>(aggregate, grid),
            AggregateOp::Count => self.fold::<Each<Count>, Counted>(aggregate, grid),
            AggregateOp::Group => self.fold::<Each<One>, Counted>(aggregate, grid),
            AggregateOp::Min => self.fold::<Each<Least>, Ignored>(aggregate, grid),
            AggregateOp::Max => self.fold::<Each<Most>, Ignored>(aggregate, grid),
            AggregateOp::Stddev => self.fold::<Each<Deviation>, Ignored>(aggregate, grid),
            AggregateOp::Stdvar => self.fold::<Each<Variance>, Ignored>(aggregate, grid),
        }
    }

    /// An aggregation that takes one value after the other.
    fn fold<S: States, H: OfHistograms>(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let series = self.vector(&aggregate.expr, grid)?;
        let groups = groups(&series, aggregate);
        let weight = series.len() / groups.len().max(1) * grid.count;
        let budget = &self.budget;
        let folded = workers::map(budget, &groups, weight, |states: &mut S, group| {
            budget.check()?;
            let (points, remarks) = fold::<S, H>(&series, group, states, grid);
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
fn fold<S: States, H: OfHistograms>(
    series: &[Series],
    group: &Group,
    states: &mut S,
    grid: Grid,
) -> (Points, HistogramRemarks) {
    states.reset(grid.count);
    let mut histograms = H::default();
    for member in group.members.iter().filter_map(|index| series.get(*index)) {
        states.add_column(member.points.column());
        histograms.add(member, states);
    }
    let mut points = Points::with_capacity(grid.count);
    let mut remarks = HistogramRemarks::default();
    histograms.finish(states, &mut points, &mut remarks);
    for step in 0..grid.count {
        if let Some(value) = states.result(step) {
            points.push(step, value);
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
    fn add(&mut self, series: &Series, states: &mut impl States);

    /// Adds results; takes back those of numbers where nothing can come of both.
    fn finish(self, states: &mut impl States, points: &mut Points, remarks: &mut HistogramRemarks);
}

/// They are left out, which is remarked.
#[derive(Default)]
struct Ignored(bool);

impl OfHistograms for Ignored {
    fn add(&mut self, series: &Series, _: &mut impl States) {
        self.0 |= !series.points.histograms().is_empty();
    }

    fn finish(self, _: &mut impl States, _: &mut Points, remarks: &mut HistogramRemarks) {
        remarks.ignored = self.0;
    }
}

/// They count like numbers.
#[derive(Default)]
struct Counted;

impl OfHistograms for Counted {
    fn add(&mut self, series: &Series, states: &mut impl States) {
        for (step, _) in series.points.histograms() {
            states.add_column(Column { first: *step, values: &[0.0], gaps: false });
        }
    }

    fn finish(self, _: &mut impl States, _: &mut Points, _: &mut HistogramRemarks) {}
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
    fn add(&mut self, series: &Series, _: &mut impl States) {
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

    fn finish(self, states: &mut impl States, points: &mut Points, remarks: &mut HistogramRemarks) {
        remarks.mixed_schemas = self.mixed_schemas;
        for (step, histograms) in self.states {
            if states.take(step) {
                remarks.mixed_samples = true;
            } else if let Some(histograms) = histograms {
                let result = histograms.result(&mut remarks.other).compacted();
                points.push_histogram(step, Arc::new(result));
            }
        }
    }
}
