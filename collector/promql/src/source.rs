//! What the evaluator reads from: series chosen by matchers, and their samples.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Sample, Timestamp};

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

/// Reads the samples of one series. Numbers and native histograms are columns of their own, as nearly every series has
/// only one of them. No two samples of a series have the same time.
pub trait SampleReader: Send + Sync {
    /// Appends the numbers and the native histograms from `from` to `to`, both included, in order of time, staleness
    /// markers too.
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        numbers: &mut Numbers,
        histograms: &mut Vec<HistogramSample>,
    ) -> Result<(), SourceError>;

    /// Appends since when each of the samples counts that [`SampleReader::read`] appends for the same times: either one
    /// for each, or nothing if none is known. A time of zero stands for one that is not known.
    fn read_starts(
        &self,
        _from: Timestamp,
        _to: Timestamp,
        _out: &mut Starts,
    ) -> Result<(), SourceError> {
        Ok(())
    }
}

/// Since when the samples of a series count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Starts {
    /// Of the numbers.
    pub samples: Vec<Timestamp>,
    /// Of the native histograms.
    pub histograms: Vec<Timestamp>,
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
    series: Vec<(Labels, Arc<Kept>)>,
    places: HashMap<Labels, usize>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    samples: Column<Sample>,
    histograms: Column<HistogramSample>,
}

impl Memory {
    /// Adds samples to the series with these labels. They are kept in order of time; the last one given wins where two
    /// have the same time.
    pub fn add(&mut self, labels: &Labels, samples: impl IntoIterator<Item = Sample>) {
        let Some(kept) = self.kept(labels) else { return };
        for sample in samples {
            kept.samples.insert(sample);
        }
    }

    /// Adds native histograms in the same way. As in a store, each gets the hint that follows from the one before it.
    pub fn add_histograms(
        &mut self,
        labels: &Labels,
        samples: impl IntoIterator<Item = HistogramSample>,
    ) {
        let Some(kept) = self.kept(labels) else { return };
        for mut sample in samples {
            let before = kept.histograms.before(sample.at);
            let number = kept.samples.before(sample.at).map(|sample| sample.at);
            let before = before.filter(|h| !h.histogram.is_stale() && Some(h.at) > number);
            let hint = sample.histogram.hint_after(before.map(|before| &*before.histogram));
            let histogram = Arc::unwrap_or_clone(sample.histogram).with_hint(hint);
            sample.histogram = Arc::new(histogram);
            kept.histograms.insert(sample);
        }
    }

    /// Sets since when samples count, by their times.
    pub fn set_starts(
        &mut self,
        labels: &Labels,
        starts: impl IntoIterator<Item = (Timestamp, Timestamp)>,
    ) {
        let Some(kept) = self.kept(labels) else { return };
        for (at, start) in starts {
            kept.samples.set_start(at, start);
            kept.histograms.set_start(at, start);
        }
    }

    /// All series with their numbers.
    pub fn series(&self) -> impl Iterator<Item = (&Labels, &[Sample])> {
        self.series.iter().map(|(labels, kept)| (labels, kept.samples.values.as_slice()))
    }

    fn kept(&mut self, labels: &Labels) -> Option<&mut Kept> {
        let next = self.series.len();
        let place = *self.places.entry(labels.clone()).or_insert(next);
        if place == next {
            self.series.push((labels.clone(), Arc::default()));
        }
        self.series.get_mut(place).map(|(_, kept)| Arc::make_mut(kept))
    }
}

impl Source for Memory {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        let matching =
            self.series.iter().filter(|(labels, _)| Matcher::all_match(request.matchers, labels));
        let series = matching.map(|(labels, kept)| Series {
            labels: labels.clone(),
            samples: Box::new(MemoryReader(Arc::clone(kept))),
        });
        Ok(series.collect())
    }
}

struct MemoryReader(Arc<Kept>);

impl SampleReader for MemoryReader {
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        numbers: &mut Numbers,
        histograms: &mut Vec<HistogramSample>,
    ) -> Result<(), SourceError> {
        numbers.extend(self.0.samples.between(from, to).0.iter().copied());
        histograms.extend_from_slice(self.0.histograms.between(from, to).0);
        Ok(())
    }

    fn read_starts(
        &self,
        from: Timestamp,
        to: Timestamp,
        out: &mut Starts,
    ) -> Result<(), SourceError> {
        if self.0.samples.has_starts || self.0.histograms.has_starts {
            out.samples.extend_from_slice(self.0.samples.between(from, to).1);
            out.histograms.extend_from_slice(self.0.histograms.between(from, to).1);
        }
        Ok(())
    }
}

/// Samples of one kind, by time.
#[derive(Debug, Clone)]
struct Column<T> {
    values: Vec<T>,
    /// As many, zero where it is not known.
    starts: Vec<Timestamp>,
    has_starts: bool,
}

trait Timed {
    fn at(&self) -> Timestamp;
}

impl Timed for Sample {
    fn at(&self) -> Timestamp {
        self.at
    }
}

impl Timed for HistogramSample {
    fn at(&self) -> Timestamp {
        self.at
    }
}

impl<T> Default for Column<T> {
    fn default() -> Self {
        Self { values: Vec::new(), starts: Vec::new(), has_starts: false }
    }
}

impl<T: Timed> Column<T> {
    fn insert(&mut self, value: T) {
        let at = self.values.partition_point(|other| other.at() < value.at());
        match self.values.get_mut(at) {
            Some(same) if same.at() == value.at() => *same = value,
            _ => {
                self.values.insert(at, value);
                self.starts.insert(at, Timestamp::default());
            }
        }
    }

    fn set_start(&mut self, at: Timestamp, start: Timestamp) {
        let place = self.values.partition_point(|other| other.at() < at);
        if self.values.get(place).is_some_and(|value| value.at() == at)
            && let Some(slot) = self.starts.get_mut(place)
        {
            *slot = start;
            self.has_starts = true;
        }
    }

    fn before(&self, at: Timestamp) -> Option<&T> {
        let place = self.values.partition_point(|other| other.at() < at);
        self.values.get(place.checked_sub(1)?)
    }

    fn between(&self, from: Timestamp, to: Timestamp) -> (&[T], &[Timestamp]) {
        let first = self.values.partition_point(|value| value.at() < from);
        let end = self.values.partition_point(|value| value.at() <= to).max(first);
        (
            self.values.get(first..end).unwrap_or_default(),
            self.starts.get(first..end).unwrap_or_default(),
        )
    }
}
