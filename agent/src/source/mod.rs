//! Sources: where samples enter the agent, and the one shape they enter in.

mod decode;
mod decode_v2;
pub(crate) mod federate;
pub(crate) mod http;
mod intern;
mod metrics;
pub(crate) mod remote_write;
pub(crate) mod scrape;
mod track;

use tokio::sync::{mpsc, oneshot};
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::Sample;
use tributary_model::series::Metadata;
use tributary_proto::frame::Gap;

pub(crate) use metrics::SourceMetrics;

/// Arrivals that may wait for the pipeline. Full: remote write answers 503, scrapes wait.
pub(crate) const QUEUE_ARRIVALS: usize = 64;

/// Where sources put what they received.
pub(crate) type Sender = mpsc::Sender<Arrival>;

/// What one request, scrape or poll brought.
#[derive(Debug, Default)]
pub(crate) struct Arrival {
    /// Samples with the labels the source gave them, before the allowlist.
    pub(crate) samples: Vec<(Labels, Sample)>,
    /// Native histograms in the same way.
    pub(crate) histograms: Vec<(Labels, HistogramSample)>,
    /// Types, helps and units that came along.
    pub(crate) metadata: Vec<Metadata>,
    /// Intervals that the source knows to be missing.
    pub(crate) gaps: Vec<Gap>,
    /// Told once everything listed in here is on the spool's disk, or why it never will be.
    pub(crate) done: Option<oneshot::Sender<Result<(), Refusal>>>,
}

impl Arrival {
    /// How many samples it brought.
    pub(crate) fn len(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }
}

/// Why the pipeline did not take an arrival. The sender still has the samples and may try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The spool cannot write any more.
    #[error("the agent's spool failed: {0}")]
    Spool(String),
}
