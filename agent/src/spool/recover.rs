//! Opens a spool: reads every record once and finds out where the last process stopped.

use std::collections::VecDeque;

use tributary_journal::{Damage, Journal, Position};
use tributary_model::sample::Timestamp;
use tributary_proto::frame::{self, Gap, GapCause, Header};

use super::{Frames, GapList, Options, Recovered, Spool, SpoolError, epoch, kind};

pub(super) fn open(options: &Options) -> Result<(Spool, Recovered), SpoolError> {
    // The spool ends segments itself, and a frame segment must not continue in another journal segment.
    let journal = tributary_journal::Options { dir: options.dir.clone(), segment_bytes: u64::MAX };
    let (journal, recovery) = Journal::open(journal)?;
    let mut scan = Scan::default();
    let mut cursor = journal.read(Position::default())?;
    while let Some(record) = cursor.next()? {
        scan.record(record.position.segment, record.kind, record.payload);
    }
    scan.recovered.notes.extend(
        recovery
            .cut
            .iter()
            .map(|cut| note(cut, "the end of the spool was never synced and is cut off")),
    );
    scan.recovered
        .notes
        .extend(recovery.damaged.iter().map(|damage| note(damage, "the spool is damaged")));
    let spool = Spool {
        epoch: epoch::load(&options.dir, scan.epoch)?,
        max_bytes: options.max_bytes,
        next_seq: scan.last.max(scan.acked).saturating_add(1),
        acked: scan.acked,
        acked_on_disk: scan.acked,
        segments: scan.segments,
        pending: scan.pending,
        encoder: None,
        began: Timestamp::MIN,
        needs_snapshot: true,
        dropped_segments: 0,
        dropped_samples: 0,
        journal,
    };
    Ok((spool, scan.recovered))
}

fn note(damage: &Damage, what: &str) -> String {
    let Damage { segment, offset, bytes, why } = damage;
    format!("{what}: {bytes} bytes at offset {offset} of segment {segment} ({why})")
}

/// What the records seen so far say.
#[derive(Default)]
struct Scan {
    segments: VecDeque<Frames>,
    epoch: Option<u64>,
    last: u64,
    acked: u64,
    pending: GapList,
    recovered: Recovered,
}

impl Scan {
    fn record(&mut self, segment: u64, kind: u8, payload: Vec<u8>) {
        match kind {
            kind::FRAME | kind::FRAME_WITH_GAPS => match frame::header(&payload) {
                Ok(header) => self.frame(segment, &header, kind == kind::FRAME_WITH_GAPS),
                Err(error) => {
                    self.recovered.notes.push(format!("a frame in segment {segment}: {error}"));
                }
            },
            kind::SNAPSHOT => {
                self.recovered.snapshot = Some(payload);
                self.recovered.changes.clear();
            }
            kind::CHANGES => self.recovered.changes.push(payload),
            kind::GAPS => self.pending = GapList::decode(&payload),
            kind::NUMBERS => {
                let mut numbers = payload
                    .chunks_exact(8)
                    .map(|bytes| bytes.try_into().map_or(0, u64::from_le_bytes));
                self.acked = self.acked.max(numbers.next().unwrap_or(0));
                self.last = self.last.max(numbers.next().unwrap_or(0).saturating_sub(1));
            }
            _ => {}
        }
    }

    fn frame(&mut self, segment: u64, header: &Header, carries_gaps: bool) {
        self.epoch = Some(header.epoch);
        let newest = self.recovered.newest;
        if header.samples > 0 {
            self.recovered.newest = newest.max(Some(header.max_at));
        }
        let follows = header.seq == self.last.saturating_add(1);
        let current = self.segments.back().filter(|last| last.id == segment);
        let readable = header.starts_segment
            || current.is_some_and(|frames| frames.last.saturating_add(1) == header.seq);
        if (!follows && self.last > 0) || !readable {
            self.damaged(header, newest, readable);
        }
        self.last = self.last.max(header.seq);
        if !readable {
            return;
        }
        match self.segments.back_mut().filter(|last| last.id == segment) {
            Some(last) => last.add(header),
            None => self.segments.push_back(Frames::new(segment, header)),
        }
        if let Some(last) = self.segments.back_mut().filter(|_| carries_gaps) {
            last.carried.append(&mut self.pending);
        }
    }

    /// Frames are missing in front of this one, and perhaps it cannot be read without them.
    fn damaged(&mut self, header: &Header, newest: Option<Timestamp>, readable: bool) {
        if header.seq <= self.acked {
            return;
        }
        let from = newest.unwrap_or(header.min_at).min(header.min_at);
        let (to, samples) =
            if readable { (header.min_at, 0) } else { (header.max_at, header.samples) };
        self.pending.add(Gap { from, to, cause: GapCause::Damaged, samples: samples.into() });
    }
}
