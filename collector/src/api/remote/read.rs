//! `read`: raw samples for a Prometheus that looks further back, all at once or as a stream of chunks.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, TryFutureExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tributary_model::fields::{Malformed, put_varint};
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::protobuf::{Message, Value, field};
use tributary_model::sample::{Sample, Timestamp};
use tributary_proto::remote::write_histogram;

use super::{MAX_MESSAGE_BYTES, chunk, histogram_chunk};
use crate::api::envelope::plain;
use crate::api::{Api, Scope};
use crate::query::{Look, QueryError, Taker};

/// Most queries of one request; more are refused.
const MAX_QUERIES: usize = 64;

/// About how long a frame of the stream is; one that grows longer is sent.
const FRAME_BYTES: usize = 1 << 20;

/// Frames that wait for the client. Full: reading waits.
const FRAMES: usize = 4;

/// Answers a read request in the first form that the client asks for and that is known.
pub async fn read(State(api): State<Api>, scope: Scope, body: Bytes) -> Response {
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(why) => return plain(StatusCode::BAD_REQUEST, why + "\n"),
    };
    let looks: Vec<Look> = request.queries.into_iter().map(|query| query.look(&scope)).collect();
    match request.form {
        Some(Form::Samples) => sampled(&api, looks).await,
        Some(Form::Chunks) => streamed(api, looks),
        None => {
            let why = "none of the requested response types is known: ask for SAMPLES or STREAMED_XOR_CHUNKS\n";
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, why)
        }
    }
}

/// A form of answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Samples,
    Chunks,
}

/// A read request.
#[derive(Debug)]
struct Request {
    queries: Vec<Query>,
    /// None if the client knows only others.
    form: Option<Form>,
}

/// One query of it.
#[derive(Debug, Default)]
struct Query {
    start: i64,
    end: i64,
    matchers: Vec<Matcher>,
}

impl Query {
    fn look(self, scope: &Scope) -> Look {
        Look {
            any_of: vec![self.matchers],
            enforced: scope.enforced(),
            from: Timestamp::from_millis(self.start),
            to: Timestamp::from_millis(self.end),
        }
    }
}

impl Request {
    fn parse(body: &[u8]) -> Result<Self, String> {
        let snappy = |e: snap::Error| format!("the body is not a snappy block: {e}");
        let length = snap::raw::decompress_len(body).map_err(snappy)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(format!("the body is longer than {MAX_MESSAGE_BYTES} bytes"));
        }
        let message = snap::raw::Decoder::new().decompress_vec(body).map_err(snappy)?;
        Self::decode(&message).map_err(|e| format!("the body is not a read request: {e}"))
    }

    fn decode(message: &[u8]) -> Result<Self, String> {
        let text = |e: Malformed| e.to_string();
        let mut request = Self { queries: Vec::new(), form: Some(Form::Samples) };
        let mut asked = Vec::new();
        let mut rest = message;
        while let Some(field) = field(&mut rest).map_err(text)? {
            match field {
                (1, Value::Bytes(bytes)) => request.queries.push(query(bytes)?),
                (2, Value::Varint(form)) => asked.push(form),
                // Several in one field.
                (2, Value::Bytes(bytes)) => asked.extend(bytes.iter().copied().map(u64::from)),
                _ => {}
            }
        }
        if request.queries.len() > MAX_QUERIES {
            return Err(format!("more than {MAX_QUERIES} queries"));
        }
        if !asked.is_empty() {
            request.form = asked.into_iter().find_map(|form| match form {
                0 => Some(Form::Samples),
                1 => Some(Form::Chunks),
                _ => None,
            });
        }
        Ok(request)
    }
}

fn query(message: &[u8]) -> Result<Query, String> {
    let mut query = Query::default();
    let mut rest = message;
    while let Some(field) = field(&mut rest).map_err(|e| e.to_string())? {
        match field {
            (1, Value::Varint(n)) => query.start = n.cast_signed(),
            (2, Value::Varint(n)) => query.end = n.cast_signed(),
            (3, Value::Bytes(bytes)) => query.matchers.push(matcher(bytes)?),
            _ => {}
        }
    }
    Ok(query)
}

fn matcher(message: &[u8]) -> Result<Matcher, String> {
    let (mut op, mut name, mut value) = (MatchOp::Equal, "", "");
    let text = |bytes| std::str::from_utf8(bytes).map_err(|e| e.to_string());
    let mut rest = message;
    while let Some(field) = field(&mut rest).map_err(|e| e.to_string())? {
        match field {
            (1, Value::Varint(n)) => {
                op = match n {
                    0 => MatchOp::Equal,
                    1 => MatchOp::NotEqual,
                    2 => MatchOp::Match,
                    3 => MatchOp::NotMatch,
                    _ => return Err("a matcher has an unknown type".to_owned()),
                }
            }
            (2, Value::Bytes(bytes)) => name = text(bytes)?,
            (3, Value::Bytes(bytes)) => value = text(bytes)?,
            _ => {}
        }
    }
    Matcher::new(name, op, value).map_err(|e| e.to_string())
}

/// One message with all samples, as a snappy block.
async fn sampled(api: &Api, looks: Vec<Look>) -> Response {
    let most = api.queries.bounds().max_samples;
    let mut response = Message::default();
    let mut left = most;
    for look in looks {
        let read = api.queries.samples(look, Collected { left, ..Collected::default() }).await;
        match read {
            Ok(collected) if collected.over => {
                let why = format!("exceeded sample limit ({most})\n");
                return plain(StatusCode::BAD_REQUEST, why);
            }
            Ok(collected) => {
                left = collected.left;
                response.bytes(1, &collected.result.into_bytes());
            }
            Err(error) => return crate::api::envelope::ApiError::from(error).into_response(),
        }
    }
    let body = snap::raw::Encoder::new().compress_vec(&response.into_bytes());
    let Ok(body) = body else {
        return plain(StatusCode::BAD_REQUEST, "the answer is too long: ask for less\n");
    };
    let mut response = with_type(Body::from(body), "application/x-protobuf");
    let snappy = HeaderValue::from_static("snappy");
    response.headers_mut().insert(header::CONTENT_ENCODING, snappy);
    response
}

#[derive(Default)]
struct Collected {
    result: Message,
    /// Samples that still fit.
    left: usize,
    /// There were more.
    over: bool,
}

impl Taker for Collected {
    fn take(
        &mut self,
        labels: &Labels,
        samples: &[Sample],
        histograms: &[HistogramSample],
    ) -> bool {
        let Some(left) = self.left.checked_sub(samples.len() + histograms.len()) else {
            self.over = true;
            return false;
        };
        self.left = left;
        let mut series = labelled(labels);
        for sample in samples {
            let mut message = Message::default();
            message.double(1, sample.value).integer(2, sample.at.as_millis().cast_unsigned());
            series.bytes(2, &message.into_bytes());
        }
        for histogram in histograms {
            series.bytes(4, &write_histogram(histogram));
        }
        self.result.bytes(1, &series.into_bytes());
        true
    }
}

/// A message whose first fields are a series' labels.
fn labelled(labels: &Labels) -> Message {
    let mut series = Message::default();
    for label in labels {
        let mut message = Message::default();
        message.bytes(1, label.name.as_bytes()).bytes(2, label.value.as_bytes());
        series.bytes(1, &message.into_bytes());
    }
    series
}

/// Frames of chunks, sent while they are read: the answer is never in memory as a whole.
fn streamed(api: Api, looks: Vec<Look>) -> Response {
    let (frames, received) = mpsc::channel(FRAMES);
    let reading = async move {
        for (index, look) in looks.into_iter().enumerate() {
            let index = u64::try_from(index).unwrap_or(u64::MAX);
            api.queries.samples(look, Frames { index, frames: frames.clone() }).await?;
        }
        Ok::<_, QueryError>(())
    };
    let failed = stream::once(reading.map_err(std::io::Error::other))
        .filter_map(async |ended| ended.err().map(Err::<Bytes, _>));
    let frames = ReceiverStream::new(received).map(Ok);
    let body = Body::from_stream(stream::select(frames, failed));
    with_type(body, "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse")
}

/// Makes frames, and waits while too many are on their way.
struct Frames {
    index: u64,
    frames: mpsc::Sender<Bytes>,
}

impl Taker for Frames {
    fn take(
        &mut self,
        labels: &Labels,
        samples: &[Sample],
        histograms: &[HistogramSample],
    ) -> bool {
        let mut series = labelled(labels);
        let head = series.clone();
        let messages = in_turns(samples, histograms).flat_map(|(samples, histograms)| {
            let numbers = samples.chunks(chunk::MAX_SAMPLES).map(numbers_message);
            numbers.chain(histogram_chunk::split(histograms).map(histograms_message))
        });
        for message in messages {
            series.bytes(2, &message);
            if series.size() > FRAME_BYTES {
                // The rest of the series goes into another frame.
                let full = std::mem::replace(&mut series, head.clone());
                if !self.send(&full.into_bytes()) {
                    return false;
                }
            }
        }
        series == head || self.send(&series.into_bytes())
    }
}

impl Frames {
    /// Length, CRC-32C, message. False if nobody reads any more.
    fn send(&self, series: &[u8]) -> bool {
        let mut message = Message::default();
        message.bytes(1, series).integer(2, self.index);
        let message = message.into_bytes();
        let mut frame = Vec::with_capacity(message.len() + 14);
        put_varint(&mut frame, u64::try_from(message.len()).unwrap_or(u64::MAX));
        frame.extend_from_slice(&crc32c::crc32c(&message).to_be_bytes());
        frame.extend_from_slice(&message);
        self.frames.blocking_send(Bytes::from(frame)).is_ok()
    }
}

/// Numbers and the histograms behind them, in turns, all in order of time: a reader looks for a time by halving.
fn in_turns<'a>(
    mut samples: &'a [Sample],
    mut histograms: &'a [HistogramSample],
) -> impl Iterator<Item = (&'a [Sample], &'a [HistogramSample])> {
    std::iter::from_fn(move || {
        let next = histograms.first().map(|histogram| histogram.at);
        let before = samples.partition_point(|sample| next.is_none_or(|next| sample.at < next));
        let numbers = samples.split_off(..before)?;
        let next = samples.first().map(|sample| sample.at);
        let before = histograms.partition_point(|h| next.is_none_or(|next| h.at <= next));
        let behind = histograms.split_off(..before)?;
        (!numbers.is_empty() || !behind.is_empty()).then_some((numbers, behind))
    })
}

fn numbers_message(samples: &[Sample]) -> Vec<u8> {
    let points: Vec<(i64, f64)> = samples.iter().map(|s| (s.at.as_millis(), s.value)).collect();
    let ends = samples.first().zip(samples.last()).map(|(first, last)| (first.at, last.at));
    chunk_message(ends, chunk::XOR, &chunk::encode(&points))
}

fn histograms_message(samples: &[HistogramSample]) -> Vec<u8> {
    let ends = samples.first().zip(samples.last()).map(|(first, last)| (first.at, last.at));
    chunk_message(ends, histogram_chunk::FLOAT_HISTOGRAM, &histogram_chunk::encode(samples))
}

fn chunk_message(ends: Option<(Timestamp, Timestamp)>, kind: u64, chunk: &[u8]) -> Vec<u8> {
    let (first, last) = ends.map_or((0, 0), |(a, b)| (a.as_millis(), b.as_millis()));
    let mut message = Message::default();
    message.integer(1, first.cast_unsigned()).integer(2, last.cast_unsigned());
    message.integer(3, kind).bytes(4, chunk);
    message.into_bytes()
}

fn with_type(body: Body, kind: &'static str) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tributary_model::histogram::{Histogram, Parts};

    use super::*;

    fn request(forms: &[u64]) -> Vec<u8> {
        let mut matcher = Message::default();
        matcher.integer(1, 2).bytes(2, b"__name__").bytes(3, b"u.");
        let mut query = Message::default();
        query.integer(1, 5).integer(2, 7).bytes(3, &matcher.into_bytes());
        let mut request = Message::default();
        request.bytes(1, &query.into_bytes());
        for form in forms {
            request.bytes(2, &[u8::try_from(*form).unwrap()]);
        }
        snap::raw::Encoder::new().compress_vec(&request.into_bytes()).unwrap()
    }

    #[test]
    fn native_histograms_are_samples() {
        let labels = Labels::from_pairs([("__name__", "h")]).unwrap();
        let parts = Parts { count: 2.0, sum: 3.0, ..Parts::default() };
        let histogram = Arc::new(Histogram::new(parts).unwrap());
        let sample = HistogramSample { at: Timestamp::from_millis(7), histogram };
        let mut collected = Collected { left: 2, ..Collected::default() };
        assert!(collected.take(&labels, &[], std::slice::from_ref(&sample)));
        let result = collected.result.clone().into_bytes();
        let mut rest = result.as_slice();
        let Some((1, Value::Bytes(mut series))) = field(&mut rest).unwrap() else { panic!() };
        let mut found = Vec::new();
        while let Some(field) = field(&mut series).unwrap() {
            if let (4, Value::Bytes(bytes)) = field {
                found.push(tributary_proto::remote::read_histogram(bytes).unwrap());
            }
        }
        assert_eq!(found, std::slice::from_ref(&sample));
        let both = vec![sample.clone(); 2];
        assert!(!collected.take(&labels, &[], &both) && collected.over);

        let (frames, mut received) = mpsc::channel(1);
        let mut frames = Frames { index: 0, frames };
        assert!(frames.take(&labels, &[], std::slice::from_ref(&sample)));
        let frame = received.try_recv().unwrap();
        let chunk = histogram_chunk::encode(&[sample]);
        assert!(frame.windows(chunk.len()).any(|window| window == chunk));
    }

    #[test]
    fn numbers_and_histograms_come_in_order_of_time() {
        let number = |at| Sample::new(at, 1.0);
        let histogram = |at| HistogramSample {
            at: Timestamp::from_millis(at),
            histogram: Arc::new(Histogram::default()),
        };
        let (numbers, histograms) = ([1, 2, 5, 9].map(number), [3, 4, 5, 6, 10].map(histogram));
        let times: Vec<_> = in_turns(&numbers, &histograms)
            .map(|(numbers, histograms)| {
                let numbers: Vec<i64> = numbers.iter().map(|s| s.at.as_millis()).collect();
                (numbers, histograms.iter().map(|h| h.at.as_millis()).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(times, [(vec![1, 2], vec![3, 4, 5]), (vec![5], vec![6]), (vec![9], vec![10])]);
        assert_eq!(in_turns(&numbers, &[]).count(), 1);
        assert_eq!(in_turns(&[], &histograms).count(), 1);
        assert_eq!(in_turns(&[], &[]).count(), 0);
    }

    #[test]
    fn requests() {
        for (forms, form) in [
            (&[][..], Some(Form::Samples)),
            (&[1, 0], Some(Form::Chunks)),
            (&[9, 0], Some(Form::Samples)),
            (&[9], None),
        ] {
            let request = Request::parse(&request(forms)).unwrap();
            assert_eq!(request.form, form, "{forms:?}");
            let query = &request.queries[0];
            assert_eq!((query.start, query.end), (5, 7));
            assert_eq!(query.matchers[0].to_string(), r#"__name__=~"u.""#);
        }
        assert!(Request::parse(b"garbage").is_err());
    }
}
