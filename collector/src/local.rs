//! What the collector itself produces: rule results and its own scrapes, as frames on the path of all frames.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::oneshot;
use tributary_model::cluster::ClusterName;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_proto::frame::{Content, Encoder, FrameError};
use tributary_proto::limits;
use tributary_store::{Accepted, Batch, Store, StreamKey};

use crate::ingest::replay::Envelope;

/// The instance of the collector's own stream.
pub(crate) const INSTANCE: &str = "collector";

/// The instance of the stream of what is pushed to the HTTP port.
const PUSHED: &str = "pushed";

/// A segment is followed by a new one after this time or these bytes, whichever comes first: what a replay has to
/// read again stays small.
const SEGMENT_AGE: Duration = Duration::from_secs(600);
const SEGMENT_BYTES: usize = 4 << 20;
/// A segment with this many series is full: one frame's new series still fit.
const SEGMENT_SERIES: usize = limits::MAX_SERIES_PER_SEGMENT - limits::MAX_SAMPLES_PER_FRAME;

/// Metadata entries in one frame.
const METADATA_PER_FRAME: usize = 500;

/// Samples with their series.
#[derive(Debug, Clone, Default)]
pub struct Samples {
    /// Numbers.
    pub numbers: Vec<(Labels, Sample)>,
    /// Native histograms.
    pub histograms: Vec<(Labels, HistogramSample)>,
}

impl From<Vec<(Labels, Sample)>> for Samples {
    fn from(numbers: Vec<(Labels, Sample)>) -> Self {
        Self { numbers, histograms: Vec::new() }
    }
}

/// Writes the collector's own samples. Cheap to clone; writers share one stream.
#[derive(Clone)]
pub(crate) struct Writer {
    store: Store,
    key: StreamKey,
    stream: Arc<Mutex<Stream>>,
}

struct Stream {
    epoch: u64,
    /// The number of the last frame.
    seq: u64,
    /// The number of the last segment.
    segment: u64,
    /// The segment that is being written; nothing when the next frame must start one.
    current: Option<Segment>,
}

struct Segment {
    encoder: Encoder,
    since: Instant,
    bytes: usize,
}

/// Why samples were not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// They cannot be put into a frame.
    #[error("writing local samples: {0}")]
    Frame(#[from] FrameError),
    /// The store did not take them.
    #[error("writing local samples: {0}")]
    Store(String),
    /// The store has gone.
    #[error("writing local samples: the store has stopped")]
    Stopped,
}

impl Writer {
    /// A writer for the local cluster. Every start has an epoch of its own, so nothing of an earlier one is continued.
    pub(crate) fn new(store: Store, local_cluster: ClusterName, started: SystemTime) -> Self {
        Self::of_instance(INSTANCE, store, local_cluster, started)
    }

    /// A writer of what others pushed: a stream of its own, whose times say nothing about the collector's.
    pub(crate) fn of_pushed(store: Store, local_cluster: ClusterName, started: SystemTime) -> Self {
        Self::of_instance(PUSHED, store, local_cluster, started)
    }

    fn of_instance(
        instance: &str,
        store: Store,
        local_cluster: ClusterName,
        started: SystemTime,
    ) -> Self {
        let since_epoch = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        let stream = Stream { epoch, seq: 0, segment: 0, current: None };
        let key = StreamKey { cluster: local_cluster, instance: instance.to_owned() };
        Self { store, key, stream: Arc::new(Mutex::new(stream)) }
    }

    /// Writes samples whose labels are final: nothing is stamped, nothing renamed. Returns when they are on disk.
    pub(crate) async fn write(
        &self,
        samples: impl Into<Samples>,
        metadata: Vec<Metadata>,
    ) -> Result<Accepted, Error> {
        let (writer, samples) = (self.clone(), samples.into());
        let handed = tokio::task::spawn_blocking(move || writer.hand_over(&samples, &metadata));
        let pending = handed.await.map_err(|_| Error::Stopped)??;
        let mut total = Accepted::default();
        for answer in pending {
            let accepted = answer.await.map_err(|_| Error::Stopped)?;
            add(&mut total, &accepted.map_err(|error| self.broken(&error))?);
        }
        Ok(total)
    }

    /// Makes frames and gives them to the store in order; what it answers comes later.
    fn hand_over(&self, samples: &Samples, metadata: &[Metadata]) -> Result<Vec<Answer>, Error> {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut pending = Vec::new();
        let (mut numbers, mut histograms) = (&*samples.numbers, &*samples.histograms);
        let mut entries = metadata.chunks(METADATA_PER_FRAME);
        loop {
            let prefixes = stream.prefixes(numbers, histograms);
            let (samples, later) = numbers.split_at_checked(prefixes.0).unwrap_or((numbers, &[]));
            let (natives, later_natives) =
                histograms.split_at_checked(prefixes.1).unwrap_or((histograms, &[]));
            let metadata = entries.next().unwrap_or(&[]);
            let content = Content { samples, histograms: natives, metadata, gaps: &[] };
            if samples.is_empty() && natives.is_empty() && metadata.is_empty() {
                return Ok(pending);
            }
            pending.push(self.frame(&mut stream, &content)?);
            (numbers, histograms) = (later, later_natives);
        }
    }

    fn frame(&self, stream: &mut Stream, content: &Content<'_>) -> Result<Answer, Error> {
        let received_at = Timestamp::from(SystemTime::now());
        let (frame, starts_segment) = stream.encode(received_at, content)?;
        let envelope = Envelope {
            stream: self.key.clone(),
            received_at,
            state_only: false,
            cluster_label: None,
            refused: Vec::new(),
            frame: &frame,
        };
        let cluster = &self.key.cluster;
        let resolve = |labels| self.store.resolve(cluster, labels);
        let batch = Batch {
            stream: self.key.clone(),
            epoch: stream.epoch,
            seq: stream.seq,
            starts_segment,
            state_only: false,
            received_at,
            complete_until: received_at,
            samples: content.samples.iter().map(|(labels, s)| (resolve(labels), *s)).collect(),
            histograms: content
                .histograms
                .iter()
                .map(|(labels, sample)| (resolve(labels), sample.clone()))
                .collect(),
            metadata: content.metadata.to_vec(),
            gaps: Vec::new(),
        };
        let (answer, answered) = oneshot::channel();
        let done = move |result| {
            // The writer may have stopped waiting.
            let _ = answer.send(result);
        };
        self.store.append(envelope.encode(), batch, Box::new(done));
        Ok(answered)
    }

    /// After a frame was lost, the next must not build on it.
    fn broken(&self, error: &tributary_store::Error) -> Error {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner).current = None;
        Error::Store(error.to_string())
    }
}

type Answer = oneshot::Receiver<Result<Accepted, tributary_store::Error>>;

impl Stream {
    /// How many of these samples fit into the next frame. Ends the segment if it is time, or if it has no room for
    /// their series.
    fn prefixes(
        &mut self,
        samples: &[(Labels, Sample)],
        histograms: &[(Labels, HistogramSample)],
    ) -> (usize, usize) {
        self.current.take_if(|segment| {
            segment.since.elapsed() > SEGMENT_AGE
                || segment.bytes > SEGMENT_BYTES
                || segment.encoder.series() > SEGMENT_SERIES
        });
        match &self.current {
            Some(segment) => segment.encoder.prefixes(samples, histograms),
            None => Encoder::new(self.epoch, self.segment + 1).prefixes(samples, histograms),
        }
    }

    /// The next frame, and whether it starts a segment.
    fn encode(
        &mut self,
        at: Timestamp,
        content: &Content<'_>,
    ) -> Result<(Vec<u8>, bool), FrameError> {
        let (number, epoch) = (self.segment + 1, self.epoch);
        let starts = self.current.is_none();
        let segment = self.current.get_or_insert_with(|| Segment {
            encoder: Encoder::new(epoch, number),
            since: Instant::now(),
            bytes: 0,
        });
        let frame = segment.encoder.encode(self.seq + 1, at, content).inspect_err(|_| {
            // The next write starts afresh, whatever it was.
            self.current = None;
        });
        let frame = frame?;
        if let Some(segment) = &mut self.current {
            segment.bytes += frame.len();
        }
        if starts {
            self.segment = number;
        }
        self.seq += 1;
        Ok((frame, starts))
    }
}

fn add(total: &mut Accepted, more: &Accepted) {
    total.stored += more.stored;
    total.duplicate += more.duplicate;
    total.conflict += more.conflict;
    total.out_of_order += more.out_of_order;
    total.future += more.future;
    total.expired += more.expired;
    total.unknown += more.unknown;
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tributary_model::sample::Numbers;

    use super::*;
    use crate::ingest::replay::Replayer;
    use crate::ingest::testing;

    fn sample(name: &str, value: f64) -> (Labels, Sample) {
        let labels = Labels::from_pairs([("__name__", name), ("cluster", "local")]).unwrap();
        let at = Timestamp::from(SystemTime::now());
        (labels, Sample { at, value })
    }

    #[tokio::test]
    async fn labels_stay_as_they_are() {
        let folder = testing::Folder::new();
        let writer =
            Writer::new(folder.store().clone(), "local".parse().unwrap(), SystemTime::now());
        let accepted = writer.write(vec![sample("a", 1.0), sample("b", 2.0)], Vec::new()).await;
        assert_eq!(accepted.unwrap().stored, 2);
        assert_eq!(
            writer.write(Samples::default(), Vec::new()).await.unwrap(),
            Accepted::default()
        );
        assert_eq!(folder.series(), [r#"a{cluster="local"}"#, r#"b{cluster="local"}"#]);
    }

    #[tokio::test]
    async fn histograms_are_written_and_read_back() {
        let folder = testing::Folder::new();
        let writer =
            Writer::new(folder.store().clone(), "local".parse().unwrap(), SystemTime::now());
        let (labels, number) = sample("a", 1.0);
        let histogram = HistogramSample { at: number.at, histogram: Arc::default() };
        let other = sample("b", 1.0).0;
        let samples = Samples {
            numbers: vec![(labels, number)],
            histograms: vec![(other, histogram.clone())],
        };
        let accepted = writer.write(samples, Vec::new()).await.unwrap();
        assert_eq!(accepted.stored, 2);
        let everything = (Timestamp::MIN, Timestamp::MAX);
        let found = folder.store().select(&[], everything.0, everything.1).unwrap();
        let (mut numbers, mut read) = (Numbers::default(), Vec::new());
        for series in found {
            series.read(everything.0, everything.1, &mut numbers, &mut read).unwrap();
        }
        assert_eq!(read, [histogram]);
    }

    #[test]
    fn segments_end_by_bytes_and_a_replay_reads_them() {
        let folder = testing::Folder::new();
        let writer =
            Writer::new(folder.store().clone(), "local".parse().unwrap(), SystemTime::now());
        let mut stream = writer.stream.lock().unwrap();
        let content = [sample("a", 1.0)];
        let content = Content { samples: &content, ..Content::default() };
        let encode = |stream: &mut Stream| stream.encode(Timestamp::MIN, &content).unwrap();
        let (first, starts) = encode(&mut stream);
        assert!(starts);
        let (second, starts) = encode(&mut stream);
        assert!(!starts);
        stream.current.as_mut().unwrap().bytes = SEGMENT_BYTES + 1;
        assert_eq!(stream.prefixes(content.samples, &[]), (1, 0));
        let (third, starts) = encode(&mut stream);
        assert!(starts);

        let mut replayer = Replayer::default();
        let mut seen = HashMap::new();
        for frame in [first, second, third] {
            let envelope = Envelope {
                stream: writer.key.clone(),
                received_at: Timestamp::MIN,
                state_only: false,
                cluster_label: None,
                refused: Vec::new(),
                frame: &frame,
            };
            let payload = envelope.encode();
            let batch = replayer.batch(&payload, &mut |cluster, labels| {
                *seen.entry(labels.to_string()).or_default() += 1;
                folder.store().resolve(cluster, labels)
            });
            assert_eq!(batch.unwrap().samples.len(), 1);
        }
        assert_eq!(seen, HashMap::from([(r#"a{cluster="local"}"#.to_owned(), 2)]));
    }
}
