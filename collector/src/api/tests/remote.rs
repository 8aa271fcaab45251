//! Remote write and remote read as their clients see them.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use tributary_model::label::Labels;
use tributary_model::protobuf::{Message, Value, field};
use tributary_model::series::Metadata;
use tributary_store::Accepted;

use super::{api, with_push};
use crate::api::auth::Known;
use crate::api::remote::chunk;
use crate::api::remote::write::{Outcome, Push, Pushed, Sink};
use crate::local::Samples;

/// Remembers what was pushed.
#[derive(Default)]
struct Kept {
    samples: Mutex<Vec<String>>,
    fails: bool,
    outcome: Outcome,
}

impl Sink for Kept {
    fn push(&self, samples: Samples, _: Vec<Metadata>) -> Pushed<'_> {
        let shown =
            samples.numbers.iter().map(|(labels, s)| format!("{labels} {} {}", s.value, s.at));
        self.samples.lock().unwrap().extend(shown);
        let fails = self.fails;
        let outcome = self.outcome;
        Box::pin(
            async move { if fails { Err("the disk is full".to_owned()) } else { Ok(outcome) } },
        )
    }
}

fn labels(pairs: &[(&str, &str)], message: &mut Message) {
    for (name, value) in pairs {
        let mut label = Message::default();
        label.bytes(1, name.as_bytes()).bytes(2, value.as_bytes());
        message.bytes(1, &label.into_bytes());
    }
}

fn written(pairs: &[(&str, &str)]) -> Vec<u8> {
    let (mut sample, mut series, mut request) =
        (Message::default(), Message::default(), Message::default());
    sample.double(1, 2.5).integer(2, 1000);
    labels(pairs, &mut series);
    series.bytes(2, &sample.into_bytes());
    request.bytes(1, &series.into_bytes());
    snap::raw::Encoder::new().compress_vec(&request.into_bytes()).unwrap()
}

async fn push(kept: &Arc<Kept>, open: bool, known: bool, body: Vec<u8>) -> (u16, String) {
    let mut request = Request::post("/api/v1/write").body(Body::from(body)).unwrap();
    if known {
        request.extensions_mut().insert(Known);
    }
    let router = with_push(Some(Push { sink: kept.clone(), open }));
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn pushers_need_a_receiver_and_a_password() {
    let body = written(&[("__name__", "a"), ("cluster", "eu-1")]);
    let off = Request::post("/api/v1/write").body(Body::from(body.clone())).unwrap();
    assert_eq!(api().oneshot(off).await.unwrap().status(), 404);
    let kept = Arc::new(Kept::default());
    assert_eq!(push(&kept, false, false, body.clone()).await.0, 403);
    assert!(kept.samples.lock().unwrap().is_empty());
    assert_eq!(push(&kept, false, true, body.clone()).await, (204, String::new()));
    assert_eq!(push(&kept, true, false, body.clone()).await.0, 204);
    let shown = r#"a{cluster="eu-1"} 2.5 1000"#;
    assert_eq!(*kept.samples.lock().unwrap(), [shown, shown]);
    let scoped = Request::post("/cluster/eu-1/api/v1/write").body(Body::from(body)).unwrap();
    assert_eq!(api().oneshot(scoped).await.unwrap().status(), 404);
}

#[tokio::test]
async fn what_is_not_taken_is_told() {
    let body = || written(&[("__name__", "a")]);
    let accepted = Accepted { stored: 1, out_of_order: 2, ..Accepted::default() };
    let outcome = Outcome { accepted, over_limits: 3 };
    let kept = Arc::new(Kept { outcome, ..Kept::default() });
    let told = "not taken, unlike all others: 2 samples too far behind the newest; 3 samples of series over the limits of the cluster\n";
    assert_eq!(push(&kept, true, false, body()).await, (400, told.to_owned()));
    let kept = Arc::new(Kept { fails: true, ..Kept::default() });
    assert_eq!(push(&kept, true, false, body()).await, (503, "the disk is full\n".to_owned()));
    let kept = Arc::new(Kept::default());
    for (body, status) in [
        (b"garbage".to_vec(), 400),
        (vec![0xff, 0xff, 0xff, 0xff, 0x0f], 413),
        (written(&[("x", "y")]), 400),
        (snap::raw::Encoder::new().compress_vec(b"\x0f").unwrap(), 400),
    ] {
        assert_eq!(push(&kept, true, false, body).await.0, status);
    }
}

/// A read request for `up` and everything that begins with `go_`.
fn read_request(form: Option<u64>) -> Vec<u8> {
    let mut request = Message::default();
    for (op, value) in [(0, "up"), (2, "go_.*")] {
        let (mut matcher, mut query) = (Message::default(), Message::default());
        matcher.integer(1, op).bytes(2, b"__name__").bytes(3, value.as_bytes());
        query.integer(1, 1_795_224_690_000).integer(2, 1_795_224_700_000);
        query.bytes(3, &matcher.into_bytes());
        request.bytes(1, &query.into_bytes());
    }
    request.integer(2, form.unwrap_or(0));
    snap::raw::Encoder::new().compress_vec(&request.into_bytes()).unwrap()
}

async fn read(path: &str, form: Option<u64>) -> (String, Vec<u8>) {
    let request = Request::post(path).body(Body::from(read_request(form))).unwrap();
    let response = api().oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    (kind, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

/// The fields of a message with this number, as bytes.
fn all(mut message: &[u8], number: u64) -> Vec<&[u8]> {
    let mut out = Vec::new();
    while let Some((found, value)) = field(&mut message).unwrap() {
        if let Value::Bytes(bytes) = value
            && found == number
        {
            out.push(bytes);
        }
    }
    out
}

fn shown_labels(series: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let pairs = all(series, 1);
    let pairs = pairs.iter().map(|pair| (text(all(pair, 1)[0]), text(all(pair, 2)[0])));
    Labels::from_pairs(pairs).unwrap().to_string()
}

#[tokio::test]
async fn samples_are_read_all_at_once() {
    for (path, expected) in [
        (
            "/api/v1/read",
            vec![
                vec![
                    r#"up{cluster="eu-1", job="prometheus"} 2"#,
                    r#"up{cluster="us-1", job="prometheus"} 2"#,
                ],
                vec![r#"go_goroutines{cluster="eu-1", job="prometheus"} 2"#],
            ],
        ),
        (
            "/cluster/us-1/api/v1/read",
            vec![vec![r#"up{cluster="us-1", job="prometheus"} 2"#], vec![]],
        ),
    ] {
        let (kind, body) = read(path, None).await;
        assert_eq!(kind, "application/x-protobuf");
        let message = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
        let series = |series: &&[u8]| format!("{} {}", shown_labels(series), all(series, 2).len());
        let results = all(&message, 1);
        let results: Vec<Vec<String>> =
            results.iter().map(|result| all(result, 1).iter().map(series).collect()).collect();
        assert_eq!(results, expected, "{path}");
    }
}

#[tokio::test]
async fn chunks_are_streamed_with_their_checksums() {
    let (kind, body) = read("/api/v1/read", Some(1)).await;
    assert_eq!(kind, "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse");
    let mut rest = body.as_slice();
    let mut seen = Vec::new();
    while !rest.is_empty() {
        // Frames here are short: their length is one byte, or two.
        let (length, head) = match rest[0] {
            short if short < 0x80 => (usize::from(short), 1),
            low => (usize::from(low & 0x7f) | usize::from(rest[1]) << 7, 2),
        };
        let (sum, after) = rest[head..].split_at(4);
        let (message, next) = after.split_at(length);
        assert_eq!(sum, crc32c::crc32c(message).to_be_bytes());
        rest = next;
        for series in all(message, 1) {
            let chunks = all(series, 2);
            let data = all(chunks[0], 4)[0];
            assert_eq!(u16::from_be_bytes([data[0], data[1]]), 2);
            seen.push(shown_labels(series));
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    let expected = chunk::encode(&[(1_795_224_690_719, 32.0), (1_795_224_695_731, 32.0)]);
    assert!(body.windows(expected.len()).any(|window| window == expected));
}
