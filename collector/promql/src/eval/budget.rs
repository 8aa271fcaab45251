//! What an evaluation may take and has taken; shared by its threads.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::Options;
use crate::value::EvalError;

/// The limits of one evaluation and its counts.
pub(super) struct Budget<'a> {
    options: &'a Options,
    /// Samples in memory now.
    held: AtomicUsize,
    peak: AtomicUsize,
    read: AtomicUsize,
}

impl<'a> Budget<'a> {
    /// Nothing taken yet.
    pub(super) fn new(options: &'a Options) -> Self {
        let zero = || AtomicUsize::new(0);
        Self { options, held: zero(), peak: zero(), read: zero() }
    }

    /// Asks whether to go on.
    pub(super) fn check(&self) -> Result<(), EvalError> {
        match self.options.interrupt.as_ref().and_then(|ask| ask()) {
            Some(why) => Err(why.into()),
            None => Ok(()),
        }
    }

    /// Counts samples that are now in memory.
    pub(super) fn hold(&self, samples: usize) -> Result<(), EvalError> {
        let held = self.held.fetch_add(samples, Relaxed).saturating_add(samples);
        self.peak.fetch_max(held, Relaxed);
        if held > self.options.max_samples { Err(EvalError::TooManySamples) } else { Ok(()) }
    }

    /// Counts samples that are no longer in memory.
    pub(super) fn release(&self, samples: usize) {
        self.held.fetch_sub(samples, Relaxed);
    }

    /// Samples in memory now.
    pub(super) fn held(&self) -> usize {
        self.held.load(Relaxed)
    }

    /// Back to what was held before.
    pub(super) fn settle(&self, held: usize) {
        self.held.store(held, Relaxed);
    }

    /// Counts samples that came from the source.
    pub(super) fn count_read(&self, samples: usize) {
        self.read.fetch_add(samples, Relaxed);
    }

    /// The most samples that were in memory at one time.
    pub(super) fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    /// All samples that came from the source.
    pub(super) fn read(&self) -> usize {
        self.read.load(Relaxed)
    }

    /// How many threads may work at once.
    pub(super) fn threads(&self) -> usize {
        self.options.threads.max(1)
    }
}
