//! The newest samples of one cluster, in memory, compressed as they grow.

mod chunk;
mod histograms;
mod value;

use std::sync::Arc;

use roaring::RoaringBitmap;
use tributary_model::fields::Malformed;
use tributary_model::sample::{Numbers, Sample};

use crate::batch::Reason;
use crate::codec::growing::Appender;
use crate::keys::{EARLIEST_MILLIS, window};

pub(crate) use chunk::Chunk;
use chunk::{find, read};
use histograms::Histograms;
pub(crate) use histograms::{HistogramChunk, HistogramPieces};
pub(crate) use value::Value;

/// Most samples of one head chunk; the next one is begun.
const MAX_CHUNK_SAMPLES: u32 = 480;
/// No time at all.
const NEVER: i64 = i64::MIN;
/// No slot.
const IDLE: u32 = u32::MAX;

/// The head of one shard. Series are numbered by the catalogue.
#[derive(Debug)]
pub(crate) struct Head {
    entries: Vec<Entry>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Series that have a sample somewhere.
    sampled: usize,
    /// Every series with a sample at or behind `recent_from`, and perhaps others.
    recent: RoaringBitmap,
    recent_from: i64,
}

/// What is known of every series, active or not.
#[derive(Debug, Clone, Copy)]
struct Entry {
    first: i64,
    last: i64,
    slot: u32,
    group: u32,
}

/// An active series.
#[derive(Debug, Default)]
struct Slot {
    series: u32,
    /// The newest sample, if it was appended since the slot was made.
    newest: Option<Value>,
    open: Option<Appender>,
    /// Behind each other, oldest first.
    sealed: Vec<Arc<Chunk>>,
    /// Samples older than the newest one, by ascending time.
    late: Vec<(i64, u64)>,
    /// On their way into blocks; may overlap.
    frozen: Vec<Arc<Chunk>>,
    /// Nearly every series has none.
    histograms: Option<Box<Histograms>>,
}

/// What the head says of a sample by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is in.
    Stored,
    /// It is refused.
    Refused(Reason),
    /// It is older than the newest: what is there already must be looked up.
    Late,
}

/// What a batch's samples are measured against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Older than this is older than the retention.
    pub(crate) oldest: i64,
    /// Out-of-order samples and first samples must not be older than this.
    pub(crate) in_window: i64,
    /// Nothing may be newer than this.
    pub(crate) newest: i64,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            sampled: 0,
            recent: RoaringBitmap::new(),
            recent_from: NEVER,
        }
    }
}

impl Head {
    /// Makes room for one more series and returns its number, which is its place.
    pub(crate) fn push_series(&mut self, group: u32) {
        self.entries.push(Entry { first: i64::MAX, last: NEVER, slot: IDLE, group });
    }

    /// The group of a series that was made without one.
    pub(crate) fn set_group(&mut self, series: u32, group: u32) {
        if let Some(entry) = self.entry(series) {
            entry.group = group;
        }
    }

    /// What is known from blocks.
    pub(crate) fn widen(&mut self, series: u32, first: i64, last: i64) {
        if let Some(entry) = self.entries.get_mut(place(series)) {
            self.sampled += usize::from(entry.last == NEVER);
            entry.first = entry.first.min(first);
            entry.last = entry.last.max(last);
            self.recent.insert(series);
        }
    }

    /// The series that may have samples at or behind a time; `None` if that could be any.
    pub(crate) fn recent(&self, from: i64) -> Option<&RoaringBitmap> {
        (from >= self.recent_from && self.recent_from > NEVER).then_some(&self.recent)
    }

    /// Forgets which series have their last sample in front of a time, so that queries behind it need not look at them.
    pub(crate) fn pass(&mut self, from: i64) {
        let old = |number: &u32| self.span(*number).is_none_or(|(_, last)| last < from);
        let old: RoaringBitmap = self.recent.iter().filter(old).collect();
        self.recent -= old;
        self.recent_from = self.recent_from.max(from);
    }

    /// Forgets what is known of a resting series.
    pub(crate) fn forget(&mut self, series: u32) {
        if let Some(entry) = self.entries.get_mut(place(series)) {
            self.sampled -= usize::from(entry.last != NEVER);
            (entry.first, entry.last) = (i64::MAX, NEVER);
        }
    }

    /// Whether a series has samples here.
    pub(crate) fn is_active(&self, series: u32) -> bool {
        self.slot(series).is_some()
    }

    /// The number of series that have a sample somewhere.
    pub(crate) fn sampled(&self) -> usize {
        self.sampled
    }

    /// First and last sample of a series, wherever they are; `None` if there is no sample.
    pub(crate) fn span(&self, series: u32) -> Option<(i64, i64)> {
        let entry = self.entries.get(place(series))?;
        (entry.last != NEVER).then_some((entry.first, entry.last))
    }

    /// The metric group of a series; `None` if the series is not there.
    pub(crate) fn group(&self, series: u32) -> Option<u32> {
        self.entries.get(place(series)).map(|entry| entry.group)
    }

    /// The number of series with samples here.
    pub(crate) fn active(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of the chunks, about.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.iter().map(Slot::bytes).sum()
    }

    /// Bytes of the chunks that a freeze would set aside, about.
    pub(crate) fn closed_bytes(&self, before: i64) -> usize {
        self.slots.iter().map(|slot| slot.closed_bytes(before)).sum()
    }

    /// Decides about one sample, and appends it if it is newer than its series' last.
    pub(crate) fn append(
        &mut self,
        series: u32,
        at: i64,
        value: &Value,
        bounds: &Bounds,
    ) -> Verdict {
        let Some(entry) = self.entries.get(place(series)).copied() else {
            return Verdict::Refused(Reason::Unknown);
        };
        if at > bounds.newest {
            return Verdict::Refused(Reason::Future);
        }
        if at < bounds.oldest || at < EARLIEST_MILLIS {
            return Verdict::Refused(Reason::Expired);
        }
        if at > entry.last {
            if entry.last == NEVER && at < bounds.in_window {
                return Verdict::Refused(Reason::OutOfOrder);
            }
            self.insert(series, at, value);
            return Verdict::Stored;
        }
        // A sample sent again is most often the newest one: looked at first, and however old it is.
        if at == entry.last {
            let newest = self.slots.get(place(entry.slot)).and_then(|slot| slot.newest.as_ref());
            return match newest {
                Some(newest) if newest.is(value) => Verdict::Refused(Reason::Duplicate),
                Some(_) => Verdict::Refused(Reason::Conflict),
                None => Verdict::Late,
            };
        }
        if at < bounds.in_window {
            return Verdict::Refused(Reason::OutOfOrder);
        }
        Verdict::Late
    }

    /// Puts a sample in, wherever it belongs. One at a time that is taken already changes nothing.
    pub(crate) fn insert(&mut self, series: u32, at: i64, value: &Value) {
        let Some(entry) = self.entries.get(place(series)).copied() else { return };
        let slot = if entry.slot == IDLE { self.activate(series) } else { entry.slot };
        if entry.last == NEVER || entry.last < self.recent_from {
            self.recent.insert(series);
        }
        let newer = at > entry.last;
        self.sampled += usize::from(entry.last == NEVER);
        if let Some(entry) = self.entry(series) {
            entry.first = entry.first.min(at);
            entry.last = entry.last.max(at);
        }
        let Some(slot) = self.slots.get_mut(place(slot)) else { return };
        if newer {
            slot.push(at, value);
        } else if slot.find(at).is_none() {
            slot.push_late(at, value);
        }
    }

    /// The value at a time, if it is here.
    pub(crate) fn find(&self, series: u32, at: i64) -> Option<Value> {
        self.slot(series)?.find(at)
    }

    /// Appends the numbers of a series between two times, both inclusive, in no particular order over chunks; gives its
    /// native histograms, not decoded yet.
    pub(crate) fn read(
        &self,
        series: u32,
        (from, to): (i64, i64),
        out: &mut Numbers,
    ) -> Result<HistogramPieces, Malformed> {
        let Some(slot) = self.slot(series) else { return Ok(HistogramPieces::default()) };
        let overlaps = |chunk: &&Arc<Chunk>| chunk.min <= to && from <= chunk.max;
        for chunk in slot.frozen.iter().chain(&slot.sealed).filter(overlaps) {
            chunk.read_between((from, to), out)?;
        }
        if let Some(open) = slot.open.as_ref().filter(|o| o.first() <= to && from <= o.last()) {
            read((open.bytes(), open.count()), (from, to), out)?;
        }
        let begin = slot.late.partition_point(|(at, _)| *at < from);
        let inside = slot.late.iter().skip(begin).take_while(|(at, _)| *at <= to);
        out.extend(inside.map(|(at, value)| Sample::new(*at, f64::from_bits(*value))));
        Ok(slot.histograms.as_ref().map(|all| all.read(from, to)).unwrap_or_default())
    }

    /// Sets everything older than `before`, a window's start, aside for blocks. It stays readable.
    pub(crate) fn freeze(&mut self, before: i64) -> Vec<Frozen> {
        let mut out = Vec::new();
        for slot in &mut self.slots {
            slot.freeze(before);
            let histograms = slot.histograms.as_ref().map(|h| h.frozen.clone()).unwrap_or_default();
            if !(slot.frozen.is_empty() && histograms.is_empty()) {
                let chunks = slot.frozen.clone();
                out.push(Frozen { series: slot.series, group: 0, chunks, histograms });
            }
        }
        for frozen in &mut out {
            frozen.group = self.group(frozen.series).unwrap_or(0);
        }
        out.sort_unstable_by_key(|frozen| (frozen.group, frozen.series));
        out
    }

    /// Forgets what was set aside and is in blocks now, and puts idle series to rest.
    pub(crate) fn release(&mut self, frozen: &[Frozen]) {
        for done in frozen {
            let Some(entry) = self.entries.get(place(done.series)).copied() else { continue };
            let Some(slot) = self.slots.get_mut(place(entry.slot)) else { continue };
            slot.frozen.retain(|c| !done.chunks.iter().any(|d| Arc::ptr_eq(c, d)));
            slot.histograms.take_if(|histograms| {
                histograms.release(&done.histograms);
                histograms.is_empty()
            });
            if slot.is_empty() {
                *slot = Slot::default();
                self.free.push(entry.slot);
                if let Some(entry) = self.entry(done.series) {
                    entry.slot = IDLE;
                }
            }
        }
    }

    /// The oldest sample here.
    pub(crate) fn oldest(&self) -> Option<i64> {
        self.slots.iter().filter_map(Slot::oldest).min()
    }

    fn activate(&mut self, series: u32) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(IDLE)
        });
        if let Some(slot) = self.slots.get_mut(place(slot)) {
            slot.series = series;
        }
        if let Some(entry) = self.entry(series) {
            entry.slot = slot;
        }
        slot
    }

    fn entry(&mut self, series: u32) -> Option<&mut Entry> {
        self.entries.get_mut(place(series))
    }

    fn slot(&self, series: u32) -> Option<&Slot> {
        let entry = self.entries.get(place(series))?;
        self.slots.get(place(entry.slot))
    }
}

impl Slot {
    fn push(&mut self, at: i64, value: &Value) {
        match value {
            Value::Number(value) => self.push_number(at, *value),
            Value::Histogram(histogram) => {
                self.histograms.get_or_insert_default().push(at, histogram);
            }
        }
        self.newest = Some(value.clone());
    }

    fn push_number(&mut self, at: i64, value: u64) {
        let full = |open: &Appender| {
            open.count() >= MAX_CHUNK_SAMPLES || window(open.last()) != window(at)
        };
        if let Some(open) = self.open.take_if(|open| full(open)) {
            self.sealed.push(Chunk::seal(open));
        }
        self.open.get_or_insert_default().push(at, value);
    }

    fn push_late(&mut self, at: i64, value: &Value) {
        match value {
            Value::Number(value) => {
                let place = self.late.partition_point(|(late, _)| *late < at);
                self.late.insert(place, (at, *value));
            }
            Value::Histogram(histogram) => {
                self.histograms.get_or_insert_default().push_late(at, histogram);
            }
        }
    }

    fn find(&self, at: i64) -> Option<Value> {
        let histogram = || self.histograms.as_ref()?.find(at).map(Value::Histogram);
        self.find_number(at).map(Value::Number).or_else(histogram)
    }

    fn find_number(&self, at: i64) -> Option<u64> {
        if let Ok(place) = self.late.binary_search_by_key(&at, |(late, _)| *late) {
            return self.late.get(place).map(|(_, value)| *value);
        }
        if let Some(open) = self.open.as_ref().filter(|open| open.first() <= at) {
            let found = find(open.bytes(), open.count(), at);
            if found.is_some() {
                return found;
            }
        }
        self.sealed.iter().chain(&self.frozen).find_map(|chunk| chunk.find(at))
    }

    fn freeze(&mut self, before: i64) {
        if let Some(open) = self.open.take_if(|open| open.last() < before) {
            self.sealed.push(Chunk::seal(open));
        }
        let done = self.sealed.partition_point(|chunk| chunk.max < before);
        self.frozen.extend(self.sealed.drain(..done));
        let done = self.late.partition_point(|(at, _)| *at < before);
        let mut open: Option<Appender> = None;
        for (at, value) in self.late.drain(..done) {
            if let Some(full) = open.take_if(|open| {
                open.count() >= MAX_CHUNK_SAMPLES || window(open.last()) != window(at)
            }) {
                self.frozen.push(Chunk::seal(full));
            }
            open.get_or_insert_default().push(at, value);
        }
        self.frozen.extend(open.map(Chunk::seal));
        if let Some(histograms) = &mut self.histograms {
            histograms.freeze(before);
        }
    }

    fn is_empty(&self) -> bool {
        self.open.is_none()
            && self.sealed.is_empty()
            && self.late.is_empty()
            && self.frozen.is_empty()
            && self.histograms.is_none()
    }

    fn oldest(&self) -> Option<i64> {
        let chunks = self.sealed.first().into_iter().chain(&self.frozen).map(|chunk| chunk.min);
        let late = self.late.first().map(|(at, _)| *at);
        let histograms = self.histograms.as_ref().and_then(|histograms| histograms.oldest());
        chunks.chain(self.open.as_ref().map(Appender::first)).chain(late).chain(histograms).min()
    }

    fn closed_bytes(&self, before: i64) -> usize {
        let sealed = self.sealed.iter().take_while(|chunk| chunk.max < before);
        let sealed: usize = sealed.map(|chunk| chunk.len()).sum();
        let open = self.open.as_ref().filter(|open| open.last() < before);
        let histograms = self.histograms.as_ref().map_or(0, |h| h.closed_bytes(before));
        sealed + open.map_or(0, Appender::capacity) + histograms
    }

    fn bytes(&self) -> usize {
        let chunks = self.sealed.iter().chain(&self.frozen);
        let sealed: usize = chunks.map(|chunk| chunk.len() + size_of::<Chunk>() + 16).sum();
        let open = self.open.as_ref().map_or(0, Appender::capacity);
        let histograms = self.histograms.as_ref().map_or(0, |histograms| histograms.bytes());
        sealed + open + histograms + self.late.capacity() * 16 + size_of::<Self>()
    }
}

/// A series' chunks on their way into blocks.
#[derive(Debug, Clone)]
pub(crate) struct Frozen {
    /// The series.
    pub(crate) series: u32,
    /// Its metric group.
    pub(crate) group: u32,
    /// The chunks, in no particular order.
    pub(crate) chunks: Vec<Arc<Chunk>>,
    /// Those of native histograms.
    pub(crate) histograms: Vec<Arc<HistogramChunk>>,
}

impl Frozen {
    /// The first times of all chunks.
    pub(crate) fn starts(&self) -> impl Iterator<Item = i64> {
        let histograms = self.histograms.iter().map(|chunk| chunk.min);
        self.chunks.iter().map(|chunk| chunk.min).chain(histograms)
    }
}

fn place(index: u32) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}
