//! The one thread that writes: decides about samples, journals, syncs once for everything that waits, and answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use tributary_journal::{Journal, MAX_RECORD_BYTES, Position};
use tributary_model::fields::put_varint;
use tributary_model::sample::Timestamp;

use crate::batch::{Accepted, Batch, Reason, StreamKey, StreamState};
use crate::core::{Core, Shard};
use crate::error::Error;
use crate::head::{Bounds, Frozen, Value, Verdict};
use crate::ledger::{Checkpoint, Stream};
use crate::record::{
    self, BatchHead, Decision, KIND_BATCH, KIND_CHECKPOINT, KIND_STATE, StateChanges,
};

/// Most requests that share one sync.
const MAX_GROUP: usize = 512;
/// No more requests join a sync once it has so many bytes to write.
const MAX_GROUP_BYTES: usize = 16 << 20;
/// Syncs begin at least so far apart: under load more frames share one, and half as many disk blocks are written twice.
/// After a pause the first frame does not wait.
const SYNC_INTERVAL: Duration = Duration::from_millis(8);
/// A stream's decoder state is kept rebuildable for so long after its frame segment began; agents end them earlier.
const SEGMENT_LIFE: Duration = Duration::from_secs(2 * 3600);

/// The answer to an append.
pub type AppendDone = Box<dyn FnOnce(Result<Accepted, Error>) + Send>;
/// The answer to a change of state.
pub type StateDone = Box<dyn FnOnce(Result<(), Error>) + Send>;

/// What the writer is asked for.
pub(crate) enum Request {
    Append { payload: Vec<u8>, batch: Box<Batch>, done: AppendDone },
    State { changes: StateChanges, done: StateDone },
    Freeze { before: i64, roll: u64, reply: SyncSender<Result<Cut, Error>> },
    Forget { marks: Vec<Mark>, attempt: u32, now: Timestamp, reply: SyncSender<Result<u64, Error>> },
}

/// Samples older than `before`, in records in front of `position`, are in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) position: Position,
    pub(crate) before: i64,
}

impl Mark {
    /// Whether a record's samples are all in blocks.
    pub(crate) fn covers(marks: &[Self], position: Position, newest: i64) -> bool {
        marks.iter().any(|mark| position < mark.position && newest < mark.before)
    }
}

/// What was set aside for blocks.
pub(crate) struct Cut {
    pub(crate) position: Position,
    pub(crate) shards: Vec<(Arc<Shard>, Vec<Frozen>)>,
    pub(crate) checkpoint: Checkpoint,
}

/// What must be known of a journal segment to delete it in time.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Summary {
    /// The newest sample stored from it.
    newest: Option<i64>,
    /// The oldest journal segment needed to decode its frames.
    needs: Option<u64>,
}

impl Summary {
    /// Of two parts of a segment.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let needs = self.needs.into_iter().chain(other.needs).min();
        Self { newest: self.newest.max(other.newest), needs }
    }
}

/// Summaries by journal segment.
pub(crate) type Summaries = BTreeMap<u64, Summary>;

/// Notes one batch record.
pub(crate) fn summarize(
    summaries: &mut Summaries,
    head: &BatchHead,
    position: Position,
    starts: &mut HashMap<StreamKey, Position>,
) {
    if head.starts_segment {
        starts.insert(head.stream.clone(), position);
    }
    if let Some((_, newest)) = head.decision.range {
        let summary = summaries.entry(position.segment).or_default();
        summary.newest = summary.newest.max(Some(newest));
        let start = starts.get(&head.stream).map_or(position.segment, |start| start.segment);
        summary.needs = Some(summary.needs.map_or(start, |needs| needs.min(start)));
    }
}

/// The writer's own state.
pub(crate) struct Writer {
    core: Arc<Core>,
    journal: Journal,
    summaries: Summaries,
    starts: HashMap<StreamKey, Position>,
    /// Ahead of the ledger by what is not synced.
    streams: HashMap<StreamKey, Ahead>,
    scratch: Vec<u8>,
    waiting: Vec<Waiting>,
    /// Bytes of what waits.
    group_bytes: usize,
}

#[derive(Debug, Clone, Copy, Default)]
struct Ahead {
    /// `None` before the first frame.
    state: Option<StreamState>,
    watermark: Option<i64>,
}

/// Appended, not synced.
enum Waiting {
    Batch {
        head: Box<BatchHead>,
        batch: Box<Batch>,
        position: Position,
        done: AppendDone,
    },
    State {
        changes: StateChanges,
        done: StateDone,
    },
    /// A frame that is in the journal already, sent again.
    Known {
        done: AppendDone,
    },
}

impl Writer {
    pub(crate) fn new(
        core: Arc<Core>,
        journal: Journal,
        summaries: Summaries,
        starts: HashMap<StreamKey, Position>,
    ) -> Self {
        let ahead =
            |stream: &Stream| Ahead { state: Some(stream.state), watermark: stream.watermark };
        let streams = core.ledger().streams.iter().map(|(k, s)| (k.clone(), ahead(s))).collect();
        core.journal_bytes.store(journal.bytes(), Ordering::Relaxed);
        let (scratch, waiting, group_bytes) = (Vec::new(), Vec::new(), 0);
        Self { core, journal, summaries, starts, streams, scratch, waiting, group_bytes }
    }

    /// Serves requests until every sender is gone.
    pub(crate) fn run(mut self, requests: &Receiver<Request>) {
        let mut synced: Option<Instant> = None;
        while let Ok(first) = requests.recv() {
            self.serve(first);
            let rest = synced.map(|at| SYNC_INTERVAL.saturating_sub(at.elapsed()));
            let until = Instant::now() + rest.unwrap_or_default();
            while self.waiting.len() < MAX_GROUP && self.group_bytes < MAX_GROUP_BYTES {
                let left = until.saturating_duration_since(Instant::now());
                let Ok(next) = requests.recv_timeout(left) else { break };
                self.serve(next);
            }
            synced = Some(Instant::now());
            self.commit();
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Append { payload, batch, done } => self.append(&payload, batch, done),
            Request::State { changes, done } => self.change_state(changes, done),
            Request::Freeze { before, roll, reply } => {
                self.commit();
                // A caller that went away needs no answer.
                let _ = reply.send(self.freeze(before, roll));
            }
            Request::Forget { marks, attempt, now, reply } => {
                self.commit();
                let _ = reply.send(self.forget(&marks, attempt, now));
            }
        }
    }

    fn append(&mut self, payload: &[u8], batch: Box<Batch>, done: AppendDone) {
        if self.poisoned() {
            return done(Err(Error::Poisoned));
        }
        // The head of the record is at most a few bytes a sample; half the limit leaves room for any batch.
        let limit = MAX_RECORD_BYTES / 2;
        let decisions = batch.len().saturating_mul(6);
        if payload.len() > limit || decisions > limit {
            let bytes = payload.len().max(decisions);
            return done(Err(Error::TooLarge { what: "a batch", bytes, limit }));
        }
        let ahead = self.streams.entry(batch.stream.clone()).or_default();
        let known = ahead.state.is_some_and(|s| s.epoch == batch.epoch && batch.seq <= s.last_seq);
        if known && !batch.state_only {
            return self.waiting.push(Waiting::Known { done });
        }
        if !batch.starts_segment && !self.starts.contains_key(&batch.stream) {
            let StreamKey { cluster, instance } = batch.stream;
            let cluster = cluster.to_string();
            return done(Err(Error::SegmentGone { cluster, instance }));
        }
        if !batch.state_only {
            ahead.state = Some(StreamState { epoch: batch.epoch, last_seq: batch.seq });
        }
        let watermark = ahead.watermark;
        self.core.tick(batch.received_at.as_millis());
        let decision =
            if batch.state_only { Decision::default() } else { self.decide(&batch, watermark) };
        if let Some(ahead) = self.streams.get_mut(&batch.stream) {
            ahead.watermark = Stream::raised(watermark, decision.range);
        }
        let head = Box::new(BatchHead::new(&batch, decision));
        self.scratch.clear();
        head.encode(payload, &mut self.scratch);
        self.group_bytes += self.scratch.len();
        match self.journal.append(KIND_BATCH, &self.scratch) {
            Ok(position) => {
                summarize(&mut self.summaries, &head, position, &mut self.starts);
                self.waiting.push(Waiting::Batch { head, batch, position, done });
            }
            Err(e) => {
                // The head has the samples already and the journal will never have them.
                self.core.poisoned.store(true, Ordering::Release);
                done(Err(e.into()));
            }
        }
    }

    /// Decides about every sample and puts the accepted ones into the head.
    fn decide(&self, batch: &Batch, watermark: Option<i64>) -> Decision {
        let options = &self.core.options;
        let shard = self.core.shard(&batch.stream.cluster);
        let watermark = watermark.map(Timestamp::from_millis);
        let in_window = watermark.map(|mark| mark.minus(options.out_of_order_window));
        let bounds = Bounds {
            oldest: batch.received_at.minus(self.core.retention(&shard.cluster)).as_millis(),
            in_window: in_window.map_or(i64::MIN, Timestamp::as_millis),
            newest: batch.received_at.plus(options.future_window).as_millis(),
        };
        let mut decision = Decision::default();
        let mut late = Vec::new();
        let mut head = shard.head_mut();
        for (index, (id, at, value)) in (0u32..).zip(batch.values()) {
            let (owner, series) = id.parts();
            let verdict = if owner == shard.id {
                head.append(series, at, &value, &bounds)
            } else {
                Verdict::Refused(Reason::Unknown)
            };
            match verdict {
                Verdict::Stored => decision.stored(at),
                Verdict::Refused(reason) => decision.refuse(index, reason),
                Verdict::Late => late.push((index, series, at, value)),
            }
        }
        drop(head);
        for (index, series, at, value) in late {
            match self.find(&shard, series, at) {
                Ok(None) => {
                    shard.head_mut().insert(series, at, &value);
                    decision.stored(at);
                }
                Ok(Some(known)) if known.is(&value) => decision.refuse(index, Reason::Duplicate),
                // What cannot be read cannot be shown to be absent: nothing is overwritten on suspicion.
                Ok(Some(_)) | Err(_) => decision.refuse(index, Reason::Conflict),
            }
        }
        decision.exceptions.sort_unstable_by_key(|(index, _)| *index);
        decision
    }

    /// The value of a series at a time, wherever it is. Disk is read without a lock on the head.
    fn find(&self, shard: &Shard, series: u32, at: i64) -> Result<Option<Value>, Error> {
        let found = shard.head().find(series, at);
        if found.is_some() {
            return Ok(found);
        }
        self.core.find_in_blocks(shard.id, Core::place(shard, series), at)
    }

    fn change_state(&mut self, changes: StateChanges, done: StateDone) {
        if self.poisoned() {
            return done(Err(Error::Poisoned));
        }
        let bytes = record::encode_state(&changes);
        self.group_bytes += bytes.len();
        match self.journal.append(KIND_STATE, &bytes) {
            Ok(_) => self.waiting.push(Waiting::State { changes, done }),
            Err(e @ tributary_journal::Error::TooLarge { .. }) => done(Err(e.into())),
            Err(e) => {
                self.core.poisoned.store(true, Ordering::Release);
                done(Err(e.into()));
            }
        }
    }

    /// Syncs, books what is durable now, and answers.
    fn commit(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        self.group_bytes = 0;
        let synced = if self.poisoned() { Err(Error::Poisoned) } else { self.sync() };
        if let Err(first) = synced {
            let mut error = Some(first);
            for request in waiting {
                let error = error.take().unwrap_or(Error::Poisoned);
                match request {
                    Waiting::Batch { done, .. } | Waiting::Known { done } => done(Err(error)),
                    Waiting::State { done, .. } => done(Err(error)),
                }
            }
            return;
        }
        let mut answers: Vec<(AppendDone, Accepted)> = Vec::new();
        let mut state_answers: Vec<StateDone> = Vec::new();
        let mut ledger = self.core.ledger_mut();
        for request in waiting {
            match request {
                Waiting::Batch { head, mut batch, position, done } => {
                    ledger.book(&head, position, true);
                    if !head.state_only {
                        ledger.book_extras(&mut batch);
                    }
                    answers.push((done, head.decision.accepted));
                }
                Waiting::State { changes, done } => {
                    ledger.change_state(changes);
                    state_answers.push(done);
                }
                Waiting::Known { done } => answers.push((done, Accepted::default())),
            }
        }
        drop(ledger);
        for (done, accepted) in answers {
            done(Ok(accepted));
        }
        for done in state_answers {
            done(Ok(()));
        }
    }

    fn sync(&mut self) -> Result<(), Error> {
        let synced = self.journal.sync();
        if synced.is_err() {
            self.core.poisoned.store(true, Ordering::Release);
        }
        self.core.journal_bytes.store(self.journal.bytes(), Ordering::Relaxed);
        Ok(synced?)
    }

    /// Sets everything older than `before` aside, and begins a new journal segment if the current one has `roll` bytes, so
    /// that it can go sooner. Everything appended is synced and booked.
    fn freeze(&mut self, before: i64, roll: u64) -> Result<Cut, Error> {
        if self.poisoned() {
            return Err(Error::Poisoned);
        }
        let length = self.journal.segments().last().map_or(0, |segment| segment.bytes);
        if length >= roll
            && let Err(e) = self.journal.roll()
        {
            self.core.poisoned.store(true, Ordering::Release);
            return Err(e.into());
        }
        let position = self.journal.end_position();
        let freeze = |shard: Arc<Shard>| {
            let frozen = shard.head_mut().freeze(before);
            (shard, frozen)
        };
        let shards = self.core.shards().into_iter().map(freeze).collect();
        let checkpoint = self.core.ledger_mut().checkpoint(position);
        Ok(Cut { position, shards, checkpoint })
    }

    /// Deletes the journal segments that are not needed any more.
    fn forget(&mut self, marks: &[Mark], attempt: u32, now: Timestamp) -> Result<u64, Error> {
        if self.poisoned() {
            return Err(Error::Poisoned);
        }
        let mut record = Vec::new();
        put_varint(&mut record, u64::from(attempt));
        if let Err(e) = self.journal.append(KIND_CHECKPOINT, &record) {
            self.core.poisoned.store(true, Ordering::Release);
            return Err(e.into());
        }
        self.sync()?;
        // In front of this, everything but samples is in the key-value store.
        let booked = marks.iter().map(|mark| mark.position.segment).max().unwrap_or(0);
        let mut keep = booked.min(self.journal.current_segment());
        for (segment, summary) in &self.summaries {
            let end = Position { segment: *segment, offset: u64::MAX };
            let newest = summary.newest.unwrap_or(i64::MIN);
            if *segment >= keep || !Mark::covers(marks, end, newest) {
                keep = keep.min(*segment).min(summary.needs.unwrap_or(*segment));
            }
        }
        let mut ledger = self.core.ledger_mut();
        for stream in ledger.streams.values() {
            if let Some((start, begun)) = stream.segment_start
                && now.since(begun) < SEGMENT_LIFE
            {
                keep = keep.min(start.segment);
            }
        }
        // Streams whose segment began in what is deleted now have to begin a new one.
        for stream in ledger.streams.values_mut() {
            stream.segment_start = stream.segment_start.filter(|(start, _)| start.segment >= keep);
        }
        drop(ledger);
        self.starts.retain(|_, start| start.segment >= keep);
        let freed = self.journal.delete_before(keep)?;
        self.summaries = self.summaries.split_off(&keep);
        self.core.journal_bytes.store(self.journal.bytes(), Ordering::Relaxed);
        Ok(freed)
    }

    fn poisoned(&self) -> bool {
        self.core.poisoned.load(Ordering::Acquire)
    }
}

impl Decision {
    fn stored(&mut self, at: i64) {
        self.accepted.stored += 1;
        let (min, max) = self.range.unwrap_or((at, at));
        self.range = Some((min.min(at), max.max(at)));
    }

    fn refuse(&mut self, index: u32, reason: Reason) {
        self.accepted.add(reason);
        self.exceptions.push((index, reason));
    }
}
