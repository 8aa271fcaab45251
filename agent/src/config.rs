//! The configuration: `agent.yml`, overridden by `TRIBUTARY_<PATH>` environment variables, read once, at the door.

mod raw;

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tributary_certs::tls;
use tributary_model::cluster::ClusterName;
use tributary_model::diagnostic::Diagnostic;
use tributary_model::selector::Selector;
use tributary_model::{duration, yaml};

use crate::source::http::Credentials;
use raw::{
    Raw, RawAuthorization, RawBasicAuth, RawFederate, RawJob, RawSend, RawSources, RawSpool, RawTls,
};

/// The longest time that samples wait for others.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The smallest spool: less cannot hold a few frames and drop whole segments.
const MIN_SPOOL_BYTES: u64 = 1 << 20;

/// Everything that `agent.yml` says, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The cluster the certificate must be for; the certificate's own if absent.
    pub(crate) cluster: Option<ClusterName>,
    /// The instance the certificate must be for; the certificate's own if absent.
    pub(crate) instance: Option<String>,
    /// Who dials.
    pub(crate) way: Way,
    /// The agent's certificate, its key, and the authority of collectors.
    pub(crate) tls: tls::Files,
    /// Whether the agent may renew its certificate and keep new bundles in those files.
    pub(crate) renew: bool,
    /// Where samples come from.
    pub(crate) sources: Sources,
    /// Address of the HTTP port: remote write, health, metrics.
    pub(crate) listen: SocketAddr,
    /// What may leave.
    pub(crate) allowlist_file: PathBuf,
    /// Where frames wait for the collector.
    pub(crate) spool: Spool,
    /// When frames are made.
    pub(crate) send: Send,
    /// How long a stop waits for the last acknowledgement.
    pub(crate) shutdown_grace: Duration,
}

/// `collector:` or `listen:`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// The agent dials the collector at `host:port`.
    Dial(String),
    /// The collector dials the agent at this address.
    Listen(SocketAddr),
}

impl Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dial(address) => write!(f, "collector {address}"),
            Self::Listen(address) => write!(f, "the collector dials {address}"),
        }
    }
}

/// `sources:`
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    /// Whether the HTTP port takes remote writes.
    pub(crate) remote_write: bool,
    /// Prometheus servers to poll.
    pub(crate) federate: Vec<Federate>,
    /// Targets to scrape.
    pub(crate) scrape: Vec<ScrapeJob>,
}

/// One entry of `sources.federate:`
#[derive(Debug, Clone)]
pub(crate) struct Federate {
    /// The server's address, without `/federate`.
    pub(crate) url: String,
    /// What to ask for: `match[]`; if there is none, what the allowlist lists.
    pub(crate) matchers: Vec<String>,
    /// How often.
    pub(crate) interval: Duration,
    /// How long one poll may take; at most the interval.
    pub(crate) timeout: Duration,
}

/// One entry of `sources.scrape:`, by the names of Prometheus' `scrape_configs`.
#[derive(Debug, Clone)]
pub(crate) struct ScrapeJob {
    /// The `job` label.
    pub(crate) job_name: String,
    /// How often.
    pub(crate) interval: Duration,
    /// How long one scrape may take; at most the interval.
    pub(crate) timeout: Duration,
    /// `http` or `https`.
    pub(crate) scheme: String,
    /// The path on the target.
    pub(crate) metrics_path: String,
    /// Query parameters.
    pub(crate) params: Vec<(String, String)>,
    /// Whether labels of the target win over ours; otherwise they are kept as `exported_<name>`.
    pub(crate) honor_labels: bool,
    /// Whether times in the exposition are taken.
    pub(crate) honor_timestamps: bool,
    /// Who asks, where targets want to know.
    pub(crate) credentials: Option<Credentials>,
    /// A scrape with more samples fails; 0: any number.
    pub(crate) sample_limit: usize,
    /// A scrape with more bytes fails.
    pub(crate) body_size_limit: Option<u64>,
    /// The targets.
    pub(crate) targets: Vec<Target>,
}

/// One target of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// `host:port`
    pub(crate) address: String,
    /// Labels of all its series, beside `job` and `instance`.
    pub(crate) labels: BTreeMap<String, String>,
}

/// `spool:`
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    /// The folder.
    pub(crate) path: PathBuf,
    /// The oldest data is dropped above this size.
    pub(crate) max_bytes: u64,
}

/// `send:`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Send {
    /// What arrives waits so long for more, to share a frame and a sync with it; sources wait for their answers.
    pub(crate) max_delay: Duration,
    /// Nothing waits once so many bytes do, 16 for each sample.
    pub(crate) max_bytes: u64,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error(
        "cannot read the configuration file\n  --> {path}\n   = help: give its path with --config.file ({source})"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file does not say what it should; has the place.
    #[error(transparent)]
    File(#[from] Box<Diagnostic>),
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
    /// Reads `path` and the environment. Relative paths in the file are relative to the file's folder.
    pub(crate) fn load(
        path: &Path,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file = path.display().to_string();
        let raw: Raw = yaml::parse(&text, &file)?;
        let raw = raw.overridden(environment)?;
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Door { file, folder }.config(raw)
    }
}

/// Turns what the file says into what the program uses, or says which key is wrong.
struct Door {
    file: String,
    folder: PathBuf,
}

impl Door {
    fn config(&self, raw: Raw) -> Result<Config, ConfigError> {
        let way = self.way(raw.collector.address, &raw.listen.grpc)?;
        let allowlist = raw.allowlist_file.ok_or_else(|| {
            self.fail("allowlist_file", "is missing: nothing leaves that it does not list")
        })?;
        let listen = self.listen(&raw.web.listen, &raw.sources)?;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let cluster = some(raw.cluster).map(|name| name.parse()).transpose();
        Ok(Config {
            cluster: cluster.map_err(|e| self.fail("cluster", e))?,
            instance: some(raw.instance),
            way,
            renew: raw.tls.renew,
            tls: self.tls(raw.tls)?,
            sources: self.sources(raw.sources)?,
            listen,
            allowlist_file: self.folder.join(allowlist),
            spool: self.spool(&raw.spool)?,
            send: self.send(&raw.send)?,
            shutdown_grace: self.duration("shutdown.grace", &raw.shutdown.grace)?,
        })
    }

    /// One of the two dials.
    fn way(&self, dial: String, listen: &str) -> Result<Way, ConfigError> {
        match (dial.is_empty(), listen.is_empty()) {
            (true, true) => Err(self.fail(
                "collector.address",
                "is missing: give the collector's HOST:PORT, or listen.grpc if the collector dials",
            )),
            (false, false) => Err(self.fail(
                "listen.grpc",
                "stands beside collector.address: only one of the two can dial",
            )),
            (false, true) => Ok(Way::Dial(self.host_port("collector.address", dial)?)),
            (true, false) => {
                let why = "is not an address: write IP:PORT, like 0.0.0.0:9393";
                let address = listen.parse();
                let fail = |_| self.fail("listen.grpc", format!("\"{listen}\" {why}"));
                Ok(Way::Listen(address.map_err(fail)?))
            }
        }
    }

    /// The HTTP port has one address: remote write's, unless `web.listen` says otherwise.
    fn listen(&self, web: &str, sources: &RawSources) -> Result<SocketAddr, ConfigError> {
        let (key, text) = match (web, &sources.remote_write) {
            ("", Some(remote_write)) => ("sources.remote_write.listen", &*remote_write.listen),
            ("", None) => ("web.listen", raw::DEFAULT_LISTEN),
            (web, _) => ("web.listen", web),
        };
        let why = "is not an address: write IP:PORT, like 127.0.0.1:9392";
        text.parse().map_err(|_| self.fail(key, format!("\"{text}\" {why}")))
    }

    fn tls(&self, raw: RawTls) -> Result<tls::Files, ConfigError> {
        let file = |key: &str, path: Option<PathBuf>| {
            match path {
            Some(path) => Ok(self.folder.join(path)),
            None => Err(self.fail(
                &format!("tls.{key}"),
                "is missing: make one with tributary-agent join, or tributary-certs issue CLUSTER --dir pki",
            )),
        }
        };
        Ok(tls::Files {
            cert_file: file("cert_file", raw.cert_file)?,
            key_file: file("key_file", raw.key_file)?,
            ca_file: file("ca_file", raw.ca_file)?,
        })
    }

    fn sources(&self, raw: RawSources) -> Result<Sources, ConfigError> {
        if raw.backfill.is_some() {
            return Err(self.fail("sources.backfill", "is not supported yet: remove it"));
        }
        if raw.remote_write.is_none() && raw.federate.is_empty() && raw.scrape.is_empty() {
            let why = "there is none: give remote_write, federate or scrape";
            return Err(self.fail("sources", why));
        }
        let mut sources =
            Sources { remote_write: raw.remote_write.is_some(), ..Sources::default() };
        for (at, entry) in raw.federate.into_iter().enumerate() {
            sources.federate.push(self.federate(&format!("sources.federate[{at}]"), entry)?);
        }
        for (at, job) in raw.scrape.into_iter().enumerate() {
            sources.scrape.push(self.job(&format!("sources.scrape[{at}]"), job)?);
        }
        Ok(sources)
    }

    fn federate(&self, key: &str, raw: RawFederate) -> Result<Federate, ConfigError> {
        if !raw.url.starts_with("http://") && !raw.url.starts_with("https://") {
            let why = format!("\"{}\" is not a URL: write http://HOST:PORT", raw.url);
            return Err(self.fail(&format!("{key}.url"), why));
        }
        for selector in &raw.matchers {
            selector
                .parse::<Selector>()
                .map_err(|e| self.fail(&format!("{key}.match"), format!("'{selector}': {e}")))?;
        }
        let (interval, timeout) = self.times(key, &raw.interval, raw.timeout.as_deref())?;
        let url = raw.url.trim_end_matches('/').trim_end_matches("/federate").to_owned();
        Ok(Federate { url, matchers: raw.matchers, interval, timeout })
    }

    fn job(&self, key: &str, raw: RawJob) -> Result<ScrapeJob, ConfigError> {
        if !matches!(raw.scheme.as_str(), "http" | "https") {
            return Err(self.fail(&format!("{key}.scheme"), "use http or https"));
        }
        if raw.job_name.is_empty() {
            return Err(self.fail(&format!("{key}.job_name"), "is empty"));
        }
        let (interval, timeout) =
            self.times(key, &raw.scrape_interval, raw.scrape_timeout.as_deref())?;
        let mut targets = Vec::new();
        for group in raw.static_configs {
            for address in group.targets {
                let key = format!("{key}.static_configs.targets");
                let address = self.host_port(&key, address)?;
                targets.push(Target { address, labels: group.labels.clone() });
            }
        }
        let credentials = self.credentials(key, raw.basic_auth, raw.authorization)?;
        let body_size_limit = match raw.body_size_limit.as_deref() {
            None => None,
            Some(text) => Some(byte_size(text).ok_or_else(|| {
                let why =
                    format!("\"{text}\" is not a size: write a number and a unit, like 10MiB");
                self.fail(&format!("{key}.body_size_limit"), why)
            })?),
        };
        let params = raw.params.into_iter();
        Ok(ScrapeJob {
            job_name: raw.job_name,
            interval,
            timeout,
            scheme: raw.scheme,
            metrics_path: raw.metrics_path,
            params: params
                .flat_map(|(name, values)| values.into_iter().map(move |v| (name.clone(), v)))
                .collect(),
            honor_labels: raw.honor_labels,
            honor_timestamps: raw.honor_timestamps,
            credentials,
            sample_limit: raw.sample_limit,
            body_size_limit,
            targets,
        })
    }

    fn credentials(
        &self,
        key: &str,
        basic: Option<RawBasicAuth>,
        header: Option<RawAuthorization>,
    ) -> Result<Option<Credentials>, ConfigError> {
        Ok(match (basic, header) {
            (None, None) => None,
            (Some(basic), None) => Some(Credentials::Basic {
                username: basic.username,
                password_file: basic.password_file.map(|path| self.folder.join(path)),
            }),
            (None, Some(header)) => Some(Credentials::Header {
                kind: header.kind,
                credentials_file: self.folder.join(header.credentials_file),
            }),
            (Some(_), Some(_)) => {
                return Err(self.fail(key, "has both basic_auth and authorization: keep one"));
            }
        })
    }

    /// Interval and time-out; without one the time-out is 10 s, or the interval if that is shorter.
    fn times(
        &self,
        key: &str,
        interval: &str,
        timeout: Option<&str>,
    ) -> Result<(Duration, Duration), ConfigError> {
        let interval = self.duration(&format!("{key} interval"), interval)?;
        if interval.is_zero() {
            return Err(self.fail(&format!("{key} interval"), "is zero"));
        }
        let timeout = match timeout {
            Some(text) => self.duration(&format!("{key} timeout"), text)?,
            None => Duration::from_secs(10).min(interval),
        };
        if timeout > interval || timeout.is_zero() {
            return Err(self.fail(&format!("{key} timeout"), "is zero, or over the interval"));
        }
        Ok((interval, timeout))
    }

    fn spool(&self, raw: &RawSpool) -> Result<Spool, ConfigError> {
        let max_bytes = self.size("spool.max_bytes", &raw.max_bytes)?;
        if max_bytes < MIN_SPOOL_BYTES {
            return Err(self.fail("spool.max_bytes", "must be at least 1MiB"));
        }
        Ok(Spool { path: self.folder.join(&raw.path), max_bytes })
    }

    fn send(&self, raw: &RawSend) -> Result<Send, ConfigError> {
        let max_delay = self.duration("send.max_delay", &raw.max_delay)?;
        if max_delay > MAX_DELAY {
            let why = "must be at most 5s: sources wait for their answers so long";
            return Err(self.fail("send.max_delay", why));
        }
        Ok(Send { max_delay, max_bytes: self.size("send.max_bytes", &raw.max_bytes)? })
    }

    fn size(&self, key: &str, text: &str) -> Result<u64, ConfigError> {
        byte_size(text).ok_or_else(|| {
            let why = "is not a size: write a number and a unit, like 512MiB or 1GiB";
            self.fail(key, format!("\"{text}\" {why}"))
        })
    }

    fn host_port(&self, key: &str, text: String) -> Result<String, ConfigError> {
        let good = text.rsplit_once(':').is_some_and(|(host, port)| {
            let plain = |c: char| !c.is_whitespace() && c != '/';
            !host.is_empty() && host.chars().all(plain) && port.parse::<u16>().is_ok()
        });
        if good {
            return Ok(text);
        }
        Err(self.fail(key, format!("\"{text}\" is not an address: write HOST:PORT")))
    }

    fn duration(&self, key: &str, text: &str) -> Result<Duration, ConfigError> {
        duration::parse(text).map_err(|e| self.fail(key, e))
    }

    fn fail(&self, key: &str, why: impl Display) -> ConfigError {
        ConfigError::Value { key: key.to_owned(), why: why.to_string(), file: self.file.clone() }
    }
}

/// `512MiB`, `1GiB`, `2GB`, `1048576`: powers of 1024 with an `i`, of 1000 without.
fn byte_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "collector: { address: tools.example.org:9391 }
tls: { cert_file: a, key_file: b, ca_file: /c }
sources: { remote_write: {} }
allowlist_file: allowlist.yml
";

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.yml");
        fs::write(&path, text).unwrap();
        Config::load(&path, environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let config = load(GOOD, &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:9392");
        assert!(config.sources.remote_write);
        assert_eq!(config.spool.max_bytes, 1 << 30);
        assert_eq!(config.send, Send { max_delay: Duration::ZERO, max_bytes: 1 << 20 });
        assert!(config.spool.path.ends_with("spool") && config.spool.path.is_absolute());
        assert_eq!(config.tls.ca_file, Path::new("/c"));
        assert_eq!(config.shutdown_grace, Duration::from_secs(30));
    }

    #[test]
    fn sources_are_read() {
        let text = GOOD.replace(
            "{ remote_write: {} }",
            "
  federate: [ { url: 'http://127.0.0.1:9090/', interval: 30s } ]
  scrape: [ { job_name: node, static_configs: [ { targets: [127.0.0.1:9100], labels: { a: b } } ] } ]",
        );
        let config = load(&text, &[]).unwrap();
        assert_eq!(config.sources.federate[0].url, "http://127.0.0.1:9090");
        assert_eq!(config.sources.federate[0].timeout, Duration::from_secs(10));
        assert_eq!(config.sources.scrape[0].targets[0].address, "127.0.0.1:9100");
        assert_eq!(config.sources.scrape[0].targets[0].labels["a"], "b");
        assert!(!config.sources.remote_write);
        assert_eq!(config.listen.port(), 9392);
    }

    #[test]
    fn environment_overrides_by_path() {
        let config = load(
            GOOD,
            &[
                ("TRIBUTARY_SPOOL_MAX_BYTES", "2MiB"),
                ("TRIBUTARY_CLUSTER", "eu-9"),
                ("TRIBUTARY_COLLECTOR_ADDRESS", "other:1"),
                ("TRIBUTARY_COLLECTOR_SERVICE_HOST", "10.0.0.1"),
                ("TRIBUTARY_COLLECTOR_PORT_9391_TCP", "tcp://10.0.0.1:9391"),
                ("OTHER", "x"),
            ],
        )
        .unwrap();
        assert_eq!(config.spool.max_bytes, 2 << 20);
        assert_eq!(config.cluster.unwrap().as_str(), "eu-9");
        assert_eq!(config.way, Way::Dial("other:1".into()));
        let error = load(GOOD, &[("TRIBUTARY_SPOOL_PTAH", "x")]).unwrap_err().to_string();
        assert!(error.contains("TRIBUTARY_SPOOL_PTAH") && error.contains("no such key"), "{error}");
    }

    #[test]
    fn faults_name_the_key_and_the_remedy() {
        for (from, to, expected) in [
            ("remote_write", "remotewrite", "did you mean \"remote_write\"?"),
            ("cert_file: a, ", "", "tls.cert_file: is missing"),
            ("allowlist_file: allowlist.yml", "", "allowlist_file: is missing"),
            ("tools.example.org:9391", "tools", "is not an address: write HOST:PORT"),
            ("remote_write: {}", "backfill: { prometheus: x }", "not supported yet"),
            ("remote_write: {}", "", "give remote_write, federate or scrape"),
            ("tls:", "cluster: EU\ntls:", "\"EU\" is not a valid name"),
            ("tls:", "spool: { max_bytes: lots }\ntls:", "is not a size"),
            ("tls:", "send: { max_bytes: lots }\ntls:", "send.max_bytes"),
            ("tls:", "send: { max_delay: 1m }\ntls:", "at most 5s"),
            ("tls:", "spool: { max_bytes: 1KiB }\ntls:", "at least 1MiB"),
            ("tls:", "listen: { grpc: 0.0.0.0:9393 }\ntls:", "only one of the two can dial"),
            ("collector: { address: tools.example.org:9391 }", "", "collector.address: is missing"),
            ("remote_write: {}", "federate: [ { url: x } ]", "is not a URL"),
            ("remote_write: {}", "federate: [ { url: 'http://x', match: ['{a=}'] } ]", "{a=}"),
        ] {
            assert!(GOOD.contains(from));
            let error = load(&GOOD.replacen(from, to, 1), &[]).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("agent.yml"), "{error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("1GiB", Some(1 << 30)), ("5 MB", Some(5_000_000)), ("7", Some(7)), ("1X", None)]
        {
            assert_eq!(byte_size(text), bytes, "{text}");
        }
        assert_eq!((byte_size(""), byte_size("99999999999TiB")), (None, None));
    }
}
