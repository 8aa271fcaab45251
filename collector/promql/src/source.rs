//! What the evaluator reads from: series chosen by matchers, and their samples.

use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Sample, Timestamp};

/// Where series come from.
pub trait Source: Sync {
    /// The series that satisfy every matcher and may have samples in the range. The order is kept in instant results.
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError>;
}

/// What one selector asks for.
#[derive(Debug, Clone, Copy)]
pub struct Select<'a> {
    /// All of them must match.
    pub matchers: &'a [Matcher],
    /// The first millisecond wanted.
    pub from: Timestamp,
    /// The last millisecond wanted.
    pub to: Timestamp,
}

/// One series and the way to its samples.
pub struct Series {
    /// Its labels, the metric name included.
    pub labels: Labels,
    /// Its samples.
    pub samples: Box<dyn SampleReader>,
}

/// Reads the samples of one series.
pub trait SampleReader: Send + Sync {
    /// Appends the samples from `from` to `to`, both included, in order of time, staleness markers too.
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        out: &mut Vec<Sample>,
    ) -> Result<(), SourceError>;
}

/// The source could not answer.
#[derive(Debug, thiserror::Error)]
#[error("expanding series: {0}")]
pub struct SourceError(#[source] Box<dyn std::error::Error + Send + Sync>);

impl SourceError {
    /// Wraps the cause.
    pub fn new(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(cause.into())
    }
}
