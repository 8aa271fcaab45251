//! Accepts connections of the HTTP port, within bounds, and lets running requests end before a stop.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::{Router, middleware};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tower_http::timeout::RequestBodyTimeoutLayer;
use tributary_certs::tls::WebTls;
use tributary_model::diagnostic::Diagnostic;

use super::auth::{Access, Guard, guard};
use super::web_file::{TlsFiles, WebFile};

/// Connections at once. Full: new ones wait in the kernel.
pub const MAX_CONNECTIONS: usize = 512;

/// Connections at once of one address. More are closed.
pub const MAX_CONNECTIONS_OF_ONE: usize = 384;

/// How long a client has for the head of a request, and how long a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the next piece of a body may take.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest head of a request, in bytes. A longer one is answered 431.
pub const MAX_HEAD_BYTES: usize = 256 << 10;

/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub SocketAddr);

/// The HTTP port's TLS and authentication, replaceable at any time.
pub struct Port {
    file: Option<PathBuf>,
    guard: Arc<Guard>,
    tls: ArcSwapOption<WebTls>,
}

impl Port {
    /// A port as its web configuration file says; open to everyone without one.
    pub fn load(file: Option<&Path>) -> Result<Self, Box<Diagnostic>> {
        let (access, tls) = read(file)?;
        Ok(Self {
            file: file.map(Path::to_owned),
            guard: Arc::new(Guard::new(access)),
            tls: ArcSwapOption::new(tls.map(Arc::new)),
        })
    }

    /// Reads the file and the certificate again; if anything is wrong with them, the old ones stay in force.
    /// Running connections go on.
    pub fn reload(&self) -> Result<(), Box<Diagnostic>> {
        let (access, tls) = read(self.file.as_deref())?;
        self.guard.replace(access);
        self.tls.store(tls.map(Arc::new));
        Ok(())
    }

    /// Serves `router` until `stop`, then lets running requests end.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        router: Router,
        stop: CancellationToken,
    ) {
        let router = router
            .layer(RequestBodyTimeoutLayer::new(BODY_TIMEOUT))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.guard), guard));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let callers = Callers::default();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (tcp, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting an HTTP connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Some(caller) = callers.enter(peer.ip()) else { continue };
            let (port, router, stop) = (Arc::clone(&self), router.clone(), stop.clone());
            connections.spawn(async move {
                port.connection(tcp, peer, router, stop).await;
                drop((place, caller));
            });
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(
        &self,
        tcp: TcpStream,
        peer: SocketAddr,
        router: Router,
        stop: CancellationToken,
    ) {
        // Answers are written at once; nothing is gained by waiting for more.
        let _ = tcp.set_nodelay(true);
        match self.tls.load_full() {
            None => talk(tcp, peer, router, stop).await,
            Some(tls) => match tls.accept(tcp).await {
                Ok(stream) => talk(stream, peer, router, stop).await,
                Err(error) => {
                    tracing::debug!(%peer, %error, "TLS handshake of an HTTP client failed");
                }
            },
        }
    }
}

async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(PeerAddress(peer));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection broke off");
    }
}

fn read(file: Option<&Path>) -> Result<(Access, Option<WebTls>), Box<Diagnostic>> {
    let Some(path) = file else { return Ok((Access::default(), None)) };
    let web = WebFile::load(path)?;
    let fail = |what: String| {
        Box::new(Diagnostic { what, file: path.display().to_string(), place: None, help: None })
    };
    let tls = |files: TlsFiles| WebTls::new(&files.cert, &files.key, files.client_ca.as_deref());
    let tls = web.tls.map(tls).transpose().map_err(|e| fail(e.to_string()))?;
    let access = Access::new(web.users, web.headers).map_err(|e| fail(format!("bcrypt: {e}")))?;
    Ok((access, tls))
}

/// How many connections each address has.
#[derive(Debug, Clone, Default)]
struct Callers(Arc<Mutex<HashMap<IpAddr, usize>>>);

impl Callers {
    fn enter(&self, from: IpAddr) -> Option<Caller> {
        let mut callers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = callers.entry(from).or_default();
        if *count >= MAX_CONNECTIONS_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Caller { callers: self.clone(), from })
    }
}

/// One connection's place among its address' connections.
struct Caller {
    callers: Callers,
    from: IpAddr,
}

impl Drop for Caller {
    fn drop(&mut self) {
        let mut callers = self.callers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = callers.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                callers.remove(&self.from);
            }
        }
    }
}
