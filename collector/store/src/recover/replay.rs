//! Reads the journal back into the head and the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use tributary_journal::{Journal, Position, Record};
use tributary_model::fields::Fields;

use super::{OpenReport, Replay, Resolver};
use crate::batch::{Batch, StreamKey};
use crate::core::Core;
use crate::error::Error;
use crate::record::{self, BatchHead, KIND_BATCH, KIND_CHECKPOINT, KIND_STATE};
use crate::writer::{Mark, Summaries, summarize};

/// Records that wait for a reader.
const QUEUE: usize = 256;

/// What the writer goes on with.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) summaries: Summaries,
    pub(super) starts: HashMap<StreamKey, Position>,
    /// The newest checkpoint that the journal knows of.
    pub(super) attempts: u32,
}

/// Reads every record; each reader has a thread, and the records of the clusters that fall to it.
pub(super) fn replay<R: Replay + Send>(
    core: &Arc<Core>,
    journal: &Journal,
    marks: &[Mark],
    readers: &mut [R],
    report: &mut OpenReport,
) -> Result<Replayed, Error> {
    let booked = marks.iter().map(|mark| mark.position).max().unwrap_or_default();
    let damaged = report.journal.damaged.clone();
    let mut out = Replayed::default();
    std::thread::scope(|scope| {
        let start = |reader| {
            let (queue, records) = sync_channel::<(Record, BatchHead)>(QUEUE);
            let replayer = Replayer {
                booked,
                resolver: Resolver(Arc::clone(core)),
                marks,
                replay: reader,
                damaged: &damaged,
                report: OpenReport::default(),
                replayed: Replayed::default(),
                decodable: HashSet::new(),
            };
            (queue, scope.spawn(move || replayer.run(&records)))
        };
        let (queues, threads): (Vec<_>, Vec<_>) = readers.iter_mut().map(start).unzip();
        let read = read(core, journal, booked, &queues, report, &mut out);
        drop(queues);
        for thread in threads {
            match thread.join() {
                Ok((part, replayed)) => {
                    add(report, part);
                    out.add(replayed);
                }
                Err(cause) => std::panic::resume_unwind(cause),
            }
        }
        read
    })?;
    Ok(out)
}

/// Reads the journal, keeps what is nobody's stream, and hands the rest on.
fn read(
    core: &Core,
    journal: &Journal,
    booked: Position,
    queues: &[SyncSender<(Record, BatchHead)>],
    report: &mut OpenReport,
    out: &mut Replayed,
) -> Result<(), Error> {
    let mut cursor = journal.read(Position::default())?;
    while let Some(record) = cursor.next()? {
        report.records += 1;
        let read = match record.kind {
            KIND_BATCH => BatchHead::decode(&record.payload).map(|(head, _)| head).map(|head| {
                let queue = place(&head.stream, queues.len()).and_then(|place| queues.get(place));
                if let Some(queue) = queue {
                    // A reader that is gone has panicked, which its end will tell.
                    let _ = queue.send((record, head));
                }
            }),
            KIND_STATE => record::decode_state(&record.payload).map(|changes| {
                if record.position >= booked {
                    core.ledger_mut().change_state(changes);
                }
            }),
            KIND_CHECKPOINT => Fields(&record.payload).small().map(|attempt| {
                out.attempts = out.attempts.max(attempt);
            }),
            // A kind of a later version that older programs may pass over.
            _ => Ok(()),
        };
        if let Err(why) = read {
            lose(report, 0, why.to_string());
        }
    }
    Ok(())
}

/// Which reader has a stream: streams of one cluster share a head, so they share a reader.
fn place(stream: &StreamKey, readers: usize) -> Option<usize> {
    let hash = crc32c::crc32c(stream.cluster.as_str().as_bytes());
    usize::try_from(hash).ok()?.checked_rem(readers)
}

fn add(report: &mut OpenReport, part: OpenReport) {
    report.samples += part.samples;
    report.lost_records += part.lost_records;
    report.lost_samples += part.lost_samples;
    report.lost_why = report.lost_why.take().or(part.lost_why);
    report.rewound.extend(part.rewound);
}

fn lose(report: &mut OpenReport, samples: u64, why: String) {
    report.lost_records += 1;
    report.lost_samples += samples;
    report.lost_why.get_or_insert(why);
}

impl Replayed {
    fn add(&mut self, other: Self) {
        self.starts.extend(other.starts);
        for (segment, summary) in other.summaries {
            let all = self.summaries.entry(segment).or_default();
            *all = all.with(&summary);
        }
    }
}

/// One reader's work.
struct Replayer<'a, R> {
    resolver: Resolver,
    marks: &'a [Mark],
    /// In front of it, everything but samples is in the key-value store.
    booked: Position,
    replay: &'a mut R,
    damaged: &'a [tributary_journal::Damage],
    report: OpenReport,
    replayed: Replayed,
    /// Streams whose frames can be decoded from here on.
    decodable: HashSet<StreamKey>,
}

impl<R: Replay> Replayer<'_, R> {
    fn run(mut self, records: &Receiver<(Record, BatchHead)>) -> (OpenReport, Replayed) {
        while let Ok((record, head)) = records.recv() {
            if let Ok((_, payload)) = BatchHead::decode(&record.payload) {
                self.batch(&head, payload, record.position);
            }
        }
        (self.report, self.replayed)
    }

    fn batch(&mut self, head: &BatchHead, payload: &[u8], position: Position) {
        self.resolver.0.tick(head.received_at.as_millis());
        let Replayed { summaries, starts, .. } = &mut self.replayed;
        summarize(summaries, head, position, starts);
        let newest = head.decision.range.map(|(_, newest)| newest);
        let in_blocks = newest.is_none_or(|newest| Mark::covers(self.marks, position, newest));
        let extras = position >= self.booked && !head.state_only;
        let needed = !in_blocks || extras;
        let batch = if head.starts_segment || self.decodable.contains(&head.stream) {
            self.replay.replay(&self.resolver, payload).map_err(|e| e.to_string())
        } else {
            Err("the frames it builds on are missing".to_owned())
        };
        let decoded = batch.is_ok();
        match batch {
            Ok(mut batch) => {
                self.decodable.insert(head.stream.clone());
                if !in_blocks {
                    self.restore(head, &batch, position);
                }
                if extras {
                    self.resolver.0.ledger_mut().book_extras(&mut batch);
                }
            }
            Err(why) => {
                self.decodable.remove(&head.stream);
                self.replayed.starts.remove(&head.stream);
                if needed {
                    lose(&mut self.report, u64::from(head.decision.accepted.stored), why);
                }
            }
        }
        let advance = decoded && self.continues(head, position);
        let mut ledger = self.resolver.0.ledger_mut();
        ledger.book(head, position, advance);
        if !decoded && let Some(stream) = ledger.streams.get_mut(&head.stream) {
            stream.segment_start = None;
        }
    }

    /// Behind damage, a stream's number counts only if nothing is missing in front of it: a frame that was never
    /// synced may be gone while a later one is there, and the agent must send it again.
    fn continues(&mut self, head: &BatchHead, position: Position) -> bool {
        let damage = self
            .damaged
            .iter()
            .any(|d| (d.segment, d.offset) < (position.segment, position.offset));
        if !damage || head.starts_segment || head.state_only {
            return true;
        }
        let ledger = self.resolver.0.ledger();
        let state = ledger.streams.get(&head.stream).map(|stream| stream.state).unwrap_or_default();
        let next = state.epoch == head.epoch && head.seq <= state.last_seq.saturating_add(1);
        if !next && !self.report.rewound.contains(&head.stream) {
            self.report.rewound.push(head.stream.clone());
        }
        next
    }

    /// Puts the samples that were stored, and are not in blocks, back into the head.
    fn restore(&mut self, head: &BatchHead, batch: &Batch, position: Position) {
        let shard = self.resolver.0.shard(&head.stream.cluster);
        let mut target = shard.head_mut();
        let mut exceptions = head.decision.exceptions.iter().peekable();
        for (index, (id, at, value)) in (0u32..).zip(batch.values()) {
            if exceptions.next_if(|(exception, _)| *exception == index).is_some() {
                continue;
            }
            let (owner, series) = id.parts();
            if owner == shard.id && !Mark::covers(self.marks, position, at) {
                target.insert(series, at, &value);
                self.report.samples += 1;
            }
        }
    }
}
