//! Opens the store at the start, and keeps it in order while the collector runs.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tributary_store::{OpenReport, Store};

use crate::config::Config;
use crate::ingest::replay::Replayer;

/// How often the store moves old samples from memory to blocks and drops what is too old.
const MAINTENANCE: Duration = Duration::from_secs(5);
/// Opens the store off the async threads: the journal may be long.
pub(super) async fn open(config: &Config) -> anyhow::Result<Opened> {
    let options = config.storage.options();
    let opened = tokio::task::spawn_blocking(move || {
        let mut replayers = Replayer::several();
        let (store, report) = Store::open(options, &mut replayers)?;
        Ok::<_, tributary_store::Error>((store, Replayer::joined(replayers), report))
    });
    let (store, replayer, report) = opened.await??;
    tell(&report);
    Ok(Opened { store, replayer })
}

/// Says what the store found when it was opened; whatever is damaged or lost is said loudly.
fn tell(report: &OpenReport) {
    tracing::info!(records = report.records, samples = report.samples, took = ?report.took, "the store is open");
    if let Some((folder, why)) = &report.set_aside {
        tracing::error!(folder = %folder.display(), why, "the key-value store was damaged and set aside; its catalogue was made anew from the blocks and the journal");
    }
    if report.adopted_blocks > 0 {
        let blocks = report.adopted_blocks;
        tracing::warn!(
            blocks,
            "the key-value store did not know of some blocks; they were taken in"
        );
    }
    if report.migrated_blocks > 0 {
        let blocks = report.migrated_blocks;
        tracing::info!(blocks, "a store of an earlier version was written anew");
    }
    if let Some(cut) = &report.journal.cut {
        tracing::warn!(?cut, "the end of the journal was torn and cut: it was never acknowledged");
    }
    for damage in &report.journal.damaged {
        tracing::error!(?damage, "the journal is damaged; the rest of it is kept");
    }
    for damage in &report.damaged {
        tracing::error!(damage, "the store is damaged; the rest of it is kept");
    }
    if report.lost_records > 0 {
        tracing::error!(
            records = report.lost_records,
            samples = report.lost_samples,
            why = report.lost_why.as_deref().unwrap_or_default(),
            "journal records could not be read back"
        );
    }
}

/// The store, and what its journal said of the streams.
pub(super) struct Opened {
    pub(super) store: Store,
    pub(super) replayer: Replayer,
}

/// Moves what is old from memory to disk, and drops what is too old, until `stop`.
pub(super) async fn maintain(store: Store, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(MAINTENANCE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let store = store.clone();
        match tokio::task::spawn_blocking(move || store.maintain(SystemTime::now().into())).await {
            Ok(Ok(report)) => {
                if report.flushed_blocks + report.compacted_blocks + report.dropped_blocks > 0 {
                    tracing::info!(?report, "the store was maintained");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "maintaining the store failed"),
            Err(error) => tracing::error!(%error, "maintaining the store failed"),
        }
    }
}
