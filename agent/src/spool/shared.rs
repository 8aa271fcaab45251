//! One spool for the pipeline that fills it and the session that empties it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Companion, FrameReader, Options, Recovered, Spool, SpoolError, Status};
use crate::metrics::SpoolMetrics;

/// Everything here blocks on the disk: call it where blocking is allowed.
#[derive(Debug)]
pub(crate) struct SharedSpool {
    options: Options,
    /// Empty while a broken spool waits to be opened again.
    spool: Mutex<Option<Spool>>,
    status: watch::Sender<Seen>,
    metrics: SpoolMetrics,
}

/// What followers of the spool see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// How full it is.
    pub(crate) status: Status,
    /// Rises when the spool was opened again: readers of before see nothing new.
    pub(crate) generation: u64,
}

impl SharedSpool {
    /// Opens the spool. [`SharedSpool::with`] must run [`Spool::begin`] next.
    pub(crate) fn open(
        options: Options,
        metrics: SpoolMetrics,
    ) -> Result<(Arc<Self>, Recovered), SpoolError> {
        let (spool, recovered) = Spool::open(&options)?;
        let shared = Self {
            options,
            spool: Mutex::new(Some(spool)),
            status: watch::Sender::default(),
            metrics,
        };
        Ok((Arc::new(shared), recovered))
    }

    /// Follows the spool.
    pub(crate) fn watch(&self) -> watch::Receiver<Seen> {
        self.status.subscribe()
    }

    /// How full it is.
    pub(crate) fn status(&self) -> Status {
        self.status.borrow().status
    }

    /// Uses the spool. After an error it is closed; [`SharedSpool::reopen`] follows some time.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Spool) -> Result<T, SpoolError>,
    ) -> Result<T, SpoolError> {
        let mut place = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(spool) = place.as_mut() else { return Err(SpoolError::Closed) };
        match work(spool) {
            Ok(done) => {
                self.publish(spool, 0);
                Ok(done)
            }
            Err(error) => {
                *place = None;
                Err(error)
            }
        }
    }

    /// Opens a broken spool again. What the companion knows is newer than what the disk has.
    pub(crate) fn reopen(&self, companion: &mut dyn Companion) -> Result<(), SpoolError> {
        let mut place = self.spool.lock().unwrap_or_else(PoisonError::into_inner);
        // The lock file must be free before the folder is opened again.
        *place = None;
        let (mut spool, recovered) = Spool::open(&self.options)?;
        companion.restore(&recovered.snapshot.unwrap_or_default(), &recovered.changes);
        spool.begin(companion, &[])?;
        self.metrics.reopened.inc();
        self.publish(&spool, 1);
        *place = Some(spool);
        Ok(())
    }

    /// A reader of the frames behind `after`.
    pub(crate) fn reader(
        &self,
        after: u64,
        from_segment_start: bool,
    ) -> Result<FrameReader, SpoolError> {
        self.with(|spool| spool.reader(after, from_segment_start))
    }

    fn publish(&self, spool: &Spool, generations: u64) {
        let status = spool.status();
        self.metrics.show(&status);
        self.status.send_if_modified(|seen| {
            let before = *seen;
            *seen = Seen { status, generation: seen.generation.saturating_add(generations) };
            *seen != before
        });
    }
}
