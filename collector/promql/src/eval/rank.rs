//! Aggregations that choose series: `topk`, `bottomk`, `limitk`, `limit_ratio`.

use std::cmp::Ordering;

use super::Evaluator;
use super::aggregate::{extremes, groups};
use super::grid::Grid;
use super::sampling::is_taken;
use super::series::{Points, Series};
use crate::ast::operator::AggregateOp;
use crate::ast::{Aggregate, Expr};
use crate::functions::number::{INT64_END, to_usize};
use crate::value::EvalError;
use tributary_model::number::format_general;

/// An element that may be chosen: its value and its series' index.
type Candidate = (f64, usize);

impl Evaluator<'_> {
    pub(super) fn rank(
        &mut self,
        aggregate: &Aggregate,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let Some(param) = &aggregate.param else {
            return Err(EvalError::Unsupported("this aggregation without a parameter"));
        };
        let params = self.scalar(param, grid)?;
        let series = self.vector(&aggregate.expr, grid)?;
        let any = if aggregate.op == AggregateOp::LimitRatio {
            self.check_ratio(&params, param)?
        } else {
            check_count(&params)?
        };
        if !any {
            return Ok(Vec::new());
        }
        let groups = groups(&series, aggregate);
        let mut out = Chosen::new(&series);
        let mut candidates = Vec::new();
        for (step, param) in params.iter().enumerate() {
            self.check()?;
            let takes_any = match aggregate.op {
                AggregateOp::LimitRatio => *param != 0.0,
                _ => *param >= 1.0,
            };
            if !takes_any {
                continue;
            }
            for group in &groups {
                candidates.clear();
                self.candidates(aggregate, &series, &group.members, step, &mut candidates);
                choose(aggregate.op, *param, &series, &mut candidates);
                for chosen in &candidates {
                    out.add(step, *chosen);
                }
            }
        }
        Ok(out.series)
    }

    /// The members that have a value. Histograms have no order, so `topk` and `bottomk` leave them out.
    fn candidates(
        &mut self,
        aggregate: &Aggregate,
        series: &[Series],
        members: &[usize],
        step: usize,
        out: &mut Vec<Candidate>,
    ) {
        let ordered = matches!(aggregate.op, AggregateOp::Topk | AggregateOp::Bottomk);
        for index in members {
            let Some(points) = series.get(*index).map(|series| &series.points) else { continue };
            if let Some(value) = points.float(step) {
                out.push((value, *index));
            } else if points.histogram(step).is_none() {
            } else if ordered {
                self.ignored_histogram(aggregate.op, aggregate.span);
            } else {
                out.push((f64::NAN, *index));
            }
        }
    }

    /// Whether any ratio takes anything; remarks on those that are no ratio.
    fn check_ratio(&mut self, ratios: &[f64], param: &Expr) -> Result<bool, EvalError> {
        if ratios.iter().all(|ratio| *ratio == 0.0) {
            return Ok(false);
        }
        for ratio in extremes(ratios) {
            if ratio.is_nan() {
                return Err(EvalError::RatioNan);
            }
            if ratio.abs() > 1.0 {
                let (ratio, cap) = (format_general(ratio), format_general(ratio.signum()));
                let text = format!(
                    "ratio value should be between -1 and 1, got {ratio}, capping to {cap}"
                );
                self.annotations.warning(&text, param.span());
            }
        }
        Ok(true)
    }
}

/// Whether any count takes anything; an error for those that are no count.
fn check_count(counts: &[f64]) -> Result<bool, EvalError> {
    if counts.iter().all(|count| *count < 1.0) {
        return Ok(false);
    }
    for count in extremes(counts) {
        if count.is_nan() {
            return Err(EvalError::ParameterNan);
        }
        if count <= -INT64_END {
            return Err(EvalError::Underflow(count));
        }
        if count >= INT64_END {
            return Err(EvalError::Overflow(count));
        }
    }
    Ok(true)
}

/// Leaves the candidates that are chosen, in order.
fn choose(op: AggregateOp, param: f64, series: &[Series], candidates: &mut Vec<Candidate>) {
    let count = to_usize(param);
    match op {
        AggregateOp::Topk => best(candidates, count, |a, b| a > b),
        AggregateOp::Bottomk => best(candidates, count, |a, b| a < b),
        AggregateOp::Limitk => candidates.truncate(count),
        _ => candidates.retain(|(_, index)| {
            series
                .get(*index)
                .is_some_and(|series| is_taken(&series.labels, param.clamp(-1.0, 1.0)))
        }),
    }
}

/// The best `count` candidates, the best first; NaN is worse than any number. Which of several equals are chosen, and
/// their order, follows from the binary heap that Prometheus uses.
fn best(candidates: &mut Vec<Candidate>, count: usize, better: fn(f64, f64) -> bool) {
    if count == 0 {
        candidates.clear();
        return;
    }
    let mut heap = Heap { items: Vec::with_capacity(count.min(candidates.len())), better };
    for candidate in candidates.drain(..) {
        if heap.items.len() < count {
            heap.push(candidate);
        } else {
            heap.challenge(candidate);
        }
    }
    *candidates = heap.into_sorted();
}

/// A heap with the worst candidate on top.
struct Heap {
    items: Vec<Candidate>,
    better: fn(f64, f64) -> bool,
}

impl Heap {
    fn value(&self, index: usize) -> f64 {
        self.items.get(index).map_or(f64::NAN, |(value, _)| *value)
    }

    /// Whether the candidate at `a` belongs above the one at `b`.
    fn is_worse(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.value(a), self.value(b));
        a.is_nan() || (self.better)(b, a)
    }

    fn push(&mut self, candidate: Candidate) {
        let mut at = self.items.len();
        self.items.push(candidate);
        while at > 0 {
            let parent = (at - 1) / 2;
            if !self.is_worse(at, parent) {
                break;
            }
            self.items.swap(at, parent);
            at = parent;
        }
    }

    /// Replaces the worst candidate if this one is better.
    fn challenge(&mut self, candidate: Candidate) {
        let Some(top) = self.items.first_mut() else { return };
        let beats = (self.better)(candidate.0, top.0) || (top.0.is_nan() && !candidate.0.is_nan());
        if !beats {
            return;
        }
        *top = candidate;
        let mut at = 0;
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            if left >= self.items.len() {
                break;
            }
            let take_right = right < self.items.len() && self.is_worse(right, left);
            let child = if take_right { right } else { left };
            if !self.is_worse(child, at) {
                break;
            }
            self.items.swap(at, child);
            at = child;
        }
    }

    /// The best first; equals keep the order of the heap.
    fn into_sorted(mut self) -> Vec<Candidate> {
        let better = self.better;
        self.items.sort_by(|(a, _), (b, _)| {
            if better(*a, *b) {
                Ordering::Less
            } else if better(*b, *a) {
                Ordering::Greater
            } else {
                a.is_nan().cmp(&b.is_nan())
            }
        });
        self.items
    }
}

/// The chosen values, as series in the order in which they were first chosen.
struct Chosen<'a> {
    from: &'a [Series],
    places: Vec<Option<usize>>,
    series: Vec<Series>,
}

impl<'a> Chosen<'a> {
    fn new(from: &'a [Series]) -> Self {
        Self { from, places: vec![None; from.len()], series: Vec::new() }
    }

    fn add(&mut self, step: usize, (_, index): Candidate) {
        let (Some(from), Some(place)) = (self.from.get(index), self.places.get_mut(index)) else {
            return;
        };
        let next = self.series.len();
        let place = *place.get_or_insert(next);
        if place == next {
            self.series.push(Series {
                labels: from.labels.clone(),
                drop_name: from.drop_name,
                points: Points::default(),
            });
        }
        if let (Some(series), Some(element)) =
            (self.series.get_mut(place), from.points.element(step))
        {
            series.points.push_element(step, element);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(values: &[f64], count: usize, better: fn(f64, f64) -> bool) -> Vec<usize> {
        let mut candidates: Vec<Candidate> =
            values.iter().enumerate().map(|(index, value)| (*value, index)).collect();
        best(&mut candidates, count, better);
        candidates.into_iter().map(|(_, index)| index).collect()
    }

    #[test]
    fn the_best_come_first_and_nan_last() {
        let values = [3.0, f64::NAN, 9.0, 5.0];
        assert_eq!(chosen(&values, 2, |a, b| a > b), [2, 3]);
        assert_eq!(chosen(&values, 2, |a, b| a < b), [0, 3]);
        assert_eq!(chosen(&values, 9, |a, b| a > b), [2, 3, 0, 1]);
        assert_eq!(chosen(&values, 0, |a, b| a > b), [0_usize; 0]);
    }

    #[test]
    fn equals_are_evicted_from_the_top_of_the_heap() {
        assert_eq!(chosen(&[1.0, 1.0, 1.0], 2, |a, b| a > b), [0, 1]);
        assert_eq!(chosen(&[1.0, 1.0, 2.0], 2, |a, b| a > b), [2, 1]);
    }
}
