//! Takes Prometheus remote write 1.0: `POST /api/v1/write`, answered 204 once the spool's disk has the samples.
//!
//! A sender keeps what is answered with 5xx and sends it again; it drops what is answered with 4xx. So every fault of the
//! agent's own is a 503 with `Retry-After`, and a 4xx says what is wrong with the body.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::decode::{Decoded, Malformed, Memory, Written};
use super::metrics::{Ignored, Name};
use super::{Arrival, Sender, SourceMetrics};
use crate::allow::Screen;

/// Longest body as it travels; a longer one is answered 413.
pub(crate) const MAX_BODY_BYTES: usize = 16 << 20;
/// Longest body once decompressed; one that says it is longer is answered 413 before memory is taken for it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Decompressed bytes of all requests under way; further requests wait, then are answered 503.
pub(crate) const MAX_BYTES_UNDER_WAY: usize = MAX_MESSAGE_BYTES;
/// How long a body may take to arrive.
const RECEIVE_TIME: Duration = Duration::from_secs(20);
/// How long a request may wait for its turn and for the spool; Prometheus gives up after 30 s.
const PIPELINE_TIME: Duration = Duration::from_secs(20);
/// Bodies longer than this are decoded off the threads that serve other requests.
const LARGE: usize = 512 << 10;
/// What `Retry-After` says, in seconds.
const RETRY_SECONDS: HeaderValue = HeaderValue::from_static("5");

/// What was taken of a request: numbers, native histograms, exemplars.
const WRITTEN: [HeaderName; 3] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
    HeaderName::from_static("x-prometheus-remote-write-exemplars-written"),
];

/// The versions of remote write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The receiver's parts.
#[derive(Debug)]
struct Receiver {
    sender: Sender,
    screen: Screen,
    metrics: SourceMetrics,
    memory: Mutex<Memory>,
    /// One permit per KiB of [`MAX_BYTES_UNDER_WAY`].
    room: Arc<Semaphore>,
}

/// The route that takes remote writes.
pub(crate) fn router(sender: Sender, screen: Screen, metrics: SourceMetrics) -> Router {
    let room = Arc::new(Semaphore::new(MAX_BYTES_UNDER_WAY >> 10));
    let memory = Mutex::new(Memory::new());
    let receiver = Arc::new(Receiver { sender, screen, metrics, memory, room });
    Router::new().route("/api/v1/write", post(write)).with_state(receiver)
}

async fn write(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: Body) -> Response {
    let mut written = Written::default();
    let answer = receiver.clone().take(&headers, body, &mut written).await;
    let mut response =
        answer.map_or_else(Fault::into_response, |()| StatusCode::NO_CONTENT.into_response());
    // Senders of version 2.0 want to know; others pass over it.
    for (name, count) in WRITTEN.into_iter().zip([written.samples, written.histograms, 0]) {
        response.headers_mut().insert(name, HeaderValue::from(count));
    }
    receiver.metrics.answered(response.status().as_u16());
    response
}

/// Why a request is not answered 204.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("the content type must be application/x-protobuf")]
    ContentType,
    #[error("the content encoding must be snappy")]
    ContentEncoding,
    #[error("the body is longer than {MAX_BODY_BYTES} bytes")]
    TooLong,
    #[error("the body says it is longer than {MAX_MESSAGE_BYTES} bytes when decompressed")]
    TooLongInside,
    #[error("the body did not arrive: {0}")]
    Receive(String),
    #[error("the body is not a snappy block: {0}")]
    Snappy(#[from] snap::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("{samples} samples were not taken, all others were: {reason}")]
    Invalid { samples: u64, reason: &'static str },
    #[error("try again later: {0}")]
    Later(String),
}

impl IntoResponse for Fault {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::ContentType | Self::ContentEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::TooLong | Self::TooLongInside => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Receive(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Snappy(_) | Self::Malformed(_) | Self::Invalid { .. } => StatusCode::BAD_REQUEST,
            Self::Later(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = (status, format!("{self}\n")).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_SECONDS);
        }
        response
    }
}

impl Receiver {
    /// Takes a request, and says how much of it was taken.
    async fn take(
        self: Arc<Self>,
        headers: &HeaderMap,
        body: Body,
        written: &mut Written,
    ) -> Result<(), Fault> {
        let version = check_headers(headers)?;
        let body = receive(body).await?;
        let length = snap::raw::decompress_len(&body)?;
        if length > MAX_MESSAGE_BYTES {
            return Err(Fault::TooLongInside);
        }
        let room = self.room(length).await?;
        let received = body.len();
        let decoded = if length > LARGE {
            let receiver = self.clone();
            tokio::task::spawn_blocking(move || receiver.decode(&body, version))
                .await
                .map_err(|e| Fault::Later(e.to_string()))??
        } else {
            self.decode(&body, version)?
        };
        self.count(&decoded, received);
        let (invalid, reason) = (decoded.invalid + decoded.invalid_histograms, decoded.reason);
        let taken = decoded.written();
        self.pass_on(decoded).await?;
        *written = taken;
        drop(room);
        match reason {
            Some(reason) => Err(Fault::Invalid { samples: invalid, reason }),
            None => Ok(()),
        }
    }

    /// Waits until there is memory for a message.
    async fn room(&self, length: usize) -> Result<OwnedSemaphorePermit, Fault> {
        let permits = u32::try_from((length >> 10) + 1)
            .unwrap_or(u32::MAX)
            .min(u32::try_from(MAX_BYTES_UNDER_WAY >> 10).unwrap_or(u32::MAX));
        let turn = self.room.clone().acquire_many_owned(permits);
        match tokio::time::timeout(PIPELINE_TIME, turn).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_)) | Err(_) => Err(Fault::Later("too many requests are under way".to_owned())),
        }
    }

    fn decode(&self, body: &[u8], version: Version) -> Result<Decoded, Fault> {
        let message = snap::raw::Decoder::new().decompress_vec(body)?;
        let view = self.screen.view();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.cache.follow(view.generation);
        Ok(match version {
            Version::V1 => memory.decode(&message, &view.rules)?,
            Version::V2 => memory.decode_v2(&message, &view.rules)?,
        })
    }

    fn count(&self, decoded: &Decoded, bytes: usize) {
        let samples = (decoded.samples.len() + decoded.histograms.len()) as u64
            + decoded.unlisted
            + decoded.invalid
            + decoded.invalid_histograms;
        self.metrics.received(
            Name::remote_write,
            usize::try_from(samples).unwrap_or(usize::MAX),
            bytes,
        );
        self.screen.left_out(decoded.unlisted);
        self.metrics.ignore(Ignored::invalid_labels, decoded.invalid);
        self.metrics.ignore(Ignored::invalid_metadata, decoded.invalid_metadata);
        self.metrics.ignore(Ignored::invalid_histogram, decoded.invalid_histograms);
        self.metrics.ignore(Ignored::exemplar, decoded.exemplars);
    }

    /// Hands the samples to the pipeline and waits until they are on disk.
    async fn pass_on(&self, decoded: Decoded) -> Result<(), Fault> {
        if decoded.samples.is_empty()
            && decoded.histograms.is_empty()
            && decoded.metadata.is_empty()
        {
            return Ok(());
        }
        let (done, answer) = oneshot::channel();
        let arrival = Arrival {
            samples: decoded.samples,
            histograms: decoded.histograms,
            metadata: decoded.metadata,
            gaps: Vec::new(),
            done: Some(done),
        };
        let pass = async {
            self.sender
                .send(arrival)
                .await
                .map_err(|_| Fault::Later("the agent is stopping".to_owned()))?;
            match answer.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(refusal)) => Err(Fault::Later(refusal.to_string())),
                Err(_) => Err(Fault::Later("the agent is stopping".to_owned())),
            }
        };
        tokio::time::timeout(PIPELINE_TIME, pass)
            .await
            .unwrap_or_else(|_| Err(Fault::Later("the agent is overloaded".to_owned())))
    }
}

/// The version, by the media type. That and the encoding may be missing, as old senders leave them out.
fn check_headers(headers: &HeaderMap) -> Result<Version, Fault> {
    let mut version = Version::V1;
    if let Some(value) = headers.get(CONTENT_TYPE) {
        let text = value.to_str().map_err(|_| Fault::ContentType)?.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        if parts.next() != Some("application/x-protobuf") {
            return Err(Fault::ContentType);
        }
        match parts.find_map(|part| part.strip_prefix("proto=")) {
            None | Some("prometheus.writerequest") => {}
            Some("io.prometheus.write.v2.request") => version = Version::V2,
            Some(_) => return Err(Fault::ContentType),
        }
    }
    match headers.get(CONTENT_ENCODING) {
        Some(value) if !value.as_bytes().eq_ignore_ascii_case(b"snappy") => {
            Err(Fault::ContentEncoding)
        }
        _ => Ok(version),
    }
}

/// The whole body, within its bounds of length and time.
async fn receive(body: Body) -> Result<Bytes, Fault> {
    let body = Limited::new(body, MAX_BODY_BYTES).collect();
    match tokio::time::timeout(RECEIVE_TIME, body).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Fault::TooLong),
        Ok(Err(e)) => Err(Fault::Receive(e.to_string())),
        Err(_) => Err(Fault::Receive(format!("it took longer than {} s", RECEIVE_TIME.as_secs()))),
    }
}

#[cfg(test)]
mod tests;
