//! A frame on its way to the store, and the answer on its way back.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;
use tributary_model::sample::Timestamp;
use tributary_proto::frame::{FrameError, Header};
use tributary_store::{Accepted, Reason, StreamKey};

use crate::ingest::Shared;
use crate::ingest::metrics::{IngestMetrics, because, of};
use crate::ingest::registry::{Durable, Registry};
use crate::ingest::stream::{Admitted, Conditions, StreamReader};

/// How far the frames of this connection have come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// Frames that the store has answered for.
    pub(super) answered: u64,
    /// The last frame on disk.
    pub(super) durable_seq: u64,
    /// What the store said when it failed. Nothing is acknowledged after that.
    pub(super) failed: Option<String>,
}

/// A frame on its way to the store.
pub(super) struct Arrival {
    pub(super) shared: Arc<Shared>,
    pub(super) key: StreamKey,
    pub(super) header: Header,
    pub(super) received_at: Timestamp,
    pub(super) for_state: bool,
    pub(super) progress: watch::Sender<Progress>,
}

impl Arrival {
    /// Decodes, decides, and gives the store what is left; blocks while the store has enough to do.
    pub(super) fn hand_over(
        self,
        data: &[u8],
        reader: &mut StreamReader,
    ) -> Result<(), FrameError> {
        let shared = &self.shared;
        let conditions = Conditions {
            store: &shared.store,
            cluster_label: &shared.config.cluster_label,
            policy: shared.policies.load().of(&self.key.cluster),
        };
        let admitted = reader.accept(data, &conditions, self.received_at, self.for_state)?;
        self.count(&admitted);
        let answer = Answer {
            metrics: shared.metrics.clone(),
            registry: shared.registry.clone(),
            key: self.key,
            frame: Durable {
                seq: self.header.seq,
                newest: (self.header.samples > 0 && !self.for_state).then_some(self.header.max_at),
                complete_until: self.header.complete_until,
                received_at: self.received_at,
            },
            progress: self.progress,
        };
        let done = Box::new(move |result| answer.take(result));
        shared.store.append(admitted.payload, admitted.batch, done);
        Ok(())
    }

    fn count(&self, admitted: &Admitted) {
        let metrics = &self.shared.metrics;
        let cluster = &self.key.cluster;
        for (reason, count) in &admitted.dropped {
            let label = because(cluster, reason.as_str());
            metrics.samples_rejected.get_or_create(&label).inc_by(u64::from(*count));
        }
        for (reason, count) in &admitted.refused {
            let label = because(cluster, reason.as_str());
            metrics.series_refused.get_or_create(&label).inc_by(*count);
        }
        if self.for_state {
            metrics.frames_for_state.get_or_create(&of(cluster)).inc();
        }
        self.shared.registry.dropped(&self.key, &admitted.dropped);
    }
}

/// Waits for the store's answer, on the thread of its writer. It must not hold the store: a writer cannot wait for
/// its own end.
struct Answer {
    metrics: IngestMetrics,
    registry: Registry,
    key: StreamKey,
    frame: Durable,
    progress: watch::Sender<Progress>,
}

impl Answer {
    fn take(self, result: Result<Accepted, tributary_store::Error>) {
        if let Ok(accepted) = &result {
            self.count(accepted);
        }
        self.progress.send_modify(|progress| {
            progress.answered += 1;
            match result {
                Ok(_) if progress.failed.is_none() => {
                    progress.durable_seq = progress.durable_seq.max(self.frame.seq);
                }
                Ok(_) => {}
                Err(error) => progress.failed = Some(error.to_string()),
            }
        });
    }

    fn count(&self, accepted: &Accepted) {
        let (metrics, cluster) = (&self.metrics, &self.key.cluster);
        metrics.frames.get_or_create(&of(cluster)).inc();
        metrics.samples.get_or_create(&of(cluster)).inc_by(u64::from(accepted.stored));
        for reason in Reason::ALL.into_iter().filter(|reason| accepted.of(*reason) > 0) {
            let label = because(cluster, reason.as_str());
            let count = u64::from(accepted.of(reason));
            metrics.samples_rejected.get_or_create(&label).inc_by(count);
        }
        self.registry.durable(&self.key, self.frame, accepted, Instant::now());
    }
}
