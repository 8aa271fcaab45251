//! What remote write and remote read have: samples, native histograms, metadata.

use prost::Message as _;
use tributary_model::fields::Malformed;
use tributary_model::histogram::{
    Buckets, CUSTOM_SCHEMA, Histogram, HistogramError, HistogramSample, MAX_BUCKETS, Parts,
    ResetHint, Schema, Span,
};
use tributary_model::protobuf::{Value, field};
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::{Metadata, MetricType};

use crate::prometheus::{self, BucketSpan, histogram};

/// Most spans of one side as they arrive; they may be empty or touch.
const MAX_SPANS: usize = MAX_BUCKETS;

/// Most bytes of all histograms of one message, each of which can become eight in memory. Further ones are refused.
pub const MAX_HISTOGRAM_BYTES: usize = 8 << 20;
/// What each counts for beside its bytes.
const BYTES_OF_EACH: usize = 32;

/// Why a histogram is not taken. Whatever else is in the request can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The bytes are not a histogram.
    Malformed,
    /// More than [`MAX_BUCKETS`] buckets, spans or bounds.
    TooMany,
    /// Its schema is unknown.
    Schema,
    /// Its spans do not go with its counts.
    Spans,
    /// Its custom bounds are not finite or do not rise, or there is something that they have no use for.
    Bounds,
    /// Its zero threshold is negative or not finite.
    ZeroThreshold,
    /// A count is negative.
    Negative,
    /// Those of one message together have more than [`MAX_HISTOGRAM_BYTES`].
    Message,
}

impl Refused {
    /// The reason as a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "a native histogram is not readable",
            Self::TooMany => "a native histogram has too many buckets",
            Self::Schema => "a native histogram has an unknown schema",
            Self::Spans => "a native histogram has spans that do not go with its counts",
            Self::Bounds => "a native histogram has custom bounds that are not valid",
            Self::ZeroThreshold => "a native histogram has a zero threshold that is not valid",
            Self::Negative => "a native histogram has a negative count",
            Self::Message => "the native histograms of one message have too many buckets",
        }
    }
}

/// Reads the histograms of one message, within a bound for all of them.
#[derive(Debug)]
pub struct HistogramReader {
    left: usize,
}

impl Default for HistogramReader {
    fn default() -> Self {
        Self { left: MAX_HISTOGRAM_BYTES }
    }
}

impl HistogramReader {
    /// Reads the next one, as [`read_histogram`] does.
    pub fn read(&mut self, bytes: &[u8]) -> Result<HistogramSample, Refused> {
        // Each count takes at least a byte.
        self.left = self.left.checked_sub(BYTES_OF_EACH + bytes.len()).ok_or(Refused::Message)?;
        read_histogram(bytes)
    }
}

/// Reads a message `Sample`.
#[inline]
pub fn read_sample(bytes: &[u8]) -> Result<Sample, Malformed> {
    let (mut value, mut millis) = (0.0, 0);
    let mut rest = bytes;
    while let Some(field) = field(&mut rest)? {
        match field {
            (1, Value::Fixed64(bits)) => value = f64::from_bits(bits),
            (2, Value::Varint(n)) => millis = n.cast_signed(),
            _ => {}
        }
    }
    Ok(Sample::new(millis, value))
}

/// Reads a message `MetricMetadata`. One without a name, or with a text that is not UTF-8, is none.
pub fn read_metadata(bytes: &[u8]) -> Result<Option<Metadata>, Malformed> {
    let mut metadata = Metadata::default();
    let mut valid = true;
    let mut text = |to: &mut String, bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.clone_into(to),
        Err(_) => valid = false,
    };
    let mut rest = bytes;
    while let Some(field) = field(&mut rest)? {
        match field {
            (1, Value::Varint(n)) => metadata.kind = metric_type(n),
            (2, Value::Bytes(bytes)) => text(&mut metadata.metric, bytes),
            (4, Value::Bytes(bytes)) => text(&mut metadata.help, bytes),
            (5, Value::Bytes(bytes)) => text(&mut metadata.unit, bytes),
            _ => {}
        }
    }
    Ok(Some(metadata).filter(|metadata| valid && !metadata.metric.is_empty()))
}

/// The type of a metric as versions 1.0 and 2.0 number it; what they do not have is unknown.
pub fn metric_type(n: u64) -> MetricType {
    match n {
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => MetricType::Unknown,
    }
}

/// Reads a message `Histogram`. One whose sum is the staleness marker is that marker, whatever else it has.
pub fn read_histogram(bytes: &[u8]) -> Result<HistogramSample, Refused> {
    let message = prometheus::Histogram::decode(bytes).map_err(|_| Refused::Malformed)?;
    let at = Timestamp::from_millis(message.timestamp);
    if tributary_model::sample::is_stale(message.sum) {
        return Ok(HistogramSample { at, histogram: Histogram::stale().into() });
    }
    let histogram = Histogram::observed(parts(message)?).map_err(|error| match error {
        HistogramError::Schema(_) => Refused::Schema,
        HistogramError::ZeroThreshold(_) => Refused::ZeroThreshold,
        HistogramError::Negative(_) => Refused::Negative,
        HistogramError::Spans { .. } | HistogramError::SpanOffset => Refused::Spans,
        _ => Refused::Bounds,
    })?;
    if !histogram.is_within_bounds() {
        return Err(Refused::TooMany);
    }
    Ok(HistogramSample { at, histogram: histogram.into() })
}

fn parts(message: prometheus::Histogram) -> Result<Parts, Refused> {
    let hint = match message.reset_hint() {
        histogram::ResetHint::Unknown => ResetHint::Unknown,
        histogram::ResetHint::Yes => ResetHint::Reset,
        histogram::ResetHint::No => ResetHint::NotReset,
        histogram::ResetHint::Gauge => ResetHint::Gauge,
    };
    let schema = if message.schema == CUSTOM_SCHEMA {
        if message.custom_values.len() > MAX_BUCKETS {
            return Err(Refused::TooMany);
        }
        Schema::Custom(message.custom_values.into())
    } else {
        Schema::Exponential(i8::try_from(message.schema).map_err(|_| Refused::Schema)?)
    };
    let floats = matches!(message.count, Some(histogram::Count::CountFloat(_)));
    let count = match message.count {
        Some(histogram::Count::CountFloat(count)) => count,
        Some(histogram::Count::CountInt(count)) => count as f64,
        None => 0.0,
    };
    let zero_count = match message.zero_count {
        Some(histogram::ZeroCount::ZeroCountFloat(count)) => count,
        Some(histogram::ZeroCount::ZeroCountInt(count)) => count as f64,
        None => 0.0,
    };
    let side = |spans: Vec<BucketSpan>, deltas: Vec<i64>, counts: Vec<f64>| {
        buckets(&spans, if floats { counts } else { summed(&deltas)? })
    };
    Ok(Parts {
        hint,
        schema,
        zero_threshold: message.zero_threshold,
        zero_count,
        count,
        sum: message.sum,
        positive: side(message.positive_spans, message.positive_deltas, message.positive_counts)?,
        negative: side(message.negative_spans, message.negative_deltas, message.negative_counts)?,
    })
}

/// Counts from their differences.
fn summed(deltas: &[i64]) -> Result<Vec<f64>, Refused> {
    let mut count = 0i64;
    let mut next = |delta: &i64| {
        count = count.checked_add(*delta).ok_or(Refused::Negative)?;
        Ok(count as f64)
    };
    deltas.iter().map(&mut next).collect()
}

fn buckets(spans: &[BucketSpan], counts: Vec<f64>) -> Result<Buckets, Refused> {
    if spans.len() > MAX_SPANS || counts.len() > MAX_BUCKETS {
        return Err(Refused::TooMany);
    }
    let spans: Vec<Span> =
        spans.iter().map(|span| Span { offset: span.offset, length: span.length }).collect();
    Buckets::new(&spans, counts).map_err(|_| Refused::Spans)
}

/// A message `Histogram` with counts as floats.
pub fn write_histogram(sample: &HistogramSample) -> Vec<u8> {
    message(sample).encode_to_vec()
}

/// The same, not encoded yet.
pub fn message(sample: &HistogramSample) -> prometheus::Histogram {
    let histogram = &sample.histogram;
    let spans = |buckets: &Buckets| {
        let span = |span: &Span| BucketSpan { offset: span.offset, length: span.length };
        buckets.spans().iter().map(span).collect()
    };
    let custom_values = match histogram.schema() {
        Schema::Custom(bounds) => bounds.to_vec(),
        Schema::Exponential(_) => Vec::new(),
    };
    let hint = match histogram.hint() {
        ResetHint::Unknown => histogram::ResetHint::Unknown,
        ResetHint::Reset => histogram::ResetHint::Yes,
        ResetHint::NotReset => histogram::ResetHint::No,
        ResetHint::Gauge => histogram::ResetHint::Gauge,
    };
    prometheus::Histogram {
        count: Some(histogram::Count::CountFloat(histogram.count())),
        sum: histogram.sum(),
        schema: histogram.schema().number(),
        zero_threshold: histogram.zero_threshold(),
        zero_count: Some(histogram::ZeroCount::ZeroCountFloat(histogram.zero_count())),
        negative_spans: spans(histogram.negative()),
        negative_deltas: Vec::new(),
        negative_counts: histogram.negative().counts().to_vec(),
        positive_spans: spans(histogram.positive()),
        positive_deltas: Vec::new(),
        positive_counts: histogram.positive().counts().to_vec(),
        reset_hint: hint.into(),
        timestamp: sample.at.as_millis(),
        custom_values,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tributary_model::sample::stale_nan;

    use super::*;

    fn whole() -> prometheus::Histogram {
        prometheus::Histogram {
            count: Some(histogram::Count::CountInt(12)),
            sum: 18.4,
            schema: 1,
            zero_threshold: 0.001,
            zero_count: Some(histogram::ZeroCount::ZeroCountInt(2)),
            positive_spans: vec![
                BucketSpan { offset: 0, length: 2 },
                BucketSpan { offset: 1, length: 2 },
            ],
            positive_deltas: vec![1, 1, -1, 0],
            negative_spans: vec![BucketSpan { offset: -1, length: 1 }],
            negative_deltas: vec![5],
            reset_hint: histogram::ResetHint::No.into(),
            timestamp: 1500,
            ..prometheus::Histogram::default()
        }
    }

    fn read(message: &prometheus::Histogram) -> Result<HistogramSample, Refused> {
        read_histogram(&message.encode_to_vec())
    }

    #[test]
    fn integers_are_summed() {
        let sample = read(&whole()).unwrap();
        let histogram = &sample.histogram;
        assert_eq!(sample.at.as_millis(), 1500);
        assert_eq!(histogram.hint(), ResetHint::NotReset);
        assert_eq!(histogram.positive().counts(), [1.0, 2.0, 1.0, 1.0]);
        assert_eq!(histogram.positive().iter().map(|(i, _)| i).collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(histogram.negative().counts(), [5.0]);
        assert_eq!((histogram.count(), histogram.sum(), histogram.zero_count()), (12.0, 18.4, 2.0));
        // As floats it comes back.
        assert_eq!(read_histogram(&write_histogram(&sample)), Ok(sample));
    }

    #[test]
    fn custom_bounds_and_markers() {
        let custom = prometheus::Histogram {
            count: Some(histogram::Count::CountFloat(1.5)),
            schema: CUSTOM_SCHEMA,
            custom_values: vec![0.5, 2.0],
            positive_spans: vec![BucketSpan { offset: 1, length: 2 }],
            positive_counts: vec![0.5, 1.0],
            ..prometheus::Histogram::default()
        };
        let sample = read(&custom).unwrap();
        assert_eq!(sample.histogram.schema(), &Schema::Custom([0.5, 2.0].into()));
        assert_eq!(read_histogram(&write_histogram(&sample)), Ok(sample));
        let stale = prometheus::Histogram { sum: stale_nan(), timestamp: 7, ..custom };
        let sample = read(&stale).unwrap();
        assert!(sample.histogram.is_stale() && sample.histogram.positive().is_empty());
        assert!(read_histogram(&write_histogram(&sample)).unwrap().histogram.is_stale());
    }

    #[test]
    fn what_is_no_histogram_is_refused() {
        let with = |change: &dyn Fn(&mut prometheus::Histogram)| {
            let mut message = whole();
            change(&mut message);
            read(&message).unwrap_err()
        };
        assert_eq!(with(&|h| h.schema = 9), Refused::Schema);
        assert_eq!(with(&|h| h.schema = -200), Refused::Schema);
        assert_eq!(with(&|h| h.positive_deltas = vec![1]), Refused::Spans);
        assert_eq!(with(&|h| h.positive_spans[1].offset = -1), Refused::Spans);
        assert_eq!(with(&|h| h.positive_deltas[3] = -2), Refused::Negative);
        assert_eq!(with(&|h| h.positive_deltas[1] = i64::MAX), Refused::Negative);
        assert_eq!(with(&|h| h.zero_threshold = -1.0), Refused::ZeroThreshold);
        assert_eq!(with(&|h| h.schema = CUSTOM_SCHEMA), Refused::Bounds);
        let many = u32::try_from(MAX_BUCKETS).unwrap() + 1;
        let wide = |h: &mut prometheus::Histogram| {
            h.positive_spans = vec![BucketSpan { offset: 0, length: many }];
            h.positive_deltas = vec![0; many as usize];
        };
        assert_eq!(with(&wide), Refused::TooMany);
        assert_eq!(read_histogram(&[0xff]), Err(Refused::Malformed));
    }

    #[test]
    fn a_message_has_a_bound() {
        let mut reader = HistogramReader::default();
        let mut taken = 0;
        while reader.read(&[]).is_ok() {
            taken += 1;
        }
        assert_eq!(taken, MAX_HISTOGRAM_BYTES / BYTES_OF_EACH);
        assert_eq!(reader.read(&[]), Err(Refused::Message));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_histogram(&bytes);
            let mut message = whole().encode_to_vec();
            message.extend(bytes);
            let _ = read_histogram(&message);
        }
    }
}
