//! What is known beside samples: streams, the gap ledger, metadata and the small durable state. All of it in memory;
//! the key-value store has a copy as of the last checkpoint.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tributary_journal::Position;
use tributary_model::cluster::ClusterName;
use tributary_model::fields::{Fields, Malformed, put_bytes, put_signed, put_varint};
use tributary_model::sample::Timestamp;
use tributary_model::series::Metadata;

use crate::batch::{Batch, GapEntry, Reason, StreamKey, StreamState};
use crate::record::{BatchHead, StateChanges};

/// Most gaps kept; further ones are counted and dropped.
pub(crate) const MAX_GAPS: usize = 100_000;
/// Most metrics of one cluster with metadata; further ones are counted and dropped.
pub(crate) const MAX_METADATA_PER_CLUSTER: usize = 50_000;
/// Longest help text; the rest is cut off.
pub(crate) const MAX_HELP_BYTES: usize = 4 << 10;
/// Longest metric name or unit with metadata; longer ones are dropped.
const MAX_NAME_BYTES: usize = 1 << 10;

/// The books.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) streams: HashMap<StreamKey, Stream>,
    pub(crate) gaps: Vec<Gap>,
    known_gaps: HashSet<Gap>,
    pub(crate) metadata: BTreeMap<ClusterName, BTreeMap<String, Metadata>>,
    pub(crate) state: BTreeMap<String, Vec<u8>>,
    /// Gaps and metadata that were dropped because there were too many.
    pub(crate) dropped: u64,
    /// What changed since the last checkpoint.
    dirty: Dirty,
}

/// A gap and whose it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gap {
    /// The stream that reported it.
    pub stream: StreamKey,
    /// The gap.
    pub entry: GapEntry,
}

/// One stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) state: StreamState,
    /// Out-of-order samples are measured against it.
    pub(crate) watermark: Option<i64>,
    pub(crate) received_at: Timestamp,
    pub(crate) complete_until: Timestamp,
    /// The newest sample's time.
    pub(crate) newest: Option<i64>,
    pub(crate) stored: u64,
    /// By [`Reason::ALL`].
    pub(crate) refused: [u64; Reason::ALL.len()],
    /// Where its current frame segment begins, and when that was received.
    pub(crate) segment_start: Option<(Position, Timestamp)>,
    /// Records in front of it are counted in already.
    pub(crate) as_of: Position,
}

#[derive(Debug, Default)]
struct Dirty {
    gaps: BTreeSet<u64>,
    metadata: BTreeSet<(ClusterName, String)>,
    state: BTreeSet<String>,
}

impl Stream {
    /// The watermark after a batch with these stored samples: the newest of the batches' oldest samples, so that one
    /// sample from the near future does not push it.
    pub(crate) fn raised(watermark: Option<i64>, range: Option<(i64, i64)>) -> Option<i64> {
        watermark.max(range.map(|(min, _)| min))
    }

    /// Books a batch.
    fn book(&mut self, head: &BatchHead, position: Position, advance: bool) {
        self.received_at = head.received_at;
        if head.starts_segment {
            self.segment_start = Some((position, head.received_at));
        }
        if head.state_only {
            return;
        }
        if advance {
            self.state = StreamState { epoch: head.epoch, last_seq: head.seq };
        }
        self.complete_until = self.complete_until.max(head.complete_until);
        let decision = &head.decision;
        self.watermark = Self::raised(self.watermark, decision.range);
        self.newest = self.newest.max(decision.range.map(|(_, max)| max));
        self.stored += u64::from(decision.accepted.stored);
        for (total, reason) in self.refused.iter_mut().zip(Reason::ALL) {
            *total += u64::from(decision.accepted.of(reason));
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, self.state.epoch);
        put_varint(&mut out, self.state.last_seq);
        for time in [self.watermark, self.newest] {
            out.push(u8::from(time.is_some()));
            put_signed(&mut out, time.unwrap_or(0));
        }
        put_signed(&mut out, self.received_at.as_millis());
        put_signed(&mut out, self.complete_until.as_millis());
        put_varint(&mut out, self.as_of.segment);
        put_varint(&mut out, self.as_of.offset);
        put_varint(&mut out, self.stored);
        self.refused.iter().for_each(|count| put_varint(&mut out, *count));
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let mut stream = Self {
            state: StreamState { epoch: fields.varint()?, last_seq: fields.varint()? },
            ..Self::default()
        };
        for time in [&mut stream.watermark, &mut stream.newest] {
            let known = fields.byte()? == 1;
            *time = Some(fields.signed()?).filter(|_| known);
        }
        stream.received_at = Timestamp::from_millis(fields.signed()?);
        stream.complete_until = Timestamp::from_millis(fields.signed()?);
        stream.as_of = Position { segment: fields.varint()?, offset: fields.varint()? };
        stream.stored = fields.varint()?;
        for count in &mut stream.refused {
            *count = fields.varint()?;
        }
        fields.end()?;
        Ok(stream)
    }
}

impl Ledger {
    /// Books a batch that is durable at `position`. `advance` says whether its number counts.
    pub(crate) fn book(&mut self, head: &BatchHead, position: Position, advance: bool) {
        let stream = self.streams.entry(head.stream.clone()).or_default();
        if position >= stream.as_of {
            stream.book(head, position, advance);
        } else if head.starts_segment {
            stream.segment_start = Some((position, head.received_at));
        }
    }

    /// Books what a batch says beside samples.
    pub(crate) fn book_extras(&mut self, batch: &mut Batch) {
        for entry in batch.gaps.drain(..) {
            self.add_gap(Gap { stream: batch.stream.clone(), entry }, true);
        }
        for metadata in batch.metadata.drain(..) {
            self.set_metadata(&batch.stream.cluster, metadata, true);
        }
    }

    /// Adds a gap, once.
    pub(crate) fn add_gap(&mut self, gap: Gap, dirty: bool) {
        if self.known_gaps.contains(&gap) {
            return;
        }
        if self.gaps.len() >= MAX_GAPS {
            self.dropped += 1;
            return;
        }
        if dirty {
            self.dirty.gaps.insert(self.gaps.len() as u64);
        }
        self.known_gaps.insert(gap.clone());
        self.gaps.push(gap);
    }

    /// Sets a metric's metadata.
    pub(crate) fn set_metadata(
        &mut self,
        cluster: &ClusterName,
        mut metadata: Metadata,
        dirty: bool,
    ) {
        if metadata.metric.len() > MAX_NAME_BYTES || metadata.unit.len() > MAX_NAME_BYTES {
            self.dropped += 1;
            return;
        }
        if metadata.help.len() > MAX_HELP_BYTES {
            let ends = (0..=MAX_HELP_BYTES).rev();
            let end = ends.into_iter().find(|end| metadata.help.is_char_boundary(*end));
            metadata.help.truncate(end.unwrap_or(0));
        }
        if !self.metadata.contains_key(cluster) {
            self.metadata.insert(cluster.clone(), BTreeMap::new());
        }
        let Some(known) = self.metadata.get_mut(cluster) else { return };
        if known.get(&metadata.metric) == Some(&metadata) {
            return;
        }
        if known.len() >= MAX_METADATA_PER_CLUSTER && !known.contains_key(&metadata.metric) {
            self.dropped += 1;
            return;
        }
        if dirty {
            self.dirty.metadata.insert((cluster.clone(), metadata.metric.clone()));
        }
        known.insert(metadata.metric.clone(), metadata);
    }

    /// Applies changes of the small state.
    pub(crate) fn change_state(&mut self, changes: StateChanges) {
        for (key, value) in changes {
            self.dirty.state.insert(key.clone());
            match value {
                Some(value) => self.state.insert(key, value),
                None => self.state.remove(&key),
            };
        }
    }

    /// No stream may go on in the middle of its frame segment.
    pub(crate) fn forget_segments(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.segment_start = None);
    }

    /// A copy of what changed since the last checkpoint, for the next one, which stands at `position`.
    pub(crate) fn checkpoint(&mut self, position: Position) -> Checkpoint {
        let streams = self.streams.iter_mut().map(|(key, stream)| {
            stream.as_of = position;
            (key.clone(), stream.clone())
        });
        let streams = streams.collect();
        let dirty = std::mem::take(&mut self.dirty);
        let gap = |number: &u64| {
            let gap = self.gaps.get(usize::try_from(*number).ok()?)?;
            Some((*number, gap.clone()))
        };
        let metadata = |(cluster, metric): &(ClusterName, String)| {
            Some((cluster.clone(), self.metadata.get(cluster)?.get(metric)?.clone()))
        };
        Checkpoint {
            streams,
            gaps: dirty.gaps.iter().filter_map(gap).collect(),
            metadata: dirty.metadata.iter().filter_map(metadata).collect(),
            state: dirty.state.iter().map(|k| (k.clone(), self.state.get(k).cloned())).collect(),
            dirty,
        }
    }

    /// Marks a checkpoint's changes as not written.
    pub(crate) fn undo(&mut self, checkpoint: Checkpoint) {
        self.dirty.gaps.extend(checkpoint.dirty.gaps);
        self.dirty.metadata.extend(checkpoint.dirty.metadata);
        self.dirty.state.extend(checkpoint.dirty.state);
    }
}

/// What a checkpoint writes.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    pub(crate) streams: Vec<(StreamKey, Stream)>,
    pub(crate) gaps: Vec<(u64, Gap)>,
    pub(crate) metadata: Vec<(ClusterName, Metadata)>,
    pub(crate) state: StateChanges,
    dirty: Dirty,
}

/// A stream's key in the key-value store.
pub(crate) fn put_stream_key(out: &mut Vec<u8>, key: &StreamKey) {
    put_bytes(out, key.cluster.as_str().as_bytes());
    put_bytes(out, key.instance.as_bytes());
}

/// Reads a stream's key.
pub(crate) fn stream_key(fields: &mut Fields<'_>) -> Result<StreamKey, Malformed> {
    let cluster = cluster(fields)?;
    Ok(StreamKey { cluster, instance: fields.text()?.to_owned() })
}

/// Reads a cluster's name.
pub(crate) fn cluster(fields: &mut Fields<'_>) -> Result<ClusterName, Malformed> {
    fields.text()?.parse().map_err(|_| Malformed("a cluster's name is not valid"))
}

impl Gap {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_stream_key(&mut out, &self.stream);
        put_signed(&mut out, self.entry.from.as_millis());
        put_signed(&mut out, self.entry.to.as_millis());
        put_bytes(&mut out, self.entry.cause.as_bytes());
        put_varint(&mut out, self.entry.samples);
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let gap = Self {
            stream: stream_key(&mut fields)?,
            entry: GapEntry {
                from: Timestamp::from_millis(fields.signed()?),
                to: Timestamp::from_millis(fields.signed()?),
                cause: fields.text()?.to_owned(),
                samples: fields.varint()?,
            },
        };
        fields.end()?;
        Ok(gap)
    }
}

/// A metadata entry's key and value.
pub(crate) fn encode_metadata(cluster: &ClusterName, metadata: &Metadata) -> (Vec<u8>, Vec<u8>) {
    let (mut key, mut value) = (Vec::new(), Vec::new());
    put_bytes(&mut key, cluster.as_str().as_bytes());
    put_bytes(&mut key, metadata.metric.as_bytes());
    for text in [metadata.kind.as_str(), &metadata.help, &metadata.unit] {
        put_bytes(&mut value, text.as_bytes());
    }
    (key, value)
}

/// Reads a metadata entry.
pub(crate) fn decode_metadata(
    key: &[u8],
    value: &[u8],
) -> Result<(ClusterName, Metadata), Malformed> {
    let (mut key, mut value) = (Fields(key), Fields(value));
    let cluster = cluster(&mut key)?;
    let kind = value.text()?.parse().map_err(|_| Malformed("a metric's type is unknown"))?;
    let metadata = Metadata {
        metric: key.text()?.to_owned(),
        kind,
        help: value.text()?.to_owned(),
        unit: value.text()?.to_owned(),
    };
    Ok((cluster, metadata))
}
