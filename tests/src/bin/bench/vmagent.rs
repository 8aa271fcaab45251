//! vmagent, which takes remote write and passes it on to a VictoriaMetrics through a wire that counts.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tempfile::TempDir;
use tributary_tests::PATIENCE;
use tributary_tests::fleet_data::Plan;
use tributary_tests::link::Link;
use tributary_tests::process::Process;
use tributary_tests::world::free_port;

use crate::feed::{Fed, Feed};
use crate::meter::{Usage, ready};
use crate::peers::{Peer, VICTORIAMETRICS, find};
use crate::report::{Report, System};
use crate::{measures, say};

/// It sends what it has in this interval. The default is a second; this is the same, sooner: one block for each scrape.
const FLUSH: Duration = Duration::from_millis(200);
const PACE: Duration = Duration::from_millis(500);
const PACED_STEPS: u64 = 20;
/// Scrapes of all clusters that it is sent as fast as it takes them.
const STEPS: u64 = 120;

/// Measures wire and CPU.
pub async fn measure(
    folder: Option<&Path>,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    say("vmagent: one scrape after the other");
    let agent = Vmagent::start(folder).await?;
    let one = Plan { clusters: 1, steps: PACED_STEPS.min(plan.steps), ..plan.clone() };
    let before = agent.wire.carried_bytes();
    let fed = agent.send(&one, Some(PACE)).await?;
    let bytes = (agent.wire.carried_bytes() - before) as f64 / fed.samples as f64;
    report.set(&measures::WIRE, System::Vmagent, bytes);

    say("vmagent: as fast as it takes it");
    let before = Usage::of(agent.process.id())?;
    let many = Plan { steps: STEPS.min(plan.steps), ..plan.clone() };
    let fed = agent.send(&many, None).await?;
    let used = Usage::of(agent.process.id())?.since(before);
    let samples = fed.samples as f64;
    let mut set = |measure, value| report.set(measure, System::Vmagent, value);
    set(&measures::AGENT_SPEED, samples / used.cpu.as_secs_f64());
    set(&measures::AGENT_MEMORY, used.peak_bytes as f64 / 1e6);
    Ok(())
}

struct Vmagent {
    process: Process,
    url: String,
    wire: Link,
    behind: Peer,
    _folder: TempDir,
}

impl Vmagent {
    async fn start(programs: Option<&Path>) -> anyhow::Result<Self> {
        let behind = Peer::start(VICTORIAMETRICS, programs).await?;
        let address = behind.url.trim_start_matches("http://");
        let wire = Link::to(address.parse::<SocketAddr>()?).await;
        let program = find("vmagent", programs).context("no vmagent in --peers or PATH")?;
        let folder = tempfile::tempdir()?;
        let port = free_port();
        let arguments = vec![
            format!("-remoteWrite.url=http://{}/api/v1/write", wire.address()),
            format!("-remoteWrite.tmpDataPath={}", folder.path().join("queue").display()),
            format!("-remoteWrite.flushInterval={}ms", FLUSH.as_millis()),
            format!("-httpListenAddr=127.0.0.1:{port}"),
            "-loggerLevel=WARN".to_owned(),
        ];
        let process = Process::start(program, arguments, folder.path().join("log"));
        let url = format!("http://127.0.0.1:{port}");
        let mut agent = Self { process, url, wire, behind, _folder: folder };
        ready(&agent.url, &mut agent.process).await?;
        Ok(agent)
    }

    /// Sends scrapes, and waits until the other side has all of them.
    async fn send(&self, plan: &Plan, pace: Option<Duration>) -> anyhow::Result<Fed> {
        let before = self.passed_on().await?;
        let urls = [format!("{}/api/v1/write", self.url)];
        let fed = Feed::new(plan, true).send(&urls, plan.steps, pace).await?;
        let start = Instant::now();
        while self.passed_on().await? - before < fed.samples as f64 {
            ensure!(start.elapsed() < PATIENCE, "vmagent does not pass everything on");
            tokio::time::sleep(FLUSH).await;
        }
        Ok(fed)
    }

    /// How many samples the other side has taken.
    async fn passed_on(&self) -> anyhow::Result<f64> {
        self.behind.metric("vm_rows_inserted_total{type=\"promremotewrite\"}").await
    }
}
