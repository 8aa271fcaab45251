//! The configuration: `collector.yml`, overridden by `TRIBUTARY_<PATH>` environment variables, read once, at the door.

mod raw;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tributary_model::cluster::ClusterName;
use tributary_model::label::is_legacy_label_name;
use tributary_model::{duration, yaml};

use self::raw::{Raw, RawDial, RawPolicy, RawQuery, RawRuleFiles, RawTls};
use crate::ingest::dial::Target;
use crate::ingest::policy::Policy;
use crate::scrape::{Job, RawJob};

/// Everything that `collector.yml` says, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// The label that holds a series' cluster.
    pub cluster_label: String,
    /// The collector's own name in that label.
    pub local_cluster: ClusterName,
    /// Where and how long samples are kept.
    pub storage: Storage,
    /// Where agents connect.
    pub ingest: Ingest,
    /// Agents that wait to be dialled.
    pub dial: Vec<Target>,
    /// Policy by cluster name; `*` is the default.
    pub clusters: BTreeMap<String, Policy>,
    /// The HTTP port.
    pub web: Web,
    /// Rule files with their scopes.
    pub rules: Vec<RuleFiles>,
    /// The collector's own local targets.
    pub scrape: Vec<Job>,
    /// Where alerts go.
    pub alerting: Alerting,
    /// Bounds of queries.
    pub query: Query,
    /// How long a stop waits for streams, queries and mails.
    pub shutdown_grace: Duration,
    /// The configuration as the API shows it: JSON, which is YAML. It holds paths of secrets, never secrets.
    shown: String,
}

/// `storage:`
#[derive(Debug, Clone)]
pub struct Storage {
    /// The data folder.
    pub path: PathBuf,
    /// Samples older than this are dropped, a day's partition at a time.
    pub retention: Duration,
}

impl Storage {
    /// How the store is opened, by the collector and by the commands that look at its folder.
    pub fn options(&self) -> tributary_store::Options {
        tributary_store::Options {
            path: self.path.clone(),
            retention: self.retention,
            ..tributary_store::Options::default()
        }
    }
}

/// `ingest:`
#[derive(Debug, Clone)]
pub struct Ingest {
    /// Address of the gRPC port.
    pub listen: SocketAddr,
    /// The collector's certificate and the authority of agents.
    pub tls: tributary_certs::tls::Files,
}

/// `web:`
#[derive(Debug, Clone)]
pub struct Web {
    /// Address of the HTTP port.
    pub listen: SocketAddr,
    /// A file in Prometheus' web-config format: TLS and basic auth.
    pub config_file: Option<PathBuf>,
}

/// One entry of `rules:`
#[derive(Debug, Clone)]
pub struct RuleFiles {
    /// Paths; `*` and `?` match within a name.
    pub files: Vec<PathBuf>,
    /// What the rules may see.
    pub scope: Scope,
}

/// What rules see, and what their output is stamped with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Only the collector's own series; stamped with the local cluster.
    Local,
    /// Each cluster by itself; stamped with it.
    Each,
    /// Everything; not stamped.
    Global,
}

/// `alerting:`
#[derive(Debug, Clone)]
pub struct Alerting {
    /// An Alertmanager configuration file.
    pub config_file: Option<PathBuf>,
    /// The collector's address in links.
    pub external_url: String,
}

/// `query:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Longest evaluation, waiting included.
    pub timeout: Duration,
    /// Most queries at once.
    pub max_concurrency: usize,
    /// Most samples that one query holds in memory.
    pub max_samples: usize,
    /// How far an instant selector looks back.
    pub lookback: Duration,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error(
        "reading the configuration file {path}: {source}\n  = help: give its path with --config.file"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not say what it should; has the place.
    #[error(transparent)]
    File(#[from] Box<tributary_model::diagnostic::Diagnostic>),
    /// A value is not valid.
    #[error("{key}: {why}\n  --> {file}")]
    Value {
        /// The key's path.
        key: String,
        /// What is wrong, and what would be right.
        why: String,
        /// The file's path.
        file: String,
    },
    /// An environment variable does not fit.
    #[error("environment variable {name}: {why}")]
    Environment {
        /// The variable.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl Config {
    /// The configuration in force, defaults included.
    pub fn shown(&self) -> String {
        self.shown.clone()
    }

    /// Keys that were read at the start only, and that say something else in `newer`.
    pub fn fixed_keys_that_differ(&self, newer: &Self) -> Vec<&'static str> {
        let keys = [
            ("cluster_label", self.cluster_label == newer.cluster_label),
            ("local_cluster", self.local_cluster == newer.local_cluster),
            ("storage.path", self.storage.path == newer.storage.path),
            ("storage.retention", self.storage.retention == newer.storage.retention),
            ("ingest.listen", self.ingest.listen == newer.ingest.listen),
            ("dial", self.dial == newer.dial),
            ("web.listen", self.web.listen == newer.web.listen),
            ("web.config_file", self.web.config_file == newer.web.config_file),
            ("scrape", self.scrape == newer.scrape),
            (
                "alerting.config_file",
                self.alerting.config_file.is_some() == newer.alerting.config_file.is_some(),
            ),
            ("query", self.query == newer.query),
        ];
        keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
    }

    /// Reads `path` and the environment. Relative paths in the file are relative to the file's folder.
    pub fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file = path.display().to_string();
        let raw: Raw = yaml::parse(&text, &file)?;
        let raw = raw.overridden(environment)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let config = Door { file, folder }.config(raw)?;
        Ok(Self { file: path.to_owned(), ..config })
    }
}

/// Turns what the file says into what the program uses, or says which key is wrong.
struct Door {
    file: String,
    folder: PathBuf,
}

impl Door {
    fn config(&self, raw: Raw) -> Result<Config, ConfigError> {
        if !is_legacy_label_name(&raw.cluster_label) || raw.cluster_label.starts_with("__") {
            let why = format!("\"{}\" is not a label name", raw.cluster_label);
            return Err(self.fail("cluster_label", why));
        }
        if !raw.alerting.forward_to.is_empty() {
            let why =
                "forwarding to an Alertmanager is not supported yet: give alerting.config_file";
            return Err(self.fail("alerting.forward_to", why.into()));
        }
        if raw.storage.retention_bytes > 0 {
            let why = "is not supported yet: use storage.retention";
            return Err(self.fail("storage.retention_bytes", why.into()));
        }
        if raw.pki.dir.is_some() {
            let why = "enrolling agents is not supported yet: use tributary-certs issue";
            return Err(self.fail("pki.dir", why.into()));
        }
        let shown = serde_json::to_string_pretty(&raw).map_err(|e| self.fail("", e.to_string()))?;
        let local =
            raw.local_cluster.parse().map_err(|e| self.fail("local_cluster", format!("{e}")))?;
        let retention = self.duration("storage.retention", &raw.storage.retention)?;
        Ok(Config {
            file: PathBuf::new(),
            cluster_label: raw.cluster_label,
            local_cluster: local,
            storage: Storage { path: self.path(raw.storage.path), retention },
            ingest: Ingest {
                listen: self.address("ingest.listen", &raw.ingest.listen)?,
                tls: self.tls(raw.ingest.tls)?,
            },
            dial: self.dial(raw.dial)?,
            clusters: self.policies(&raw.clusters, retention)?,
            web: Web {
                listen: self.address("web.listen", &raw.web.listen)?,
                config_file: raw.web.config_file.map(|path| self.path(path)),
            },
            rules: raw.rules.into_iter().map(|rules| self.rule_files(rules)).collect(),
            scrape: self.jobs(&raw.scrape)?,
            alerting: Alerting {
                config_file: raw.alerting.config_file.map(|path| self.path(path)),
                external_url: raw.alerting.external_url.unwrap_or_default(),
            },
            query: self.query(&raw.query)?,
            shutdown_grace: self.duration("shutdown.grace", &raw.shutdown.grace)?,
            shown,
        })
    }

    fn tls(&self, raw: RawTls) -> Result<tributary_certs::tls::Files, ConfigError> {
        let file = |key: &str, path: Option<PathBuf>| match path {
            Some(path) => Ok(self.path(path)),
            None => Err(self.fail(
                &format!("ingest.tls.{key}"),
                "is missing: make one with tributary-certs init --dir pki --host HOST".into(),
            )),
        };
        Ok(tributary_certs::tls::Files {
            cert_file: file("cert_file", raw.cert_file)?,
            key_file: file("key_file", raw.key_file)?,
            ca_file: file("ca_file", raw.ca_file)?,
        })
    }

    fn dial(&self, raw: Vec<RawDial>) -> Result<Vec<Target>, ConfigError> {
        raw.into_iter()
            .map(|RawDial { cluster, address }| {
                let cluster =
                    cluster.parse().map_err(|e| self.fail("dial.cluster", format!("{e}")))?;
                let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                if port.is_none() {
                    let why = format!("\"{address}\" is not HOST:PORT, like eu-1.example.org:9393");
                    return Err(self.fail("dial.address", why));
                }
                Ok(Target { cluster, address })
            })
            .collect()
    }

    fn policies(
        &self,
        raw: &BTreeMap<String, RawPolicy>,
        retention: Duration,
    ) -> Result<BTreeMap<String, Policy>, ConfigError> {
        let everyone = raw.get("*").cloned().unwrap_or_default();
        let mut policies = BTreeMap::from([("*".to_owned(), policy(&everyone, &everyone))]);
        for (name, own) in raw {
            if name != "*" {
                name.parse::<ClusterName>()
                    .map_err(|e| self.fail(&format!("clusters.{name}"), e.to_string()))?;
            }
            if let Some(text) = &own.retention {
                let key = format!("clusters.{name}.retention");
                if self.duration(&key, text)? != retention {
                    let why =
                        "must be that of storage.retention: one per cluster is not supported yet";
                    return Err(self.fail(&key, why.into()));
                }
            }
            policies.insert(name.clone(), policy(own, &everyone));
        }
        Ok(policies)
    }

    fn rule_files(&self, raw: RawRuleFiles) -> RuleFiles {
        RuleFiles {
            files: raw.files.into_iter().map(|path| self.path(path)).collect(),
            scope: raw.scope,
        }
    }

    fn jobs(&self, raw: &[RawJob]) -> Result<Vec<Job>, ConfigError> {
        raw.iter()
            .map(|job| Job::new(job).map_err(|e| self.fail("scrape", e.to_string())))
            .collect()
    }

    fn query(&self, raw: &RawQuery) -> Result<Query, ConfigError> {
        if raw.max_concurrency == 0 {
            return Err(self.fail("query.max_concurrency", "must be at least 1".into()));
        }
        Ok(Query {
            timeout: self.duration("query.timeout", &raw.timeout)?,
            max_concurrency: raw.max_concurrency,
            max_samples: raw.max_samples,
            lookback: self.duration("query.lookback", &raw.lookback)?,
        })
    }

    fn address(&self, key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        text.parse().map_err(|_| {
            self.fail(
                key,
                format!("\"{text}\" is not an address: write IP:PORT, like 0.0.0.0:9390"),
            )
        })
    }

    fn duration(&self, key: &str, text: &str) -> Result<Duration, ConfigError> {
        duration::parse(text).map_err(|e| self.fail(key, e.to_string()))
    }

    fn path(&self, path: PathBuf) -> PathBuf {
        self.folder.join(path)
    }

    fn fail(&self, key: &str, why: String) -> ConfigError {
        ConfigError::Value { key: key.to_owned(), why, file: self.file.clone() }
    }
}

fn policy(own: &RawPolicy, everyone: &RawPolicy) -> Policy {
    let default = Policy::default();
    Policy {
        max_series: own.max_series.or(everyone.max_series).unwrap_or(default.max_series),
        max_labels: own.max_labels.or(everyone.max_labels).unwrap_or(default.max_labels),
        max_label_bytes: own
            .max_label_bytes
            .or(everyone.max_label_bytes)
            .unwrap_or(default.max_label_bytes),
        max_samples_per_second: own
            .max_samples_per_second
            .or(everyone.max_samples_per_second)
            .unwrap_or(default.max_samples_per_second),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.yml");
        fs::write(&path, text).unwrap();
        Config::load(&path, environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    const TLS: &str = "ingest: { tls: { cert_file: a, key_file: b, ca_file: c } }\n";

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = load(TLS, &[]).unwrap();
        assert_eq!(config.web.listen.to_string(), "0.0.0.0:9390");
        assert_eq!(config.ingest.listen.to_string(), "0.0.0.0:9391");
        assert_eq!(config.storage.retention, duration::parse("3y").unwrap());
        assert_eq!(config.clusters["*"].max_series, 100_000);
        assert_eq!(config.query.max_samples, 50_000_000);
        assert!(config.ingest.tls.cert_file.is_absolute(), "relative to the file");
    }

    #[test]
    fn environment_overrides_by_path() {
        let config = load(
            TLS,
            &[
                ("TRIBUTARY_QUERY_MAX_SAMPLES", "42"),
                ("TRIBUTARY_WEB_LISTEN", "127.0.0.1:1"),
                ("TRIBUTARY_CLUSTER_LABEL", "origin"),
                ("OTHER", "x"),
                ("TRIBUTARY_COLLECTOR_SERVICE_HOST", "10.0.0.1"),
            ],
        )
        .unwrap();
        assert_eq!(config.query.max_samples, 42);
        assert_eq!(config.web.listen.port(), 1);
        assert_eq!(config.cluster_label, "origin");
        let error = load(TLS, &[("TRIBUTARY_STORAGE_PTAH", "x")]).unwrap_err().to_string();
        assert!(
            error.contains("TRIBUTARY_STORAGE_PTAH") && error.contains("no such key"),
            "{error}"
        );
        let error = load(TLS, &[("TRIBUTARY_QUERY_MAX_SAMPLES", "many")]).unwrap_err().to_string();
        assert!(error.contains("TRIBUTARY_QUERY_MAX_SAMPLES"), "{error}");
    }

    #[test]
    fn faults_name_the_key_and_the_remedy() {
        for (text, expected) in [
            ("storage: { retentoin: 3y }", "did you mean \"retention\"?"),
            ("{}", "ingest.tls.cert_file: is missing"),
            ("local_cluster: Local", "\"Local\" is not a valid name"),
            ("clusters: { lab: { retention: 1d } }", "must be that of storage.retention"),
            ("web: { listen: nine }", "is not an address"),
            ("clusters: { EU: {} }", "\"EU\" is not a valid name"),
            ("dial: [ { cluster: a, address: b } ]", "is not HOST:PORT"),
        ] {
            let text = if text == "{}" { text.to_owned() } else { format!("{TLS}{text}\n") };
            let error = load(&text, &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("collector.yml"), "{error}");
        }
    }

    #[test]
    fn a_cluster_inherits_the_default_policy() {
        let text =
            format!("{TLS}clusters: {{ '*': {{ max_series: 7 }}, eu-1: {{ max_labels: 3 }} }}\n");
        let config = load(&text, &[]).unwrap();
        assert_eq!(
            (config.clusters["eu-1"].max_series, config.clusters["eu-1"].max_labels),
            (7, 3)
        );
    }
}
