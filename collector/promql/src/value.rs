//! What an evaluation gives: a value of one of PromQL's types, what was noticed on the way, and why it failed.

use std::sync::Arc;

use tributary_model::histogram::{Histogram, HistogramSample};
use tributary_model::label::{Labels, is_legacy_label_name};
use tributary_model::number::format_general;
use tributary_model::quote::quote;
use tributary_model::sample::{Sample, Timestamp};

use crate::ast::{Span, ValueType};
use crate::source::SourceError;

/// A value with the remarks made while it was computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The value.
    pub value: Value,
    /// `PromQL warning: … (line:column)`
    pub warnings: Vec<String>,
    /// `PromQL info: … (line:column)`
    pub infos: Vec<String>,
    /// How many samples were read from the source.
    pub samples_read: usize,
    /// The most samples held in memory at one time.
    pub peak_samples: usize,
}

/// A value of one of PromQL's types.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// One number.
    Scalar(Sample),
    /// One text.
    String {
        /// When it was evaluated.
        at: Timestamp,
        /// The text.
        text: String,
    },
    /// One value per series, in the order of the evaluation.
    Vector(Vec<VectorSample>),
    /// Any number of values per series, sorted by labels.
    Matrix(Vec<MatrixSeries>),
}

impl Value {
    /// Its type.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Scalar(_) => ValueType::Scalar,
            Self::String { .. } => ValueType::String,
            Self::Vector(_) => ValueType::Vector,
            Self::Matrix(_) => ValueType::Matrix,
        }
    }
}

/// What a series holds at one time.
#[derive(Debug, Clone, PartialEq)]
pub enum Element {
    /// A number.
    Float(f64),
    /// A native histogram.
    Histogram(Arc<Histogram>),
}

impl Element {
    /// The number, if it is one.
    pub fn float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Histogram(_) => None,
        }
    }

    /// `float` or `histogram`, the names in remarks.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "float",
            Self::Histogram(_) => "histogram",
        }
    }
}

impl From<Histogram> for Element {
    fn from(histogram: Histogram) -> Self {
        Self::Histogram(Arc::new(histogram))
    }
}

/// One element of an instant vector.
#[derive(Debug, Clone, PartialEq)]
pub struct VectorSample {
    /// The labels.
    pub labels: Labels,
    /// The time of the evaluation.
    pub at: Timestamp,
    /// What the series holds.
    pub value: Element,
}

/// One element of a matrix.
#[derive(Debug, Clone, PartialEq)]
pub struct MatrixSeries {
    /// The labels.
    pub labels: Labels,
    /// The numbers, in order of time.
    pub samples: Vec<Sample>,
    /// The native histograms, in order of time; at other times than the numbers.
    pub histograms: Vec<HistogramSample>,
}

/// Why an evaluation was broken off from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupted {
    /// It took too long.
    Timeout,
    /// Nobody waits for it any more.
    Canceled,
}

/// Why an evaluation failed. The texts are those of Prometheus, where it has one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The deadline has passed.
    #[error("query timed out in expression evaluation")]
    Timeout,
    /// It was canceled.
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// More samples in memory than [`crate::eval::Options::max_samples`].
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// The source failed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The step of a range query is zero.
    #[error(
        "zero or negative query resolution step widths are not accepted. Try a positive integer"
    )]
    ZeroStep,
    /// The steps of a range query, or their number, are out of range.
    #[error("the query has too many steps")]
    TooManySteps,
    /// A range query of something without a value per step.
    #[error("invalid expression type \"{}\" for range query, must be Scalar or instant Vector", .0.documented())]
    NotForRange(ValueType),
    /// Two series of a vector would have equal labels.
    #[error("vector cannot contain metrics with the same labelset")]
    SameLabels,
    /// Two series of the "one" side of a binary operation are in the same group.
    #[error(
        "found duplicate series for the match group {} on the {side} hand-side of the operation: [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side",
        in_braces(.group)
    )]
    DuplicateMatch {
        /// The labels of the group.
        group: Labels,
        /// `left` or `right`.
        side: &'static str,
        /// The one whose text sorts first.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two series of the left side are in the same group of a one-to-one operation.
    #[error(
        "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)"
    )]
    ImplicitManyToOne,
    /// Two results of a many-to-one operation have equal labels.
    #[error("multiple matches for labels: grouping labels must ensure unique matches")]
    AmbiguousGroup,
    /// The parameter of `topk` and the like is not a number.
    #[error("Parameter value is NaN")]
    ParameterNan,
    /// The parameter of `limit_ratio` is not a number.
    #[error("Ratio value is NaN")]
    RatioNan,
    /// The parameter of `topk` and the like is too small.
    #[error("Scalar value {} underflows int64", format_general(*.0))]
    Underflow(f64),
    /// The parameter of `topk` and the like is too large.
    #[error("Scalar value {} overflows int64", format_general(*.0))]
    Overflow(f64),
    /// A text that is to become a label name cannot be one.
    #[error("invalid label name {0}")]
    LabelName(String),
    /// A label name argument of `label_replace` or `label_join` cannot be one.
    #[error("invalid {role} label name in {function}(): {name}")]
    FunctionLabelName {
        /// `destination` or `source`.
        role: &'static str,
        /// The function's name.
        function: &'static str,
        /// The name given.
        name: String,
    },
    /// The expression of `label_replace` does not compile.
    #[error("invalid regular expression in label_replace(): {0}")]
    LabelReplaceRegex(String),
    /// A factor of `double_exponential_smoothing` is not between 0 and 1.
    #[error("invalid {which} factor. Expected: 0 < {short} < 1, got: {value:.6}")]
    Factor {
        /// `smoothing` or `trend`.
        which: &'static str,
        /// `sf` or `tf`.
        short: &'static str,
        /// The value given.
        value: f64,
    },
    /// `anchored` or `smoothed` under a function that cannot use it.
    #[error("{modifier} modifier can only be used with: {allowed} - not with {function}")]
    Modifier {
        /// `anchored` or `smoothed`.
        modifier: &'static str,
        /// The functions that can.
        allowed: &'static str,
        /// The function called.
        function: &'static str,
    },
    /// `anchored` or `smoothed` on a bare range vector that has native histograms.
    #[error("{0} modifier is not supported with histograms")]
    ExtendedHistograms(&'static str),
    /// A computed duration is not a possible range, step or offset.
    #[error("{}:{}: {fault}", span.start, span.end)]
    Duration {
        /// Where it is written.
        span: Span,
        /// What is wrong with it.
        fault: DurationFault,
    },
    /// Two info series of the same name, time and identity.
    #[error("found duplicate series for info metric: existing {existing} @ {at}, new {new} @ {at}")]
    DuplicateInfo {
        /// The one met first.
        existing: Labels,
        /// The other one.
        new: Labels,
        /// The time of both samples, in milliseconds.
        at: i64,
    },
    /// Two info series give one label different values.
    #[error("conflicting label: {0}")]
    ConflictingInfo(String),
    /// An info series holds native histograms.
    #[error("this should be an info metric, with float samples: {0}")]
    HistogramInfo(Labels),
    /// What the type check lets through only by a fault of its own.
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// What is wrong with a computed duration.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum DurationFault {
    /// Not positive.
    #[error("duration must be greater than 0")]
    NotPositive,
    /// Not a number, or without end.
    #[error("duration is NaN or infinite")]
    NotFinite,
    /// Too long.
    #[error("duration is out of range")]
    OutOfRange,
    /// Division by zero.
    #[error("division by zero")]
    DivisionByZero,
    /// Modulo by zero.
    #[error("modulo by zero")]
    ModuloByZero,
}

impl From<Interrupted> for EvalError {
    fn from(why: Interrupted) -> Self {
        match why {
            Interrupted::Timeout => Self::Timeout,
            Interrupted::Canceled => Self::Canceled,
        }
    }
}

/// Labels with the metric name among them: `{__name__="up", job="a"}`.
pub(crate) fn in_braces(labels: &Labels) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|label| {
            let value = quote(&label.value);
            if is_legacy_label_name(&label.name) {
                format!("{}={value}", label.name)
            } else {
                format!("{}={value}", quote(&label.name))
            }
        })
        .collect();
    format!("{{{}}}", pairs.join(", "))
}
