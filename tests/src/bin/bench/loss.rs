//! Kills receivers right after their last acknowledgement, and counts what they still have of it.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tributary_tests::PATIENCE;
use tributary_tests::fleet_data::Plan;

use crate::feed::Feed;
use crate::meter::ready;
use crate::ours::Ours;
use crate::peers::{Kind, Peer};
use crate::report::{Report, System};
use crate::{measures, say};

/// Scrapes that a peer is sent before it is killed: about two seconds of work, and less than what it may hold back.
const PEER_STEPS: u64 = 60;
/// What ours is sent before each kill.
const STEPS: u64 = 5;
const SERIES: usize = 200;

/// Kills ours so many times.
pub async fn ours(plan: &Plan, kills: u64, report: &mut Report) -> anyhow::Result<()> {
    say(&format!("ours: killing {kills} times right after an acknowledgement"));
    let plan = Plan { clusters: 1, series: SERIES, steps: kills * STEPS, ..plan.clone() };
    let mut ours = Ours::start(&plan).await;
    let mut feed = Feed::new(&plan, false);
    let mut lost = 0.0;
    for round in 1..=kills {
        let urls = [ours.agents[0].write_url()];
        feed.send(&urls, STEPS, None).await?;
        acknowledged(&ours).await?;
        ours.collector.process.kill();
        // What the agent could send again does not count.
        ours.wire.cut();
        ours.collector.process.restart();
        ready(&ours.collector.url, &mut ours.collector.process).await?;
        let sent = Plan { steps: round * STEPS, ..plan.clone() };
        lost = sent.samples() as f64 - ours.stored(&sent).await?;
        ours.wire.mend();
    }
    let percent = 100.0 * lost / plan.samples() as f64;
    report.set(&measures::LOST, System::Ours, percent);
    report.set(&measures::KILLS, System::Ours, kills as f64);
    Ok(())
}

/// Waits for the last acknowledgement, as eagerly as the agent can be asked.
async fn acknowledged(ours: &Ours) -> anyhow::Result<()> {
    let start = Instant::now();
    while !ours.is_acknowledged().await {
        ensure!(start.elapsed() < PATIENCE, "the collector does not acknowledge");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Kills a peer once.
pub async fn peer(
    kind: Kind,
    folder: Option<&Path>,
    plan: &Plan,
    report: &mut Report,
) -> anyhow::Result<()> {
    say(&format!("{}: killing right after an answer", kind.system.name()));
    let mut peer = Peer::start(kind, folder).await?;
    let plan = Plan { steps: PEER_STEPS.min(plan.steps), ..plan.clone() };
    Feed::new(&plan, true).send(&[peer.write_url()], plan.steps, None).await?;
    peer.recover().await?;
    let lost = plan.samples() as f64 - peer.stored(&plan).await.context("counting samples")?;
    report.set(&measures::LOST, kind.system, 100.0 * lost / plan.samples() as f64);
    report.set(&measures::KILLS, kind.system, 1.0);
    Ok(())
}
