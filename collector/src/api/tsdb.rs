//! `status/tsdb`: how many series there are, and which names and labels most of them have.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::sample::Timestamp;

use super::envelope::{ApiError, success_value};
use super::params::{Params, integer};
use super::{Api, Scope};
use crate::query::Look;

/// Entries of each list, if the request does not say.
const DEFAULT_LIMIT: usize = 10;

/// Most entries of each list.
const MAX_LIMIT: i64 = 10_000;

/// What counts as current, as long as the store's newest samples are in memory.
const HEAD: std::time::Duration = std::time::Duration::from_secs(2 * 3600);

/// `status/tsdb`: counts over the series of the last two hours.
pub async fn status(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = match params.text("limit") {
        "" => DEFAULT_LIMIT,
        text => match integer(text) {
            Ok(limit @ 1..=MAX_LIMIT) => usize::try_from(limit).unwrap_or(DEFAULT_LIMIT),
            Ok(limit) if limit > MAX_LIMIT => {
                return Err(ApiError::bad("limit must not exceed 10000"));
            }
            _ => return Err(ApiError::bad("limit must be a positive number")),
        },
    };
    let clusters = api.facts.clusters();
    let visible = clusters.iter().filter(|cluster| scope.is(&cluster.name));
    let newest = visible.filter_map(|cluster| cluster.last_sample).max();
    // A store without samples has Prometheus' outermost times.
    let (from, to) = match newest {
        Some(newest) => (newest.minus(HEAD), newest),
        None => (Timestamp::MAX, Timestamp::MIN),
    };
    let look = Look { any_of: Vec::new(), enforced: scope.enforced(), from, to };
    let series = api.queries.series(look).await?;
    Ok(success_value(&Status::of(&series, (from, to), limit)))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    head_stats: Head,
    series_count_by_metric_name: Vec<Stat>,
    label_value_count_by_label_name: Vec<Stat>,
    memory_in_bytes_by_label_name: Vec<Stat>,
    series_count_by_label_value_pair: Vec<Stat>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    num_series: usize,
    num_label_pairs: usize,
    /// One chunk of each series is open; those that are full are not counted apart.
    chunk_count: usize,
    min_time: i64,
    max_time: i64,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Stat {
    name: String,
    value: usize,
}

impl Status {
    fn of(series: &[Labels], (from, to): (Timestamp, Timestamp), limit: usize) -> Self {
        let mut metrics: HashMap<&str, usize> = HashMap::new();
        let mut values: HashMap<&str, HashSet<&str>> = HashMap::new();
        let mut bytes: HashMap<&str, usize> = HashMap::new();
        let mut pairs: HashMap<(&str, &str), usize> = HashMap::new();
        for labels in series {
            for label in labels {
                let (name, value) = (&*label.name, &*label.value);
                values.entry(name).or_default().insert(value);
                *bytes.entry(name).or_default() += value.len();
                *pairs.entry((name, value)).or_default() += 1;
                if name == METRIC_NAME {
                    *metrics.entry(value).or_default() += 1;
                }
            }
        }
        let head = Head {
            num_series: series.len(),
            num_label_pairs: pairs.len(),
            chunk_count: series.len(),
            min_time: from.as_millis(),
            max_time: to.as_millis(),
        };
        let plain = |name: &&str| (*name).to_owned();
        let counts = values.iter().map(|(name, values)| (*name, values.len())).collect();
        Self {
            head_stats: head,
            series_count_by_metric_name: largest(metrics, plain, limit),
            label_value_count_by_label_name: largest(counts, plain, limit),
            memory_in_bytes_by_label_name: largest(bytes, plain, limit),
            series_count_by_label_value_pair: largest(
                pairs,
                |(name, value)| format!("{name}={value}"),
                limit,
            ),
        }
    }
}

/// The largest counts, each with its name, largest first.
fn largest<K: Ord + Hash>(
    counts: HashMap<K, usize>,
    name: impl Fn(&K) -> String,
    limit: usize,
) -> Vec<Stat> {
    let mut all: Vec<(usize, K)> = counts.into_iter().map(|(key, count)| (count, key)).collect();
    all.sort_unstable_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.cmp(y)));
    let largest = all.into_iter().take(limit);
    largest.map(|(value, key)| Stat { name: name(&key), value }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        let series = [
            labels(&[("__name__", "a"), ("x", "1")]),
            labels(&[("__name__", "a"), ("x", "22")]),
            labels(&[("__name__", "b"), ("x", "22")]),
        ];
        let times = (Timestamp::from_millis(1), Timestamp::from_millis(2));
        let status = Status::of(&series, times, 2);
        let stats = |stats: &[Stat]| -> Vec<(String, usize)> {
            stats.iter().map(|s| (s.name.clone(), s.value)).collect()
        };
        let pairs = |wanted: &[(&str, usize)]| -> Vec<(String, usize)> {
            wanted.iter().map(|(n, v)| ((*n).to_owned(), *v)).collect()
        };
        assert_eq!(stats(&status.series_count_by_metric_name), pairs(&[("a", 2), ("b", 1)]));
        let names = pairs(&[("__name__", 2), ("x", 2)]);
        assert_eq!(stats(&status.label_value_count_by_label_name), names);
        let bytes = pairs(&[("x", 5), ("__name__", 3)]);
        assert_eq!(stats(&status.memory_in_bytes_by_label_name), bytes);
        let by_pair = pairs(&[("__name__=a", 2), ("x=22", 2)]);
        assert_eq!(stats(&status.series_count_by_label_value_pair), by_pair);
        assert_eq!((status.head_stats.num_series, status.head_stats.num_label_pairs), (3, 4));
    }
}
