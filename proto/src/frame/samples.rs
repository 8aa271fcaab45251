//! The samples section: groups of equal time, each a list of series, then all values in that order.

use std::collections::HashMap;

use tributary_model::fields::{put_signed, put_varint};
use tributary_model::sample::{Sample, Timestamp};

use super::header::Version;
use super::range::{self, End};
use super::value::{Model, Series};
use super::wire::{Reader, put_len};
use super::{FrameError, FrameSample, v1};
use crate::limits::{Limits, MAX_REMEMBERED_LISTS, MAX_REMEMBERED_RUNS};

/// Codec of version 1: decimal deltas in varints.
const VARINT_DELTAS: u8 = 1;
/// Codec of version 2: decimal deltas in range-coded Rice codes.
const RICE_DELTAS: u8 = 2;

/// A run of series numbers: the first, and how many.
type Run = (u32, u32);

/// When the series of a list were last read together, and how long after the time before that.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    at: i64,
    interval: i64,
}

impl Clock {
    fn next(self) -> i64 {
        self.at.wrapping_add(self.interval)
    }

    fn tick(&mut self, at: i64) {
        *self = Self { at, interval: at.wrapping_sub(self.at) };
    }
}

/// State of a segment, at the agent.
#[derive(Debug, Default)]
pub(super) struct SampleWriter {
    series: Vec<Series>,
    model: Box<Model>,
    lists: HashMap<Vec<Run>, usize>,
    clocks: Vec<Clock>,
    runs: usize,
}

/// One sample of the frame to be, with its place in the order of the section.
struct Entry {
    at: i64,
    /// How many samples of the same series and time come before it: those go into groups of their own.
    rank: u32,
    series: u32,
    value: f64,
}

impl SampleWriter {
    /// The section's body; the samples' series are numbers below `series`.
    pub(super) fn write(&mut self, samples: &[FrameSample], series: usize) -> Vec<u8> {
        self.series.resize(series.max(self.series.len()), Series::default());
        let entries = sorted(samples);
        let mut body = vec![RICE_DELTAS];
        let groups = || entries.chunk_by(|a, b| (a.at, a.rank) == (b.at, b.rank));
        put_len(&mut body, groups().count());
        let mut before = None;
        for group in groups() {
            let at = group.first().map_or(0, |entry| entry.at);
            self.write_group(runs(group), at, before, &mut body);
            before = Some(at);
        }
        let mut coder = range::Writer::new(&mut body);
        for entry in &entries {
            let series = usize::try_from(entry.series).ok().and_then(|n| self.series.get_mut(n));
            if let Some(series) = series {
                self.model.encode(series, entry.value, &mut coder);
            }
        }
        coder.finish();
        body
    }

    /// The list, by its number or in full the first time, and the time, unless it is the frame's first.
    fn write_group(&mut self, list: Vec<Run>, at: i64, before: Option<i64>, body: &mut Vec<u8>) {
        if let Some(number) = self.lists.get(&list) {
            put_len(body, number + 1);
            if let Some(clock) = self.clocks.get_mut(*number) {
                if before.is_some() {
                    put_signed(body, at.wrapping_sub(clock.next()));
                }
                clock.tick(at);
            }
            return;
        }
        put_varint(body, 0);
        put_len(body, list.len());
        let mut end = 0u32;
        for (first, count) in &list {
            put_varint(body, u64::from(first - end));
            put_varint(body, u64::from(count - 1));
            end = first + count;
        }
        if let Some(before) = before {
            put_signed(body, at.wrapping_sub(before));
        }
        if remembers(self.lists.len(), self.runs, list.len()) {
            self.runs += list.len();
            self.lists.insert(list, self.lists.len());
            self.clocks.push(Clock { at, interval: 0 });
        }
    }
}

/// Both ends remember a list under the same condition.
fn remembers(lists: usize, runs: usize, new_runs: usize) -> bool {
    lists < MAX_REMEMBERED_LISTS && runs + new_runs <= MAX_REMEMBERED_RUNS
}

fn sorted(samples: &[FrameSample]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = samples
        .iter()
        .map(|s| Entry {
            at: s.sample.at.as_millis(),
            rank: 0,
            series: s.series,
            value: s.sample.value,
        })
        .collect();
    // Stable, so that of two samples of one series and time the earlier one stays first.
    entries.sort_by_key(|entry| (entry.at, entry.series));
    let mut previous = None;
    let mut rank = 0;
    for entry in &mut entries {
        let key = Some((entry.at, entry.series));
        rank = if key == previous { rank + 1 } else { 0 };
        entry.rank = rank;
        previous = key;
    }
    if entries.iter().any(|entry| entry.rank > 0) {
        entries.sort_by_key(|entry| (entry.at, entry.rank, entry.series));
    }
    entries
}

fn runs(group: &[Entry]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for entry in group {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == entry.series => *count += 1,
            _ => runs.push((entry.series, 1)),
        }
    }
    runs
}

/// State of a segment, at the collector.
#[derive(Debug)]
pub(super) struct SampleReader {
    values: Values,
    lists: Vec<(Vec<Run>, Clock)>,
    runs: usize,
}

/// Last values, as the segment's version has them.
#[derive(Debug)]
enum Values {
    V1(Vec<v1::Series>),
    V2(Vec<Series>, Box<Model>),
}

impl SampleReader {
    /// For a segment of frames of this version.
    pub(super) fn new(version: Version) -> Self {
        let values = match version {
            Version::V1 => Values::V1(Vec::new()),
            Version::V2 | Version::V3 { .. } => Values::V2(Vec::new(), Box::default()),
        };
        Self { values, lists: Vec::new(), runs: 0 }
    }

    /// Whether the segment's frames are of version 1.
    pub(super) fn is_first_version(&self) -> bool {
        matches!(self.values, Values::V1(_))
    }

    /// Series that have a number.
    pub(super) fn len(&self) -> usize {
        match &self.values {
            Values::V1(series) => series.len(),
            Values::V2(series, _) => series.len(),
        }
    }

    /// Numbers further series.
    pub(super) fn extend(&mut self, new: usize) {
        match &mut self.values {
            Values::V1(series) => series.resize(series.len() + new, v1::Series::default()),
            Values::V2(series, _) => series.resize(series.len() + new, Series::default()),
        }
    }

    /// Reads a section's body of exactly `expected` samples.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        expected: usize,
        base: Timestamp,
        limits: &Limits,
    ) -> Result<Vec<FrameSample>, FrameError> {
        let mut reader = Reader::new(body, "samples");
        let (codec, least) = if self.is_first_version() {
            // Every value takes at least a byte.
            (VARINT_DELTAS, expected)
        } else {
            (RICE_DELTAS, 0)
        };
        let found = reader.u8()?;
        if found != codec {
            return Err(FrameError::UnknownCodec(found));
        }
        if expected > limits.max_samples_per_frame {
            let limit = limits.max_samples_per_frame;
            return Err(FrameError::too_large("number of samples", expected, limit));
        }
        if least > reader.remaining() {
            return Err(reader.malformed("fewer bytes than samples"));
        }
        let mut room = Room { samples: Vec::with_capacity(expected), expected };
        let mut before = None;
        for _ in 0..reader.count(1)? {
            before = Some(self.read_group(&mut reader, base, before, &mut room)?);
        }
        if room.left() > 0 {
            return Err(reader.malformed("the header names another number of samples"));
        }
        self.read_values(reader, &mut room.samples)?;
        Ok(room.samples)
    }

    /// Reads a group's list and time, and adds its samples, without values yet.
    fn read_group(
        &mut self,
        reader: &mut Reader<'_>,
        base: Timestamp,
        before: Option<i64>,
        samples: &mut Room,
    ) -> Result<i64, FrameError> {
        let base = base.as_millis();
        if self.is_first_version() {
            let at = before.unwrap_or(base).wrapping_add(reader.signed()?);
            let list = self.read_list(reader, samples.left())?;
            samples.add(self.runs_of(&list), at);
            self.keep(list, at);
            return Ok(at);
        }
        let list = self.read_list(reader, samples.left())?;
        let at = match (before, &list) {
            (None, _) => base,
            (Some(_), List::Known(number)) => {
                let clock = self.lists.get(*number).map(|(_, clock)| *clock).unwrap_or_default();
                clock.next().wrapping_add(reader.signed()?)
            }
            (Some(before), List::New(_)) => before.wrapping_add(reader.signed()?),
        };
        samples.add(self.runs_of(&list), at);
        self.keep(list, at);
        Ok(at)
    }

    /// Reads a list of at most `room` series.
    fn read_list(&self, reader: &mut Reader<'_>, room: usize) -> Result<List, FrameError> {
        let too_many = "the header names another number of samples";
        if let Some(number) = reader.len()?.checked_sub(1) {
            let list = self.lists.get(number);
            let (list, _) = list.ok_or_else(|| reader.malformed("a list is not known"))?;
            let fits = room_after(room, list).is_some();
            return if fits { Ok(List::Known(number)) } else { Err(reader.malformed(too_many)) };
        }
        let count = reader.count(2)?;
        if count == 0 {
            return Err(reader.malformed("a list is empty"));
        }
        let (mut list, mut room, mut end) = (Vec::new(), room, 0u32);
        for _ in 0..count {
            let (gap, more) = (reader.u32()?, reader.u32()?);
            let run = end.checked_add(gap).zip(more.checked_add(1));
            let run = run.ok_or_else(|| reader.malformed("a run overflows"))?;
            end = run.0.checked_add(run.1).ok_or_else(|| reader.malformed("a run overflows"))?;
            room = room_after(room, &[run]).ok_or_else(|| reader.malformed(too_many))?;
            list.push(run);
        }
        Ok(List::New(list))
    }

    fn runs_of<'a>(&'a self, list: &'a List) -> &'a [Run] {
        match list {
            List::Known(number) => self.lists.get(*number).map_or(&[], |(runs, _)| runs),
            List::New(runs) => runs,
        }
    }

    /// Remembers a new list, and when a list was read.
    fn keep(&mut self, list: List, at: i64) {
        match list {
            List::Known(number) => {
                if let Some((_, clock)) = self.lists.get_mut(number) {
                    clock.tick(at);
                }
            }
            List::New(runs) => {
                if remembers(self.lists.len(), self.runs, runs.len()) {
                    self.runs += runs.len();
                    self.lists.push((runs, Clock { at, interval: 0 }));
                }
            }
        }
    }

    /// Reads the values of all samples, up to the end of the section.
    fn read_values(
        &mut self,
        mut reader: Reader<'_>,
        samples: &mut [FrameSample],
    ) -> Result<(), FrameError> {
        let place = reader;
        let unknown = || place.malformed("a series is not in the dictionary");
        match &mut self.values {
            Values::V1(series) => {
                for FrameSample { series: number, sample } in samples {
                    let state = usize::try_from(*number).ok().and_then(|n| series.get_mut(n));
                    sample.value = state.ok_or_else(unknown)?.decode(&mut reader)?;
                }
                reader.end()
            }
            Values::V2(series, model) => {
                let mut coder = range::Reader::new(reader.rest());
                for FrameSample { series: number, sample } in samples {
                    let state = usize::try_from(*number).ok().and_then(|n| series.get_mut(n));
                    let value = model.decode(state.ok_or_else(unknown)?, &mut coder);
                    sample.value =
                        value.ok_or_else(|| reader.malformed("there is no such value"))?;
                }
                match coder.end() {
                    End::Exact => Ok(()),
                    End::TooEarly => Err(reader.truncated()),
                    End::Wrong => Err(reader.malformed("bytes are left over")),
                }
            }
        }
    }
}

/// A group's list of series.
#[derive(Debug)]
enum List {
    /// One that the segment remembers, by its number.
    Known(usize),
    New(Vec<Run>),
}

/// The samples of a frame, never more than its header announced.
struct Room {
    samples: Vec<FrameSample>,
    expected: usize,
}

impl Room {
    fn left(&self) -> usize {
        self.expected.saturating_sub(self.samples.len())
    }

    /// Adds a list's samples, which fit.
    fn add(&mut self, list: &[Run], at: i64) {
        let at = Timestamp::from_millis(at);
        let numbers = list.iter().flat_map(|(first, count)| *first..*first + *count);
        self.samples.extend(
            numbers.map(|series| FrameSample { series, sample: Sample { at, value: 0.0 } }),
        );
    }
}

/// What is left of the room for samples after these runs; `None` if they do not fit.
fn room_after(room: usize, list: &[Run]) -> Option<usize> {
    list.iter().try_fold(room, |room, (_, count)| room.checked_sub(usize::try_from(*count).ok()?))
}
