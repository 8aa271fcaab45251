//! The smallest HTTP client that stories need.

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null if it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A client that keeps its connection.
#[derive(Debug, Clone)]
pub struct Connection(Client<HttpConnector, Full<Bytes>>);

impl Connection {
    /// One that is not made yet.
    pub fn new() -> Self {
        Self(Client::builder(TokioExecutor::new()).build_http())
    }

    /// Sends one request.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into()))?;
        let response = self.0.request(request).await.context("sending")?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.context("reading the answer")?.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends one request on a connection of its own.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> anyhow::Result<Answer> {
    Connection::new().send(method, url, headers, body).await
}

/// GET.
pub async fn get(url: &str) -> anyhow::Result<Answer> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// POST of a form.
pub async fn post_form(url: &str, fields: &[(&str, &str)]) -> anyhow::Result<Answer> {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    send(Method::POST, url, &headers, form(fields)).await
}

/// `a=b&c=d`, every byte that is not a letter or digit escaped.
pub fn form(fields: &[(&str, &str)]) -> String {
    let escape = |text: &str| -> String {
        text.bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect()
    };
    let pairs: Vec<String> =
        fields.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    pairs.join("&")
}
