//! What became of samples.

use super::metrics::Dropped;

/// Samples of one `apply`, by what became of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) kept: u64,
    pub(super) stripped: u64,
    pub(super) merged: u64,
    pub(super) dropped: [(Option<Dropped>, u64); 8],
}

impl Tally {
    /// Counts one that was dropped.
    pub(super) fn drop(&mut self, reason: Dropped) {
        for (slot, samples) in &mut self.dropped {
            if slot.is_none_or(|slot| slot == reason) {
                *slot = Some(reason);
                *samples += 1;
                return;
            }
        }
    }
}
