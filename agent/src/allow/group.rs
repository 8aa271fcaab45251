//! One merged series and its members: their queues, the rounds, and what a round puts out.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, is_stale, stale_nan};

use super::digest::Digest;
use super::merge::{MAX_QUEUE, SETTLE, SILENCE};
use super::rules::Merge;

const MILLISECOND: Duration = Duration::from_millis(1);

/// One output series.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) digest: Digest,
    pub(super) labels: Labels,
    pub(super) merge: Merge,
    /// Whether it is the sum of counters.
    pub(super) rises: bool,
    /// What forgotten members had contributed.
    pub(super) gone: f64,
    /// The newest timestamp that was put out.
    pub(super) emitted: Timestamp,
    /// Whether the newest output was a staleness marker, or there was none.
    pub(super) ended: bool,
    pub(super) next_member: u32,
    pub(super) members: BTreeMap<u32, Member>,
    pub(super) by_digest: HashMap<Digest, u32>,
    /// Whether the rules in force are known to still make this output.
    pub(super) confirmed: bool,
    /// When a sample came last, by the wall clock; unknown after a restart.
    pub(super) touched: Option<Timestamp>,
    /// Members that are live, and members with samples waiting (which are live).
    pub(super) live: usize,
    pub(super) waiting: usize,
}

/// One source series.
#[derive(Debug)]
pub(crate) struct Member {
    pub(super) digest: Digest,
    /// Its newest value that went into a round.
    pub(super) last: Option<f64>,
    /// What it had counted before its resets.
    pub(super) base: f64,
    /// The newest timestamp it is known to have, waiting or not.
    pub(super) newest: Timestamp,
    pub(super) live: bool,
    pub(super) queue: VecDeque<Waiting>,
}

/// A sample that waits for its round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waiting {
    pub(super) sample: Sample,
    /// When it arrived, by the wall clock; unknown after a restart.
    pub(super) arrived: Option<Timestamp>,
}

/// What waits in a group's queues.
#[derive(Debug)]
pub(super) struct Queues {
    /// The oldest first sample.
    first: Timestamp,
    /// The oldest first sample that has not waited for [`SETTLE`].
    young: Timestamp,
    /// The oldest second sample: it and what is not older belong to later rounds.
    pub(super) end: Timestamp,
    /// Whether a member has more waiting than [`MAX_QUEUE`].
    overfull: bool,
}

impl Group {
    pub(super) fn new(digest: Digest, labels: Labels, merge: Merge, rises: bool) -> Self {
        Self {
            digest,
            labels,
            merge,
            rises,
            gone: 0.0,
            emitted: Timestamp::MIN,
            ended: true,
            next_member: 0,
            members: BTreeMap::new(),
            by_digest: HashMap::new(),
            // A group that was restored is one that the rules made; `doubt` follows if they have changed.
            confirmed: true,
            touched: None,
            live: 0,
            waiting: 0,
        }
    }

    pub(super) fn add(&mut self, id: u32, member: Member) -> bool {
        self.next_member = self.next_member.max(id.saturating_add(1));
        self.by_digest.insert(member.digest, id);
        self.members.insert(id, member).is_none()
    }

    pub(super) fn set_rises(&mut self, rises: bool) {
        self.rises = rises;
        // What left as a gauge does not return as a counter.
        for member in self.members.values_mut().filter(|m| rises && !m.live) {
            member.last = None;
        }
    }

    pub(super) fn push(&mut self, id: u32, waiting: Waiting) {
        let Some(member) = self.members.get_mut(&id) else { return };
        self.live += usize::from(!member.live);
        self.waiting += usize::from(member.queue.is_empty());
        member.live = true;
        member.newest = member.newest.max(waiting.sample.at);
        member.queue.push_back(waiting);
    }

    /// Where the round ends, if it need not wait any longer.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<Timestamp> {
        let queues = self.look(now);
        if queues.first <= self.emitted {
            // Late samples have missed their round, and must not pull others into theirs.
            return Some(self.emitted.plus(MILLISECOND));
        }
        if self.waiting >= self.live || queues.overfull {
            return Some(queues.end);
        }
        (queues.first < queues.young)
            .then(|| queues.end.min(queues.young).max(queues.first.plus(MILLISECOND)))
    }

    pub(super) fn look(&mut self, now: Timestamp) -> Queues {
        let mut queues = Queues {
            first: Timestamp::MAX,
            young: Timestamp::MAX,
            end: Timestamp::MAX,
            overfull: false,
        };
        for member in self.members.values_mut() {
            queues.overfull |= member.queue.len() > MAX_QUEUE;
            let Some(waiting) = member.queue.front_mut() else { continue };
            let arrived = *waiting.arrived.get_or_insert(now);
            let at = waiting.sample.at;
            queues.first = queues.first.min(at);
            if arrived.plus(SETTLE) > now {
                queues.young = queues.young.min(at);
            }
            if let Some(second) = member.queue.get(1) {
                queues.end = queues.end.min(second.sample.at);
            }
        }
        queues
    }

    /// Takes one round out of the queues.
    pub(super) fn close(&mut self, end: Timestamp) -> Option<Sample> {
        let mut at = Timestamp::MIN;
        for member in self.members.values_mut() {
            let Some(sample) = member.first().filter(|s| s.at < end) else { continue };
            member.queue.pop_front();
            self.waiting -= usize::from(member.queue.is_empty());
            at = at.max(sample.at);
            if is_stale(sample.value) {
                let returned = !member.queue.is_empty();
                self.live -= usize::from(!returned);
                member.live = returned;
            } else {
                member.take(sample.value, self.rises);
            }
        }
        self.end_silent(at);
        self.put_out(at)
    }

    fn end_silent(&mut self, at: Timestamp) {
        let silent = at.minus(SILENCE);
        for member in self.members.values_mut() {
            if member.live && member.queue.is_empty() && member.newest < silent {
                member.live = false;
                self.live -= 1;
            }
        }
    }

    fn put_out(&mut self, at: Timestamp) -> Option<Sample> {
        if at <= self.emitted {
            return None;
        }
        let value = if self.live == 0 { None } else { self.value() };
        if value.is_none() && self.ended {
            return None;
        }
        self.emitted = at;
        self.ended = value.is_none();
        Some(Sample { at, value: value.unwrap_or_else(stale_nan) })
    }

    fn value(&self) -> Option<f64> {
        let values = || self.members.values().filter(|m| m.live).filter_map(|m| m.last);
        values().next()?;
        Some(match self.merge {
            Merge::Sum if self.rises => {
                self.gone + self.members.values().map(Member::contributed).sum::<f64>()
            }
            Merge::Sum => values().sum(),
            Merge::Min => values().fold(f64::NAN, f64::min),
            Merge::Max => values().fold(f64::NAN, f64::max),
            Merge::Avg => values().sum::<f64>() / values().count() as f64,
            Merge::Count => values().count() as f64,
            Merge::Last | Merge::Refuse => {
                let live = self.members.values().filter(|m| m.live && m.last.is_some());
                live.max_by_key(|m| m.reported())?.last?
            }
        })
    }

    /// Counts live and waiting members anew, after a snapshot was read.
    pub(super) fn count(&mut self) {
        self.waiting = self.members.values().filter(|m| !m.queue.is_empty()).count();
        self.live = self.members.values().filter(|m| m.live).count();
    }

    pub(super) fn forget(&mut self, id: u32) -> bool {
        let Some(member) = self.members.remove(&id) else { return false };
        self.by_digest.remove(&member.digest);
        self.live -= usize::from(member.live);
        self.waiting -= usize::from(!member.queue.is_empty());
        if self.rises {
            self.gone += member.contributed();
        }
        true
    }
}

impl Member {
    pub(super) fn new(digest: Digest) -> Self {
        let queue = VecDeque::new();
        Self { digest, last: None, base: 0.0, newest: Timestamp::MIN, live: false, queue }
    }

    pub(super) fn first(&self) -> Option<Sample> {
        self.queue.front().map(|waiting| waiting.sample)
    }

    /// The timestamp of `last`: the newest but what waits is not in it, which no comparison here needs.
    fn reported(&self) -> Timestamp {
        self.first().map_or(self.newest, |first| first.at.minus(Duration::from_millis(1)))
    }

    fn take(&mut self, value: f64, rises: bool) {
        if !rises {
            self.last = Some(value);
        } else if value.is_finite() {
            if let Some(last) = self.last
                && value < last
            {
                self.base += last;
            }
            self.last = Some(value);
        }
    }

    fn contributed(&self) -> f64 {
        self.base + self.last.unwrap_or(0.0)
    }
}

impl Waiting {
    /// A waiting sample of a snapshot.
    pub(super) fn restored(sample: Sample) -> Self {
        Self { sample, arrived: None }
    }
}
