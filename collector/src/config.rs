//! The configuration: `collector.yml`, overridden by `TRIBUTARY_<PATH>` environment variables, read once, at the door.

mod door;
mod raw;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tributary_model::cluster::ClusterName;
use tributary_model::yaml;
use tributary_promql::feature::Features;

use self::door::Door;
use self::raw::Raw;
use crate::ingest::dial::Target;
use crate::ingest::policy::Policy;
use crate::scrape::Job;

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
    /// The folder of authority, tokens and rotations, where the collector may enrol and renew agents.
    pub pki: Option<Pki>,
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
    /// Samples older than this are dropped, a block at a time.
    pub retention: Duration,
    /// The oldest blocks over so many bytes are dropped; 0 for no limit.
    pub retention_bytes: u64,
    /// What clusters have instead of `retention`.
    pub cluster_retention: BTreeMap<ClusterName, Duration>,
}

impl Storage {
    /// How the store is opened, by the collector and by the commands that look at its folder.
    pub fn options(&self) -> tributary_store::Options {
        tributary_store::Options {
            path: self.path.clone(),
            retention: self.retention,
            retention_bytes: self.retention_bytes,
            cluster_retention: self.cluster_retention.clone(),
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

/// `pki:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pki {
    /// The folder that `tributary-certs init` made: authority and key, tokens, the plan of a rotation.
    pub dir: PathBuf,
    /// How long the certificates live that the collector issues.
    pub leaf_lifetime: Duration,
    /// Whether agents without a certificate may ask for one, with a token.
    pub enrol: bool,
}

/// `web:`
#[derive(Debug, Clone)]
pub struct Web {
    /// Address of the HTTP port.
    pub listen: SocketAddr,
    /// A file in Prometheus' web-config format: TLS and basic auth.
    pub config_file: Option<PathBuf>,
    /// Whether pushers may write to the local cluster: those with a password, or all on this machine if only it can
    /// reach the port.
    pub remote_write_receiver: bool,
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
    /// Whether the collector watches itself with its own rules, on metrics of its own.
    pub builtin: bool,
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
    /// `enable_features`: what queries and rules may use beyond the stable language.
    pub features: Features,
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
            (
                "storage.retention_bytes",
                self.storage.retention_bytes == newer.storage.retention_bytes,
            ),
            (
                "clusters.*.retention",
                self.storage.cluster_retention == newer.storage.cluster_retention,
            ),
            ("ingest.listen", self.ingest.listen == newer.ingest.listen),
            ("pki", self.pki == newer.pki),
            ("dial", self.dial == newer.dial),
            ("web.listen", self.web.listen == newer.web.listen),
            ("web.config_file", self.web.config_file == newer.web.config_file),
            (
                "web.remote_write_receiver",
                self.web.remote_write_receiver == newer.web.remote_write_receiver,
            ),
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

#[cfg(test)]
mod tests {
    use tributary_model::duration;

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
        assert!(config.pki.is_none() && config.alerting.builtin);
        let pki = load(&format!("{TLS}pki: {{ dir: pki }}\n"), &[]).unwrap().pki.unwrap();
        assert!(pki.dir.is_absolute() && pki.enrol);
        assert_eq!(pki.leaf_lifetime, duration::parse("30d").unwrap());
        let own = load("pki: { dir: pki }", &[]).unwrap();
        assert!(own.ingest.tls.key_file.ends_with("pki/collector/tls.key"));
    }

    #[test]
    fn what_is_shown_is_a_file_that_says_the_same() {
        let text = format!(
            "{TLS}clusters: {{ '*': {{ retention: 1y }} }}\ndial: [{{ cluster: eu-1, address: 'a:1' }}]\n\
             scrape: [{{ job_name: own, static_configs: [{{ targets: ['h:1'] }}] }}]\n"
        );
        let shown = load(&text, &[]).unwrap().shown();
        assert!(shown.contains("\nstorage:\n  path: "), "{shown}");
        assert_eq!(load(&shown, &[]).unwrap().shown(), shown);
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
            ("clusters: { lab: { retention: long } }", "clusters.lab.retention"),
            ("web: { listen: nine }", "is not an address"),
            ("clusters: { EU: {} }", "\"EU\" is not a valid name"),
            ("pki: { leaf_lifetime: 1s }", "must be at least"),
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
