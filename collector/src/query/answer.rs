//! What comes of a query.

use std::time::Duration;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, is_stale};

/// The value of an expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A number.
    Scalar(Sample),
    /// A text.
    Text(Timestamp, String),
    /// One sample per series.
    Vector(Vec<(Labels, Point)>),
    /// Many samples per series.
    Matrix(Vec<Row>),
}

/// One sample: a number or a native histogram.
#[derive(Debug, Clone, PartialEq)]
pub enum Point {
    /// A number.
    Number(Sample),
    /// A native histogram.
    Histogram(HistogramSample),
}

impl Point {
    /// Its time.
    pub fn at(&self) -> Timestamp {
        match self {
            Self::Number(sample) => sample.at,
            Self::Histogram(sample) => sample.at,
        }
    }

    /// Whether it is a staleness marker.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Number(sample) => is_stale(sample.value),
            Self::Histogram(sample) => sample.histogram.is_stale(),
        }
    }
}

/// A series with its samples.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its labels.
    pub labels: Labels,
    /// Its numbers, in order of time.
    pub samples: Vec<Sample>,
    /// Its native histograms, in order of time.
    pub histograms: Vec<HistogramSample>,
}

/// A value and what was noticed on the way.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The value.
    pub value: Value,
    /// Something may be wrong with the result.
    pub warnings: Vec<String>,
    /// Something may be unintended.
    pub infos: Vec<String>,
    /// What it took.
    pub cost: Cost,
}

/// What a query took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Waiting for other queries.
    pub queue: Duration,
    /// Evaluating.
    pub evaluation: Duration,
    /// Samples read from the store.
    pub samples_read: u64,
    /// Most samples in memory at one time.
    pub samples_peak: u64,
}
