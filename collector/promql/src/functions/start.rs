//! What the times since when samples count tell about counter resets.

use tributary_model::sample::Timestamp;

/// A sample's own time and the time since when it counts, in milliseconds; zero is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The sample's time.
    pub(crate) at: i64,
    /// Since when it counts.
    pub(crate) since: i64,
}

impl Counted {
    /// The sample at `index`, given the column of starts, which may be empty.
    pub(crate) fn new(at: Timestamp, starts: &[Timestamp], index: usize) -> Self {
        let since = starts.get(index).map_or(0, |start| start.as_millis());
        Self { at: at.as_millis(), since }
    }

    /// Whether counting began anew between `before` and this sample.
    pub(crate) fn is_reset_after(self, before: Self) -> bool {
        // Not known, impossible, or the way to say that it is not known.
        if self.since == 0 || self.since >= self.at {
            return false;
        }
        match self.since.cmp(&before.at) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Greater => true,
            // Deltas count from sample to sample; a counter with an unknown start may seem to do so once.
            std::cmp::Ordering::Equal => before.since != 0 && before.since < before.at,
        }
    }

    /// Whether this sample counts since before the time of `before`, but not since when that one does.
    pub(crate) fn overlaps(self, before: Self) -> bool {
        self.since != 0 && self.since < before.at && self.since != before.since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_tell_of_resets() {
        let counted = |at, since| Counted { at, since };
        for (before, after, reset, overlap) in [
            (counted(10, 0), counted(20, 0), false, false),
            (counted(10, 5), counted(20, 5), false, false),
            (counted(10, 5), counted(20, 15), true, false),
            (counted(10, 5), counted(20, 10), true, false),
            (counted(10, 0), counted(20, 10), false, false),
            (counted(10, 10), counted(20, 10), false, false),
            (counted(10, 5), counted(20, 20), false, false),
            (counted(10, 5), counted(20, 7), false, true),
        ] {
            assert_eq!(after.is_reset_after(before), reset, "{before:?} {after:?}");
            assert_eq!(after.overlaps(before), overlap, "{before:?} {after:?}");
        }
    }
}
