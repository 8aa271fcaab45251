//! What the allowlist counts.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counters of the allowlist. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowMetrics {
    /// Samples that left the allowlist towards the spool.
    pub(crate) kept: Counter,
    /// Samples that did not, by reason.
    pub(crate) dropped: Family<Reason, Counter>,
    /// Samples that lost labels on their way.
    pub(crate) stripped: Counter,
    /// Samples that went into a merge.
    pub(crate) merged: Counter,
    /// Series that a rule's `max_series` refused, each time one is first seen.
    pub(crate) budget_hits: Counter,
    /// Series that leave now.
    pub(crate) series: Gauge,
    /// Source series behind merged ones, live or remembered.
    pub(crate) members: Gauge,
    /// Metadata entries that did not fit.
    pub(crate) metadata_dropped: Counter,
}

/// Why a sample was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    reason: Dropped,
}

/// Why a sample was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "written as label values")]
pub(crate) enum Dropped {
    /// No rule lists its series.
    not_listed,
    /// Another series has its labels once the unlisted ones are removed.
    collision,
    /// Its rule's `max_series` is reached.
    budget,
    /// It is not newer than what the merge already has of its series.
    repeated,
    /// Its labels are more, or longer, than a frame may carry.
    oversized,
    /// Too many series are behind merged ones.
    members,
    /// It is a native histogram of a series that is merged.
    histogram_merge,
    /// Its timestamp is before 1970 or after 9999.
    timestamp,
}

impl AllowMetrics {
    /// Registers the counters.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "tributary_agent_samples_kept",
            "Samples that the allowlist let through",
            m.kept.clone(),
        );
        registry.register(
            "tributary_agent_samples_dropped",
            "Samples that the allowlist dropped, by reason",
            m.dropped.clone(),
        );
        registry.register(
            "tributary_agent_samples_stripped",
            "Samples whose series lost unlisted labels",
            m.stripped.clone(),
        );
        registry.register(
            "tributary_agent_samples_merged",
            "Samples that went into a merged series",
            m.merged.clone(),
        );
        registry.register(
            "tributary_agent_allowlist_budget_hits",
            "New series that a rule's max_series refused",
            m.budget_hits.clone(),
        );
        registry.register(
            "tributary_agent_series",
            "Series that leave the agent now",
            m.series.clone(),
        );
        registry.register(
            "tributary_agent_merge_members",
            "Source series behind merged series, live or remembered",
            m.members.clone(),
        );
        registry.register(
            "tributary_agent_metadata_dropped",
            "Metadata entries beyond the bound",
            m.metadata_dropped.clone(),
        );
        m
    }

    /// Counts dropped samples.
    pub(crate) fn drop(&self, reason: Dropped, samples: u64) {
        if samples > 0 {
            self.dropped.get_or_create(&Reason { reason }).inc_by(samples);
        }
    }
}

#[cfg(test)]
pub(super) fn reason(reason: Dropped) -> Reason {
    Reason { reason }
}
