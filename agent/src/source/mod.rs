//! Sources: where samples enter the agent, and the one shape they enter in.

pub mod federate;
pub mod remote_write;
pub mod scrape;

use tokio::sync::{mpsc, oneshot};
use tributary_model::label::Labels;
use tributary_model::sample::Sample;
use tributary_model::series::Metadata;

/// Arrivals that may wait for the pipeline. Full: remote write answers 503, scrapes wait.
pub const QUEUE_ARRIVALS: usize = 64;

/// Where sources put what they received.
pub type Sender = mpsc::Sender<Arrival>;

/// What one request, scrape or poll brought.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Samples with the labels the source gave them, before the allowlist.
    pub samples: Vec<(Labels, Sample)>,
    /// Types, helps and units that came along.
    pub metadata: Vec<Metadata>,
    /// Told once everything listed in here is on the spool's disk, or why it never will be.
    pub done: Option<oneshot::Sender<Result<(), Refusal>>>,
}

/// Why the pipeline did not take an arrival. The sender still has the samples and may try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too much is waiting already.
    #[error("the agent is overloaded: {0}")]
    Overloaded(String),
    /// The spool cannot write any more.
    #[error("the agent's spool failed: {0}")]
    Spool(String),
    /// The agent is stopping.
    #[error("the agent is stopping")]
    Stopping,
}
