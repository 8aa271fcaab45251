//! Label sets of results: names dropped, equal sets merged, `label_replace` and `label_join`.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hash, Hasher};

use foldhash::quality::RandomState;
use tributary_model::label::{Label, Labels, METRIC_NAME};
use tributary_model::regex::Regex;

use super::Evaluator;
use super::grid::Grid;
use super::series::Series;
use crate::ast::{Call, Expr};
use crate::value::EvalError;

/// The labels that say what a metric is: they go when the value becomes something else.
const IDENTITY: [&str; 3] = [METRIC_NAME, "__type__", "__unit__"];

/// Without the labels that say what the metric is.
pub(super) fn without_identity(labels: &Labels) -> Labels {
    labels.filter(|label| !is_identity(&label.name))
}

/// Whether a label of this name says what a metric is.
pub(super) fn is_identity(name: &str) -> bool {
    name.starts_with("__") && IDENTITY.contains(&name)
}

/// Whether all are of the same metric, as far as those labels say.
pub(super) fn same_identity<'a>(mut all: impl Iterator<Item = &'a Labels>) -> bool {
    // They stand near the front: only capital letters come before underscores.
    let identity = |labels: &'a Labels| {
        let front = labels.iter().take_while(|label| *label.name <= *"__unit__");
        front.filter(|label| is_identity(&label.name))
    };
    let Some(first) = all.next() else { return true };
    all.all(|labels| identity(labels).eq(identity(first)))
}

/// Merges series with equal labels; an error if two have a value at the same step.
pub(super) fn merge(series: Vec<Series>) -> Result<Vec<Series>, EvalError> {
    let mut places: HashMap<Labels, usize> = HashMap::with_capacity(series.len());
    let mut out: Vec<Series> = Vec::with_capacity(series.len());
    for series in series {
        match places.entry(series.labels.clone()) {
            Entry::Vacant(place) => {
                place.insert(out.len());
                out.push(series);
            }
            Entry::Occupied(place) => {
                let same = out.get_mut(*place.get());
                if same.is_some_and(|same| !same.points.merge(&series.points)) {
                    return Err(EvalError::SameLabels);
                }
            }
        }
    }
    Ok(out)
}

/// Fails if two series have equal labels, leaving aside those that are to go.
pub(super) fn check_unique(series: &[Series]) -> Result<(), EvalError> {
    let hasher = RandomState::default();
    let mut hashes = HashSet::with_capacity_and_hasher(series.len(), hasher.clone());
    let hash = |series: &Series| hash_of(&hasher, stay(series));
    if series.iter().all(|series| hashes.insert(hash(series))) {
        return Ok(());
    }
    // Equal hashes are equal labels, most likely.
    let mut seen = HashSet::with_capacity(series.len());
    let unique = series.iter().all(|series| seen.insert(stay(series).collect::<Vec<_>>()));
    if unique { Ok(()) } else { Err(EvalError::SameLabels) }
}

/// The labels of a series without those that are to go.
fn stay(series: &Series) -> impl Iterator<Item = &Label> {
    let drop_name = series.drop_name;
    series.labels.iter().filter(move |label| !(drop_name && is_identity(&label.name)))
}

/// The hash of labels in their order.
pub(super) fn hash_of<'a>(hasher: &RandomState, labels: impl Iterator<Item = &'a Label>) -> u64 {
    let mut hash = hasher.build_hasher();
    labels.for_each(|label| label.hash(&mut hash));
    hash.finish()
}

impl Evaluator<'_> {
    /// Drops a series' name, now or at the end.
    pub(super) fn drop_name(&self, series: &mut Series) {
        if !self.delayed() {
            series.labels = without_identity(&series.labels);
        }
        series.drop_name = true;
    }

    /// Drops the names that were to be dropped at the end.
    pub(super) fn drop_names(&self, mut series: Vec<Series>) -> Result<Vec<Series>, EvalError> {
        if !self.delayed() {
            return Ok(series);
        }
        for series in series.iter_mut().filter(|series| series.drop_name) {
            series.labels = without_identity(&series.labels);
        }
        merge(series)
    }

    /// What a function or operator gave: series with equal labels become one, or an error. An instant query with
    /// delayed name removal looks only at the end.
    pub(super) fn unite(&self, series: Vec<Series>, grid: Grid) -> Result<Vec<Series>, EvalError> {
        if self.delayed() && grid.count <= 1 { Ok(series) } else { merge(series) }
    }

    pub(super) fn label_replace(
        &mut self,
        call: &Call,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        let [vector, to, template, from, pattern] = call.args.as_slice() else {
            return Err(EvalError::Unsupported("this number of arguments"));
        };
        let (to, template, from, pattern) = (text(to), text(template), text(from), text(pattern));
        let regex =
            Regex::new(pattern).map_err(|_| EvalError::LabelReplaceRegex(pattern.to_owned()))?;
        check_label_name(to, "destination", "label_replace")?;
        let mut series = self.vector(vector, grid)?;
        for series in &mut series {
            if let Some(value) = regex.expand(series.labels.value(from), template) {
                set_label(series, to, &value);
            }
        }
        merge(series)
    }

    pub(super) fn label_join(&mut self, call: &Call, grid: Grid) -> Result<Vec<Series>, EvalError> {
        let [vector, to, separator, from @ ..] = call.args.as_slice() else {
            return Err(EvalError::Unsupported("this number of arguments"));
        };
        let (to, separator) = (text(to), text(separator));
        let from: Vec<&str> = from.iter().map(text).collect();
        for name in &from {
            check_label_name(name, "source", "label_join")?;
        }
        check_label_name(to, "destination", "label_join")?;
        let mut series = self.vector(vector, grid)?;
        for series in &mut series {
            let values: Vec<&str> = from.iter().map(|name| series.labels.value(name)).collect();
            let value = values.join(separator);
            set_label(series, to, &value);
        }
        merge(series)
    }
}

fn set_label(series: &mut Series, name: &str, value: &str) {
    series.labels = series.labels.with(name, value);
    if name == METRIC_NAME {
        series.drop_name = false;
    }
}

fn check_label_name(
    name: &str,
    role: &'static str,
    function: &'static str,
) -> Result<(), EvalError> {
    if !is_label_name(name) {
        return Err(EvalError::FunctionLabelName { role, function, name: name.to_owned() });
    }
    Ok(())
}

/// Whether a text can be a label name: not empty, and it was UTF-8 (the lexer puts U+FFFD for what is not).
pub(super) fn is_label_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(char::REPLACEMENT_CHARACTER)
}

/// The text of a string argument; the checker lets only literals through.
pub(super) fn text(expr: &Expr) -> &str {
    match expr.unparenthesised() {
        Expr::String(text) => &text.text,
        _ => "",
    }
}
