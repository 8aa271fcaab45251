//! What the evaluator reads from: series chosen by matchers, and their samples.

use std::collections::HashMap;
use std::sync::Arc;

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

/// Series in memory, in the order in which they were added: for tests and for checking rules against made-up data.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    series: Vec<(Labels, Arc<Vec<Sample>>)>,
    places: HashMap<Labels, usize>,
}

impl Memory {
    /// Adds samples to the series with these labels. They are kept in order of time; the last one given wins where two
    /// have the same time.
    pub fn add(&mut self, labels: &Labels, samples: impl IntoIterator<Item = Sample>) {
        let next = self.series.len();
        let place = *self.places.entry(labels.clone()).or_insert(next);
        if place == next {
            self.series.push((labels.clone(), Arc::default()));
        }
        let Some((_, all)) = self.series.get_mut(place) else { return };
        let all = Arc::make_mut(all);
        for sample in samples {
            let at = all.partition_point(|other| other.at < sample.at);
            match all.get_mut(at) {
                Some(same) if same.at == sample.at => *same = sample,
                _ => all.insert(at, sample),
            }
        }
    }

    /// All series with their samples.
    pub fn series(&self) -> impl Iterator<Item = (&Labels, &[Sample])> {
        self.series.iter().map(|(labels, samples)| (labels, samples.as_slice()))
    }
}

impl Source for Memory {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        let matching =
            self.series.iter().filter(|(labels, _)| Matcher::all_match(request.matchers, labels));
        let series = matching.map(|(labels, samples)| Series {
            labels: labels.clone(),
            samples: Box::new(MemoryReader(Arc::clone(samples))),
        });
        Ok(series.collect())
    }
}

struct MemoryReader(Arc<Vec<Sample>>);

impl SampleReader for MemoryReader {
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        out: &mut Vec<Sample>,
    ) -> Result<(), SourceError> {
        let first = self.0.partition_point(|sample| sample.at < from);
        let wanted = self.0.iter().skip(first).take_while(|sample| sample.at <= to);
        out.extend(wanted.copied());
        Ok(())
    }
}
