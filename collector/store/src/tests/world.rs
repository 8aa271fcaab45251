//! A store in a temporary folder, fed with frames of a toy format that builds on earlier frames as the real one does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::channel;

use tempfile::TempDir;
use tributary_model::cluster::ClusterName;
use tributary_model::fields::{Fields, put_bytes, put_signed, put_varint};
use tributary_model::histogram::{
    Buckets, Histogram, HistogramSample, Parts, ResetHint, Schema, Span,
};
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Sample, Timestamp};

use crate::batch::{Accepted, Batch, GapEntry, SeriesId, StreamKey};
use crate::kv::memory::Memory;
use crate::ledger::{put_stream_key, stream_key};
use crate::recover::{OpenReport, Replay, ReplayError, Resolver};
use crate::{Error, Options, SelectedSeries, Store};

/// 2023-11-14T22:00:00Z, the start of a window.
pub(crate) const T0: i64 = 1_700_000_000_000 / 7_200_000 * 7_200_000;
pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const HOUR: i64 = 60 * MINUTE;
pub(crate) const DAY: i64 = 24 * HOUR;

/// One frame.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    pub(crate) stream: StreamKey,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) starts_segment: bool,
    pub(crate) received_at: i64,
    /// Series, time, bits.
    pub(crate) samples: Vec<(u32, i64, u64)>,
    /// Series, time, histogram.
    pub(crate) histograms: Vec<(u32, i64, Arc<Histogram>)>,
    pub(crate) gaps: Vec<GapEntry>,
}

/// A stream of the cluster `eu-1`.
pub(crate) fn stream(instance: &str) -> StreamKey {
    StreamKey { cluster: "eu-1".parse().unwrap(), instance: instance.to_owned() }
}

/// A frame of `stream("a")` that needs no other, received a little after its newest sample.
pub(crate) fn frame(seq: u64, samples: &[(u32, i64, f64)]) -> Frame {
    let newest = samples.iter().map(|(_, at, _)| *at).max().unwrap_or(T0);
    Frame {
        stream: stream("a"),
        epoch: 1,
        seq,
        starts_segment: true,
        received_at: newest + 1000,
        samples: samples.iter().map(|(s, at, v)| (*s, *at, v.to_bits())).collect(),
        histograms: Vec::new(),
        gaps: Vec::new(),
    }
}

/// One of several histograms, with a few layouts, one of them of fractions and one of custom bounds.
pub(crate) fn histogram(kind: u8) -> Arc<Histogram> {
    let count = f64::from(kind) * if kind % 5 == 4 { 0.1 } else { 1.0 };
    let (schema, offset) = match kind % 4 {
        3 => (Schema::Custom([1.0, 2.5, 10.0].into()), 1),
        n => (Schema::Exponential(1), i32::from(n) - 1),
    };
    let spans = [Span { offset, length: 1 + u32::from(kind % 3) }];
    let positive = vec![count; usize::from(kind % 3) + 1];
    let parts = Parts {
        hint: if kind % 7 == 6 { ResetHint::Gauge } else { ResetHint::Unknown },
        schema,
        count: count * 3.0,
        sum: count.sqrt(),
        positive: Buckets::new(&spans, positive).unwrap(),
        ..Parts::default()
    };
    Arc::new(Histogram::new(parts).unwrap())
}

/// The labels of a series by its number in tests.
pub(crate) fn labels(cluster: &ClusterName, series: u32) -> Labels {
    let pairs = [
        ("__name__", format!("metric_{}", series % 3)),
        ("cluster", cluster.to_string()),
        ("number", series.to_string()),
    ];
    Labels::from_pairs(pairs).unwrap()
}

/// Encodes and decodes frames; a series' number is spelled out once per frame segment.
#[derive(Default)]
pub(crate) struct Codec {
    dictionaries: HashMap<StreamKey, Vec<u32>>,
    ids: HashMap<(ClusterName, u32), SeriesId>,
}

impl Codec {
    fn encode(&mut self, frame: &Frame) -> Vec<u8> {
        let dictionary = self.dictionaries.entry(frame.stream.clone()).or_default();
        if frame.starts_segment {
            dictionary.clear();
        }
        let mut out = Vec::new();
        put_stream_key(&mut out, &frame.stream);
        put_varint(&mut out, frame.epoch);
        put_varint(&mut out, frame.seq);
        out.push(u8::from(frame.starts_segment));
        put_signed(&mut out, frame.received_at);
        put_varint(&mut out, frame.gaps.len() as u64);
        for gap in &frame.gaps {
            put_signed(&mut out, gap.from.as_millis());
            put_signed(&mut out, gap.to.as_millis());
            put_bytes(&mut out, gap.cause.as_bytes());
            put_varint(&mut out, gap.samples);
        }
        put_varint(&mut out, frame.samples.len() as u64);
        for (series, at, bits) in &frame.samples {
            put_series(&mut out, dictionary, *series);
            put_signed(&mut out, *at);
            out.extend_from_slice(&bits.to_le_bytes());
        }
        // Frames of earlier versions end here.
        for (series, at, histogram) in &frame.histograms {
            put_series(&mut out, dictionary, *series);
            put_signed(&mut out, *at);
            let mut bytes = Vec::new();
            histogram.encode(None, &mut bytes);
            put_bytes(&mut out, &bytes);
        }
        out
    }

    fn decode(&mut self, store: &Resolver, payload: &[u8]) -> Batch {
        let mut fields = Fields(payload);
        let key = stream_key(&mut fields).unwrap();
        let (epoch, seq) = (fields.varint().unwrap(), fields.varint().unwrap());
        let starts_segment = fields.byte().unwrap() == 1;
        let received_at = Timestamp::from_millis(fields.signed().unwrap());
        let mut gaps = Vec::new();
        for _ in 0..fields.count().unwrap() {
            gaps.push(GapEntry {
                from: Timestamp::from_millis(fields.signed().unwrap()),
                to: Timestamp::from_millis(fields.signed().unwrap()),
                cause: fields.text().unwrap().to_owned(),
                samples: fields.varint().unwrap(),
            });
        }
        let dictionary = self.dictionaries.entry(key.clone()).or_default();
        if starts_segment {
            dictionary.clear();
        }
        let ids = &mut self.ids;
        let mut id = |fields: &mut Fields<'_>| {
            let index = fields.count().unwrap();
            if index == dictionary.len() {
                dictionary.push(fields.small().unwrap());
            }
            let series = dictionary[index];
            let cluster = key.cluster.clone();
            let entry = ids.entry((cluster.clone(), series));
            *entry.or_insert_with(|| store.resolve(&cluster, &labels(&cluster, series)))
        };
        let mut samples = Vec::new();
        for _ in 0..fields.count().unwrap() {
            let id = id(&mut fields);
            let at = Timestamp::from_millis(fields.signed().unwrap());
            let value = f64::from_bits(fields.u64_le().unwrap());
            samples.push((id, Sample { at, value }));
        }
        let mut histograms = Vec::new();
        while !fields.0.is_empty() {
            let id = id(&mut fields);
            let at = Timestamp::from_millis(fields.signed().unwrap());
            let mut bytes = fields.bytes().unwrap();
            let histogram = Arc::new(Histogram::decode(&mut bytes, None).unwrap());
            histograms.push((id, HistogramSample { at, histogram }));
        }
        Batch {
            stream: key,
            epoch,
            seq,
            starts_segment,
            state_only: false,
            received_at,
            complete_until: received_at,
            samples,
            histograms,
            metadata: Vec::new(),
            gaps,
        }
    }
}

fn put_series(out: &mut Vec<u8>, dictionary: &mut Vec<u32>, series: u32) {
    let known = dictionary.iter().position(|s| *s == series);
    put_varint(out, known.unwrap_or(dictionary.len()) as u64);
    if known.is_none() {
        put_varint(out, u64::from(series));
        dictionary.push(series);
    }
}

impl Replay for Codec {
    fn replay(&mut self, store: &Resolver, payload: &[u8]) -> Result<Batch, ReplayError> {
        Ok(self.decode(store, payload))
    }
}

/// A store with a key-value store in memory, or sled.
pub(crate) struct World {
    /// Removed when the world ends.
    _dir: TempDir,
    pub(crate) kv: Option<Memory>,
    pub(crate) options: Options,
    pub(crate) store: Option<Store>,
    sender: Codec,
    receiver: Codec,
    pub(crate) report: OpenReport,
}

impl World {
    pub(crate) fn new(kv: Option<Memory>) -> Self {
        let dir = TempDir::new().unwrap();
        let options = Options {
            path: dir.path().join("store"),
            journal_segment_bytes: 2 << 10,
            cache_bytes: 1 << 20,
            ..Options::default()
        };
        let mut world = Self {
            _dir: dir,
            kv,
            options,
            store: None,
            sender: Codec::default(),
            receiver: Codec::default(),
            report: OpenReport::default(),
        };
        world.open().unwrap();
        world
    }

    /// A store on copies of what `folder` holds: a dump of the key-value store, and a journal.
    pub(crate) fn stored(folder: &std::path::Path) -> Self {
        let dump = std::fs::read_to_string(folder.join("kv.txt")).unwrap();
        let mut world = Self::new(Some(Memory::default()));
        world.store = None;
        world.kv = Some(Memory::restore(&dump));
        let journal = world.options.path.join("journal");
        std::fs::remove_dir_all(&journal).unwrap();
        std::fs::create_dir(&journal).unwrap();
        copy(&folder.join("journal"), &journal);
        if folder.join("blocks").is_dir() {
            copy(&folder.join("blocks"), &world.options.path.join("blocks"));
        }
        world.open().unwrap();
        world
    }

    /// Writes what `stored` reads.
    pub(crate) fn save(mut self, folder: &std::path::Path) {
        self.store = None;
        let _ = std::fs::remove_dir_all(folder);
        for part in ["journal", "blocks"] {
            copy(&self.options.path.join(part), &folder.join(part));
        }
        std::fs::write(folder.join("kv.txt"), self.kv.unwrap().dump()).unwrap();
    }

    /// Closes and opens the store again.
    pub(crate) fn reopen(&mut self) {
        self.store = None;
        self.open().unwrap();
    }

    pub(crate) fn open(&mut self) -> Result<(), Error> {
        self.receiver = Codec::default();
        let kv = self.kv.clone().map(|kv| Box::new(kv) as Box<dyn crate::kv::Kv>);
        let opened = crate::recover::open(
            self.options.clone(),
            kv,
            std::slice::from_mut(&mut self.receiver),
        )?;
        let (store, report) = Store::start(opened)?;
        self.store = Some(store);
        self.report = report;
        Ok(())
    }

    pub(crate) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Sends a frame and waits for the answer.
    pub(crate) fn send(&mut self, frame: &Frame) -> Result<Accepted, Error> {
        let payload = self.sender.encode(frame);
        let store = self.store.clone().unwrap();
        let resolver = Resolver(Arc::clone(&store.0.core));
        let batch = self.receiver.decode(&resolver, &payload);
        let (reply, answer) = channel();
        store.append(payload, batch, Box::new(move |done| reply.send(done).unwrap()));
        answer.recv().unwrap()
    }

    /// Whether the store knows enough to go on in the middle of a stream's frame segment.
    pub(crate) fn has_state(&self, stream: &StreamKey) -> bool {
        self.store().knows_segment(stream)
    }

    pub(crate) fn put_state(&self, changes: &[(&str, Option<&[u8]>)]) -> Result<(), Error> {
        let changes = changes.iter().map(|(k, v)| ((*k).to_owned(), v.map(<[u8]>::to_vec)));
        let (reply, answer) = channel();
        let done = Box::new(move |done| reply.send(done).unwrap());
        self.store().put_state(changes.collect(), done);
        answer.recv().unwrap()
    }

    /// The files of the store's blocks.
    pub(crate) fn block_files(&self) -> Vec<std::path::PathBuf> {
        let blocks = &self.store().0.core.blocks;
        let path = |(shard, name, _): (u32, crate::block::BlockName, _)| {
            name.path(&blocks.folder(shard).unwrap())
        };
        blocks.all().into_iter().map(path).collect()
    }

    /// The samples of one series, with their bits.
    pub(crate) fn read(&self, cluster: &ClusterName, series: u32) -> Vec<(i64, u64)> {
        let (numbers, _) = self.columns(cluster, series);
        numbers.iter().map(|s| (s.at.as_millis(), s.value.to_bits())).collect()
    }

    /// The native histograms of one series.
    pub(crate) fn histograms(&self, cluster: &ClusterName, series: u32) -> Vec<HistogramSample> {
        self.columns(cluster, series).1
    }

    fn columns(&self, cluster: &ClusterName, series: u32) -> (Numbers, Vec<HistogramSample>) {
        let (mut numbers, mut histograms) = (Numbers::default(), Vec::new());
        for series in self.select(cluster, series) {
            let all = (Timestamp::MIN, Timestamp::MAX);
            series.read(all.0, all.1, &mut numbers, &mut histograms).unwrap();
        }
        (numbers, histograms)
    }

    fn select(&self, cluster: &ClusterName, series: u32) -> Vec<SelectedSeries> {
        let matchers = [
            Matcher::equal("number", series.to_string()),
            Matcher::equal("cluster", cluster.as_str()),
        ];
        let found = self.store().select(&matchers, Timestamp::MIN, Timestamp::MAX).unwrap();
        assert!(found.len() <= 1);
        found
    }

    /// The samples of a series of `eu-1`, as numbers.
    pub(crate) fn values(&self, series: u32) -> Vec<(i64, f64)> {
        let read = self.read(&"eu-1".parse().unwrap(), series);
        read.into_iter().map(|(at, bits)| (at, f64::from_bits(bits))).collect()
    }
}

/// Copies a folder with everything in it but locks.
fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else if entry.file_name() != "lock" {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}
