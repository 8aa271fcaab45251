//! What the rules count.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The rules' metrics. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Evaluations of rules.
    pub evaluations: Family<ByGroup, Counter>,
    /// Evaluations that failed.
    pub failures: Family<ByGroup, Counter>,
    /// Slots that passed without an evaluation, because the one before took too long.
    pub missed: Family<ByGroup, Counter>,
    /// How long the last evaluation of a group took, in seconds.
    pub duration: Family<ByGroup, Gauge<f64, AtomicU64>>,
    /// The slot of the last evaluation, in seconds since the epoch.
    pub last_evaluation: Family<ByGroup, Gauge<f64, AtomicU64>>,
    /// Samples that rules wrote, staleness markers included.
    pub samples: Family<ByGroup, Counter>,
    /// Templates that could not be expanded.
    pub template_failures: Counter,
    /// Writes of the alerts' state that failed.
    pub state_failures: Counter,
}

/// A rule group.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByGroup {
    /// The file it stands in.
    pub file: String,
    /// Its name.
    pub group: String,
}

impl Metrics {
    /// Metrics that `registry` shows; it adds the program's name to theirs.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let registry = registry.sub_registry_with_prefix("rule");
        registry.register("evaluations", "Evaluations of rules", m.evaluations.clone());
        registry.register(
            "evaluation_failures",
            "Evaluations of rules that failed",
            m.failures.clone(),
        );
        registry.register(
            "group_missed_slots",
            "Slots that passed without an evaluation",
            m.missed.clone(),
        );
        registry.register(
            "group_last_duration_seconds",
            "How long the last evaluation took",
            m.duration.clone(),
        );
        registry.register(
            "group_last_evaluation_timestamp_seconds",
            "The slot of the last evaluation",
            m.last_evaluation.clone(),
        );
        registry.register("samples_written", "Samples that rules wrote", m.samples.clone());
        registry.register(
            "template_failures",
            "Templates that could not be expanded",
            m.template_failures.clone(),
        );
        registry.register(
            "state_write_failures",
            "Writes of the alerts' state that failed",
            m.state_failures.clone(),
        );
        m
    }
}
