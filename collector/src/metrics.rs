//! The collector's own metrics: one registry, filled by the parts, written by `/metrics`.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// What the process as a whole reports.
#[derive(Debug, Clone, Default)]
pub struct ProcessMetrics {
    /// 1 if the last reload took, 0 if the old configuration stayed in force.
    pub reload_successful: Gauge,
    /// Seconds since the Unix epoch of the last reload that took.
    pub reload_success_time: Gauge<f64, AtomicU64>,
    /// Reloads that were refused.
    pub reloads_refused: Counter,
}

impl ProcessMetrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.reload_successful.set(1);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version that runs", build);
        registry.register(
            "config_last_reload_successful",
            "Whether the last reload of configuration files took",
            metrics.reload_successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the last reload took",
            metrics.reload_success_time.clone(),
        );
        registry.register(
            "config_reloads_refused",
            "Reloads refused",
            metrics.reloads_refused.clone(),
        );
        metrics
    }
}

/// A registry whose metrics are named `tributary_collector_…`.
pub fn registry() -> Registry {
    Registry::with_prefix("tributary_collector")
}

/// The registry in `OpenMetrics` text.
pub fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut out, registry);
    out
}
