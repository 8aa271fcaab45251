//! The envelope of every answer: `{"status":…,"data":…}`, error types and their HTTP codes.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::json::Json;
use crate::query::QueryError;

/// Warnings and notices of one answer, each capped when written.
pub const MAX_ANNOTATIONS: usize = 10;

/// Bytes of JSON encoded before the first of them is sent. A smaller answer is sent whole, with its length.
pub const CHUNK_BYTES: usize = 64 << 10;

/// The warning of an answer that `limit` cut.
pub const TRUNCATED: &str = "results truncated due to limit";

/// What an error is, in Prometheus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// The request is wrong.
    BadData,
    /// The evaluation failed.
    Execution,
    /// The client went away.
    Canceled,
    /// Too late.
    Timeout,
    /// Our fault.
    Internal,
    /// There is no such thing.
    NotFound,
    /// It is switched off.
    Unavailable,
}

impl ErrorType {
    fn as_str(self) -> &'static str {
        match self {
            Self::BadData => "bad_data",
            Self::Execution => "execution",
            Self::Canceled => "canceled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
            Self::NotFound => "not_found",
            Self::Unavailable => "unavailable",
        }
    }

    fn code(self) -> StatusCode {
        match self {
            Self::BadData => StatusCode::BAD_REQUEST,
            Self::Execution => StatusCode::UNPROCESSABLE_ENTITY,
            // nginx' "client closed request", which Prometheus uses too.
            Self::Canceled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Timeout => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal | Self::Unavailable => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotFound => StatusCode::NOT_FOUND,
        }
    }
}

/// An answer that says what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// What it is.
    pub kind: ErrorType,
    /// The sentence.
    pub text: String,
}

impl ApiError {
    /// The request is wrong.
    pub fn bad(text: impl Into<String>) -> Self {
        Self { kind: ErrorType::BadData, text: text.into() }
    }

    /// A parameter is wrong.
    pub fn parameter(name: &str, why: impl std::fmt::Display) -> Self {
        Self::bad(format!("invalid parameter \"{name}\": {why}"))
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let kind = match &error {
            QueryError::Parse(_) => return Self::parameter("query", &error),
            QueryError::Refused(_) => ErrorType::BadData,
            QueryError::Execution(_) => ErrorType::Execution,
            QueryError::Timeout(_) => ErrorType::Timeout,
            QueryError::Canceled => ErrorType::Canceled,
            QueryError::Internal(_) => ErrorType::Internal,
        };
        Self { kind, text: error.to_string() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut json = Json::default();
        json.raw("{\"status\":\"error\",\"errorType\":\"").raw(self.kind.as_str());
        json.raw("\",\"error\":").text(&self.text).raw("}");
        respond(self.kind.code(), Body::from(json.into_bytes()))
    }
}

/// What rides along with the data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Shown by Grafana as warnings of the panel.
    pub warnings: Vec<String>,
    /// Shown by Grafana as notices of the panel.
    pub infos: Vec<String>,
}

impl Notes {
    /// Only the warning that the answer was cut, if it was.
    pub fn truncated(cut: bool) -> Self {
        let warnings = if cut { vec![TRUNCATED.to_owned()] } else { Vec::new() };
        Self { warnings, infos: Vec::new() }
    }

    /// Keeps the first ten of each kind and says how many more there were.
    #[must_use]
    pub fn capped(mut self) -> Self {
        for (notes, kind) in [(&mut self.warnings, "warning"), (&mut self.infos, "info")] {
            let omitted = notes.len().saturating_sub(MAX_ANNOTATIONS);
            if omitted > 0 {
                notes.truncate(MAX_ANNOTATIONS);
                notes.push(format!("{omitted} more {kind} annotations omitted"));
            }
        }
        self
    }

    fn write(&self, json: &mut Json) {
        for (key, notes) in [("warnings", &self.warnings), ("infos", &self.infos)] {
            if !notes.is_empty() {
                json.raw(",\"").raw(key).raw("\":").texts(notes.iter().map(String::as_str));
            }
        }
    }
}

/// A successful answer whose data `write` writes.
pub fn success(notes: &Notes, write: impl FnOnce(&mut Json)) -> Response {
    let mut json = Json::default();
    json.raw(r#"{"status":"success","data":"#);
    write(&mut json);
    notes.write(&mut json);
    json.raw("}");
    respond(StatusCode::OK, Body::from(json.into_bytes()))
}

/// A successful answer whose data serde writes.
pub fn success_value(data: &impl Serialize) -> Response {
    let mut json = Json::default();
    match json.value(data) {
        Ok(_) => {
            let data = json.into_bytes();
            success(&Notes::default(), |json| {
                json.raw(&String::from_utf8_lossy(&data));
            })
        }
        Err(error) => {
            ApiError { kind: ErrorType::Internal, text: format!("writing the answer: {error}") }
                .into_response()
        }
    }
}

/// A successful answer made of many items: `head`, the items with commas between them, `tail`, then the notes.
/// Encoded in chunks while it is sent, so that a large matrix is never in memory twice.
pub fn success_stream<T: Send + 'static>(
    head: &str,
    items: Vec<T>,
    write: impl Fn(&mut Json, &T) + Send + 'static,
    tail: String,
    notes: Notes,
) -> Response {
    let mut json = Json::default();
    json.raw(r#"{"status":"success","data":"#).raw(head);
    let mut chunks =
        Chunks { items: items.into_iter(), write, tail, notes, started: false, open: Some(json) };
    let first = chunks.next().unwrap_or_default();
    let body = if chunks.open.is_none() {
        Body::from(first)
    } else {
        let all = std::iter::once(first).chain(chunks);
        Body::from_stream(stream::iter(all.map(Ok::<Bytes, std::convert::Infallible>)))
    };
    respond(StatusCode::OK, body)
}

/// Encodes item after item into chunks of about [`CHUNK_BYTES`].
struct Chunks<T, W> {
    items: std::vec::IntoIter<T>,
    write: W,
    tail: String,
    notes: Notes,
    started: bool,
    /// What was written since the last chunk; none after the end.
    open: Option<Json>,
}

impl<T, W: Fn(&mut Json, &T)> Iterator for Chunks<T, W> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut json = self.open.take()?;
        while json.len() < CHUNK_BYTES {
            let Some(item) = self.items.next() else {
                json.raw(&self.tail);
                self.notes.write(&mut json);
                json.raw("}");
                return Some(Bytes::from(json.into_bytes()));
            };
            if self.started {
                json.raw(",");
            }
            self.started = true;
            (self.write)(&mut json, &item);
        }
        self.open = Some(Json::default());
        Some(Bytes::from(json.into_bytes()))
    }
}

/// A plain text answer with Go's headers.
pub fn plain(code: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn respond(code: StatusCode, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn text(response: Response) -> (u16, String) {
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (code, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn errors() {
        for (error, code, body) in [
            (
                ApiError::from(QueryError::Parse(
                    "1:5: parse error: unclosed left parenthesis".into(),
                )),
                400,
                r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"}"#,
            ),
            (
                ApiError::from(QueryError::Execution("a < b".into())),
                422,
                r#"{"status":"error","errorType":"execution","error":"a \u003c b"}"#,
            ),
            (
                ApiError::from(QueryError::Timeout("query queue")),
                503,
                r#"{"status":"error","errorType":"timeout","error":"query timed out in query queue"}"#,
            ),
            (
                ApiError::from(QueryError::Canceled),
                499,
                r#"{"status":"error","errorType":"canceled","error":"query was canceled in expression evaluation"}"#,
            ),
        ] {
            assert_eq!(text(error.into_response()).await, (code, body.to_owned()));
        }
    }

    #[tokio::test]
    async fn notes_are_capped() {
        let many = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>();
        let notes = Notes { warnings: many(12), infos: many(1) }.capped();
        assert_eq!(notes.warnings.len(), 11);
        assert_eq!(notes.warnings.last().unwrap(), "2 more warning annotations omitted");
        let answer = success(&Notes { warnings: vec![], infos: vec!["i".into()] }, |json| {
            json.texts(["a"]);
        });
        let body = r#"{"status":"success","data":["a"],"infos":["i"]}"#;
        assert_eq!(text(answer).await, (200, body.to_owned()));
    }

    #[tokio::test]
    async fn a_large_answer_is_the_same_as_a_small_one_but_comes_in_chunks() {
        let items: Vec<String> = (0..50_000).map(|i| i.to_string()).collect();
        let expected = format!(
            r#"{{"status":"success","data":{{"result":[{}]}},"warnings":["w"]}}"#,
            items.join(",")
        );
        let notes = Notes { warnings: vec!["w".into()], infos: vec![] };
        let answer = success_stream(
            r#"{"result":["#,
            items,
            |json, item| {
                json.raw(item);
            },
            "]}".to_owned(),
            notes,
        );
        assert!(answer.body().size_hint_exact().is_none());
        assert_eq!(text(answer).await.1, expected);
        let empty = success_stream("[", Vec::<()>::new(), |_, ()| (), "]".into(), Notes::default());
        assert!(empty.body().size_hint_exact().is_some());
        assert_eq!(text(empty).await.1, r#"{"status":"success","data":[]}"#);
    }

    trait Exact {
        fn size_hint_exact(&self) -> Option<u64>;
    }

    impl Exact for Body {
        fn size_hint_exact(&self) -> Option<u64> {
            hyper::body::Body::size_hint(self).exact()
        }
    }
}
