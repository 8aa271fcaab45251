//! An HTTP client for plain and TLS addresses; follows no redirects.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Http {
    plain: Client<HttpConnector, Full<Bytes>>,
    /// None on a machine without certificate authorities, such as an empty image.
    tls: Option<Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Http {
    /// A client that trusts the machine's certificate authorities, or those that `SSL_CERT_FILE` names.
    pub fn new() -> Self {
        let roots = HttpsConnectorBuilder::new().with_native_roots().ok();
        let tls = roots.map(|roots| {
            let connector = roots.https_only().enable_http1().build();
            Client::builder(TokioExecutor::new()).build(connector)
        });
        Self { plain: Client::builder(TokioExecutor::new()).build_http(), tls }
    }

    /// Sends a request and waits for the head of the answer; the error holds all causes.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let answered = match (&self.tls, request.uri().scheme_str()) {
            (Some(tls), Some("https")) => tls.request(request).await,
            (None, Some("https")) => {
                return Err(
                    "this machine has no certificate authorities: name a file with SSL_CERT_FILE"
                        .to_owned(),
                );
            }
            _ => self.plain.request(request).await,
        };
        answered.map_err(|e| chain(&e))
    }
}

/// An error and its causes, since hyper's own text names only the outermost.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
