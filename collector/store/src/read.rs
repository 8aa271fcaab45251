//! The read path: matchers to series, series to pages and head chunks, chunks to samples.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use roaring::RoaringBitmap;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};

use crate::core::{Core, Shard};
use crate::error::Error;
use crate::keys::{PageKey, window};

/// A series that may have samples in the range it was selected for.
#[derive(Clone)]
pub struct SelectedSeries {
    /// Its labels.
    pub labels: Labels,
    shard: Arc<Shard>,
    number: u32,
    group: u32,
    plan: Arc<Plan>,
}

impl std::fmt::Debug for SelectedSeries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.labels.fmt(f)
    }
}

/// What the series of one selection share: where the pages are.
struct Plan {
    core: Arc<Core>,
    from: i64,
    to: i64,
    groups: Mutex<HashMap<(u32, u32), Listed>>,
}

/// The pages of a shard and metric group, as of a generation.
#[derive(Clone)]
struct Listed {
    generation: u64,
    keys: Arc<Vec<PageKey>>,
}

impl SelectedSeries {
    /// Appends the samples between two times, both inclusive, by ascending time. Of a range wider than the one the
    /// series was selected for, the part outside may be missing.
    pub fn read(&self, from: Timestamp, to: Timestamp, out: &mut Vec<Sample>) -> Result<(), Error> {
        let (from, to) = (from.as_millis(), to.as_millis());
        let start = out.len();
        let core = &self.plan.core;
        let pieces = loop {
            let generation = core.generation.load(Ordering::Acquire);
            self.pages(generation, from, to, out)?;
            let pieces = self.shard.head().read(self.number, from, to);
            if core.generation.load(Ordering::Acquire) == generation {
                break pieces;
            }
            // Samples moved from the head into pages meanwhile, which happens once in minutes.
            out.truncate(start);
        };
        for chunk in &pieces.chunks {
            let read = chunk.read(|sample| {
                let at = sample.at.as_millis();
                if at >= from && at <= to {
                    out.push(sample);
                }
                at < to
            });
            read.map_err(Error::damaged("a chunk in memory"))?;
        }
        out.extend(pieces.late.iter().map(|(at, v)| Sample::new(*at, f64::from_bits(*v))));
        sort_from(out, start);
        Ok(())
    }

    /// Appends what pages have.
    fn pages(
        &self,
        generation: u64,
        from: i64,
        to: i64,
        out: &mut Vec<Sample>,
    ) -> Result<(), Error> {
        let keys = self.plan.pages(self.shard.id, self.group, generation)?;
        let (first, last) = (window(from), window(to));
        let begin = keys.partition_point(|key| key.window < first);
        for key in keys.iter().skip(begin).take_while(|key| key.window <= last) {
            if !(key.first..=key.last).contains(&self.number) {
                continue;
            }
            let Some(page) = self.plan.core.page(key)? else { continue };
            page.read(self.number, |at, bits| {
                if at >= from && at <= to {
                    out.push(Sample::new(at, f64::from_bits(bits)));
                }
            })
            .map_err(Error::damaged(format!("the page {key:?}")))?;
        }
        Ok(())
    }
}

/// Brings the samples from `start` on in order, each time once.
fn sort_from(out: &mut Vec<Sample>, start: usize) {
    let Some(new) = out.get_mut(start..) else { return };
    if new.is_sorted_by(|a, b| a.at < b.at) {
        return;
    }
    new.sort_by_key(|sample| sample.at);
    let mut index = 0;
    let mut before = None;
    out.retain(|sample| {
        let keep = index < start || before != Some(sample.at);
        if index >= start {
            before = Some(sample.at);
        }
        index += 1;
        keep
    });
}

impl Plan {
    fn pages(&self, shard: u32, group: u32, generation: u64) -> Result<Arc<Vec<PageKey>>, Error> {
        let known = {
            let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
            groups.get(&(shard, group)).filter(|listed| listed.generation == generation).cloned()
        };
        if let Some(listed) = known {
            return Ok(listed.keys);
        }
        let keys = self.core.page_keys(shard, group, (window(self.from), window(self.to)))?;
        let listed = Listed { generation, keys: Arc::new(keys) };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.insert((shard, group), listed.clone());
        Ok(listed.keys)
    }
}

/// The series that satisfy the matchers and may have samples between two times, both inclusive.
pub(crate) fn select(
    core: &Arc<Core>,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<SelectedSeries> {
    let (from, to) = (from.as_millis(), to.as_millis());
    let groups = Mutex::default();
    let plan = Arc::new(Plan { core: Arc::clone(core), from, to, groups });
    let mut out = Vec::new();
    for shard in core.shards() {
        let index = shard.index();
        let among = alive(&shard, index.select(matchers), from, to);
        let head = shard.head();
        for number in among {
            let Some(labels) = index.labels(number) else { continue };
            out.push(SelectedSeries {
                labels: labels.clone(),
                shard: Arc::clone(&shard),
                number,
                group: head.group(number).unwrap_or(0),
                plan: Arc::clone(&plan),
            });
        }
    }
    out
}

/// The label sets of the series that `select` would find.
pub(crate) fn series(
    core: &Core,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<Labels> {
    let mut out = Vec::new();
    for shard in core.shards() {
        let index = shard.index();
        let among = alive(&shard, index.select(matchers), from.as_millis(), to.as_millis());
        out.extend(among.iter().filter_map(|number| index.labels(number).cloned()));
    }
    out
}

/// The label names of those series, sorted.
pub(crate) fn label_names(
    core: &Core,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<String> {
    let mut out: BTreeSet<Arc<str>> = BTreeSet::new();
    for shard in core.shards() {
        let index = shard.index();
        let among = alive(&shard, index.select(matchers), from.as_millis(), to.as_millis());
        out.extend(index.names(&among).cloned());
    }
    out.iter().map(ToString::to_string).collect()
}

/// The values of a label in those series, sorted.
pub(crate) fn label_values(
    core: &Core,
    name: &str,
    matchers: &[Matcher],
    from: Timestamp,
    to: Timestamp,
) -> Vec<String> {
    let mut out: BTreeSet<Arc<str>> = BTreeSet::new();
    for shard in core.shards() {
        let index = shard.index();
        let among = alive(&shard, index.select(matchers), from.as_millis(), to.as_millis());
        out.extend(index.values(name, &among).cloned());
    }
    out.iter().map(ToString::to_string).collect()
}

/// Those that have samples at or behind `from` and at or in front of `to`.
fn alive(shard: &Shard, found: RoaringBitmap, from: i64, to: i64) -> RoaringBitmap {
    let head = shard.head();
    found
        .into_iter()
        .filter(|number| head.span(*number).is_some_and(|(a, b)| a <= to && from <= b))
        .collect()
}
