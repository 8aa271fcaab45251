//! `info`: series with the labels of the info series that share their `instance` and `job`.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::{MatchOp, Matcher};

use super::Evaluator;
use super::call::arg;
use super::grid::{Grid, Reference};
use super::labels::merge;
use super::loaded::Loaded;
use super::series::{Points, Series};
use crate::ast::{Call, Expr, TimeShift};
use crate::value::EvalError;

/// The metric that enriches if no other one is asked for.
const TARGET_INFO: &str = "target_info";

/// The labels by which a series and an info series belong together.
const IDENTIFYING: [&str; 2] = ["instance", "job"];

/// An info series: its labels, and the time of its latest sample per step.
struct InfoSeries {
    labels: Labels,
    identity: Labels,
    times: Points,
}

/// What the second argument asks for.
struct Wanted {
    /// Matchers of info metrics' names.
    names: Vec<Matcher>,
    /// Matchers of the labels to copy; without any, all are copied.
    labels: Vec<Matcher>,
}

impl Wanted {
    fn new(selector: Option<&Expr>) -> Self {
        let matchers = match selector.map(Expr::unparenthesised) {
            Some(Expr::Vector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let (mut names, labels): (Vec<Matcher>, Vec<Matcher>) =
            matchers.into_iter().partition(|matcher| matcher.name() == METRIC_NAME);
        let positive = |m: &Matcher| matches!(m.op(), MatchOp::Equal | MatchOp::Match);
        if names.is_empty() {
            names.push(Matcher::equal(METRIC_NAME, TARGET_INFO));
        } else if !names.iter().any(positive) {
            names.extend(Matcher::new(METRIC_NAME, MatchOp::Match, ".+_info"));
        }
        Self { names, labels }
    }

    fn is_info_metric(&self, name: &str) -> bool {
        self.names.iter().all(|matcher| matcher.matches(name))
    }

    fn copies(&self, label: &str) -> bool {
        self.labels.is_empty() || self.labels.iter().any(|matcher| matcher.name() == label)
    }

    /// Whether a series without any info series satisfies it.
    fn allows_none(&self) -> bool {
        self.labels.iter().all(Matcher::matches_empty)
    }
}

impl Evaluator<'_> {
    pub(super) fn info(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let vector = arg(call, 0)?;
        let reference = self.info_reference(vector)?;
        let series = self.vector(vector, grid)?;
        let wanted = Wanted::new(call.args.get(1));
        let infos = self.info_series(&series, &wanted, reference, grid)?;
        let mut out = Vec::with_capacity(series.len());
        for series in series {
            self.check()?;
            if wanted.is_info_metric(series.labels.metric_name()) {
                out.push(series);
            } else {
                enrich(&series, &infos, &wanted, &mut out)?;
            }
        }
        merge(out)
    }

    /// The time that the first selector inside looks at also holds for the info series.
    fn info_reference(&self, expr: &Expr) -> Result<Reference, EvalError> {
        let mut path = Vec::new();
        if !first_selector(expr, &mut path) {
            return Ok(Reference { at: None, offset: 0 });
        }
        // From the selector outwards: offsets add up until a time is fixed.
        let mut reference = Reference { at: None, offset: 0 };
        for time in path.into_iter().rev() {
            let own = self.reference(time)?;
            reference.offset = reference.offset.saturating_add(own.offset);
            if time.at.is_some() {
                reference.at = own.at;
                break;
            }
        }
        Ok(reference)
    }

    fn info_series(
        &mut self,
        series: &[Series],
        wanted: &Wanted,
        reference: Reference,
        grid: Grid,
    ) -> Result<Vec<InfoSeries>, EvalError> {
        let mut values: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for series in series.iter().filter(|s| !wanted.is_info_metric(s.labels.metric_name())) {
            for name in IDENTIFYING {
                if let Some(value) = series.labels.get(name) {
                    values.entry(name).or_default().insert(value);
                }
            }
        }
        if values.is_empty() {
            return Ok(Vec::new());
        }
        let mut matchers = wanted.names.clone();
        matchers.extend_from_slice(&wanted.labels);
        let lookback = self.lookback();
        let from = reference.of(grid.start).saturating_sub(lookback).saturating_add(1);
        let to = reference.of(grid.last());
        let mut out = Vec::new();
        let mut loaded = Loaded::default();
        for found in self.select(&matchers, from, to)? {
            let identified =
                values.iter().all(|(name, values)| values.contains(found.labels.value(name)));
            if !identified {
                continue;
            }
            let times = self.latest_times(&found, reference, grid, &mut loaded)?;
            if !times.is_empty() {
                out.push(InfoSeries {
                    identity: identity(&found.labels),
                    labels: found.labels,
                    times,
                });
            }
        }
        Ok(out)
    }
}

/// Collects the modifiers on the way to the first selector; false if there is none.
fn first_selector<'e>(expr: &'e Expr, path: &mut Vec<&'e TimeShift>) -> bool {
    match expr {
        Expr::Vector(selector) => {
            path.push(&selector.time);
            true
        }
        Expr::Matrix(matrix) => {
            path.push(&matrix.selector.time);
            true
        }
        Expr::Subquery(subquery) => {
            path.push(&subquery.time);
            let found = first_selector(&subquery.expr, path);
            if !found {
                path.pop();
            }
            found
        }
        other => other.children().into_iter().any(|child| first_selector(child, path)),
    }
}

fn identity(labels: &Labels) -> Labels {
    labels.filter(|label| IDENTIFYING.contains(&&*label.name))
}

/// Adds a series with the labels that its info series have at each step: one result per set of labels.
fn enrich(
    series: &Series,
    infos: &[InfoSeries],
    wanted: &Wanted,
    out: &mut Vec<Series>,
) -> Result<(), EvalError> {
    let identity = identity(&series.labels);
    let own: Vec<&InfoSeries> = infos.iter().filter(|info| info.identity == identity).collect();
    let mut places: HashMap<Labels, usize> = HashMap::new();
    let mut steps: Vec<usize> = series.points.steps().collect();
    steps.sort_unstable();
    for step in steps {
        let Some(element) = series.points.element(step) else { continue };
        let Some(labels) = labels_at(series, &own, wanted, step)? else { continue };
        let place = *places.entry(labels.clone()).or_insert_with(|| {
            out.push(Series { labels, drop_name: series.drop_name, points: Points::default() });
            out.len() - 1
        });
        if let Some(enriched) = out.get_mut(place) {
            enriched.points.push_element(step, element);
        }
    }
    Ok(())
}

/// The labels at one step; none if an info series is missing that must be there.
fn labels_at(
    series: &Series,
    infos: &[&InfoSeries],
    wanted: &Wanted,
    step: usize,
) -> Result<Option<Labels>, EvalError> {
    // Of each info metric, the series with the newest sample.
    let mut newest: BTreeMap<&str, (&InfoSeries, f64)> = BTreeMap::new();
    for info in infos {
        let Some(time) = info.times.float(step) else { continue };
        match newest.get(info.labels.metric_name()) {
            Some((other, at)) if *at == time => {
                return Err(EvalError::DuplicateInfo {
                    existing: other.labels.clone(),
                    new: info.labels.clone(),
                    at: crate::functions::number::to_i64(time),
                });
            }
            Some((_, at)) if *at > time => {}
            _ => {
                newest.insert(info.labels.metric_name(), (*info, time));
            }
        }
    }
    if newest.is_empty() {
        return Ok(wanted.allows_none().then(|| series.labels.clone()));
    }
    let mut added: BTreeMap<&str, &str> = BTreeMap::new();
    for (info, _) in newest.values() {
        for label in &info.labels {
            if &*label.name == METRIC_NAME || !wanted.copies(&label.name) {
                continue;
            }
            if added.get(&*label.name).is_some_and(|value| *value != &*label.value) {
                return Err(EvalError::ConflictingInfo(label.name.to_string()));
            }
            if series.labels.get(&label.name).is_none() {
                added.insert(&label.name, &label.value);
            }
        }
    }
    let mut labels = series.labels.clone();
    for (name, value) in added {
        labels = labels.with(name, value);
    }
    Ok(Some(labels))
}
