//! Asks a collector over HTTP, for the commands.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value;

use super::http_client::Http;

/// Largest answer, in bytes.
const MAX_ANSWER_BYTES: usize = 1 << 30;

/// A collector's address and how to log in.
#[derive(Debug)]
pub struct Client {
    http: Http,
    url: String,
    login: Option<HeaderValue>,
    wait: Duration,
}

/// The data of an answer and its warnings and notices.
#[derive(Debug)]
pub struct Answer {
    /// `data`
    pub data: Value,
    /// `warnings` and `infos`, each with its kind before it.
    pub notes: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not one.
    #[error("\"{url}\" is not an address\n  = help: write it like http://127.0.0.1:9390")]
    Address {
        /// As given.
        url: String,
    },
    /// A file of ours cannot be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Nobody answers.
    #[error(
        "no answer from {url}: {why}\n  = help: is the collector running there? give its address with --url"
    )]
    Connect {
        /// Where.
        url: String,
        /// Why not.
        why: String,
    },
    /// The collector refused.
    #[error("{url} answered {status}: {why}")]
    Refused {
        /// Where.
        url: String,
        /// The status line.
        status: StatusCode,
        /// Its words.
        why: String,
    },
}

impl ClientError {
    /// 3: nobody answers; 2: wrong usage; 1: refused.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Address { .. } | Self::Read { .. } => 2,
            Self::Connect { .. } => 3,
            Self::Refused { .. } => 1,
        }
    }
}

impl Client {
    /// A client of the collector at `url`; `login` is a user and the file that holds the password.
    pub fn new(
        url: &str,
        login: Option<(&str, &Path)>,
        wait: Duration,
    ) -> Result<Self, ClientError> {
        let address = || ClientError::Address { url: url.to_owned() };
        let parsed: Uri = url.parse().map_err(|_| address())?;
        if parsed.authority().is_none() || !matches!(parsed.scheme_str(), Some("http" | "https")) {
            return Err(address());
        }
        let login = match login {
            None => None,
            Some((user, file)) => {
                let path = file.display().to_string();
                let password = std::fs::read_to_string(file)
                    .map_err(|source| ClientError::Read { path, source })?;
                let pair = format!("{user}:{}", password.trim_end_matches(['\r', '\n']));
                let mut value = HeaderValue::try_from(format!("Basic {}", base64(pair.as_bytes())))
                    .map_err(|_| address())?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(Self { http: Http::new(), url: url.trim_end_matches('/').to_owned(), login, wait })
    }

    /// Asks the API and opens the envelope. Label values are asked with GET, since their path has no POST elsewhere.
    pub async fn data(&self, path: &str, fields: &[(&str, String)]) -> Result<Answer, ClientError> {
        let form = fields
            .iter()
            .map(|(name, value)| format!("{}={}", percent(name), percent(value)))
            .collect::<Vec<_>>()
            .join("&");
        let (status, body) = if path.starts_with("/api/v1/label/") || fields.is_empty() {
            self.send(Request::get(format!("{}{path}?{form}", self.url)), String::new()).await?
        } else {
            let post = Request::post(format!("{}{path}", self.url))
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
            self.send(post, form).await?
        };
        let mut answer: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status != StatusCode::OK {
            let error = answer.get("error").and_then(Value::as_str).map(str::to_owned);
            let why = error.unwrap_or_else(|| String::from_utf8_lossy(&body).trim().to_owned());
            return Err(ClientError::Refused { url: self.url.clone(), status, why });
        }
        let mut notes = Vec::new();
        for (key, kind) in [("warnings", "warning"), ("infos", "info")] {
            let list = answer.get(key).and_then(Value::as_array).into_iter().flatten();
            notes.extend(list.filter_map(Value::as_str).map(|note| format!("{kind}: {note}")));
        }
        let data = answer.get_mut("data").map(Value::take).unwrap_or_default();
        Ok(Answer { data, notes })
    }

    /// Succeeds if the page answers 200.
    pub async fn check(&self, path: &str) -> Result<(), ClientError> {
        let (status, body) =
            self.send(Request::get(format!("{}{path}", self.url)), String::new()).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&body).trim().to_owned();
        Err(ClientError::Refused { url: self.url.clone(), status, why })
    }

    async fn send(
        &self,
        request: http::request::Builder,
        body: String,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let fail = |why: String| ClientError::Connect { url: self.url.clone(), why };
        let mut request = request;
        if let Some(login) = &self.login {
            request = request.header(header::AUTHORIZATION, login);
        }
        let request =
            request.body(Full::new(Bytes::from(body))).map_err(|e| fail(e.to_string()))?;
        let exchange = async {
            let response = self.http.send(request).await.map_err(fail)?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let bytes = body.collect().await.map_err(|e| fail(e.to_string()))?.to_bytes();
            Ok((status, bytes))
        };
        match tokio::time::timeout(self.wait, exchange).await {
            Ok(answered) => answered,
            Err(_) => Err(fail(format!("it took longer than {} s", self.wait.as_secs()))),
        }
    }
}

/// Percent-encoding for forms and paths.
fn percent(text: &str) -> String {
    let encode = |b: u8| {
        if b.is_ascii_alphanumeric() || b"-._~".contains(&b) {
            char::from(b).to_string()
        } else {
            format!("%{b:02X}")
        }
    };
    text.bytes().map(encode).collect()
}

/// Standard base64 with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for (i, shift) in [18, 12, 6, 0].into_iter().enumerate() {
            let digit = usize::try_from((bits >> shift) & 63).unwrap_or(0);
            let digit = DIGITS.get(digit).copied().map_or('=', char::from);
            out.push(if i > chunk.len() { '=' } else { digit });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        for (text, encoded) in
            [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("alice:secret", "YWxpY2U6c2VjcmV0")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(percent("a b=ä"), "a%20b%3D%C3%A4");
    }

    #[test]
    fn addresses() {
        for bad in ["", "localhost", "ftp://x", "http://"] {
            let error = Client::new(bad, None, Duration::ZERO).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }
}
