//! The samples section: groups of equal time, each a list of series, then all values in that order.

use std::collections::HashMap;

use tributary_model::sample::{Sample, Timestamp};

use super::value::Series;
use super::wire::{Reader, put_len, put_svarint, put_uvarint};
use super::{FrameError, FrameSample};
use crate::limits::{Limits, MAX_REMEMBERED_LISTS, MAX_REMEMBERED_RUNS};

/// Codec: decimal deltas in varints.
const DECIMAL_DELTAS: u8 = 1;

/// A run of series numbers: the first, and how many.
type Run = (u32, u32);

/// Last values and remembered lists of a segment, at the agent.
#[derive(Debug, Default)]
pub(super) struct SampleWriter {
    series: Vec<Series>,
    lists: HashMap<Vec<Run>, usize>,
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
    pub(super) fn write(
        &mut self,
        samples: &[FrameSample],
        series: usize,
        base: Timestamp,
    ) -> Vec<u8> {
        self.series.resize(series.max(self.series.len()), Series::default());
        let entries = sorted(samples);
        let mut body = vec![DECIMAL_DELTAS];
        let groups = || entries.chunk_by(|a, b| (a.at, a.rank) == (b.at, b.rank));
        put_len(&mut body, groups().count());
        let mut at = base.as_millis();
        for group in groups() {
            let group_at = group.first().map_or(at, |entry| entry.at);
            put_svarint(&mut body, group_at.wrapping_sub(at));
            at = group_at;
            self.write_list(runs(group), &mut body);
        }
        for entry in &entries {
            if let Some(state) =
                usize::try_from(entry.series).ok().and_then(|n| self.series.get_mut(n))
            {
                state.encode(entry.value, &mut body);
            }
        }
        body
    }

    /// A list by its number, or in full the first time.
    fn write_list(&mut self, list: Vec<Run>, body: &mut Vec<u8>) {
        if let Some(number) = self.lists.get(&list) {
            put_len(body, number + 1);
            return;
        }
        put_uvarint(body, 0);
        put_len(body, list.len());
        let mut end = 0u32;
        for (first, count) in &list {
            put_uvarint(body, u64::from(first - end));
            put_uvarint(body, u64::from(count - 1));
            end = first + count;
        }
        if remembers(self.lists.len(), self.runs, list.len()) {
            self.runs += list.len();
            self.lists.insert(list, self.lists.len());
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

/// Last values and remembered lists of a segment, at the collector.
#[derive(Debug, Default)]
pub(super) struct SampleReader {
    series: Vec<Series>,
    lists: Vec<Vec<Run>>,
    runs: usize,
}

impl SampleReader {
    /// Series that have a number.
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    /// Numbers further series.
    pub(super) fn extend(&mut self, new: usize) {
        self.series.resize(self.series.len() + new, Series::default());
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
        match reader.u8()? {
            DECIMAL_DELTAS => {}
            other => return Err(FrameError::UnknownCodec(other)),
        }
        // Every value takes at least a byte, which bounds the samples by the input.
        if expected > limits.max_samples_per_frame || expected > reader.remaining() {
            return Err(reader.malformed("fewer bytes than samples"));
        }
        let mut samples = Vec::with_capacity(expected);
        let mut at = base.as_millis();
        for _ in 0..reader.count(2)? {
            at = at.wrapping_add(reader.svarint()?);
            self.read_list(&mut reader, Timestamp::from_millis(at), expected, &mut samples)?;
        }
        if samples.len() != expected {
            return Err(reader.malformed("the header names another number of samples"));
        }
        for FrameSample { series, sample } in &mut samples {
            let state = usize::try_from(*series).ok().and_then(|n| self.series.get_mut(n));
            let state =
                state.ok_or_else(|| reader.malformed("a series is not in the dictionary"))?;
            sample.value = state.decode(&mut reader)?;
        }
        reader.end()?;
        Ok(samples)
    }

    fn read_list(
        &mut self,
        reader: &mut Reader<'_>,
        at: Timestamp,
        expected: usize,
        samples: &mut Vec<FrameSample>,
    ) -> Result<(), FrameError> {
        if let Some(number) = reader.len()?.checked_sub(1) {
            let list = self.lists.get(number);
            let list = list.ok_or_else(|| reader.malformed("a list is not known"))?;
            return list.iter().try_for_each(|run| push(*run, at, expected, samples, reader));
        }
        let count = reader.count(2)?;
        if count == 0 {
            return Err(reader.malformed("a list is empty"));
        }
        let mut list = Vec::new();
        let mut end = 0u32;
        for _ in 0..count {
            let (gap, more) = (reader.u32()?, reader.u32()?);
            let first = end.checked_add(gap);
            let run = first.zip(more.checked_add(1));
            let run = run.ok_or_else(|| reader.malformed("a run overflows"))?;
            end = run.0.checked_add(run.1).ok_or_else(|| reader.malformed("a run overflows"))?;
            push(run, at, expected, samples, reader)?;
            list.push(run);
        }
        if remembers(self.lists.len(), self.runs, list.len()) {
            self.runs += list.len();
            self.lists.push(list);
        }
        Ok(())
    }
}

/// Adds a run's samples, without values yet; never more than the header announced.
fn push(
    (first, count): Run,
    at: Timestamp,
    expected: usize,
    samples: &mut Vec<FrameSample>,
    reader: &Reader<'_>,
) -> Result<(), FrameError> {
    let room = expected.saturating_sub(samples.len());
    if usize::try_from(count).map_or(true, |count| count > room) {
        return Err(reader.malformed("the header names another number of samples"));
    }
    samples.extend(
        (0..count).map(|n| FrameSample { series: first + n, sample: Sample { at, value: 0.0 } }),
    );
    Ok(())
}
