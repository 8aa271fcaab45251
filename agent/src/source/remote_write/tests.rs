//! What remote-write requests are answered with, and what of them reaches the pipeline.

use axum::http::Request;
use tokio::sync::mpsc;
use tower::ServiceExt as _;

use super::super::decode::tests::{bytes, histogram, label, point, request};
use super::super::{Refusal, decode_v2};
use super::*;
use crate::allow::rules::Rules;
use crate::allow::{AllowMetrics, Allowlist};

/// What the pipeline of a test does with an arrival.
#[derive(Clone, Copy)]
enum Pipeline {
    Stores,
    Refuses,
    Stops,
}

/// Posts a body; returns status, whether it may be sent again later, text, and samples that reached the pipeline.
async fn post(
    headers: &[(&str, &str)],
    body: Vec<u8>,
    pipeline: Pipeline,
) -> (u16, bool, String, usize) {
    let list = Allowlist::new(
        Rules::parse("rules: [{match: up}]", "a.yml").unwrap(),
        AllowMetrics::default(),
    );
    let (sender, mut arrivals) = mpsc::channel::<Arrival>(1);
    let router = router(sender, list.screen(), SourceMetrics::default());
    let mut builder = Request::post("/api/v1/write");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    let spool = async {
        let mut samples = 0;
        while let Some(mut arrival) = arrivals.recv().await {
            samples += arrival.len();
            let done = arrival.done.take().unwrap();
            match pipeline {
                Pipeline::Stores => done.send(Ok(())).unwrap(),
                Pipeline::Refuses => done.send(Err(Refusal::Spool("no space".into()))).unwrap(),
                Pipeline::Stops => drop(done),
            }
        }
        samples
    };
    let request = builder.body(Body::from(body)).unwrap();
    let (response, samples) = tokio::join!(router.oneshot(request), spool);
    let response = response.unwrap();
    let (status, retry) =
        (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER));
    let text = response.into_body().collect().await.unwrap().to_bytes();
    (status, retry, String::from_utf8(text.to_vec()).unwrap(), samples)
}

fn snappy(body: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(body).unwrap()
}

const TYPE: (&str, &str) = ("content-type", "application/x-protobuf");
const SNAPPY: (&str, &str) = ("content-encoding", "snappy");

#[tokio::test]
async fn good_requests_are_stored_and_answered() {
    let up = [label("__name__", "up"), point(1.0, 1)].concat();
    let down = [label("__name__", "down"), point(1.0, 1)].concat();
    let body = snappy(&request(&[up.clone(), down.clone()]));
    let v1 = ("content-type", "application/x-protobuf;proto=prometheus.WriteRequest");
    for headers in [&[TYPE, SNAPPY][..], &[v1, SNAPPY], &[]] {
        let (status, _, text, samples) = post(headers, body.clone(), Pipeline::Stores).await;
        assert_eq!((status, &*text, samples), (204, "", 1));
    }
    let (status, _, _, samples) = post(&[], snappy(&request(&[down])), Pipeline::Stops).await;
    assert_eq!((status, samples), (204, 0));
}

#[tokio::test]
async fn version_2_is_taken_too() {
    let series = [bytes(1, &[1, 2]), point(1.0, 1), bytes(3, &histogram())].concat();
    let body = decode_v2::tests::request(&["", "__name__", "up"], &[series]);
    let v2 = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");
    let (status, _, text, samples) = post(&[v2, SNAPPY], snappy(&body), Pipeline::Stores).await;
    assert_eq!((status, &*text, samples), (204, "", 2));
}

#[tokio::test]
async fn faults_of_the_agent_are_to_be_tried_again() {
    let body = snappy(&request(&[[label("__name__", "up"), point(1.0, 1)].concat()]));
    for (pipeline, reason) in [
        (Pipeline::Refuses, "try again later: the agent's spool failed: no space\n"),
        (Pipeline::Stops, "try again later: the agent is stopping\n"),
    ] {
        let (status, retry, text, _) = post(&[TYPE, SNAPPY], body.clone(), pipeline).await;
        assert_eq!((status, retry, &*text), (503, true, reason));
    }
}

#[tokio::test]
async fn faults_of_the_body_are_explained() {
    let v2 = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");
    let bad = [label("__name__", "up"), label("", "x"), point(1.0, 1)].concat();
    let good = [label("__name__", "up"), point(1.0, 1)].concat();
    let good_histogram = [label("__name__", "up"), bytes(4, &histogram())].concat();
    let bad_histogram = [label("__name__", "up"), bytes(4, &[4 << 3, 99])].concat();
    // A header that claims 4 GiB.
    let bomb = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 0x00];
    for (headers, body, status, reason, samples) in [
        (&[v2][..], snappy(b"\x0a\x05a"), 400, "the bytes end too early", 0),
        (&[("content-type", "text/plain")], vec![], 415, "must be application/x-protobuf", 0),
        (&[("content-encoding", "gzip")], vec![], 415, "must be snappy", 0),
        (&[], vec![0; MAX_BODY_BYTES + 1], 413, "longer than 16777216", 0),
        (&[], bomb, 413, "longer than 67108864", 0),
        (&[], b"\x05hello".to_vec(), 400, "not a snappy block", 0),
        (&[], snappy(b"\x0a\x05a"), 400, "the bytes end too early", 0),
        (
            &[],
            snappy(&request(&[bad, good])),
            400,
            "1 samples were not taken, all others were: a label has an empty name",
            1,
        ),
        (
            &[],
            snappy(&request(&[good_histogram, bad_histogram])),
            400,
            "1 samples were not taken, all others were: a native histogram has an unknown schema",
            1,
        ),
    ] {
        let (answered, retry, text, passed) = post(headers, body, Pipeline::Stores).await;
        assert_eq!((answered, retry, passed), (status, false, samples), "{text}");
        assert!(text.contains(reason), "{text}");
    }
}
