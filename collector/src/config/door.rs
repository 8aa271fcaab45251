//! What `collector.yml` says becomes what the program uses, section by section; whatever is wrong is named by its key.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tributary_certs::bundle;
use tributary_certs::tls::Files;
use tributary_model::cluster::ClusterName;
use tributary_model::duration;
use tributary_model::label::is_legacy_label_name;
use tributary_promql::feature::Features;

use super::raw::{Raw, RawDial, RawPki, RawPolicy, RawQuery, RawRuleFiles, RawTls};
use super::{Alerting, Config, ConfigError, Ingest, Pki, Query, RuleFiles, Storage, Web};
use crate::ingest::dial::Target;
use crate::ingest::policy::Policy;
use crate::scrape::{Job, RawJob};

/// Certificates that live shorter would be renewed all the time.
const SHORTEST_LEAF: Duration = Duration::from_secs(60);

/// Turns what the file says into what the program uses, or says which key is wrong.
pub(super) struct Door {
    /// The file, for messages.
    pub(super) file: String,
    /// What relative paths are relative to.
    pub(super) folder: PathBuf,
}

impl Door {
    /// Checks everything that `raw` says.
    pub(super) fn config(&self, raw: Raw) -> Result<Config, ConfigError> {
        if !is_legacy_label_name(&raw.cluster_label) || raw.cluster_label.starts_with("__") {
            let why = format!("\"{}\" is not a label name", raw.cluster_label);
            return Err(self.fail("cluster_label", why));
        }
        if !raw.alerting.forward_to.is_empty() {
            let why =
                "forwarding to an Alertmanager is not supported yet: give alerting.config_file";
            return Err(self.fail("alerting.forward_to", why.into()));
        }
        let options = serde_saphyr::ser_options! { folded_wrap_chars: usize::MAX };
        let shown = serde_saphyr::to_string_with_options(&raw, options);
        let shown = shown.map_err(|e| self.fail("", e.to_string()))?;
        let local =
            raw.local_cluster.parse().map_err(|e| self.fail("local_cluster", format!("{e}")))?;
        let everyone = raw.clusters.get("*").and_then(|policy| policy.retention.as_deref());
        let retention = match everyone {
            Some(text) => self.duration("clusters.*.retention", text)?,
            None => self.duration("storage.retention", &raw.storage.retention)?,
        };
        let pki = self.pki(raw.pki)?;
        Ok(Config {
            file: PathBuf::new(),
            cluster_label: raw.cluster_label,
            local_cluster: local,
            storage: Storage {
                path: self.path(raw.storage.path),
                retention,
                retention_bytes: raw.storage.retention_bytes,
                cluster_retention: self.retentions(&raw.clusters)?,
            },
            ingest: Ingest {
                listen: self.address("ingest.listen", &raw.ingest.listen)?,
                tls: self.tls(raw.ingest.tls, pki.as_ref())?,
            },
            pki,
            dial: self.dial(raw.dial)?,
            clusters: self.policies(&raw.clusters)?,
            web: Web {
                listen: self.address("web.listen", &raw.web.listen)?,
                config_file: raw.web.config_file.map(|path| self.path(path)),
                remote_write_receiver: raw.web.remote_write_receiver,
            },
            rules: raw.rules.into_iter().map(|rules| self.rule_files(rules)).collect(),
            scrape: self.jobs(&raw.scrape)?,
            alerting: Alerting {
                config_file: raw.alerting.config_file.map(|path| self.path(path)),
                external_url: raw.alerting.external_url.unwrap_or_default(),
                builtin: raw.alerting.builtin,
            },
            query: self.query(&raw.query)?,
            shutdown_grace: self.duration("shutdown.grace", &raw.shutdown.grace)?,
            shown,
        })
    }

    /// What is left out is the collector's own in the PKI folder, if there is one.
    fn tls(&self, raw: RawTls, pki: Option<&Pki>) -> Result<Files, ConfigError> {
        let own = pki.map(|pki| bundle::files(&pki.dir.join(bundle::COLLECTOR)));
        let file = |key: &str, path: Option<PathBuf>, own: Option<&PathBuf>| match (path, own) {
            (Some(path), _) => Ok(self.path(path)),
            (None, Some(own)) => Ok(own.clone()),
            (None, None) => Err(self.fail(
                &format!("ingest.tls.{key}"),
                "is missing: make one with tributary-certs init --dir pki --host HOST".into(),
            )),
        };
        Ok(Files {
            cert_file: file("cert_file", raw.cert_file, own.as_ref().map(|own| &own.cert_file))?,
            key_file: file("key_file", raw.key_file, own.as_ref().map(|own| &own.key_file))?,
            ca_file: file("ca_file", raw.ca_file, own.as_ref().map(|own| &own.ca_file))?,
        })
    }

    /// Without a folder the other keys have nothing to act on.
    fn pki(&self, raw: RawPki) -> Result<Option<Pki>, ConfigError> {
        let leaf_lifetime = self.duration("pki.leaf_lifetime", &raw.leaf_lifetime)?;
        if leaf_lifetime < SHORTEST_LEAF {
            let why = format!("must be at least {}", duration::format(SHORTEST_LEAF));
            return Err(self.fail("pki.leaf_lifetime", why));
        }
        Ok(raw.dir.map(|dir| Pki { dir: self.path(dir), leaf_lifetime, enrol: raw.enrol }))
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
    ) -> Result<BTreeMap<String, Policy>, ConfigError> {
        let everyone = raw.get("*").cloned().unwrap_or_default();
        let mut policies = BTreeMap::from([("*".to_owned(), policy(&everyone, &everyone))]);
        for (name, own) in raw {
            if name != "*" {
                name.parse::<ClusterName>()
                    .map_err(|e| self.fail(&format!("clusters.{name}"), e.to_string()))?;
            }
            policies.insert(name.clone(), policy(own, &everyone));
        }
        Ok(policies)
    }

    /// What clusters have instead of everybody's retention.
    fn retentions(
        &self,
        raw: &BTreeMap<String, RawPolicy>,
    ) -> Result<BTreeMap<ClusterName, Duration>, ConfigError> {
        let mut retentions = BTreeMap::new();
        for (name, own) in raw.iter().filter(|(name, _)| *name != "*") {
            let Some(text) = &own.retention else { continue };
            let retention = self.duration(&format!("clusters.{name}.retention"), text)?;
            let cluster =
                name.parse().map_err(|e| self.fail(&format!("clusters.{name}"), format!("{e}")))?;
            retentions.insert(cluster, retention);
        }
        Ok(retentions)
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
        let mut features = Features::default();
        for name in &raw.enable_features {
            if !features.enable(name) {
                let known = Features::NAMES.join(", ");
                let what =
                    format!("\"{name}\" is not a feature of the language; there are {known}");
                return Err(self.fail("query.enable_features", what));
            }
        }
        Ok(Query {
            features,
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
