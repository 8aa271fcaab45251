//! A Prometheus as a remote-write 1.0 sender: snappy, protobuf, and the same batch again until it is taken.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use prost::Message as _;
use tributary_proto::prometheus::{Histogram, Label, Sample, TimeSeries, WriteRequest, histogram};

use crate::http::{Answer, send};

/// One series of a request: labels and samples (milliseconds, value).
pub type Series<'a> = (&'a [(&'a str, &'a str)], Vec<(i64, f64)>);

/// The body of a remote-write 1.0 request.
pub fn body(series: &[Series<'_>]) -> Vec<u8> {
    packed(series.iter().map(|(pairs, samples)| {
        let samples =
            samples.iter().map(|&(timestamp, value)| Sample { value, timestamp }).collect();
        TimeSeries { labels: labels(pairs), samples, ..TimeSeries::default() }
    }))
}

/// One series of a request: labels and native histograms.
pub type HistogramSeries<'a> = (&'a [(&'a str, &'a str)], Vec<Histogram>);

/// The body of a remote-write 1.0 request with native histograms.
pub fn histograms_body(series: &[HistogramSeries<'_>]) -> Vec<u8> {
    packed(series.iter().map(|(pairs, histograms)| TimeSeries {
        labels: labels(pairs),
        histograms: histograms.clone(),
        ..TimeSeries::default()
    }))
}

/// The same histogram with its counts, which must be whole, as integers.
pub fn with_integers(floats: Histogram) -> Histogram {
    let count = match floats.count {
        Some(histogram::Count::CountFloat(count)) => Some(histogram::Count::CountInt(count as u64)),
        other => other,
    };
    let zero_count = match floats.zero_count {
        Some(histogram::ZeroCount::ZeroCountFloat(count)) => {
            Some(histogram::ZeroCount::ZeroCountInt(count as u64))
        }
        other => other,
    };
    Histogram {
        count,
        zero_count,
        positive_deltas: deltas(&floats.positive_counts),
        positive_counts: Vec::new(),
        negative_deltas: deltas(&floats.negative_counts),
        negative_counts: Vec::new(),
        ..floats
    }
}

/// Each count's difference from the one before it.
fn deltas(counts: &[f64]) -> Vec<i64> {
    let before = [0.0].into_iter().chain(counts.iter().copied());
    counts.iter().zip(before).map(|(count, before)| (count - before) as i64).collect()
}

fn labels(pairs: &[(&str, &str)]) -> Vec<Label> {
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut labels: Vec<Label> =
        pairs.iter().map(|(n, v)| Label { name: bytes(n), value: bytes(v) }).collect();
    labels.sort_by(|a, b| a.name.cmp(&b.name));
    labels
}

fn packed(timeseries: impl Iterator<Item = TimeSeries>) -> Vec<u8> {
    let request = WriteRequest { timeseries: timeseries.collect(), ..WriteRequest::default() };
    snap::raw::Encoder::new().compress_vec(&request.encode_to_vec()).unwrap()
}

/// What a remote-write 1.0 request says of itself.
pub const HEADERS: [(&str, &str); 3] = [
    ("content-encoding", "snappy"),
    ("content-type", "application/x-protobuf"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

/// Sends one body once.
pub async fn write(url: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
    send(Method::POST, url, &HEADERS, body).await
}

/// Sends as Prometheus does: again after a broken connection or a 5xx, until it is taken. A 4xx is an error of the story.
pub async fn deliver(url: &str, series: &[Series<'_>]) {
    deliver_body(url, body(series)).await;
}

/// The same with a body that is made already.
pub async fn deliver_body(url: &str, body: Vec<u8>) {
    crate::eventually("remote write is taken", async || match write(url, body.clone()).await {
        Ok(answer) if answer.status.is_success() => Some(()),
        Ok(answer) if answer.status.is_client_error() => {
            panic!("{}: {}", answer.status, answer.text())
        }
        _ => {
            tokio::time::sleep(Duration::from_millis(30)).await;
            None
        }
    })
    .await;
}
