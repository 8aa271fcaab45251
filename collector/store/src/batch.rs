//! What comes in: batches of samples, and what became of each sample.

use std::sync::Arc;

use tributary_model::cluster::ClusterName;
use tributary_model::histogram::HistogramSample;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;

use crate::head::Value;

/// A series of one store. Valid for as long as something is written to it, or for a day after it was resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeriesId(pub(crate) u64);

impl SeriesId {
    pub(crate) fn new(shard: u32, local: u32) -> Self {
        Self(u64::from(shard) << 32 | u64::from(local))
    }

    /// The shard it belongs to, and its place there.
    pub(crate) fn parts(self) -> (u32, u32) {
        let low = u32::try_from(self.0 & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        (u32::try_from(self.0 >> 32).unwrap_or(u32::MAX), low)
    }
}

/// Who sends: one agent.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    /// The cluster, from the certificate.
    pub cluster: ClusterName,
    /// The agent in it, from the certificate.
    pub instance: String,
}

/// How far a stream is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamState {
    /// The agent's epoch.
    pub epoch: u64,
    /// The newest sequence number that is durable.
    pub last_seq: u64,
}

/// One frame, decoded.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Who sent it.
    pub stream: StreamKey,
    /// The agent's epoch.
    pub epoch: u64,
    /// The frame's sequence number.
    pub seq: u64,
    /// Whether later frames build on this one and on none before it.
    pub starts_segment: bool,
    /// Kept only so that later frames can be decoded: its samples are not stored, its number not acknowledged.
    pub state_only: bool,
    /// When the collector received it.
    pub received_at: Timestamp,
    /// The agent vouches that nothing older is missing.
    pub complete_until: Timestamp,
    /// The samples.
    pub samples: Vec<(SeriesId, Sample)>,
    /// The native histograms. They are samples, too, and counted behind the others.
    pub histograms: Vec<(SeriesId, HistogramSample)>,
    /// What is known of metrics.
    pub metadata: Vec<Metadata>,
    /// What is missing.
    pub gaps: Vec<GapEntry>,
}

impl Batch {
    /// The number of samples, native histograms among them.
    pub(crate) fn len(&self) -> usize {
        self.samples.len() + self.histograms.len()
    }

    /// All samples, in the order in which decisions count them.
    pub(crate) fn values(&self) -> impl Iterator<Item = (SeriesId, i64, Value)> {
        let number =
            |(id, s): &(_, Sample)| (*id, s.at.as_millis(), Value::Number(s.value.to_bits()));
        let histogram = |(id, s): &(_, HistogramSample)| {
            (*id, s.at.as_millis(), Value::Histogram(Arc::clone(&s.histogram)))
        };
        self.samples.iter().map(number).chain(self.histograms.iter().map(histogram))
    }
}

/// An interval that a stream says is missing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GapEntry {
    /// From.
    pub from: Timestamp,
    /// To.
    pub to: Timestamp,
    /// Why.
    pub cause: String,
    /// How many samples; 0 if not known.
    pub samples: u64,
}

/// What became of a batch's samples. The sum is the number of samples, unless the batch was for state only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Accepted {
    /// Stored.
    pub stored: u32,
    /// Dropped, because the very sample is there already.
    pub duplicate: u32,
    /// Refused, because another value is there already.
    pub conflict: u32,
    /// Refused, because it is too far behind the stream.
    pub out_of_order: u32,
    /// Refused, because it lies in the future.
    pub future: u32,
    /// Refused, because it is older than the retention.
    pub expired: u32,
    /// Refused, because the series is not one of the cluster's.
    pub unknown: u32,
}

/// Why a sample was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The very sample is there already.
    Duplicate,
    /// Another value is there already.
    Conflict,
    /// Too far behind the stream.
    OutOfOrder,
    /// In the future.
    Future,
    /// Older than the retention.
    Expired,
    /// No series of the cluster.
    Unknown,
}

impl Reason {
    /// Every reason, in the order of their codes.
    pub const ALL: [Self; 6] = [
        Self::Duplicate,
        Self::Conflict,
        Self::OutOfOrder,
        Self::Future,
        Self::Expired,
        Self::Unknown,
    ];

    /// The reason's name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Duplicate => "duplicate",
            Self::Conflict => "conflict",
            Self::OutOfOrder => "out_of_order",
            Self::Future => "future",
            Self::Expired => "expired",
            Self::Unknown => "unknown_series",
        }
    }
}

impl Accepted {
    /// How many were refused for a reason.
    pub fn of(&self, reason: Reason) -> u32 {
        let mut copy = *self;
        *copy.slot(reason)
    }

    /// Counts one.
    pub(crate) fn add(&mut self, reason: Reason) {
        *self.slot(reason) += 1;
    }

    fn slot(&mut self, reason: Reason) -> &mut u32 {
        match reason {
            Reason::Duplicate => &mut self.duplicate,
            Reason::Conflict => &mut self.conflict,
            Reason::OutOfOrder => &mut self.out_of_order,
            Reason::Future => &mut self.future,
            Reason::Expired => &mut self.expired,
            Reason::Unknown => &mut self.unknown,
        }
    }
}
