//! The native histograms of one series in memory: each as what changed since the one before it in its chunk.

use std::sync::Arc;

use tributary_model::fields::Malformed;
use tributary_model::histogram::Histogram;

use crate::codec::histograms;
use crate::keys::window;

/// Most histograms of one chunk: to find one, those in front of it are decoded.
const MAX_CHUNK_SAMPLES: usize = 120;
/// A chunk with so many bytes is full, too.
const FULL_BYTES: usize = 64 << 10;

/// An active series' histograms.
#[derive(Debug, Default)]
pub(super) struct Histograms {
    open: Option<Open>,
    /// Behind each other, oldest first.
    sealed: Vec<Arc<HistogramChunk>>,
    /// Older than the newest sample, by ascending time.
    late: Vec<(i64, Arc<Histogram>)>,
    /// On their way into blocks; may overlap.
    pub(super) frozen: Vec<Arc<HistogramChunk>>,
}

/// A chunk that grows.
#[derive(Debug)]
struct Open {
    times: Vec<i64>,
    bytes: Vec<u8>,
    newest: Arc<Histogram>,
}

/// A sealed chunk; it lies in one window.
#[derive(Debug)]
pub(crate) struct HistogramChunk {
    /// First histogram's time.
    pub(crate) min: i64,
    /// Last histogram's time.
    pub(crate) max: i64,
    times: Box<[i64]>,
    bytes: Box<[u8]>,
}

/// What the head has of a series' histograms, detached from it.
#[derive(Debug, Default)]
pub(crate) struct HistogramPieces {
    /// Chunks that overlap the range asked for.
    chunks: Vec<Arc<HistogramChunk>>,
    /// Late ones in the range.
    late: Vec<(i64, Arc<Histogram>)>,
}

impl HistogramPieces {
    /// Appends the histograms between two times, both inclusive, in no particular order over chunks.
    pub(crate) fn append(
        self,
        (from, to): (i64, i64),
        out: &mut Vec<(i64, Arc<Histogram>)>,
    ) -> Result<(), Malformed> {
        for chunk in &self.chunks {
            chunk.read(|at, histogram| {
                if at >= from && at <= to {
                    out.push((at, histogram));
                }
                at < to
            })?;
        }
        out.extend(self.late);
        Ok(())
    }
}

impl HistogramChunk {
    /// Visits the histograms in order until `visit` says no.
    pub(crate) fn read(
        &self,
        mut visit: impl FnMut(i64, Arc<Histogram>) -> bool,
    ) -> Result<(), Malformed> {
        let mut times = self.times.iter();
        histograms::decode(&self.bytes, self.times.len(), |histogram| {
            times.next().is_some_and(|at| visit(*at, histogram))
        })
    }

    fn find(&self, at: i64) -> Option<Arc<Histogram>> {
        self.times.binary_search(&at).ok()?;
        let mut found = None;
        let read = self.read(|time, histogram| {
            if time == at {
                found = Some(histogram);
            }
            time < at
        });
        read.ok().and(found)
    }

    fn size(&self) -> usize {
        self.bytes.len() + self.times.len() * size_of::<i64>() + size_of::<Self>() + 16
    }
}

impl Open {
    fn begin(at: i64, histogram: &Arc<Histogram>) -> Self {
        let mut bytes = Vec::new();
        histograms::append(&mut bytes, None, histogram);
        Self { times: vec![at], bytes, newest: Arc::clone(histogram) }
    }

    fn has_room(&self, at: i64) -> bool {
        self.times.len() < MAX_CHUNK_SAMPLES
            && self.bytes.len() < FULL_BYTES
            && window(self.first()) == window(at)
    }

    fn push(&mut self, at: i64, histogram: &Arc<Histogram>) {
        histograms::append(&mut self.bytes, Some(&self.newest), histogram);
        self.times.push(at);
        self.newest = Arc::clone(histogram);
    }

    fn first(&self) -> i64 {
        self.times.first().copied().unwrap_or(i64::MAX)
    }

    fn last(&self) -> i64 {
        self.times.last().copied().unwrap_or(i64::MIN)
    }

    fn size(&self) -> usize {
        self.bytes.capacity() + self.times.capacity() * size_of::<i64>() + weight(&self.newest)
    }

    fn seal(self) -> Arc<HistogramChunk> {
        let (min, max) = (self.first(), self.last());
        let (times, bytes) = (self.times.into(), self.bytes.into());
        Arc::new(HistogramChunk { min, max, times, bytes })
    }

    fn snapshot(&self) -> Arc<HistogramChunk> {
        let (min, max) = (self.first(), self.last());
        let (times, bytes) = (self.times.as_slice().into(), self.bytes.as_slice().into());
        Arc::new(HistogramChunk { min, max, times, bytes })
    }
}

impl Histograms {
    /// Appends one that is newer than all others.
    pub(super) fn push(&mut self, at: i64, histogram: &Arc<Histogram>) {
        if let Some(full) = self.open.take_if(|open| !open.has_room(at)) {
            self.sealed.push(full.seal());
        }
        match &mut self.open {
            Some(open) => open.push(at, histogram),
            None => self.open = Some(Open::begin(at, histogram)),
        }
    }

    /// Puts in one at a time that nothing is at.
    pub(super) fn push_late(&mut self, at: i64, histogram: &Arc<Histogram>) {
        let place = self.late.partition_point(|(late, _)| *late < at);
        self.late.insert(place, (at, Arc::clone(histogram)));
    }

    pub(super) fn find(&self, at: i64) -> Option<Arc<Histogram>> {
        if let Ok(place) = self.late.binary_search_by_key(&at, |(late, _)| *late) {
            return self.late.get(place).map(|(_, histogram)| Arc::clone(histogram));
        }
        let open = self.open.as_ref().filter(|open| open.times.binary_search(&at).is_ok());
        if let Some(open) = open {
            return open.snapshot().find(at);
        }
        self.sealed.iter().chain(&self.frozen).find_map(|chunk| chunk.find(at))
    }

    pub(super) fn read(&self, from: i64, to: i64) -> HistogramPieces {
        let overlaps = |chunk: &&Arc<HistogramChunk>| chunk.min <= to && from <= chunk.max;
        let sealed = self.frozen.iter().chain(&self.sealed).filter(overlaps).cloned();
        let open = self.open.as_ref().filter(|open| open.first() <= to && from <= open.last());
        let begin = self.late.partition_point(|(at, _)| *at < from);
        let late = self.late.iter().skip(begin).take_while(|(at, _)| *at <= to);
        HistogramPieces {
            chunks: sealed.chain(open.map(Open::snapshot)).collect(),
            late: late.cloned().collect(),
        }
    }

    pub(super) fn freeze(&mut self, before: i64) {
        if let Some(open) = self.open.take_if(|open| open.last() < before) {
            self.sealed.push(open.seal());
        }
        let done = self.sealed.partition_point(|chunk| chunk.max < before);
        self.frozen.extend(self.sealed.drain(..done));
        let done = self.late.partition_point(|(at, _)| *at < before);
        let mut open: Option<Open> = None;
        for (at, histogram) in self.late.drain(..done) {
            if let Some(full) = open.take_if(|open| !open.has_room(at)) {
                self.frozen.push(full.seal());
            }
            match &mut open {
                Some(open) => open.push(at, &histogram),
                None => open = Some(Open::begin(at, &histogram)),
            }
        }
        self.frozen.extend(open.map(Open::seal));
    }

    /// Forgets what is in blocks now.
    pub(super) fn release(&mut self, done: &[Arc<HistogramChunk>]) {
        self.frozen.retain(|chunk| !done.iter().any(|done| Arc::ptr_eq(chunk, done)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_none()
            && self.sealed.is_empty()
            && self.late.is_empty()
            && self.frozen.is_empty()
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        let chunks = self.sealed.first().into_iter().chain(&self.frozen).map(|chunk| chunk.min);
        let late = self.late.first().map(|(at, _)| *at);
        chunks.chain(self.open.as_ref().map(Open::first)).chain(late).min()
    }

    pub(super) fn closed_bytes(&self, before: i64) -> usize {
        let sealed = self.sealed.iter().take_while(|chunk| chunk.max < before);
        let sealed: usize = sealed.map(|chunk| chunk.size()).sum();
        let open = self.open.as_ref().filter(|open| open.last() < before);
        sealed + open.map_or(0, Open::size)
    }

    pub(super) fn bytes(&self) -> usize {
        let chunks = self.sealed.iter().chain(&self.frozen).map(|chunk| chunk.size());
        let late = self.late.iter().map(|(_, histogram)| weight(histogram));
        chunks.chain(late).sum::<usize>()
            + self.open.as_ref().map_or(0, Open::size)
            + size_of::<Self>()
    }
}

/// Memory that a decoded histogram takes, about.
fn weight(histogram: &Histogram) -> usize {
    size_of::<Histogram>() + histogram.encoded_bound()
}
