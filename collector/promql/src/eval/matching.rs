//! Operators between two instant vectors: series find their partners by labels, one to one or many to one.

use std::collections::{HashMap, HashSet};

use tributary_model::label::Labels;

use super::Evaluator;
use super::binary::{Notes, apply, changes_identity, combine, flag, is_trim};
use super::grid::Grid;
use super::labels::without_identity;
use super::series::{Points, Series};
use super::set::group_of;
use crate::ast::{Binary, Cardinality, Matching};
use crate::value::{Element, EvalError, in_braces};

/// The series of one group: indices into the "many" and the "one" side.
#[derive(Default)]
struct Group {
    many: Vec<usize>,
    one: Vec<usize>,
}

/// What all groups of one operation share.
struct Pairing<'a> {
    binary: &'a Binary,
    matching: &'a Matching,
    many: &'a [Series],
    one: &'a [Series],
    /// Whether the "many" side is the right operand.
    swapped: bool,
    delayed: bool,
    grid: Grid,
}

/// Where a result comes from; the order of results is that of the "many" side, then of the "one" side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Origin {
    Many { many: usize, one: Option<usize> },
    OneAlone(usize),
}

/// What is wrong with the matching, at the first step at which anything is.
#[derive(Default)]
struct Fault(Option<(usize, EvalError)>);

impl Fault {
    fn add(&mut self, step: usize, error: impl FnOnce() -> EvalError) {
        if self.0.as_ref().is_none_or(|(first, _)| step < *first) {
            self.0 = Some((step, error()));
        }
    }

    fn result(self) -> Result<(), EvalError> {
        self.0.map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Evaluator<'_> {
    pub(super) fn match_vectors(
        &mut self,
        binary: &Binary,
        lhs: &[Series],
        rhs: &[Series],
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let Some(matching) = &binary.matching else {
            return Err(EvalError::Unsupported("vector matching between scalars"));
        };
        let swapped = matching.cardinality == Cardinality::OneToMany;
        let (many, one) = if swapped { (rhs, lhs) } else { (lhs, rhs) };
        let delayed = self.delayed();
        let pairing = Pairing { binary, matching, many, one, swapped, delayed, grid };
        let active = pairing.active_steps();
        let mut results = Vec::with_capacity(many.len());
        let groups = pairing.groups();
        let mut notes = Notes::default();
        let mut fault = Fault::default();
        for group in &groups {
            self.check()?;
            pairing.check_one_side(group, &active, &mut fault);
        }
        for group in &groups {
            self.check()?;
            pairing.combine(group, &mut results, &mut notes, &mut fault);
        }
        fault.result()?;
        self.remark_notes(binary, &notes);
        results.sort_by_key(|(origin, _)| *origin);
        let series = results.into_iter().map(|(_, series)| series);
        self.unite(series.filter(|s| !s.points.is_empty()).collect(), grid)
    }
}

impl Pairing<'_> {
    fn groups(&self) -> Vec<Group> {
        let mut places: HashMap<Labels, usize> = HashMap::new();
        let mut groups: Vec<Group> = Vec::new();
        let sides = [(self.many, true), (self.one, false)];
        for (series, is_many) in sides {
            for (index, series) in series.iter().enumerate() {
                let next = groups.len();
                let key = group_of(&series.labels, self.matching);
                let place = *places.entry(key).or_insert(next);
                if place == next {
                    groups.push(Group::default());
                }
                if let Some(group) = groups.get_mut(place) {
                    if is_many { group.many.push(index) } else { group.one.push(index) }
                }
            }
        }
        groups
    }

    /// The steps at which there is anything to match: faults elsewhere do not count.
    fn active_steps(&self) -> Vec<bool> {
        let present = |series: &[Series]| {
            let mut steps = vec![false; self.grid.count];
            for step in series.iter().flat_map(|series| series.points.steps()) {
                if let Some(present) = steps.get_mut(step) {
                    *present = true;
                }
            }
            steps
        };
        let (many, one) = (present(self.many), present(self.one));
        let fill = self.matching.fill;
        let filled = fill.left.is_some() || fill.right.is_some();
        many.into_iter().zip(one).map(|(a, b)| if filled { a || b } else { a && b }).collect()
    }

    /// It is a fault if two series of the "one" side have a value at the same step.
    fn check_one_side(&self, group: &Group, active: &[bool], fault: &mut Fault) {
        if group.one.len() < 2 {
            return;
        }
        let mut holder: Vec<Option<&Series>> = vec![None; self.grid.count];
        for series in group.one.iter().filter_map(|index| self.one.get(*index)) {
            for step in series.points.steps() {
                if !active.get(step).copied().unwrap_or(false) {
                    continue;
                }
                match holder.get_mut(step) {
                    Some(Some(other)) => fault.add(step, || self.duplicate(series, other)),
                    Some(free) => *free = Some(series),
                    None => {}
                }
            }
        }
    }

    fn duplicate(&self, a: &Series, b: &Series) -> EvalError {
        let group = group_of(&a.labels, self.matching);
        let side = if self.swapped { "left" } else { "right" };
        let (a, b) = (in_braces(&a.labels), in_braces(&b.labels));
        let (first, second) = if a <= b { (a, b) } else { (b, a) };
        EvalError::DuplicateMatch { group, side, first, second }
    }

    /// Computes the results of one group.
    fn combine(
        &self,
        group: &Group,
        results: &mut Vec<(Origin, Series)>,
        notes: &mut Notes,
        fault: &mut Fault,
    ) {
        // Per step, which partner of the "one" side has a value.
        let mut partner: Vec<Option<usize>> = vec![None; self.grid.count];
        for index in &group.one {
            let Some(series) = self.one.get(*index) else { continue };
            for step in series.points.steps() {
                if let Some(slot) = partner.get_mut(step) {
                    *slot = Some(*index);
                }
            }
        }
        let first = results.len();
        let mut taken = vec![false; if self.needs_taken(group) { self.grid.count } else { 0 }];
        let mut clash = false;
        for index in &group.many {
            let Some(series) = self.many.get(*index) else { continue };
            let mut places: Vec<(Option<usize>, usize)> = Vec::new();
            for step in series.points.steps() {
                let one = partner.get(step).copied().flatten();
                if one.is_none() && self.matching.fill.right.is_none() {
                    continue;
                }
                let Some(met) = self.meet(step, Some(*index), one, notes) else { continue };
                if let Some(taken) = taken.get_mut(step) {
                    clash |= *taken;
                    if *taken && self.matching.cardinality == Cardinality::OneToOne {
                        fault.add(step, || EvalError::ImplicitManyToOne);
                    }
                    *taken = true;
                }
                let known = places.iter().find(|(known, _)| *known == one);
                let place = if let Some((_, place)) = known {
                    *place
                } else {
                    let origin = Origin::Many { many: *index, one };
                    results.push((origin, self.result(Some(*index), one, group)));
                    places.push((one, results.len() - 1));
                    results.len() - 1
                };
                if let Some((_, result)) = results.get_mut(place) {
                    self.push(result, step, met);
                }
            }
        }
        if clash && has_equal_labels(results.get(first..).unwrap_or(&[])) {
            self.check_unambiguous(group, &partner, fault);
        }
        self.fill_left(group, &partner, &taken, results, notes);
    }

    /// Whether the steps at which the "many" side had a partner must be known.
    fn needs_taken(&self, group: &Group) -> bool {
        group.many.len() > 1 || self.matching.fill.left.is_some()
    }

    /// Results for values of the "one" side that no series of the "many" side met.
    fn fill_left(
        &self,
        group: &Group,
        partner: &[Option<usize>],
        taken: &[bool],
        results: &mut Vec<(Origin, Series)>,
        notes: &mut Notes,
    ) {
        if self.matching.fill.left.is_none() {
            return;
        }
        for index in &group.one {
            let mut alone = (Origin::OneAlone(*index), self.result(None, Some(*index), group));
            for (step, partner) in partner.iter().enumerate() {
                if *partner != Some(*index) || taken.get(step).copied().unwrap_or(false) {
                    continue;
                }
                if let Some(met) = self.meet(step, None, Some(*index), notes) {
                    self.push(&mut alone.1, step, met);
                }
            }
            if !alone.1.points.is_empty() {
                results.push(alone);
            }
        }
    }

    /// It is a fault if two results of the group have equal labels at the same step, filtered out or not.
    fn check_unambiguous(&self, group: &Group, partner: &[Option<usize>], fault: &mut Fault) {
        let mut seen = HashSet::new();
        for index in &group.many {
            let Some(series) = self.many.get(*index) else { continue };
            let mut labels: HashMap<Option<usize>, Labels> = HashMap::new();
            for step in series.points.steps() {
                let one = partner.get(step).copied().flatten();
                if one.is_none() && self.matching.fill.right.is_none()
                    || self.meet(step, Some(*index), one, &mut Notes::default()).is_none()
                {
                    continue;
                }
                let labels = labels
                    .entry(one)
                    .or_insert_with(|| self.result(Some(*index), one, group).labels);
                if !seen.insert((step, labels.clone())) {
                    fault.add(step, || EvalError::AmbiguousGroup);
                }
            }
        }
    }

    /// What comes of one pair of values, and whether a filter lets it through; a side without a series is filled in. Nothing
    /// if the operator does not go with them, which is as if they had not met.
    fn meet(
        &self,
        step: usize,
        many: Option<usize>,
        one: Option<usize>,
        notes: &mut Notes,
    ) -> Option<(Element, bool)> {
        let (many_points, one_points) = (points_of(self.many, many), points_of(self.one, one));
        let (fill_many, fill_one) = (self.matching.fill.left, self.matching.fill.right);
        let float = |points: Option<&Points>, fill: Option<f64>| {
            points.map_or(fill, |points| points.float(step))
        };
        let floats = (float(many_points, fill_many), float(one_points, fill_one));
        if let (Some(many), Some(one), false) = (floats.0, floats.1, is_trim(self.binary.op)) {
            let (left, right) = if self.swapped { (one, many) } else { (many, one) };
            let (value, keep) = apply(self.binary.op, left, right);
            return Some((Element::Float(value), keep));
        }
        let element = |points: Option<&Points>, fill: Option<f64>| {
            points.map_or(fill.map(Element::Float), |points| points.element(step))
        };
        let (many, one) = (element(many_points, fill_many)?, element(one_points, fill_one)?);
        let (left, right) = if self.swapped { (one, many) } else { (many, one) };
        combine(self.binary.op, &left, &right, notes)
    }

    /// Adds what came of a pair of values.
    fn push(&self, result: &mut Series, step: usize, (element, keep): (Element, bool)) {
        if self.binary.return_bool {
            result.points.push(step, flag(keep));
        } else if keep {
            result.points.push_element(step, element);
        }
    }

    /// An empty result series with its labels; a side that is filled in has the labels of the group.
    fn result(&self, many: Option<usize>, one: Option<usize>, group: &Group) -> Series {
        let labels_of = |side: &[Series], index: Option<usize>| {
            index.and_then(|index| side.get(index)).map(|series| series.labels.clone())
        };
        let key = || {
            let any = labels_of(self.many, group.many.first().copied())
                .or_else(|| labels_of(self.one, group.one.first().copied()));
            any.map(|labels| group_of(&labels, self.matching)).unwrap_or_default()
        };
        let many = labels_of(self.many, many).unwrap_or_else(key);
        let one = labels_of(self.one, one).unwrap_or_else(key);
        Series {
            labels: self.result_labels(&many, &one),
            drop_name: self.binary.return_bool,
            points: Points::default(),
        }
    }

    fn result_labels(&self, many: &Labels, one: &Labels) -> Labels {
        let drops_now = self.binary.return_bool && !self.delayed;
        let mut labels = if drops_now || changes_identity(self.binary.op) {
            without_identity(many)
        } else {
            many.clone()
        };
        if self.matching.cardinality == Cardinality::OneToOne {
            let listed = |name: &str| self.matching.labels.iter().any(|label| label == name);
            labels = labels.filter(|label| listed(&label.name) == self.matching.on);
        }
        for name in &self.matching.include {
            labels = labels.with(name, one.value(name));
        }
        labels
    }
}

fn points_of(side: &[Series], index: Option<usize>) -> Option<&Points> {
    index.and_then(|index| side.get(index)).map(|series| &series.points)
}

fn has_equal_labels(results: &[(Origin, Series)]) -> bool {
    let mut seen = HashSet::with_capacity(results.len());
    !results.iter().all(|(_, series)| seen.insert(&series.labels))
}
