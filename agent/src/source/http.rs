//! Fetches pages from the agent's own sources: within bounds of time and size, and never from another host than asked.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, LOCATION,
    USER_AGENT,
};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// Most redirects that are followed, all on the same host.
const MAX_REDIRECTS: usize = 5;
/// How long an unused connection is kept; a little over a minute serves scrapes once a minute.
const IDLE: Duration = Duration::from_secs(65);
/// The bound on answers that have no tighter one.
pub(crate) const MAX_ANSWER_BYTES: usize = 256 << 20;

/// Fetches pages. Connections are kept and shared.
#[derive(Debug)]
pub(crate) struct Fetcher {
    plain: Plain,
    /// Made when first needed: reading the system's authorities takes time and memory.
    secure: OnceLock<Result<Secure, String>>,
}

type Plain = Client<HttpConnector, Empty<Bytes>>;
type Secure = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// What to fetch.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Where; `http` or `https`.
    pub(crate) url: Uri,
    /// The `Accept` header.
    pub(crate) accept: &'static str,
    /// A header with the time-out in seconds, as Prometheus sends it to its targets.
    pub(crate) tell_timeout: bool,
    /// Who asks.
    pub(crate) credentials: Option<Credentials>,
    /// How long all of it may take.
    pub(crate) timeout: Duration,
    /// Most bytes of the answer, also after decompression.
    pub(crate) max_bytes: usize,
}

/// Who asks. Files are read for every request, so they can be rotated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Credentials {
    /// Basic authentication.
    Basic {
        /// The user's name.
        username: String,
        /// Where the password is; without a file it is empty.
        password_file: Option<PathBuf>,
    },
    /// `Authorization: KIND CREDENTIALS`
    Header {
        /// Usually `Bearer`.
        kind: String,
        /// Where the credentials are.
        credentials_file: PathBuf,
    },
}

/// What was fetched.
#[derive(Debug)]
pub(crate) struct Fetched {
    /// The `Content-Type` header, or nothing.
    pub(crate) content_type: String,
    /// The text.
    pub(crate) text: String,
    /// Bytes as they travelled.
    pub(crate) travelled: usize,
}

/// Why a page could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// A secret's file.
    #[error("reading {}", path.display())]
    Secret {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A secret that does not fit into a header.
    #[error("the credentials have characters that a header cannot have")]
    Credentials,
    /// No connection, or it broke.
    #[error("connecting to {host}")]
    Connect {
        /// The host.
        host: String,
        /// Why.
        source: hyper_util::client::legacy::Error,
    },
    /// The system's authorities cannot be read, so no https.
    #[error("reading the system's certificate authorities: {0}")]
    Authorities(String),
    /// Not 200.
    #[error("the server answered {0}")]
    Status(http::StatusCode),
    /// The server sends us elsewhere.
    #[error("the server redirects to another host, or in circles")]
    Redirect,
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// It is too long.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// It broke off, or cannot be decompressed.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// It is not text.
    #[error("the answer is not UTF-8")]
    Utf8,
}

impl Fetcher {
    /// A fetcher without connections.
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let plain = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { plain, secure: OnceLock::new() }
    }

    /// Fetches a page.
    pub(crate) async fn fetch(&self, page: &Page) -> Result<Fetched, FetchError> {
        tokio::time::timeout(page.timeout, self.fetch_untimed(page))
            .await
            .unwrap_or(Err(FetchError::Timeout(page.timeout)))
    }

    async fn fetch_untimed(&self, page: &Page) -> Result<Fetched, FetchError> {
        let mut url = page.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send(page, &url).await?;
            let status = response.status();
            if status.is_redirection()
                && let Some(location) = response.headers().get(LOCATION)
            {
                url = redirect(&url, location).ok_or(FetchError::Redirect)?;
                continue;
            }
            if status != http::StatusCode::OK {
                return Err(FetchError::Status(status));
            }
            return read(response, page.max_bytes).await;
        }
        Err(FetchError::Redirect)
    }

    async fn send(&self, page: &Page, url: &Uri) -> Result<Response<Incoming>, FetchError> {
        const SCRAPE_TIMEOUT: HeaderName =
            HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
        let agent = concat!("tributary-agent/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(page.accept));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if page.tell_timeout
            && let Ok(seconds) = page.timeout.as_secs_f64().to_string().parse()
        {
            headers.insert(SCRAPE_TIMEOUT, seconds);
        }
        if let Some(credentials) = &page.credentials {
            headers.insert(AUTHORIZATION, credentials.header().await?);
        }
        let sent = if url.scheme_str() == Some("https") {
            let client = self.secure.get_or_init(secure);
            let client = client.as_ref().map_err(|e| FetchError::Authorities(e.clone()))?;
            client.request(request).await
        } else {
            self.plain.request(request).await
        };
        let host = || url.authority().map(ToString::to_string).unwrap_or_default();
        sent.map_err(|source| FetchError::Connect { host: host(), source })
    }
}

fn secure() -> Result<Secure, String> {
    let connector = HttpsConnectorBuilder::new().with_native_roots().map_err(|e| e.to_string())?;
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(IDLE)
        .pool_timer(TokioTimer::new())
        .build(connector.https_only().enable_http1().build()))
}

impl Credentials {
    async fn header(&self) -> Result<HeaderValue, FetchError> {
        let text = match self {
            Self::Basic { username, password_file } => {
                let password = match password_file {
                    Some(path) => secret(path).await?,
                    None => String::new(),
                };
                format!("Basic {}", base64(format!("{username}:{password}").as_bytes()))
            }
            Self::Header { kind, credentials_file } => {
                format!("{kind} {}", secret(credentials_file).await?)
            }
        };
        let mut value = HeaderValue::try_from(text).map_err(|_| FetchError::Credentials)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

async fn secret(path: &PathBuf) -> Result<String, FetchError> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(FetchError::Secret { path: path.clone(), source }),
    }
}

/// Base64 with padding (RFC 4648), for one header.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let mut bits = 0u32;
        for n in 0..3 {
            bits = bits << 8 | u32::from(three.get(n).copied().unwrap_or(0));
        }
        for n in 0..4 {
            let digit = usize::try_from(bits >> (18 - 6 * n) & 63).unwrap_or(0);
            let digit = DIGITS.get(digit).copied().unwrap_or(b'=');
            out.push(char::from(if n <= three.len() { digit } else { b'=' }));
        }
    }
    out
}

/// Where a redirect leads, if it stays on the same scheme, host and port.
fn redirect(from: &Uri, location: &HeaderValue) -> Option<Uri> {
    let to = location.to_str().ok()?;
    let mut parts = from.clone().into_parts();
    if to.starts_with('/') && !to.starts_with("//") {
        parts.path_and_query = Some(to.parse().ok()?);
        return Uri::from_parts(parts).ok();
    }
    let to: Uri = to.parse().ok()?;
    (to.scheme() == from.scheme() && to.authority() == from.authority()).then_some(to)
}

async fn read(response: Response<Incoming>, max_bytes: usize) -> Result<Fetched, FetchError> {
    let header = |name| {
        let value = response.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("").to_owned()
    };
    let (content_type, encoding) = (header(CONTENT_TYPE), header(CONTENT_ENCODING));
    let body = match Limited::new(response.into_body(), max_bytes).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) if e.is::<LengthLimitError>() => return Err(FetchError::TooLong(max_bytes)),
        Err(e) => return Err(FetchError::Broken(e.to_string())),
    };
    let travelled = body.len();
    let bytes = if encoding.eq_ignore_ascii_case("gzip") {
        gunzip(&body, max_bytes)?
    } else {
        body.to_vec()
    };
    let text = String::from_utf8(bytes).map_err(|_| FetchError::Utf8)?;
    Ok(Fetched { content_type, text, travelled })
}

fn gunzip(bytes: &[u8], max_bytes: usize) -> Result<Vec<u8>, FetchError> {
    let mut out = Vec::with_capacity(bytes.len().saturating_mul(8).min(max_bytes));
    flate2::read::MultiGzDecoder::new(bytes)
        .take((max_bytes as u64).saturating_add(1))
        .read_to_end(&mut out)
        .map_err(|e| FetchError::Broken(e.to_string()))?;
    if out.len() > max_bytes { Err(FetchError::TooLong(max_bytes)) } else { Ok(out) }
}

/// A URL from its parts, with percent-encoded query parameters.
pub(crate) fn url<N: AsRef<str>, V: AsRef<str>>(
    base: &str,
    path: &str,
    params: impl IntoIterator<Item = (N, V)>,
) -> Result<Uri, http::uri::InvalidUri> {
    let mut text = format!("{}{path}", base.trim_end_matches('/'));
    for (n, (name, value)) in params.into_iter().enumerate() {
        text.push(if n == 0 && !path.contains('?') { '?' } else { '&' });
        percent_encode(name.as_ref(), &mut text);
        text.push('=');
        percent_encode(value.as_ref(), &mut text);
    }
    text.parse()
}

fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            for half in [byte >> 4, byte & 15] {
                let digit = char::from_digit(half.into(), 16).unwrap_or('0');
                out.push(digit.to_ascii_uppercase());
            }
        }
    }
}

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn base64_is_the_standard_one() {
        for (text, encoded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("a:b?>~", "YTpiPz5+")]
        {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
    }

    #[test]
    fn redirects_stay_on_their_host() {
        let from: Uri = "http://a:1/x?y".parse().unwrap();
        for (location, to) in [
            ("/z?q", Some("http://a:1/z?q")),
            ("http://a:1/z", Some("http://a:1/z")),
            ("http://169.254.169.254/latest", None),
            ("http://a:2/z", None),
            ("https://a:1/z", None),
            ("//b/z", None),
        ] {
            let found = redirect(&from, &HeaderValue::from_static(location));
            assert_eq!(found.map(|uri| uri.to_string()).as_deref(), to, "{location}");
        }
    }

    #[test]
    fn queries_are_encoded() {
        let url = url("http://a:1/", "/federate", [("match[]", "{a=\"ü b\"}")]).unwrap();
        assert_eq!(url, "http://a:1/federate?match%5B%5D=%7Ba%3D%22%C3%BC%20b%22%7D");
    }

    /// Serves one answer; returns what was asked and what the fetcher made of it.
    async fn fetch(answer: &[u8], max_bytes: usize) -> (String, Result<Fetched, FetchError>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let password = folder.path().join("password");
        std::fs::write(&password, "secret\n").unwrap();
        let page = Page {
            url: url(&format!("http://{address}"), "/metrics", [("a", "b")]).unwrap(),
            accept: "text/plain",
            tell_timeout: true,
            credentials: Some(Credentials::Basic {
                username: "me".into(),
                password_file: Some(password),
            }),
            timeout: Duration::from_secs(5),
            max_bytes,
        };
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = vec![0; 4096];
            let length = stream.read(&mut asked).await.unwrap();
            let _ = stream.write_all(answer).await;
            let _ = stream.shutdown().await;
            String::from_utf8_lossy(&asked[..length]).into_owned()
        };
        let fetcher = Fetcher::new();
        tokio::join!(serve, fetcher.fetch(&page))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}content-length: {}\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn pages_are_fetched_with_credentials_and_unpacked() {
        let packed = gzip(b"up 1\n");
        let headers = "content-type: text/plain; version=0.0.4\r\ncontent-encoding: gzip\r\n";
        let (asked, fetched) = fetch(&answer(headers, &packed), 100).await;
        let fetched = fetched.unwrap();
        assert_eq!(fetched.text, "up 1\n");
        assert_eq!(fetched.content_type, "text/plain; version=0.0.4");
        assert_eq!(fetched.travelled, packed.len());
        let asked = asked.to_ascii_lowercase();
        for line in [
            "get /metrics?a=b http/1.1",
            "authorization: basic bwu6c2vjcmv0",
            "x-prometheus-scrape-timeout-seconds: 5",
            "accept-encoding: gzip",
        ] {
            assert!(asked.contains(line), "{asked}");
        }
    }

    #[tokio::test]
    async fn faults_are_told_apart() {
        let bomb = gzip(&vec![b'x'; 1 << 20]);
        for (answer, message) in [
            (answer("content-encoding: gzip\r\n", &bomb), "the answer is longer than 65536 bytes"),
            (answer("", &vec![b'x'; 70_000]), "the answer is longer than 65536 bytes"),
            (answer("", &[0xff]), "the answer is not UTF-8"),
            (answer("content-encoding: gzip\r\n", b"x"), "the answer broke off"),
            (b"HTTP/1.1 503 Busy\r\n\r\n".to_vec(), "the server answered 503"),
            (
                b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\n\r\n".to_vec(),
                "the server redirects to another host",
            ),
            (b"".to_vec(), "connecting to 127.0.0.1:"),
        ] {
            let error = fetch(&answer, 65_536).await.1.unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
