//! What the collector writes into the store's journal: a frame with who sent it, when, and what was decided.
//!
//! # Format
//!
//! | bytes | what |
//! |---|---|
//! | 1 | version, 1 |
//! | 1 | flags: 1 = for the decoder's state only (its samples are stored already); 2 = the series carry their final labels |
//! | 8 | when it was received, milliseconds since the Unix epoch, little-endian |
//! | 1 + n | the cluster's name, length first |
//! | 1 + n | the instance's name, length first |
//! | 1 + n | the name of the cluster label, length first; empty with flag 2 |
//! | 4 + 5·n | series of this frame that were refused: a count, then for each its number in the segment and the reason's code, little-endian |
//! | rest | the frame, unchanged |
//!
//! A record has its length and checksum from the journal. A reader refuses versions and flags that it does not
//! know. The refused series stand here because limits depend on the moment: a replay must decide as the first
//! reading did.

use std::collections::HashMap;

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;
use tributary_store::{Batch, Replay, ReplayError, Resolver, SeriesId, StreamKey};

use super::policy::{Reason, stamp};
use super::stream::StreamReader;

const VERSION: u8 = 1;
const STATE_ONLY: u8 = 1;
const FINAL_LABELS: u8 = 2;

/// A frame as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Envelope<'a> {
    /// Whose frame it is.
    pub(crate) stream: StreamKey,
    /// When it was received.
    pub(crate) received_at: Timestamp,
    /// Its samples are stored already; it is here for the frames that build on it.
    pub(crate) state_only: bool,
    /// The name of the label that the cluster is stamped into; nothing where the labels are final.
    pub(crate) cluster_label: Option<&'a str>,
    /// Series of this frame that were refused, by their number in the segment.
    pub(crate) refused: Vec<(u32, Reason)>,
    /// The frame.
    pub(crate) frame: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// The bytes of a journal record.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let label = self.cluster_label.unwrap_or("");
        let mut out = Vec::with_capacity(self.frame.len() + 128);
        let flag = |on: bool, flag: u8| if on { flag } else { 0 };
        out.push(VERSION);
        out.push(
            flag(self.state_only, STATE_ONLY) | flag(self.cluster_label.is_none(), FINAL_LABELS),
        );
        out.extend_from_slice(&self.received_at.as_millis().to_le_bytes());
        for text in [self.stream.cluster.as_str(), &self.stream.instance, label] {
            put_text(&mut out, text);
        }
        let count = u32::try_from(self.refused.len()).unwrap_or(u32::MAX);
        out.extend_from_slice(&count.to_le_bytes());
        for (number, reason) in &self.refused {
            out.extend_from_slice(&number.to_le_bytes());
            out.push(reason.code());
        }
        out.extend_from_slice(self.frame);
        out
    }

    /// Reads a journal record.
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, EnvelopeError> {
        let mut rest = bytes;
        let [version, flags] = take(&mut rest)?;
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        if flags & !(STATE_ONLY | FINAL_LABELS) != 0 {
            return Err(EnvelopeError::Malformed("flags"));
        }
        let received_at = Timestamp::from_millis(i64::from_le_bytes(take(&mut rest)?));
        let cluster = take_text(&mut rest)?
            .parse::<ClusterName>()
            .map_err(|_| EnvelopeError::Malformed("cluster"))?;
        let instance = take_text(&mut rest)?.to_owned();
        let label = take_text(&mut rest)?;
        let mut refused = Vec::new();
        for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
            let number = u32::from_le_bytes(take(&mut rest)?);
            let [code] = take(&mut rest)?;
            let reason = Reason::from_code(code).ok_or(EnvelopeError::Malformed("reason"))?;
            refused.push((number, reason));
        }
        Ok(Self {
            stream: StreamKey { cluster, instance },
            received_at,
            state_only: flags & STATE_ONLY != 0,
            cluster_label: (flags & FINAL_LABELS == 0).then_some(label),
            refused,
            frame: rest,
        })
    }
}

/// Why bytes are not an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EnvelopeError {
    /// A format that this version does not know.
    #[error("the journal's record has format version {0}; this version reads 1")]
    Version(u8),
    /// The bytes end too early.
    #[error("the journal's record ends too early")]
    Truncated,
    /// A field holds what it cannot hold.
    #[error("the journal's record has a {0} that is not valid")]
    Malformed(&'static str),
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    // Cluster, instance and label names are bounded far below this where they enter.
    let text = text.get(..usize::from(u8::MAX)).unwrap_or(text);
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend_from_slice(text.as_bytes());
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], EnvelopeError> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(EnvelopeError::Truncated)?;
    *rest = tail;
    Ok(*head)
}

fn take_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, EnvelopeError> {
    let [length] = take(rest)?;
    let (head, tail) =
        rest.split_at_checked(usize::from(length)).ok_or(EnvelopeError::Truncated)?;
    *rest = tail;
    std::str::from_utf8(head).map_err(|_| EnvelopeError::Malformed("name"))
}

/// Reads the store's journal at start: gives the store its samples back, and keeps each stream's decoder, so that
/// agents go on where they were.
#[derive(Debug, Default)]
pub(crate) struct Replayer {
    readers: HashMap<StreamKey, StreamReader>,
}

impl Replayer {
    /// One for each processor: the store reads its journal on as many threads.
    pub(crate) fn several() -> Vec<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        (0..processors).map(|_| Self::default()).collect()
    }

    /// What several have read, together. No two have read the same stream.
    pub(crate) fn joined(replayers: Vec<Self>) -> Self {
        Self { readers: replayers.into_iter().flat_map(Self::into_readers).collect() }
    }

    /// The streams' readers after the last record.
    pub(crate) fn into_readers(self) -> HashMap<StreamKey, StreamReader> {
        self.readers
    }

    /// Reads one record.
    pub(crate) fn batch(&mut self, payload: &[u8], resolve: Resolve<'_>) -> Result<Batch, String> {
        let envelope = Envelope::decode(payload).map_err(|error| error.to_string())?;
        let cluster = &envelope.stream.cluster;
        let refused: HashMap<u32, Reason> = envelope.refused.iter().copied().collect();
        let reader = self
            .readers
            .entry(envelope.stream.clone())
            .or_insert_with(|| StreamReader::new(envelope.stream.clone()));
        let read = reader
            .read(envelope.frame, |number, labels| match refused.get(&number) {
                Some(reason) => Err(*reason),
                None => Ok(match envelope.cluster_label {
                    Some(label) => resolve(cluster, &stamp(labels, label, cluster)),
                    None => resolve(cluster, labels),
                }),
            })
            .map_err(|error| error.to_string())?;
        Ok(read.into_batch(envelope.stream.clone(), envelope.received_at, envelope.state_only))
    }
}

/// Finds or makes a series.
pub(crate) type Resolve<'a> = &'a mut dyn FnMut(&ClusterName, &Labels) -> SeriesId;

impl Replay for Replayer {
    fn replay(&mut self, store: &Resolver, payload: &[u8]) -> Result<Batch, ReplayError> {
        self.batch(payload, &mut |cluster, labels| store.resolve(cluster, labels))
            .map_err(ReplayError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(frame: &[u8]) -> Envelope<'_> {
        Envelope {
            stream: StreamKey { cluster: "eu-1".parse().unwrap(), instance: "a".to_owned() },
            received_at: Timestamp::from_millis(-5),
            state_only: true,
            cluster_label: Some("originCluster"),
            refused: vec![(7, Reason::SeriesLimit), (9, Reason::LabelBytes)],
            frame,
        }
    }

    #[test]
    fn envelopes_round_trip() {
        let first = envelope(b"frame");
        assert_eq!(Envelope::decode(&first.encode()), Ok(first));
        let last = Envelope {
            state_only: false,
            cluster_label: None,
            refused: Vec::new(),
            ..envelope(b"")
        };
        assert_eq!(Envelope::decode(&last.encode()), Ok(last));
    }

    #[test]
    fn an_envelope_has_these_bytes() {
        let bytes = envelope(b"F").encode();
        let expected = b"\x01\x01\xfb\xff\xff\xff\xff\xff\xff\xff\x04eu-1\x01a\x0doriginCluster\
            \x02\0\0\0\x07\0\0\0\x01\x09\0\0\0\x03F";
        assert_eq!(bytes, expected);
    }

    #[test]
    fn damaged_envelopes_are_errors() {
        let good = envelope(b"").encode();
        for end in 0..good.len() {
            assert!(Envelope::decode(&good[..end]).is_err(), "{end}");
        }
        let spoiled = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Envelope::decode(&bytes).unwrap_err()
        };
        assert_eq!(spoiled(0, 2), EnvelopeError::Version(2));
        assert_eq!(spoiled(1, 4), EnvelopeError::Malformed("flags"));
        assert_eq!(spoiled(11, b'E'), EnvelopeError::Malformed("cluster"));
    }

    #[test]
    fn a_replay_decides_as_the_first_reading_did() {
        use tributary_model::sample::Sample;
        use tributary_proto::frame::{Content, Encoder};

        use crate::ingest::policy::Policy;
        use crate::ingest::stream::Conditions;
        use crate::ingest::testing;

        let folder = testing::Folder::new();
        let key = envelope(b"").stream;
        let policy = Policy { max_series: 1, ..Policy::default() };
        let conditions = Conditions { store: folder.store(), cluster_label: "cluster", policy };
        let (mut live, mut replayer) = (StreamReader::new(key.clone()), Replayer::default());
        let mut encoder = Encoder::new(7, 1);
        for seq in 1..=3 {
            let name = format!("m{seq}");
            let series = |name: &str| Labels::from_pairs([("__name__", name)]).unwrap();
            let samples =
                [(series("m1"), Sample::new(5, 1.0)), (series(&name), Sample::new(5, 1.0))];
            let content = Content { samples: &samples, ..Content::default() };
            let frame = encoder.encode(seq, Timestamp::MIN, &content).unwrap();
            let state_only = seq == 2;
            let admitted = live.accept(&frame, &conditions, Timestamp::MAX, state_only).unwrap();
            let again = replayer
                .batch(&admitted.payload, &mut |cluster, labels| {
                    folder.store().find(cluster, labels).expect("nothing new is made")
                })
                .unwrap();
            assert_eq!(format!("{again:?}"), format!("{:?}", admitted.batch));
        }
        assert!(replayer.into_readers()[&key].is_after(7, 3));
        assert_eq!(folder.store().series_count(&key.cluster), 1);
    }
}
