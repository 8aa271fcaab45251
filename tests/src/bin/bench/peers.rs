//! Prometheus and VictoriaMetrics: fed directly, without agents.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::http::Method;
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tributary_tests::fleet_data::Plan;
use tributary_tests::http;
use tributary_tests::process::Process;
use tributary_tests::world::free_port;

use crate::feed::Feed;
use crate::meter::{self, AT_REST, QUIET, Usage, ready};
use crate::queries::Asked;
use crate::report::{Report, System};
use crate::{measures, say};

/// How one of them is run and asked.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its column.
    pub system: System,
    /// Its program.
    program: &'static str,
    arguments: fn(data: &Path, port: u16) -> Vec<String>,
    /// Makes it put everything into its last form; the folder in which that is then.
    compact: &'static str,
    /// What it keeps in memory is on the disk some seconds later, and not before.
    is_late: bool,
}

/// Prometheus, as a receiver of remote write.
pub const PROMETHEUS: Kind = Kind {
    system: System::Prometheus,
    program: "prometheus",
    arguments: |data, port| {
        let data = data.display();
        vec![
            format!("--config.file={data}.yml"),
            format!("--storage.tsdb.path={data}"),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--web.enable-remote-write-receiver".to_owned(),
            "--web.enable-admin-api".to_owned(),
            "--storage.tsdb.retention.time=10y".to_owned(),
            "--log.level=warn".to_owned(),
        ]
    },
    // A snapshot has everything in blocks, the head too.
    compact: "/api/v1/admin/tsdb/snapshot",
    is_late: false,
};

/// VictoriaMetrics, a single node.
pub const VICTORIAMETRICS: Kind = Kind {
    system: System::Victoriametrics,
    program: "victoria-metrics",
    arguments: |data, port| {
        vec![
            format!("-storageDataPath={}", data.display()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            "-retentionPeriod=10y".to_owned(),
            // Queries at the newest sample's time mean that time.
            "-search.latencyOffset=0s".to_owned(),
            "-loggerLevel=WARN".to_owned(),
        ]
    },
    compact: "/internal/force_merge",
    is_late: true,
};

/// One that runs, with its data in a folder that vanishes.
#[derive(Debug)]
pub struct Peer {
    kind: Kind,
    /// The process.
    pub process: Process,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    folder: TempDir,
}

/// Measures ingest, disk and recovery; returns it with all of the fleet inside.
pub async fn measure(
    kind: Kind,
    folder: Option<&Path>,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<Peer> {
    let name = kind.system.name();
    say(&format!("{name}: starting"));
    let mut peer = Peer::start(kind, folder).await?;
    say(&format!("{name}: ingesting"));
    peer.ingest(plan, report).await?;
    peer.count(plan, report).await?;
    say(&format!("{name}: looking at the disk"));
    peer.disk(plan, report).await?;
    say(&format!("{name}: killing and starting again"));
    let ms = peer.recover().await?.as_secs_f64() * 1e3;
    report.set(&measures::READY, kind.system, ms);
    Ok(peer)
}

impl Peer {
    /// Starts one, and waits until it is ready.
    pub async fn start(kind: Kind, programs: Option<&Path>) -> anyhow::Result<Self> {
        let program = find(kind.program, programs)
            .with_context(|| format!("{} is neither in --peers nor in PATH", kind.program))?;
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("data.yml"), "{}\n")?;
        let port = free_port();
        let arguments = (kind.arguments)(&folder.path().join("data"), port);
        let process = Process::start(program, arguments, folder.path().join("log"));
        let url = format!("http://127.0.0.1:{port}");
        let mut peer = Self { kind, process, url, folder };
        ready(&peer.url, &mut peer.process).await?;
        Ok(peer)
    }

    /// To be asked.
    pub fn asked(&self) -> Asked<'_> {
        Asked { system: self.kind.system, url: &self.url, process: self.process.id() }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Where it is written to.
    pub fn write_url(&self) -> String {
        format!("{}/api/v1/write", self.url)
    }

    async fn ingest(&mut self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let before = Usage::of(self.process.id())?;
        let mut feed = Feed::new(plan, true);
        let fed = feed.send(&[self.write_url()], plan.steps, None).await?;
        let answered = Usage::of(self.process.id())?.since(before);
        let disk = meter::settled(&self.data(), QUIET, AT_REST).await;
        let used = Usage::of(self.process.id())?.since(before);
        // What counts is the work until everything is on the disk.
        let durable = if self.kind.is_late { used } else { answered };
        let samples = fed.samples as f64;
        let mut set = |measure, value| report.set(measure, self.kind.system, value);
        set(&measures::BODIES, fed.bytes as f64 / samples);
        set(&measures::SERVER_SPEED, samples / durable.cpu.as_secs_f64());
        set(&measures::SPEED, samples / fed.took.as_secs_f64());
        set(&measures::SERVER_WRITTEN, used.written as f64 / samples);
        set(&measures::SERVER_MEMORY, used.peak_bytes as f64 / 1e6);
        set(&measures::INGESTED, disk as f64 / samples);
        Ok(())
    }

    async fn disk(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let data = self.data();
        let samples = plan.samples() as f64;
        let answer = self.post(self.kind.compact).await?;
        let compacted = match answer["data"]["name"].as_str() {
            Some(name) => data.join("snapshots").join(name),
            None => data.clone(),
        };
        let bytes = meter::settled(&compacted, QUIET, AT_REST).await as f64;
        report.set(&measures::COMPACTED, self.kind.system, bytes / samples);
        if compacted != data {
            std::fs::remove_dir_all(compacted)?;
        }
        Ok(())
    }

    /// Kills it, and says how long it takes to be ready again.
    pub async fn recover(&mut self) -> anyhow::Result<Duration> {
        self.process.kill();
        self.process.restart();
        ready(&self.url, &mut self.process).await
    }

    async fn count(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let part = self.stored(plan).await? / plan.samples() as f64;
        report.set(&measures::STORED, self.kind.system, part);
        Ok(())
    }

    /// How many samples of the plan it has.
    pub async fn stored(&self, plan: &Plan) -> anyhow::Result<f64> {
        stored(&self.url, plan).await
    }

    /// A value of its own metrics; zero if it is not there yet.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let answer = http::get(&format!("{}/metrics", self.url)).await?;
        let text = answer.text();
        let mut found = text.lines().filter_map(|line| line.strip_prefix(name));
        Ok(found.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0.0))
    }

    async fn post(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.url);
        let answer = http::send(Method::POST, &url, &[], Bytes::new()).await?;
        if !answer.status.is_success() {
            bail!("{url}: {} {}", answer.status, answer.text());
        }
        Ok(answer.json())
    }
}

/// How many samples of the plan somebody has.
pub async fn stored(url: &str, plan: &Plan) -> anyhow::Result<f64> {
    let names: Vec<String> = (0..plan.clusters).map(|number| plan.cluster(number)).collect();
    let minutes = (plan.end_ms() - plan.start_ms) / 60_000 + 1;
    let selector = format!("{{cluster=~\"{}\"}}", names.join("|"));
    let expression = format!("sum(count_over_time({selector}[{minutes}m]))");
    let time = (plan.end_ms() / 1000).to_string();
    let fields = [("query", &*expression), ("time", &*time), ("nocache", "1")];
    let answer = http::post_form(&format!("{url}/api/v1/query"), &fields).await?;
    let json = answer.json();
    ensure!(json["status"] == "success", "{expression}: {}", answer.text());
    let count = json["data"]["result"][0]["value"][1].as_str().unwrap_or("0");
    Ok(count.parse()?)
}

/// A program in a folder, or in one of PATH.
pub fn find(program: &str, folder: Option<&Path>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = folder.map(Path::to_owned).into_iter().chain(std::env::split_paths(&path));
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}
