//! The world of one story: a PKI, a collector, agents, all real processes in one folder.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

use crate::http;
use crate::process::Process;
use crate::{eventually, now_ms};

/// An allowlist that lets everything through.
pub const EVERYTHING: &str = "rules: [ { match: '{__name__=~\".+\"}' } ]\n";

/// A folder with a PKI, in which the binaries run.
#[derive(Debug)]
pub struct World {
    folder: TempDir,
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    /// The process.
    pub process: Process,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    /// The gRPC port.
    pub ingest: SocketAddr,
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its cluster.
    pub cluster: String,
    /// The process.
    pub process: Process,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

/// Series of an answer: labels (without braces, as `name{a="b"}`-like map) to samples (milliseconds, value text).
pub type Matrix = BTreeMap<BTreeMap<String, String>, Vec<(i64, String)>>;

impl World {
    /// A new world with a certificate authority and the collector's certificate.
    pub fn new() -> Self {
        let world = Self { folder: tempfile::tempdir().unwrap() };
        let pki = world.path("pki");
        world.certs(&[
            "init",
            "--dir",
            &pki.display().to_string(),
            "--host",
            "localhost",
            "--host",
            "127.0.0.1",
        ]);
        world
    }

    /// A path in the world's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the world, with the folders above it.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs `tributary-certs` in the world's folder, and expects success.
    pub fn certs(&self, arguments: &[&str]) -> String {
        self.succeed("tributary-certs", arguments)
    }

    /// Runs a binary in the world's folder to its end, and expects success.
    pub fn succeed(&self, name: &str, arguments: &[&str]) -> String {
        let output = run(name, arguments, self.folder.path());
        assert!(output.status.success(), "{name} {arguments:?}: {}", text(&output));
        text(&output)
    }

    /// Issues a certificate for a cluster's agent, if there is none yet.
    pub fn issue(&self, cluster: &str) {
        if !self.path("pki").join(cluster).join("tls.crt").exists() {
            let pki = self.path("pki").display().to_string();
            self.certs(&["issue", cluster, "--dir", &pki, "--instance", "agent"]);
        }
    }

    /// Copies a cluster's certificate to where its agent runs, if there is none yet.
    pub fn hand_over(&self, cluster: &str) {
        let own = self.path(cluster).join("tls");
        if own.exists() {
            return;
        }
        self.issue(cluster);
        fs::create_dir_all(&own).unwrap();
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            fs::copy(self.path("pki").join(cluster).join(name), own.join(name)).unwrap();
        }
    }

    /// Writes a collector's configuration and starts it. `extra` is more YAML of its top level; `WEB` in it is the HTTP port.
    pub async fn collector(&self, extra: &str) -> Collector {
        self.collector_with_web("", extra).await
    }

    /// The same with more keys of `web:`.
    pub async fn collector_with_web(&self, keys: &str, extra: &str) -> Collector {
        let (web, ingest) = (free_port(), free_port());
        let config = format!(
            "storage: {{ path: data }}\nweb: {{ listen: 127.0.0.1:{web}, {keys} }}\n\
             ingest: {{ listen: 127.0.0.1:{ingest}, tls: {} }}\n{}",
            tls("pki/collector"),
            extra.replace("WEB", &web.to_string())
        );
        let config = self.write("collector.yml", &config);
        let arguments = vec!["run".to_owned(), format!("--config.file={}", config.display())];
        let process =
            Process::start(binary("tributary-collector"), arguments, self.path("collector.log"));
        let collector = Collector {
            process,
            url: format!("http://127.0.0.1:{web}"),
            ingest: SocketAddr::from(([127, 0, 0, 1], ingest)),
        };
        collector.ready().await;
        collector
    }

    /// Writes an agent's configuration and starts it. `extra` is more YAML of its top level; `PORT` in it is the HTTP port.
    pub async fn agent(
        &self,
        cluster: &str,
        collector: SocketAddr,
        allowlist: &str,
        extra: &str,
    ) -> Agent {
        self.hand_over(cluster);
        let (config, url) = self.agent_config(cluster, collector, allowlist, extra);
        let arguments = vec!["run".to_owned(), format!("--config.file={}", config.display())];
        let log = self.path(&format!("{cluster}.log"));
        let process = Process::start(binary("tributary-agent"), arguments, log);
        let agent = Agent { cluster: cluster.to_owned(), process, url };
        agent.ready().await;
        agent
    }

    /// An agent that lets everything through, and whose clock is `shift` (`+1h`, `-115s`) off; it may never be ready.
    pub fn agent_with_clock(&self, cluster: &str, collector: SocketAddr, shift: &str) -> Agent {
        self.hand_over(cluster);
        let (config, url) = self.agent_config(cluster, collector, EVERYTHING, "");
        let agent = binary("tributary-agent").display().to_string();
        let config = format!("--config.file={}", config.display());
        let arguments = ["-f", shift, &agent, "run", &config].map(str::to_owned).to_vec();
        let log = self.path(&format!("{cluster}.log"));
        let process = Process::start("faketime".into(), arguments, log);
        Agent { cluster: cluster.to_owned(), process, url }
    }

    /// Writes an agent's configuration; returns its path and the agent's address.
    fn agent_config(
        &self,
        cluster: &str,
        collector: SocketAddr,
        allowlist: &str,
        extra: &str,
    ) -> (PathBuf, String) {
        let port = free_port();
        self.write(&format!("{cluster}/allowlist.yml"), allowlist);
        let sources = if extra.contains("sources:") {
            String::new()
        } else {
            format!("sources: {{ remote_write: {{ listen: 127.0.0.1:{port} }} }}\n")
        };
        // An agent that listens is dialled by the collector.
        let dials = format!("collector: {{ address: '{collector}' }}\n");
        let link = if extra.contains("listen: { grpc") { "" } else { dials.as_str() };
        let spool = if extra.contains("spool:") { "" } else { "spool: { path: spool }\n" };
        let config = format!(
            "cluster: {cluster}\ninstance: agent\n{link}\
             tls: {}\nallowlist_file: allowlist.yml\n{spool}{sources}{}",
            tls("tls"),
            extra.replace("PORT", &port.to_string()),
        );
        (self.write(&format!("{cluster}/agent.yml"), &config), format!("http://127.0.0.1:{port}"))
    }
}

/// A story that fails leaves its folder, logs included, and says where.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            println!("the story's folder is kept: {}", self.folder.path().display());
        }
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector {
    /// Waits until it is ready.
    pub async fn ready(&self) {
        ready(&self.url, &self.process).await;
    }

    /// An instant query; `None` while it cannot be answered.
    pub async fn query(&self, expression: &str) -> Option<Value> {
        let url = format!("{}/api/v1/query", self.url);
        let answer = http::post_form(&url, &[("query", expression)]).await.ok()?;
        let json = answer.json();
        (json["status"] == "success").then(|| json["data"]["result"].clone())
    }

    /// Every stored sample of a selector in the last `minutes`, raw.
    pub async fn samples(&self, selector: &str, minutes: u32) -> Option<Matrix> {
        let result = self.query(&format!("{selector}[{minutes}m]")).await?;
        let mut matrix = Matrix::new();
        for series in result.as_array()? {
            let labels = series["metric"].as_object()?;
            let labels = labels
                .iter()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or("").to_owned()))
                .collect();
            let values = series["values"].as_array()?;
            matrix.insert(labels, values.iter().filter_map(sample).collect());
        }
        Some(matrix)
    }

    /// Waits until an expression has exactly one value, and that is it.
    pub async fn value(&self, expression: &str, expected: &str) {
        let what = format!("{expression} is {expected}");
        eventually(&what, async || {
            let result = self.query(expression).await?;
            let only =
                result.as_array().filter(|list| list.len() == 1)?.first()?["value"][1].clone();
            (only == expected).then_some(())
        })
        .await;
    }

    /// A value of its own metrics, summed over the series that contain every given text.
    pub async fn metric(&self, name: &str, with: &[&str]) -> f64 {
        metric(&self.url, name, with).await
    }

    /// Waits until its own metrics count at least so much.
    pub async fn counts(&self, name: &str, with: &[&str], at_least: f64) {
        eventually(&format!("{name} {with:?} is {at_least} or more"), async || {
            (self.metric(name, with).await >= at_least).then_some(())
        })
        .await;
    }

    /// What it tells about a cluster's only agent; null if there is none.
    pub async fn agent(&self, cluster: &str) -> Value {
        let url = format!("{}/api/v1/tributary/clusters", self.url);
        let Ok(answer) = http::get(&url).await else { return Value::Null };
        let clusters = answer.json();
        let mut clusters = clusters["data"].as_array().into_iter().flatten();
        let found = clusters.find(|found| found["cluster"] == cluster);
        found.map_or(Value::Null, |found| found["agents"][0].clone())
    }

    /// Waits until a cluster's only agent is connected, or is not any more.
    pub async fn connected(&self, cluster: &str, connected: bool) {
        eventually(&format!("{cluster} connected: {connected}"), async || {
            (self.agent(cluster).await["connected"] == connected).then_some(())
        })
        .await;
    }

    /// Waits until an alert fires; returns it.
    pub async fn fires(&self, alert: &str) -> Value {
        let url = format!("{}/api/v1/alerts", self.url);
        eventually(&format!("{alert} fires"), async || {
            let answer = http::get(&url).await.ok()?.json();
            let mut alerts = answer["data"]["alerts"].as_array()?.iter();
            let is_it = |a: &&Value| a["labels"]["alertname"] == alert && a["state"] == "firing";
            alerts.find(is_it).cloned()
        })
        .await
    }
}

impl Agent {
    /// Waits until it is ready.
    pub async fn ready(&self) {
        ready(&self.url, &self.process).await;
    }

    /// Where a Prometheus would write to.
    pub fn write_url(&self) -> String {
        format!("{}/api/v1/write", self.url)
    }

    /// A value of its own metrics, summed over the series that contain every given text.
    pub async fn metric(&self, name: &str, with: &[&str]) -> f64 {
        metric(&self.url, name, with).await
    }
}

/// `[1795.5, "1"]` as milliseconds and text.
fn sample(pair: &Value) -> Option<(i64, String)> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the API gives milliseconds with three decimals"
    )]
    let millis = (pair[0].as_f64()? * 1000.0).round() as i64;
    Some((millis, pair[1].as_str()?.to_owned()))
}

/// Milliseconds, rounded to a whole number of `step` milliseconds, `ago` milliseconds before now.
pub fn aligned(step: i64, ago: i64) -> i64 {
    (now_ms() - ago) / step * step
}

/// Puts a version of a Secret in place as the kubelet does: a folder of its own, and one rename of `..data`.
pub fn mount(secret: &Path, volume: &Path, version: &str) {
    let folder = volume.join(format!("..{version}"));
    fs::create_dir_all(&folder).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        fs::copy(secret.join(name), folder.join(name)).unwrap();
        let link = volume.join(name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(name), link).unwrap();
        }
    }
    symlink(format!("..{version}"), volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

/// Where the binaries are, if somebody said so.
static BINARIES: OnceLock<PathBuf> = OnceLock::new();

/// Says where the binaries are, once and before any is started.
pub fn use_binaries(folder: PathBuf) {
    BINARIES.set(folder).unwrap();
}

/// The binary of this build.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = BINARIES.get() {
        return folder.join(name);
    }
    if let Some(folder) = std::env::var_os("STORIES_BIN_DIR") {
        return Path::new(&folder).join(name);
    }
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().join(name)
}

/// Runs a binary of this build to its end.
pub fn run(name: &str, arguments: &[&str], folder: &Path) -> Output {
    let mut command = Command::new(binary(name));
    command.args(arguments).current_dir(folder);
    command
        .output()
        .unwrap_or_else(|e| panic!("starting {name}: {e} (cargo build --workspace --bins)"))
}

/// Both outputs of a finished command.
pub fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn tls(folder: &str) -> String {
    format!(
        "{{ cert_file: {folder}/tls.crt, key_file: {folder}/tls.key, ca_file: {folder}/ca.crt }}"
    )
}

async fn ready(url: &str, process: &Process) {
    let what = format!("{url} is ready; its log:\n{}", process.log());
    eventually(&what, async || {
        let answer = http::get(&format!("{url}/-/ready")).await.ok()?;
        answer.status.is_success().then_some(())
    })
    .await;
}

async fn metric(url: &str, name: &str, with: &[&str]) -> f64 {
    let Ok(answer) = http::get(&format!("{url}/metrics")).await else { return f64::NAN };
    let text = answer.text();
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|r| r.starts_with(['{', ' '])) && with.iter().all(|w| line.contains(w))
    });
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
