//! Scrapes the collector's own local targets: static Prometheus scrape configurations, stamped with the local cluster.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One entry of `scrape:`, as Prometheus' `scrape_configs` writes it; other keys of Prometheus are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJob {
    /// The `job` label.
    pub job_name: String,
    /// How often; a Prometheus duration.
    #[serde(default = "default_interval")]
    pub scrape_interval: String,
    /// How long one scrape may take; at most the interval, which is also the default up to 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_timeout: Option<String>,
    /// The path on the target.
    #[serde(default = "default_path")]
    pub metrics_path: String,
    /// `http` or `https`.
    #[serde(default = "default_scheme")]
    pub scheme: String,
    /// Whether labels of the target win over ours; otherwise they are kept as `exported_<name>`.
    #[serde(default)]
    pub honor_labels: bool,
    /// Whether times in the exposition are taken.
    #[serde(default = "default_true")]
    pub honor_timestamps: bool,
    /// The targets.
    #[serde(default)]
    pub static_configs: Vec<RawTargets>,
}

/// One entry of `static_configs:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTargets {
    /// `host:port`
    pub targets: Vec<String>,
    /// Labels of all series of these targets.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn default_interval() -> String {
    "15s".to_owned()
}

fn default_path() -> String {
    "/metrics".to_owned()
}

fn default_scheme() -> String {
    "http".to_owned()
}

fn default_true() -> bool {
    true
}
