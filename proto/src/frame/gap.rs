//! Intervals that are missing, and why: an agent says what it could not keep.

use tributary_model::sample::Timestamp;

/// An interval that is missing, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The oldest time that may be missing.
    pub from: Timestamp,
    /// The newest time that may be missing.
    pub to: Timestamp,
    /// Why.
    pub cause: GapCause,
    /// How many samples; 0 if nobody counted them.
    pub samples: u64,
}

/// Why an interval is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapCause {
    /// The agent's spool was full and dropped its oldest data.
    SpoolFull,
    /// The agent did not run.
    AgentDown,
    /// A source could not be read.
    SourceFailed,
    /// A source's data was refused.
    Refused,
    /// Data on the agent's disk could not be read any more.
    Damaged,
}

impl GapCause {
    /// The cause as it stands in metrics, in the gap ledger and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SpoolFull => "spool_full",
            Self::AgentDown => "agent_down",
            Self::SourceFailed => "source_failed",
            Self::Refused => "refused",
            Self::Damaged => "damaged",
        }
    }

    /// The byte that stands for the cause in a frame.
    pub fn code(self) -> u8 {
        match self {
            Self::SpoolFull => 1,
            Self::AgentDown => 2,
            Self::SourceFailed => 3,
            Self::Refused => 4,
            Self::Damaged => 5,
        }
    }

    /// The cause that a byte stands for.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::SpoolFull, Self::AgentDown, Self::SourceFailed, Self::Refused, Self::Damaged]
            .into_iter()
            .find(|cause| cause.code() == code)
    }
}
