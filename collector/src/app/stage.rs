//! Parts that stop together, and the signals that make them.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Parts that stop together.
#[derive(Default)]
pub(super) struct Stage {
    stop: CancellationToken,
    parts: JoinSet<()>,
}

impl Stage {
    /// Starts a part, which ends when it is told to.
    pub(super) fn spawn<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        part: impl FnOnce(CancellationToken) -> F,
    ) {
        self.parts.spawn(part(self.stop.clone()));
    }

    /// Tells all parts to end, and waits until they have.
    pub(super) async fn stop(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.parts.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a part failed");
            }
        }
    }
}

/// The signals of the process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal means.
pub(super) enum Wish {
    Stop,
    Reload,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }

    /// The next one that means to stop.
    pub(super) async fn stop(&mut self) {
        while !matches!(self.next().await, Wish::Stop) {}
    }
}
