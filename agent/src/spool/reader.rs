//! Reads frames in the order in which a decoder can follow them.

use tributary_journal::Cursor;
use tributary_proto::frame;

use super::{SpoolError, kind};

/// A frame on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Its number.
    pub(crate) seq: u64,
    /// Its bytes, as they were made.
    pub(crate) bytes: Vec<u8>,
}

/// Hands out frames; passes over those that no decoder could read because an earlier one of their segment is lost.
#[derive(Debug)]
pub(crate) struct FrameReader {
    cursor: Cursor,
    after: u64,
    /// The next frame continues what the peer's decoder knows: this number inside its segment.
    expected: Option<u64>,
    from_segment_start: bool,
}

impl FrameReader {
    pub(super) fn new(cursor: Cursor, after: u64, from_segment_start: bool) -> Self {
        let expected = (!from_segment_start).then_some(after.saturating_add(1));
        Self { cursor, after, expected, from_segment_start }
    }

    /// The next frame that is on disk; `None` if there is none yet.
    pub(crate) fn next(&mut self) -> Result<Option<Outgoing>, SpoolError> {
        while let Some(record) = self.cursor.next()? {
            if !matches!(record.kind, kind::FRAME | kind::FRAME_WITH_GAPS) {
                continue;
            }
            let header = frame::header(&record.payload)?;
            if !self.from_segment_start && header.seq <= self.after {
                continue;
            }
            if !header.starts_segment && self.expected != Some(header.seq) {
                continue;
            }
            self.expected = Some(header.seq.saturating_add(1));
            return Ok(Some(Outgoing { seq: header.seq, bytes: record.payload }));
        }
        Ok(None)
    }
}
