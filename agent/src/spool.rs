//! The spool: frames wait here, on disk, until the collector has them on its own.
//!
//! One journal segment holds the frames of one frame segment, and with them everything that must survive together: the
//! state of merges, intervals that were dropped, and what was acknowledged. Only whole segments are deleted.

mod epoch;
mod gaps;
mod reader;
mod recover;
mod shared;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::Duration;

use tributary_journal::{Journal, Position};
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_proto::frame::{self, Content, Encoder, FrameError, Gap, GapCause, Header};

use gaps::GapList;
pub(crate) use reader::{FrameReader, Outgoing};
pub(crate) use shared::{Seen, SharedSpool};

/// A frame segment ends at this size, or at an eighth of a small spool.
const SEGMENT_BYTES: u64 = 4 << 20;
/// A frame segment ends at this age, and when its samples span this time: a collector that lost the decoder's state needs
/// it again from its start, and must keep all of it to decode any of it.
const SEGMENT_AGE: Duration = Duration::from_secs(3600);
/// Metadata beside samples in one frame; the rest goes into the next one.
const METADATA_BYTES: usize = 128 << 10;

/// What a record in the journal is. Frames with gaps clear the gaps that wait.
mod kind {
    pub(super) const FRAME: u8 = 1;
    pub(super) const FRAME_WITH_GAPS: u8 = 2;
    pub(super) const SNAPSHOT: u8 = 3;
    pub(super) const CHANGES: u8 = 4;
    pub(super) const GAPS: u8 = 5;
    pub(super) const NUMBERS: u8 = 6;
}

/// Where the spool lives and how large it grows.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The folder.
    pub(crate) dir: PathBuf,
    /// Above this size the oldest data is dropped.
    pub(crate) max_bytes: u64,
}

/// The state that must be on disk together with the frames it led to.
pub(crate) trait Companion {
    /// All of it.
    fn snapshot(&self) -> Vec<u8>;
    /// What changed since the last call, if anything.
    fn changes(&mut self) -> Option<Vec<u8>>;
    /// Goes back to what is on disk, after a failure: what was not written comes again.
    fn restore(&mut self, _snapshot: &[u8], _changes: &[Vec<u8>]) {}
}

/// What an earlier process left.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// The companion's last snapshot.
    pub(crate) snapshot: Option<Vec<u8>>,
    /// The companion's changes since then, in order.
    pub(crate) changes: Vec<Vec<u8>>,
    /// The newest sample of any frame.
    pub(crate) newest: Option<Timestamp>,
    /// What was mended, one sentence each.
    pub(crate) notes: Vec<String>,
}

/// How full the spool is. Sessions and metrics follow it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Status {
    /// Identifies the spool.
    pub(crate) epoch: u64,
    /// The oldest frame on disk; `next_seq` if there is none.
    pub(crate) first_seq: u64,
    /// The next new frame's number.
    pub(crate) next_seq: u64,
    /// The last frame that is durable at the collector.
    pub(crate) acked: u64,
    /// Bytes on disk.
    pub(crate) bytes: u64,
    /// Segments dropped because the spool was full.
    pub(crate) dropped_segments: u64,
    /// Samples dropped with them.
    pub(crate) dropped_samples: u64,
}

impl Status {
    /// Frames that wait for their acknowledgement.
    pub(crate) fn waiting(&self) -> u64 {
        self.next_seq.saturating_sub(1).saturating_sub(self.acked)
    }
}

/// Why the spool cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// The disk failed, or the folder is in use.
    #[error("the spool's journal failed")]
    Journal(#[from] tributary_journal::Error),
    /// A frame could not be made.
    #[error("a frame could not be made")]
    Frame(#[from] FrameError),
    /// It failed before and was not opened again yet.
    #[error("the spool failed before and is not open again yet")]
    Closed,
    /// The file with the epoch cannot be read or written.
    #[error("the spool's epoch file {path} cannot be used")]
    Epoch {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Frames of one journal segment.
#[derive(Debug, Clone)]
struct Frames {
    /// The journal segment, and the frame segment.
    id: u64,
    first: u64,
    last: u64,
    /// The newest sample of its first frame.
    begun_at: Timestamp,
    min_at: Timestamp,
    max_at: Timestamp,
    samples: u64,
    /// Gaps that its frames carry: they wait again if the frames are dropped.
    carried: GapList,
}

impl Frames {
    fn new(id: u64, header: &Header) -> Self {
        Self {
            id,
            first: header.seq,
            last: header.seq,
            begun_at: header.max_at,
            min_at: header.min_at,
            max_at: header.max_at,
            samples: header.samples.into(),
            carried: GapList::default(),
        }
    }

    fn add(&mut self, header: &Header) {
        self.last = header.seq;
        self.min_at = self.min_at.min(header.min_at);
        self.max_at = self.max_at.max(header.max_at);
        self.samples = self.samples.saturating_add(header.samples.into());
    }

    fn gap(&self, cause: GapCause) -> Gap {
        Gap { from: self.min_at, to: self.max_at, cause, samples: self.samples }
    }
}

/// The writer. One per process; after an error it is dropped and opened again.
#[derive(Debug)]
pub(crate) struct Spool {
    journal: Journal,
    epoch: u64,
    max_bytes: u64,
    /// Segments with frames, oldest first.
    segments: VecDeque<Frames>,
    next_seq: u64,
    acked: u64,
    /// What the journal says is acknowledged; written along with the next frame.
    acked_on_disk: u64,
    /// Gaps that no frame has carried yet.
    pending: GapList,
    encoder: Option<Encoder>,
    /// When the encoder's segment began.
    began: Timestamp,
    /// The current segment has no snapshot of the companion yet.
    needs_snapshot: bool,
    dropped_segments: u64,
    dropped_samples: u64,
}

impl Spool {
    /// Opens or makes a spool. [`Spool::begin`] must follow.
    pub(crate) fn open(options: &Options) -> Result<(Self, Recovered), SpoolError> {
        recover::open(options)
    }

    /// Writes what must be in every segment that is the first of its process, and starts a new frame segment.
    pub(crate) fn begin(
        &mut self,
        companion: &mut dyn Companion,
        gaps: &[Gap],
    ) -> Result<(), SpoolError> {
        self.pending.extend(gaps);
        let current = self.journal.current_segment();
        if self.segments.back().is_some_and(|last| last.id == current) {
            self.journal.roll()?;
        }
        companion.changes();
        self.journal.append(kind::SNAPSHOT, &companion.snapshot())?;
        self.journal.append(kind::GAPS, &self.pending.encode())?;
        self.append_numbers()?;
        self.journal.sync()?;
        self.needs_snapshot = false;
        self.delete_acked()
    }

    /// How full it is.
    pub(crate) fn status(&self) -> Status {
        Status {
            epoch: self.epoch,
            first_seq: self.segments.front().map_or(self.next_seq, |oldest| oldest.first),
            next_seq: self.next_seq,
            acked: self.acked,
            bytes: self.journal.bytes(),
            dropped_segments: self.dropped_segments,
            dropped_samples: self.dropped_samples,
        }
    }

    /// Puts samples and metadata into frames, with the gaps that wait and the companion's changes, and returns when all
    /// of it is on disk. The series must be within [`tributary_proto::limits::Limits::allow`].
    pub(crate) fn append(
        &mut self,
        batch: &Batch<'_>,
        companion: &mut dyn Companion,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let mut rest = *batch;
        let before = self.next_seq;
        self.pending.extend(batch.gaps);
        while !(rest.is_empty() && self.pending.is_empty()) {
            rest = self.append_frame(rest, now)?;
        }
        let changes = companion.changes();
        if self.needs_snapshot {
            self.journal.append(kind::SNAPSHOT, &companion.snapshot())?;
        } else if let Some(changes) = changes {
            self.journal.append(kind::CHANGES, &changes)?;
        }
        if self.next_seq > before && self.acked > self.acked_on_disk {
            self.append_numbers()?;
        }
        self.journal.sync()?;
        self.needs_snapshot = false;
        self.keep_bound()
    }

    /// One frame with as much as fits; returns what is left.
    fn append_frame<'a>(
        &mut self,
        batch: Batch<'a>,
        now: Timestamp,
    ) -> Result<Batch<'a>, SpoolError> {
        let (fresh, mut encoder) = match self.take_encoder(now) {
            Some(encoder) => (false, encoder),
            None => (true, self.start_segment(now)?),
        };
        let (numbers, histograms) = encoder.prefixes(batch.samples, batch.histograms);
        let (samples_now, samples_later) = split(batch.samples, numbers);
        let (histograms_now, histograms_later) = split(batch.histograms, histograms);
        let (metadata_now, metadata_later) = split(batch.metadata, metadata_prefix(batch.metadata));
        let gaps = self.pending.as_slice();
        let content = Content {
            samples: samples_now,
            histograms: histograms_now,
            metadata: metadata_now,
            gaps,
        };
        let bytes = match encoder.encode(self.next_seq, batch.complete_until, &content) {
            // The next round starts a new segment.
            Err(FrameError::SegmentFull) if !fresh => return Ok(batch),
            other => other?,
        };
        let header = frame::header(&bytes)?;
        let kind = if gaps.is_empty() { kind::FRAME } else { kind::FRAME_WITH_GAPS };
        self.journal.append(kind, &bytes)?;
        let id = self.journal.current_segment();
        match self.segments.back_mut().filter(|last| last.id == id) {
            Some(last) => last.add(&header),
            None => self.segments.push_back(Frames::new(id, &header)),
        }
        if let Some(last) = self.segments.back_mut() {
            last.carried.append(&mut self.pending);
        }
        self.next_seq = self.next_seq.saturating_add(1);
        self.encoder = Some(encoder);
        Ok(Batch {
            samples: samples_later,
            histograms: histograms_later,
            metadata: metadata_later,
            ..batch
        })
    }

    /// The encoder, unless its segment is large or old enough to end.
    fn take_encoder(&mut self, now: Timestamp) -> Option<Encoder> {
        let bytes = self.journal.end_position().offset;
        let due = bytes >= SEGMENT_BYTES.min(self.max_bytes / 8)
            || now.since(self.began) >= SEGMENT_AGE
            || now < self.began.minus(SEGMENT_AGE)
            || self
                .segments
                .back()
                .is_some_and(|last| last.max_at.since(last.begun_at) >= SEGMENT_AGE);
        self.encoder.take().filter(|_| !due)
    }

    fn start_segment(&mut self, now: Timestamp) -> Result<Encoder, SpoolError> {
        let current = self.journal.current_segment();
        if self.segments.back().is_some_and(|last| last.id == current) {
            self.journal.roll()?;
            self.needs_snapshot = true;
        }
        self.began = now;
        Ok(Encoder::new(self.epoch, self.journal.current_segment()))
    }

    /// The collector has everything up to `seq` on disk.
    pub(crate) fn ack(&mut self, seq: u64) -> Result<(), SpoolError> {
        if seq > self.acked {
            self.acked = seq.min(self.next_seq.saturating_sub(1));
            self.delete_acked()?;
        }
        Ok(())
    }

    /// The collector already has frames that this spool never numbered: the folder is an old copy. Numbers go on behind
    /// the collector's, and what waited is a gap.
    pub(crate) fn renumber(&mut self, after: u64) -> Result<(), SpoolError> {
        let acked = self.acked;
        for frames in self.segments.iter().filter(|frames| frames.last > acked) {
            self.pending.add(frames.gap(GapCause::Damaged));
        }
        self.encoder = None;
        self.next_seq = after.saturating_add(1);
        self.acked = after;
        self.journal.append(kind::GAPS, &self.pending.encode())?;
        self.append_numbers()?;
        Ok(self.journal.sync()?)
    }

    /// Where numbers stand: the frames that would tell may be deleted.
    fn append_numbers(&mut self) -> Result<(), SpoolError> {
        let numbers = [self.acked.to_le_bytes(), self.next_seq.to_le_bytes()].concat();
        self.journal.append(kind::NUMBERS, &numbers)?;
        self.acked_on_disk = self.acked;
        Ok(())
    }

    /// Deletes segments in which everything is acknowledged, except the current one.
    fn delete_acked(&mut self) -> Result<(), SpoolError> {
        if self.needs_snapshot {
            // The companion's state is still in an older segment.
            return Ok(());
        }
        let current = self.journal.current_segment();
        let acked = self.acked;
        let done = |frames: &Frames| frames.last <= acked && frames.id != current;
        if self.acked > self.acked_on_disk && self.segments.front().is_some_and(done) {
            // Without frames nothing else would tell the next process where numbers stopped.
            self.append_numbers()?;
            self.journal.sync()?;
        }
        while self.segments.front().is_some_and(done) {
            self.segments.pop_front();
        }
        let keep = self.segments.front().map_or(current, |oldest| oldest.id);
        self.journal.delete_before(keep)?;
        Ok(())
    }

    /// Drops the oldest segments until the spool is under its bound, and remembers what is missing then. A part of the
    /// bound is left for the batch that comes next.
    fn keep_bound(&mut self) -> Result<(), SpoolError> {
        while self.journal.bytes() > self.max_bytes / 8 * 7 {
            let current = self.journal.current_segment();
            let oldest = self.segments.front().filter(|oldest| oldest.id != current).cloned();
            let Some(mut oldest) = oldest else { break };
            if let Some(gap) = self.unacked(&oldest)? {
                self.dropped_samples = self.dropped_samples.saturating_add(gap.samples);
                self.pending.add(gap);
            }
            self.pending.append(&mut oldest.carried);
            self.dropped_segments = self.dropped_segments.saturating_add(1);
            // The gap is on disk before the data is gone.
            self.journal.append(kind::GAPS, &self.pending.encode())?;
            self.append_numbers()?;
            self.journal.sync()?;
            self.segments.pop_front();
            self.journal.delete_before(oldest.id.saturating_add(1))?;
        }
        Ok(())
    }

    /// What of a segment is not acknowledged, as a gap.
    fn unacked(&self, frames: &Frames) -> Result<Option<Gap>, SpoolError> {
        if frames.last <= self.acked {
            return Ok(None);
        }
        if frames.first > self.acked {
            return Ok(Some(frames.gap(GapCause::SpoolFull)));
        }
        let mut rest: Option<Frames> = None;
        let mut cursor = self.journal.read(Position { segment: frames.id, offset: 0 })?;
        while let Some(record) = cursor.next()?.filter(|r| r.position.segment == frames.id) {
            if !matches!(record.kind, kind::FRAME | kind::FRAME_WITH_GAPS) {
                continue;
            }
            let header = frame::header(&record.payload)?;
            match &mut rest {
                _ if header.seq <= self.acked => {}
                Some(rest) => rest.add(&header),
                None => rest = Some(Frames::new(frames.id, &header)),
            }
        }
        Ok(rest.map(|rest| rest.gap(GapCause::SpoolFull)))
    }

    /// A reader of the frames behind `after`. `from_segment_start`: frames in front of them in the same segment come
    /// first, so that a decoder without state can follow.
    pub(crate) fn reader(
        &self,
        after: u64,
        from_segment_start: bool,
    ) -> Result<FrameReader, SpoolError> {
        let holds = self.segments.iter().find(|frames| frames.last > after);
        let segment = holds.map_or(self.journal.current_segment(), |frames| frames.id);
        let cursor = self.journal.read(Position { segment, offset: 0 })?;
        Ok(FrameReader::new(cursor, after, from_segment_start))
    }
}

/// What goes into the spool at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch<'a> {
    /// Samples with the labels they leave with.
    pub(crate) samples: &'a [(Labels, Sample)],
    /// Native histograms in the same way.
    pub(crate) histograms: &'a [(Labels, HistogramSample)],
    /// Metadata of metrics that leave.
    pub(crate) metadata: &'a [Metadata],
    /// Intervals that sources know to be missing.
    pub(crate) gaps: &'a [Gap],
    /// Nothing older is missing, except gaps.
    pub(crate) complete_until: Timestamp,
}

impl Batch<'_> {
    /// Whether nothing is left but gaps.
    fn is_empty(&self) -> bool {
        self.samples.is_empty() && self.histograms.is_empty() && self.metadata.is_empty()
    }
}

fn split<T>(all: &[T], at: usize) -> (&[T], &[T]) {
    all.split_at_checked(at).unwrap_or((all, &[]))
}

/// How many entries, from the front, go beside samples.
fn metadata_prefix(metadata: &[Metadata]) -> usize {
    let mut bytes = 0usize;
    metadata
        .iter()
        .take_while(|entry| {
            bytes = bytes.saturating_add(frame::metadata_cost(entry));
            bytes <= METADATA_BYTES
        })
        .count()
}

#[cfg(test)]
mod tests;
