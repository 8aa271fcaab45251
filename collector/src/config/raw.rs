//! What `collector.yml` may say, as it is written, with the environment layered over it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{ConfigError, Scope};
use crate::scrape::RawJob;

/// Prefix of the environment variables that override keys: `TRIBUTARY_STORAGE_PATH` overrides `storage.path`.
const ENVIRONMENT_PREFIX: &str = "TRIBUTARY_";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Raw {
    pub(super) cluster_label: String,
    pub(super) local_cluster: String,
    pub(super) storage: RawStorage,
    pub(super) ingest: RawIngest,
    pub(super) pki: RawPki,
    pub(super) dial: Vec<RawDial>,
    pub(super) clusters: BTreeMap<String, RawPolicy>,
    pub(super) web: RawWeb,
    pub(super) rules: Vec<RawRuleFiles>,
    pub(super) scrape: Vec<RawJob>,
    pub(super) alerting: RawAlerting,
    pub(super) query: RawQuery,
    pub(super) shutdown: RawShutdown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawStorage {
    pub(super) path: PathBuf,
    pub(super) retention: String,
    pub(super) retention_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawIngest {
    pub(super) listen: String,
    pub(super) tls: RawTls,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(clippy::struct_field_names, reason = "the keys of the file")]
pub(super) struct RawTls {
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
    pub(super) ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPki {
    pub(super) dir: Option<PathBuf>,
    pub(super) leaf_lifetime: String,
    pub(super) enrol: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDial {
    pub(super) cluster: String,
    pub(super) address: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    pub(super) max_series: Option<usize>,
    pub(super) max_labels: Option<usize>,
    pub(super) max_label_bytes: Option<usize>,
    pub(super) max_samples_per_second: Option<u64>,
    pub(super) retention: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWeb {
    pub(super) listen: String,
    pub(super) config_file: Option<PathBuf>,
    pub(super) remote_write_receiver: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRuleFiles {
    pub(super) files: Vec<PathBuf>,
    pub(super) scope: Scope,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAlerting {
    pub(super) config_file: Option<PathBuf>,
    pub(super) external_url: Option<String>,
    pub(super) forward_to: Vec<String>,
    pub(super) builtin: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawQuery {
    pub(super) timeout: String,
    pub(super) max_concurrency: usize,
    pub(super) max_samples: usize,
    pub(super) lookback: String,
    pub(super) enable_features: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawShutdown {
    pub(super) grace: String,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            cluster_label: "cluster".into(),
            local_cluster: "local".into(),
            storage: RawStorage::default(),
            ingest: RawIngest::default(),
            pki: RawPki::default(),
            dial: Vec::new(),
            clusters: BTreeMap::new(),
            web: RawWeb::default(),
            rules: Vec::new(),
            scrape: Vec::new(),
            alerting: RawAlerting::default(),
            query: RawQuery::default(),
            shutdown: RawShutdown::default(),
        }
    }
}

impl Default for RawStorage {
    fn default() -> Self {
        Self { path: "data".into(), retention: "3y".into(), retention_bytes: 0 }
    }
}

impl Default for RawIngest {
    fn default() -> Self {
        Self { listen: "0.0.0.0:9391".into(), tls: RawTls::default() }
    }
}

impl Default for RawPki {
    fn default() -> Self {
        Self { dir: None, leaf_lifetime: "30d".into(), enrol: true }
    }
}

impl Default for RawAlerting {
    fn default() -> Self {
        Self { config_file: None, external_url: None, forward_to: Vec::new(), builtin: true }
    }
}

impl Default for RawWeb {
    fn default() -> Self {
        Self { listen: "0.0.0.0:9390".into(), config_file: None, remote_write_receiver: false }
    }
}

impl Default for RawQuery {
    fn default() -> Self {
        Self {
            timeout: "2m".into(),
            max_concurrency: 20,
            max_samples: 50_000_000,
            lookback: "5m".into(),
            enable_features: Vec::new(),
        }
    }
}

impl Default for RawShutdown {
    fn default() -> Self {
        Self { grace: "30s".into() }
    }
}

impl Raw {
    /// Layers the environment over the file, through the keys that exist.
    pub(super) fn overridden(
        mut self,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let fail =
            |name: &str, why: String| ConfigError::Environment { name: name.to_owned(), why };
        // Its keys are names, "*" among them, which are no paths of keys.
        let clusters = std::mem::take(&mut self.clusters);
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
        let Some(last) = last else { return Ok(Self { clusters, ..self }) };
        let built = builder.build().map_err(|e| fail(&last, e.to_string()))?;
        let raw: Self = built.try_deserialize().map_err(|e| fail(&last, e.to_string()))?;
        Ok(Self { clusters, ..raw })
    }
}

/// Kubernetes puts `TRIBUTARY_COLLECTOR_SERVICE_HOST` and the like into every container beside a service of that name.
fn is_service_link(path: &str) -> bool {
    path.contains("_SERVICE_") || path.ends_with("_PORT") || path.contains("_PORT_")
}

/// `storage_retention_bytes` → `storage.retention_bytes`, by the keys that exist; lists cannot be overridden.
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
