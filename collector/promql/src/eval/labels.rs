//! Label sets of results: names dropped, equal sets merged, `label_replace` and `label_join`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

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
    labels.filter(|label| !is_identity(label))
}

fn is_identity(label: &Label) -> bool {
    IDENTITY.contains(&&*label.name)
}

/// Whether all are of the same metric, as far as those labels say.
pub(super) fn same_identity<'a>(mut all: impl Iterator<Item = &'a Labels>) -> bool {
    let identity = |labels: &'a Labels| IDENTITY.map(|name| labels.value(name));
    let Some(first) = all.next().map(identity) else { return true };
    all.all(|labels| identity(labels) == first)
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

/// Fails if two series have equal labels.
pub(super) fn check_unique(series: &[Series]) -> Result<(), EvalError> {
    let mut seen = std::collections::HashSet::with_capacity(series.len());
    if series.iter().all(|series| seen.insert(&series.labels)) {
        Ok(())
    } else {
        Err(EvalError::SameLabels)
    }
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
