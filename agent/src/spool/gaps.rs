//! Gaps that wait for a frame to carry them: few, because neighbours are joined.

use std::time::Duration;

use tributary_model::sample::Timestamp;
use tributary_proto::frame::{Gap, GapCause};

/// Most gaps that wait. More are joined to one per cause, from the oldest to the newest.
const MAX_GAPS: usize = 1_000;

/// Gaps of one cause that lie no farther apart are one: there is a scrape interval between two dropped segments.
const JOIN: Duration = Duration::from_secs(300);

/// Bytes of one gap on disk.
const GAP_BYTES: usize = 25;

/// Gaps in order of arrival.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GapList(Vec<Gap>);

impl GapList {
    /// Adds a gap, joined with its neighbours.
    pub(crate) fn add(&mut self, mut gap: Gap) {
        let near = |known: &Gap, gap: &Gap| {
            known.cause == gap.cause
                && known.from <= gap.to.plus(JOIN)
                && gap.from <= known.to.plus(JOIN)
        };
        while let Some(at) = self.0.iter().position(|known| near(known, &gap)) {
            gap = join(self.0.swap_remove(at), gap);
        }
        self.0.push(gap);
        if self.0.len() > MAX_GAPS {
            self.squash();
        }
    }

    /// Adds gaps, each joined with its neighbours.
    pub(crate) fn extend(&mut self, gaps: &[Gap]) {
        for gap in gaps {
            self.add(*gap);
        }
    }

    /// Takes over all gaps of another list.
    pub(crate) fn append(&mut self, other: &mut Self) {
        other.0.drain(..).for_each(|gap| self.add(gap));
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The gaps.
    pub(crate) fn as_slice(&self) -> &[Gap] {
        &self.0
    }

    /// One gap per cause.
    fn squash(&mut self) {
        let mut joined: Vec<Gap> = Vec::new();
        for gap in self.0.drain(..) {
            match joined.iter_mut().find(|known| known.cause == gap.cause) {
                Some(known) => *known = join(*known, gap),
                None => joined.push(gap),
            }
        }
        self.0 = joined;
    }

    /// The bytes of a record.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.0.len() * GAP_BYTES);
        for gap in &self.0 {
            out.push(gap.cause.code());
            out.extend_from_slice(&gap.from.as_millis().to_le_bytes());
            out.extend_from_slice(&gap.to.as_millis().to_le_bytes());
            out.extend_from_slice(&gap.samples.to_le_bytes());
        }
        out
    }

    /// The gaps of a record; what is not a gap is left out, the journal has checked the bytes.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        Self(bytes.chunks_exact(GAP_BYTES).filter_map(decode_gap).collect())
    }
}

fn decode_gap(bytes: &[u8]) -> Option<Gap> {
    let (cause, rest) = bytes.split_first()?;
    let (from, rest) = rest.split_first_chunk()?;
    let (to, rest) = rest.split_first_chunk()?;
    Some(Gap {
        cause: GapCause::from_code(*cause)?,
        from: Timestamp::from_millis(i64::from_le_bytes(*from)),
        to: Timestamp::from_millis(i64::from_le_bytes(*to)),
        samples: u64::from_le_bytes(rest.try_into().ok()?),
    })
}

fn join(a: Gap, b: Gap) -> Gap {
    Gap {
        from: a.from.min(b.from),
        to: a.to.max(b.to),
        cause: a.cause,
        samples: a.samples.saturating_add(b.samples),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gap(from: i64, to: i64, cause: GapCause) -> Gap {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        Gap { from: at(from), to: at(to), cause, samples: 1 }
    }

    #[test]
    fn neighbours_are_joined_and_the_rest_is_kept() {
        let mut list = GapList::default();
        list.add(gap(0, 100, GapCause::SpoolFull));
        list.add(gap(5000, 5100, GapCause::SpoolFull));
        list.add(gap(115, 200, GapCause::SpoolFull));
        list.add(gap(115, 200, GapCause::Damaged));
        assert_eq!(list.as_slice().len(), 3);
        assert!(list.as_slice().iter().any(|g| g.to.as_millis() == 200_000 && g.samples == 2));
        assert_eq!(GapList::decode(&list.encode()), list);
        // One that bridges two.
        list.add(gap(200, 5000, GapCause::SpoolFull));
        assert_eq!(list.as_slice().len(), 2);
    }

    #[test]
    fn the_list_is_bounded() {
        let mut list = GapList::default();
        for n in 0..2 * i64::try_from(MAX_GAPS).unwrap() {
            list.add(gap(n * 10_000, n * 10_000 + 1, GapCause::SpoolFull));
        }
        assert!(list.as_slice().len() <= MAX_GAPS);
        let samples: u64 = list.as_slice().iter().map(|gap| gap.samples).sum();
        assert_eq!(samples, 2 * MAX_GAPS as u64);
    }
}
