//! `write`: remote write 1.0 for pushers beside the collector, stamped with the local cluster.
//!
//! A sender keeps what is answered with 5xx and sends it again; it drops what is answered with 4xx.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode, header};
use tributary_model::fields::Malformed;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::protobuf::{Value, field};
use tributary_model::series::Metadata;
use tributary_proto::remote::{HistogramReader, read_metadata, read_sample};
use tributary_store::Accepted;

use super::MAX_MESSAGE_BYTES;
use crate::api::Api;
use crate::api::auth::Known;
use crate::api::envelope::plain;
use crate::local::Samples;

/// Most labels of a series as it arrives; a series with more is refused.
const MAX_LABELS: usize = 256;

/// Where pushed samples go. Cheap to clone.
#[derive(Clone)]
pub struct Push {
    /// Stores them.
    pub sink: Arc<dyn Sink>,
    /// Whether everybody who reaches the port may push, because only this machine does.
    pub open: bool,
}

/// Takes what was pushed.
pub trait Sink: Send + Sync + 'static {
    /// Stamps and stores samples; returns once they are on disk, with what was refused and why.
    fn push(&self, samples: Samples, metadata: Vec<Metadata>) -> Pushed<'_>;
}

/// What became of pushed samples.
pub type Pushed<'a> = Pin<Box<dyn Future<Output = Result<Outcome, String>> + Send + 'a>>;

/// What became of pushed samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What the store said.
    pub accepted: Accepted,
    /// Samples of series that are over the cluster's limits.
    pub over_limits: u64,
}

/// `write`: takes a message if there is a receiver and the sender may push.
pub async fn write(
    State(api): State<Api>,
    known: Option<Extension<Known>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(push) = api.push else {
        let why = "remote write receiver needs to be enabled with web.remote_write_receiver\n";
        return plain(StatusCode::NOT_FOUND, why);
    };
    if known.is_none() && !push.open {
        let why = "remote write needs a user: name basic_auth_users in web.config_file\n";
        return plain(StatusCode::FORBIDDEN, why);
    }
    match take(&push, &headers, &body).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err((status, why)) => plain(status, why + "\n"),
    }
}

async fn take(push: &Push, headers: &HeaderMap, body: &[u8]) -> Result<(), (StatusCode, String)> {
    check_headers(headers).map_err(|why| (StatusCode::UNSUPPORTED_MEDIA_TYPE, why.to_owned()))?;
    let bad = |why: String| (StatusCode::BAD_REQUEST, why);
    let length = snap::raw::decompress_len(body)
        .map_err(|e| bad(format!("the body is not a snappy block: {e}")))?;
    if length > MAX_MESSAGE_BYTES {
        let why = format!("the body is longer than {MAX_MESSAGE_BYTES} bytes when decompressed");
        return Err((StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    let message = snap::raw::Decoder::new()
        .decompress_vec(body)
        .map_err(|e| bad(format!("the body is not a snappy block: {e}")))?;
    let decoded = decode(&message)
        .map_err(|e| bad(format!("the body is not a remote-write 1.0 message: {e}")))?;
    let later = |why| (StatusCode::SERVICE_UNAVAILABLE, why);
    let outcome = push.sink.push(decoded.samples, decoded.metadata).await.map_err(later)?;
    let mut refused = told(&outcome);
    refused.extend(decoded.refused.map(str::to_owned));
    if refused.is_empty() {
        return Ok(());
    }
    Err(bad(format!("not taken, unlike all others: {}", refused.join("; "))))
}

/// What the sender should know. Samples that are there already are none of it: they are resent.
fn told(outcome: &Outcome) -> Vec<String> {
    let Accepted { conflict, out_of_order, future, expired, unknown, .. } = outcome.accepted;
    let over = outcome.over_limits;
    [
        (u64::from(conflict), "samples with another value than the one that is there"),
        (u64::from(out_of_order), "samples too far behind the newest"),
        (u64::from(future), "samples from the future"),
        (u64::from(expired), "samples older than the retention"),
        (over + u64::from(unknown), "samples of series over the limits of the cluster"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| format!("{count} {what}"))
    .collect()
}

/// Media type and encoding; both may be missing, as old senders leave them out.
fn check_headers(headers: &HeaderMap) -> Result<(), &'static str> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(kind) = text(header::CONTENT_TYPE) {
        let kind = kind.to_ascii_lowercase();
        let mut parts = kind.split(';').map(str::trim);
        if parts.next() != Some("application/x-protobuf") {
            return Err("the content type must be application/x-protobuf");
        }
        let proto = parts.find_map(|part| part.strip_prefix("proto="));
        if proto.is_some_and(|proto| proto != "prometheus.writerequest") {
            return Err(
                "remote write 2.0 is not supported: set protobuf_message: prometheus.WriteRequest",
            );
        }
    }
    match text(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.eq_ignore_ascii_case("snappy") => {
            Err("the content encoding must be snappy")
        }
        _ => Ok(()),
    }
}

/// What a message holds.
#[derive(Debug, Default)]
struct Decoded {
    samples: Samples,
    metadata: Vec<Metadata>,
    /// Why something in it is not taken.
    refused: Option<&'static str>,
    reader: HistogramReader,
}

fn decode(message: &[u8]) -> Result<Decoded, Malformed> {
    let mut decoded = Decoded::default();
    let mut rest = message;
    while let Some(field) = field(&mut rest)? {
        match field {
            (1, Value::Bytes(bytes)) => series(bytes, &mut decoded)?,
            (3, Value::Bytes(bytes)) => decoded.metadata.extend(read_metadata(bytes)?),
            _ => {}
        }
    }
    Ok(decoded)
}

fn series(message: &[u8], decoded: &mut Decoded) -> Result<(), Malformed> {
    let mut pairs = Vec::new();
    let (mut samples, mut histograms) = (Vec::new(), Vec::new());
    let mut rest = message;
    while let Some(field) = field(&mut rest)? {
        match field {
            (1, Value::Bytes(bytes)) => pairs.push(pair(bytes)?),
            (2, Value::Bytes(bytes)) => samples.push(read_sample(bytes)?),
            (4, Value::Bytes(bytes)) => match decoded.reader.read(bytes) {
                Ok(sample) => histograms.push(sample),
                Err(refused) => {
                    decoded.refused.get_or_insert(refused.as_str());
                }
            },
            _ => {}
        }
    }
    match labels(&pairs) {
        Ok(labels) => {
            let numbers = samples.into_iter().map(|sample| (labels.clone(), sample));
            decoded.samples.numbers.extend(numbers);
            let histograms = histograms.into_iter().map(|sample| (labels.clone(), sample));
            decoded.samples.histograms.extend(histograms);
        }
        Err(why) => {
            decoded.refused.get_or_insert(why);
        }
    }
    Ok(())
}

/// Name and value.
type Pair<'a> = (&'a [u8], &'a [u8]);

fn pair(message: &[u8]) -> Result<Pair<'_>, Malformed> {
    let mut pair: Pair<'_> = (&[], &[]);
    let mut rest = message;
    while let Some(field) = field(&mut rest)? {
        match field {
            (1, Value::Bytes(bytes)) => pair.0 = bytes,
            (2, Value::Bytes(bytes)) => pair.1 = bytes,
            _ => {}
        }
    }
    Ok(pair)
}

fn labels(pairs: &[Pair<'_>]) -> Result<Labels, &'static str> {
    if pairs.len() > MAX_LABELS {
        return Err("a series with too many labels");
    }
    let mut texts = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "a label that is not UTF-8");
        if name.is_empty() {
            return Err("a label with an empty name");
        }
        texts.push((text(name)?, text(value)?));
    }
    let labels = Labels::from_pairs(texts).map_err(|_| "a series that has a label twice")?;
    match labels.get(METRIC_NAME) {
        Some(_) => Ok(labels),
        None => Err("a series without a metric name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_model::protobuf::Message;
    use tributary_model::sample::Sample;
    use tributary_model::series::MetricType;

    fn label(name: &str, value: &str) -> Vec<u8> {
        let mut label = Message::default();
        label.bytes(1, name.as_bytes()).bytes(2, value.as_bytes());
        label.into_bytes()
    }

    fn request(labels: &[(&str, &str)], value: f64, at: i64) -> Vec<u8> {
        let mut sample = Message::default();
        sample.double(1, value).integer(2, at.cast_unsigned());
        let mut series = Message::default();
        for (name, value) in labels {
            series.bytes(1, &label(name, value));
        }
        series.bytes(2, &sample.into_bytes());
        let mut metadata = Message::default();
        metadata.integer(1, 1).bytes(2, b"a_total").bytes(4, b"help");
        let mut request = Message::default();
        request.bytes(1, &series.into_bytes()).bytes(3, &metadata.into_bytes());
        request.into_bytes()
    }

    #[test]
    fn messages() {
        let decoded = decode(&request(&[("__name__", "a_total"), ("x", "y")], 2.5, -7)).unwrap();
        let (labels, sample) = &decoded.samples.numbers[0];
        assert_eq!(
            (labels.to_string(), *sample),
            (r#"a_total{x="y"}"#.into(), Sample::new(-7, 2.5))
        );
        assert_eq!(decoded.metadata[0].kind, MetricType::Counter);
        assert_eq!(decoded.refused, None);
        for (labels, why) in [
            (vec![("x", "y")], "a series without a metric name"),
            (vec![("__name__", "a"), ("", "y")], "a label with an empty name"),
            (vec![("__name__", "a"), ("x", "1"), ("x", "2")], "a series that has a label twice"),
        ] {
            let decoded = decode(&request(&labels, 1.0, 1)).unwrap();
            assert_eq!((decoded.samples.numbers.len(), decoded.refused), (0, Some(why)));
        }
        let whole = request(&[("__name__", "a")], 1.0, 1);
        assert!(decode(&whole[..whole.len() - 1]).is_err());
    }

    #[test]
    fn headers() {
        let check = |name: &'static str, value: &'static str| {
            check_headers(&HeaderMap::from_iter([(
                name.parse().unwrap(),
                http::HeaderValue::from_static(value),
            )]))
            .is_ok()
        };
        assert!(check("content-type", "application/x-protobuf"));
        assert!(check("content-type", "application/x-protobuf;proto=prometheus.WriteRequest"));
        assert!(!check(
            "content-type",
            "application/x-protobuf;proto=io.prometheus.write.v2.Request"
        ));
        assert!(!check("content-type", "application/json"));
        assert!(check("content-encoding", "snappy") && !check("content-encoding", "gzip"));
    }

    #[test]
    fn refusals_are_told_and_resends_are_not() {
        let accepted = Accepted { duplicate: 3, conflict: 1, future: 2, ..Accepted::default() };
        let told = told(&Outcome { accepted, over_limits: 4 });
        assert_eq!(
            told,
            [
                "1 samples with another value than the one that is there",
                "2 samples from the future",
                "4 samples of series over the limits of the cluster"
            ]
        );
    }
}
