//! Lets listed series through, strips unlisted labels, and keeps the budget.

pub mod merge;
pub mod plan;

use std::path::{Path, PathBuf};

use prometheus_client::registry::Registry;
use tributary_model::diagnostic::Diagnostic;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;

/// The compiled allowlist: what a file says, without any state.
#[derive(Debug, Clone, Default)]
pub struct Rules;

impl Rules {
    /// Reads and compiles an allowlist file.
    pub fn load(_path: &Path) -> Result<Self, AllowlistError> {
        Ok(Self)
    }
}

/// Why there is no allowlist.
#[derive(Debug, thiserror::Error)]
pub enum AllowlistError {
    /// The file cannot be read.
    #[error("cannot read the allowlist {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file's text is at fault.
    #[error("{0}")]
    Fault(Box<Diagnostic>),
}

/// What the allowlist let through.
#[derive(Debug, Default)]
pub struct Kept {
    /// Samples under the labels they leave with.
    pub samples: Vec<(Labels, Sample)>,
    /// Metadata of metrics that leave.
    pub metadata: Vec<Metadata>,
}

/// Counters of the allowlist.
#[derive(Debug, Clone)]
pub struct AllowMetrics;

impl AllowMetrics {
    /// Registers the counters.
    pub fn new(_registry: &mut Registry) -> Self {
        Self
    }
}

/// Why saved merge state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes are not a state of a known version.
    #[error("the saved merge state is damaged: {0}")]
    Damaged(&'static str),
}

/// The allowlist at work: the rules, and what they remember between samples.
#[derive(Debug)]
pub struct Allowlist;

impl Allowlist {
    /// An allowlist that has seen nothing yet.
    pub fn new(_rules: Rules, _metrics: AllowMetrics) -> Self {
        Self
    }

    /// Puts new rules in force; budgets, owners and merges go on.
    pub fn replace(&mut self, _rules: Rules) {}

    /// Which series the rules list, for sources that can save themselves the work of unlisted ones.
    pub fn screen(&self) -> Screen {
        Screen
    }

    /// Decides over samples. `now` is the wall clock.
    pub fn apply(
        &mut self,
        _samples: Vec<(Labels, Sample)>,
        _metadata: Vec<Metadata>,
        _now: Timestamp,
    ) -> Kept {
        Kept::default()
    }

    /// Merged samples that are settled by the passing of time; call about once a second.
    pub fn tick(&mut self, _now: Timestamp) -> Kept {
        Kept::default()
    }

    /// All merged samples that still wait for members; call once, when the sources have stopped.
    pub fn finish(&mut self, _now: Timestamp) -> Kept {
        Kept::default()
    }

    /// The oldest sample that has been taken but waits for its merge: nothing from there on is complete.
    pub fn oldest_pending(&self) -> Option<Timestamp> {
        None
    }

    /// The whole state of merges. Holds no label of a series that is not listed.
    pub fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    /// What changed since the last call, if anything. Write it *after* the frames with the samples of the same
    /// `apply`, and make both durable before an arrival is acknowledged.
    pub fn changes(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Takes up the state of an earlier process: its last snapshot and the changes written after it, in order.
    pub fn restore(&mut self, _snapshot: &[u8], _changes: &[Vec<u8>]) -> Result<(), StateError> {
        Ok(())
    }
}

/// Which series the rules in force list. Cheap to clone; follows reloads.
#[derive(Debug, Clone)]
pub struct Screen;

impl Screen {
    /// Whether a series is listed.
    pub fn lists(&self, _labels: &Labels) -> bool {
        false
    }
}
