//! Stamps the cluster into every series, and keeps each cluster inside its limits.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;

/// The key of the policy for clusters without one of their own.
pub(crate) const DEFAULT_POLICY: &str = "*";

/// What a label is called after the collector has taken its name.
const EXPORTED: &str = "exported_";

/// A cluster may send this many seconds of its rate at once: agents catch up after an outage.
const BURST_SECONDS: f64 = 10.0;

/// What one cluster may send.
#[expect(clippy::struct_field_names, reason = "the names of the configuration's keys")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Policy {
    /// Most series. At the bound, new series are refused and counted; existing ones go on.
    pub(crate) max_series: usize,
    /// Most labels of a series, the cluster label included. A series with more is refused and counted.
    pub(crate) max_labels: usize,
    /// Longest label value in bytes. A series with a longer one is refused and counted.
    pub(crate) max_label_bytes: usize,
    /// Most samples in a second, averaged over ten. Above it the stream is read more slowly: nothing is lost,
    /// the agent's spool holds the rest.
    pub(crate) max_samples_per_second: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            max_series: 100_000,
            max_labels: 40,
            max_label_bytes: 2_048,
            max_samples_per_second: 50_000,
        }
    }
}

/// Why a series is not taken. The code is kept in the journal, so that a replay decides alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Reason {
    /// The cluster has as many series as it may have.
    SeriesLimit,
    /// Too many labels.
    LabelLimit,
    /// A label value is too long.
    LabelBytes,
}

impl Reason {
    /// The reason as it stands in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SeriesLimit => "max_series",
            Self::LabelLimit => "max_labels",
            Self::LabelBytes => "max_label_bytes",
        }
    }

    /// The byte that stands for it in the journal.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::SeriesLimit => 1,
            Self::LabelLimit => 2,
            Self::LabelBytes => 3,
        }
    }

    /// The reason that a byte stands for.
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        [Self::SeriesLimit, Self::LabelLimit, Self::LabelBytes]
            .into_iter()
            .find(|reason| reason.code() == code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The policies by cluster.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policies(BTreeMap<String, Policy>);

impl Policies {
    /// From the configuration's `clusters:`; `*` is the default.
    pub(crate) fn new(policies: impl IntoIterator<Item = (String, Policy)>) -> Self {
        Self(policies.into_iter().collect())
    }

    /// What this cluster may send.
    pub(crate) fn of(&self, cluster: &ClusterName) -> Policy {
        self.0
            .get(cluster.as_str())
            .or_else(|| self.0.get(DEFAULT_POLICY))
            .copied()
            .unwrap_or_default()
    }
}

impl Policy {
    /// Whether a series with its cluster label is within the bounds of its shape.
    pub(crate) fn check_shape(&self, stamped: &Labels) -> Result<(), Reason> {
        if stamped.len() > self.max_labels {
            return Err(Reason::LabelLimit);
        }
        if stamped.iter().any(|label| label.value.len() > self.max_label_bytes) {
            return Err(Reason::LabelBytes);
        }
        Ok(())
    }
}

/// The series with its cluster in `label`. A label that has this name already keeps its value as `exported_…`,
/// with as many prefixes as it takes to find a free name (Prometheus does the same).
pub(crate) fn stamp(labels: &Labels, label: &str, cluster: &ClusterName) -> Labels {
    let Some(sent) = labels.get(label) else {
        return labels.with(label, cluster.as_str());
    };
    let mut renamed = format!("{EXPORTED}{label}");
    while labels.get(&renamed).is_some() {
        renamed.insert_str(0, EXPORTED);
    }
    labels.with(&renamed, sent).with(label, cluster.as_str())
}

/// How fast each cluster sends: a bucket that fills with its rate.
#[derive(Debug, Default)]
pub(crate) struct Rates(Mutex<HashMap<ClusterName, Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Samples that may be taken now; below zero, they are owed.
    left: f64,
    at: Instant,
}

impl Rates {
    /// Takes `samples` from the cluster's bucket; the time to wait before they are read.
    pub(crate) fn take(
        &self,
        cluster: &ClusterName,
        per_second: u64,
        samples: u32,
        now: Instant,
    ) -> Duration {
        let rate = per_second.max(1) as f64;
        let burst = rate * BURST_SECONDS;
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket =
            buckets.entry(cluster.clone()).or_insert_with(|| Bucket { left: burst, at: now });
        let filled = now.saturating_duration_since(bucket.at).as_secs_f64() * rate;
        bucket.left = (bucket.left + filled).min(burst) - f64::from(samples);
        bucket.at = now;
        Duration::try_from_secs_f64((-bucket.left / rate).max(0.0)).unwrap_or(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str) -> ClusterName {
        name.parse().unwrap()
    }

    #[test]
    fn the_cluster_is_stamped_and_a_forged_one_is_kept_aside() {
        let check = |pairs: &[(&str, &str)], expected: &str| {
            let labels = Labels::from_pairs(pairs.iter().copied()).unwrap();
            assert_eq!(stamp(&labels, "cluster", &cluster("eu-1")).to_string(), expected);
        };
        check(&[("__name__", "up")], r#"up{cluster="eu-1"}"#);
        check(
            &[("__name__", "up"), ("cluster", "us-1")],
            r#"up{cluster="eu-1", exported_cluster="us-1"}"#,
        );
        check(&[("cluster", "eu-1")], r#"{cluster="eu-1", exported_cluster="eu-1"}"#);
        check(
            &[("cluster", "a"), ("exported_cluster", "b")],
            r#"{cluster="eu-1", exported_cluster="b", exported_exported_cluster="a"}"#,
        );
    }

    #[test]
    fn the_policy_is_the_clusters_own_or_the_default() {
        let small = Policy { max_series: 1, ..Policy::default() };
        let policies = Policies::new([("*".to_owned(), small)]);
        assert_eq!(policies.of(&cluster("a")).max_series, 1);
        let own = Policy { max_series: 2, ..small };
        let policies = Policies::new([("*".to_owned(), small), ("a".to_owned(), own)]);
        assert_eq!(policies.of(&cluster("a")).max_series, 2);
        assert_eq!(policies.of(&cluster("b")).max_series, 1);
        assert_eq!(Policies::default().of(&cluster("b")), Policy::default());
    }

    #[test]
    fn shapes_are_bounded() {
        let policy = Policy { max_labels: 2, max_label_bytes: 3, ..Policy::default() };
        let check = |pairs: &[(&str, &str)]| {
            policy.check_shape(&Labels::from_pairs(pairs.iter().copied()).unwrap())
        };
        assert_eq!(check(&[("a", "123"), ("b", "1")]), Ok(()));
        assert_eq!(check(&[("a", "1"), ("b", "1"), ("c", "1")]), Err(Reason::LabelLimit));
        assert_eq!(check(&[("a", "1234")]), Err(Reason::LabelBytes));
    }

    #[test]
    fn a_cluster_over_its_rate_waits_and_others_do_not() {
        let (rates, start) = (Rates::default(), Instant::now());
        let take = |name: &str, samples, after: f64| {
            rates.take(&cluster(name), 100, samples, start + Duration::from_secs_f64(after))
        };
        assert_eq!(take("a", 1000, 0.0), Duration::ZERO);
        assert_eq!(take("a", 100, 0.0), Duration::from_secs(1));
        assert_eq!(take("b", 1000, 0.0), Duration::ZERO);
        assert_eq!(take("a", 100, 2.0), Duration::ZERO);
    }

    #[test]
    fn reasons_have_codes() {
        for reason in [Reason::SeriesLimit, Reason::LabelLimit, Reason::LabelBytes] {
            assert_eq!(Reason::from_code(reason.code()), Some(reason));
        }
        assert_eq!(Reason::from_code(0), None);
    }
}
