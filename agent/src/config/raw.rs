//! `agent.yml` as it is written, key by key, and the environment variables that override keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;

/// Prefix of the environment variables that override keys: `TRIBUTARY_SPOOL_PATH` overrides `spool.path`.
const ENVIRONMENT_PREFIX: &str = "TRIBUTARY_";

/// Where remote write, health and metrics are served unless the file says otherwise.
pub(super) const DEFAULT_LISTEN: &str = "127.0.0.1:9392";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) cluster: String,
    pub(super) instance: String,
    pub(super) collector: RawCollector,
    pub(super) listen: RawListen,
    pub(super) tls: RawTls,
    pub(super) sources: RawSources,
    pub(super) web: RawWeb,
    pub(super) allowlist_file: Option<PathBuf>,
    pub(super) spool: RawSpool,
    pub(super) send: RawSend,
    pub(super) shutdown: RawShutdown,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawCollector {
    pub(super) address: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawListen {
    pub(super) grpc: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTls {
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) renew: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSources {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remote_write: Option<RawRemoteWrite>,
    pub(super) federate: Vec<RawFederate>,
    pub(super) scrape: Vec<RawJob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backfill: Option<RawBackfill>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRemoteWrite {
    pub(super) listen: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFederate {
    pub(super) url: String,
    #[serde(default, rename = "match")]
    pub(super) matchers: Vec<String>,
    #[serde(default = "half_a_minute")]
    pub(super) interval: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) timeout: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJob {
    pub(super) job_name: String,
    #[serde(default = "quarter_minute")]
    pub(super) scrape_interval: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) scrape_timeout: Option<String>,
    #[serde(default = "metrics_path")]
    pub(super) metrics_path: String,
    #[serde(default = "http")]
    pub(super) scheme: String,
    #[serde(default)]
    pub(super) params: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    pub(super) honor_labels: bool,
    #[serde(default = "yes")]
    pub(super) honor_timestamps: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) basic_auth: Option<RawBasicAuth>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) authorization: Option<RawAuthorization>,
    #[serde(default)]
    pub(super) sample_limit: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) body_size_limit: Option<String>,
    #[serde(default)]
    pub(super) static_configs: Vec<RawTargets>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBasicAuth {
    pub(super) username: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAuthorization {
    #[serde(default = "bearer", rename = "type")]
    pub(super) kind: String,
    pub(super) credentials_file: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTargets {
    pub(super) targets: Vec<String>,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBackfill {
    prometheus: String,
    max_age: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWeb {
    pub(super) listen: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSpool {
    pub(super) path: PathBuf,
    pub(super) max_bytes: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawSend {
    pub(super) max_delay: String,
    pub(super) max_bytes: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawShutdown {
    pub(super) grace: String,
}

impl Default for RawTls {
    fn default() -> Self {
        Self { cert_file: None, key_file: None, ca_file: None, renew: true }
    }
}

impl Default for RawRemoteWrite {
    fn default() -> Self {
        Self { listen: DEFAULT_LISTEN.into() }
    }
}

impl Default for RawSpool {
    fn default() -> Self {
        Self { path: "spool".into(), max_bytes: "1GiB".into() }
    }
}

impl Default for RawSend {
    fn default() -> Self {
        Self { max_delay: "0s".into(), max_bytes: "1MiB".into() }
    }
}

impl Default for RawShutdown {
    fn default() -> Self {
        Self { grace: "30s".into() }
    }
}

fn bearer() -> String {
    "Bearer".to_owned()
}

fn half_a_minute() -> String {
    "30s".to_owned()
}

fn quarter_minute() -> String {
    "15s".to_owned()
}

fn metrics_path() -> String {
    "/metrics".to_owned()
}

fn http() -> String {
    "http".to_owned()
}

fn yes() -> bool {
    true
}

impl Raw {
    /// Layers the environment over the file, through the keys that exist.
    pub(super) fn overridden(
        self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let fail =
            |name: &str, why: String| ConfigError::Environment { name: name.to_owned(), why };
        let keys =
            serde_json::to_value(&self).map_err(|e| fail(ENVIRONMENT_PREFIX, e.to_string()))?;
        let file =
            config::Config::try_from(&self).map_err(|e| fail(ENVIRONMENT_PREFIX, e.to_string()))?;
        let mut builder = config::Config::builder().add_source(file);
        let mut last = None;
        for (name, value) in environment {
            let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            let Some(key) = key_path(&keys, &path.to_ascii_lowercase()) else {
                if is_service_link(path) {
                    continue;
                }
                return Err(fail(&name, "there is no such key in the configuration".into()));
            };
            builder = builder.set_override(key, value).map_err(|e| fail(&name, e.to_string()))?;
            last = Some(name);
        }
        let Some(last) = last else { return Ok(self) };
        let built = builder.build().map_err(|e| fail(&last, e.to_string()))?;
        built.try_deserialize().map_err(|e| fail(&last, e.to_string()))
    }
}

/// Kubernetes puts `TRIBUTARY_COLLECTOR_SERVICE_HOST` and the like into every container beside a service of that name.
fn is_service_link(path: &str) -> bool {
    path.contains("_SERVICE_") || path.ends_with("_PORT") || path.contains("_PORT_")
}

/// `spool_max_bytes` → `spool.max_bytes`, by the keys that exist; lists cannot be overridden.
fn key_path(keys: &serde_json::Value, path: &str) -> Option<String> {
    keys.as_object()?.iter().find_map(|(key, inner)| {
        let rest = path.strip_prefix(key.as_str())?;
        match rest.strip_prefix('_') {
            None => {
                (rest.is_empty() && !inner.is_object() && !inner.is_array()).then(|| key.clone())
            }
            Some(rest) => key_path(inner, rest).map(|inner| format!("{key}.{inner}")),
        }
    })
}
