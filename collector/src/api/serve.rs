//! Accepts connections of the HTTP port, within bounds, and lets running requests end before a stop.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use axum::{Router, middleware};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
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

/// Connections at once. Full: of those that never asked anything the oldest is closed for a new one; if there is none,
/// new ones wait in the kernel.
pub const MAX_CONNECTIONS: usize = 512;

/// Connections at once of one address. Full: as above among its own; if there is none, new ones are closed.
pub const MAX_CONNECTIONS_OF_ONE: usize = 384;

/// How long a client has for the head of a request, and how long a connection may be idle. Clients in Go close idle
/// connections after 90 s: they must be the first, or a request may meet a connection that is being closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

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
    /// Connections that are up.
    connections: Gauge,
    /// Connections that were closed because there were too many.
    connections_refused: Counter,
    /// TLS handshakes that failed.
    handshakes_failed: Counter,
}

impl Port {
    /// A port as its web configuration file says; open to everyone without one.
    pub fn load(file: Option<&Path>) -> Result<Self, Box<Diagnostic>> {
        let (access, tls) = read(file)?;
        Ok(Self {
            file: file.map(Path::to_owned),
            guard: Arc::new(Guard::new(access)),
            tls: ArcSwapOption::new(tls.map(Arc::new)),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            handshakes_failed: Counter::default(),
        })
    }

    /// Shows what is counted in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let up = "HTTP connections that are up";
        registry.register("http_connections", up, self.connections.clone());
        let refused = "HTTP connections closed because there were too many";
        registry.register("http_connections_refused", refused, self.connections_refused.clone());
        let failed = "TLS handshakes of HTTP clients that failed";
        registry.register("http_handshakes_failed", failed, self.handshakes_failed.clone());
        let logins = "HTTP requests that were not let in, by reason";
        registry.register("http_requests_refused", logins, self.guard.refused.clone());
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
        let lobby = Lobby::default();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
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
            if places.available_permits() == 0 && lobby.close_one(None) {
                self.connections_refused.inc();
            }
            let full = lobby.count(peer.ip()) >= MAX_CONNECTIONS_OF_ONE;
            if full {
                self.connections_refused.inc();
            }
            if full && !lobby.close_one(Some(peer.ip())) {
                continue;
            }
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let guest = lobby.enter(peer.ip());
            let (port, router, stop) = (Arc::clone(&self), router.clone(), stop.clone());
            connections.spawn(async move {
                port.connections.inc();
                let closed = guest.closed.clone();
                let talking = port.connection(tcp, peer, router, (stop, guest));
                closed.run_until_cancelled(talking).await;
                port.connections.dec();
                drop(place);
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
        (stop, guest): (CancellationToken, Guest),
    ) {
        // Answers are written at once; nothing is gained by waiting for more.
        let _ = tcp.set_nodelay(true);
        match self.tls.load_full() {
            None => talk(tcp, peer, router, (stop, guest)).await,
            Some(tls) => match tls.accept(tcp).await {
                Ok(stream) => talk(stream, peer, router, (stop, guest)).await,
                Err(error) => {
                    self.handshakes_failed.inc();
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
    (stop, guest): (CancellationToken, Guest),
) {
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        guest.asked();
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

/// Every connection that is up, and which of them never asked anything.
#[derive(Debug, Clone, Default)]
struct Lobby(Arc<Mutex<Guests>>);

#[derive(Debug, Default)]
struct Guests {
    /// Connections by address.
    counts: HashMap<IpAddr, usize>,
    /// Those that never asked anything, oldest first, and what closes each.
    silent: BTreeMap<u64, (IpAddr, CancellationToken)>,
    /// The number of the next connection.
    next: u64,
}

impl Lobby {
    fn count(&self, from: IpAddr) -> usize {
        self.guests().counts.get(&from).copied().unwrap_or(0)
    }

    fn enter(&self, from: IpAddr) -> Guest {
        let mut guests = self.guests();
        let number = guests.next;
        guests.next += 1;
        let closed = CancellationToken::new();
        guests.silent.insert(number, (from, closed.clone()));
        *guests.counts.entry(from).or_default() += 1;
        Guest { lobby: self.clone(), number, from, closed }
    }

    /// Closes the oldest connection that never asked anything, of one address or of any; false if there is none.
    fn close_one(&self, of: Option<IpAddr>) -> bool {
        let mut guests = self.guests();
        let mut silent = guests.silent.iter();
        let oldest = silent.find(|(_, (from, _))| of.is_none_or(|of| of == *from));
        let Some(number) = oldest.map(|(number, _)| *number) else { return false };
        if let Some((_, closed)) = guests.silent.remove(&number) {
            closed.cancel();
        }
        true
    }

    fn guests(&self) -> MutexGuard<'_, Guests> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
struct Guest {
    lobby: Lobby,
    number: u64,
    from: IpAddr,
    /// Ends the connection at once.
    closed: CancellationToken,
}

impl Guest {
    /// From now on it is not closed for others.
    fn asked(&self) {
        self.lobby.guests().silent.remove(&self.number);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut guests = self.lobby.guests();
        guests.silent.remove(&self.number);
        if let Some(count) = guests.counts.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                guests.counts.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use axum::routing::get;
    use bytes::Bytes;
    use http::{Request, StatusCode};
    use http_body_util::{BodyExt as _, Full};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;

    use super::*;
    use crate::api::http_client::Http;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn request(address: SocketAddr, login: Option<&str>) -> Request<Full<Bytes>> {
        let mut request = Request::get(format!("http://{address}/"));
        if let Some(login) = login {
            request = request.header("authorization", format!("Basic {login}"));
        }
        request.body(Full::default()).unwrap()
    }

    #[tokio::test]
    async fn a_stop_lets_running_requests_end() {
        let (listener, address) = listener().await;
        let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (entering, released) = (Arc::clone(&entered), Arc::clone(&release));
        let page = async move || {
            entering.notify_one();
            released.notified().await;
            "done"
        };
        let stop = CancellationToken::new();
        let port = Arc::new(Port::load(None).unwrap());
        let serving =
            tokio::spawn(port.serve(listener, Router::new().route("/", get(page)), stop.clone()));
        let asking = tokio::spawn(async move {
            let answer = Http::new().send(request(address, None)).await.unwrap();
            answer.into_body().collect().await.unwrap().to_bytes()
        });
        let idle = TcpStream::connect(address).await.unwrap();
        entered.notified().await;
        stop.cancel();
        release.notify_one();
        assert_eq!(asking.await.unwrap(), "done");
        serving.await.unwrap();
        drop(idle);
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }

    #[tokio::test]
    async fn users_change_with_the_file_and_a_bad_file_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("web.yml");
        let write = |password: &str| {
            let hash = bcrypt::hash(password, 4).unwrap();
            std::fs::write(
                &file,
                format!("basic_auth_users: {{ alice: {hash} }}\nhttp_server_config: {{ headers: {{ X-Frame-Options: deny }} }}\n"),
            )
            .unwrap();
        };
        write("secret");
        let (listener, address) = listener().await;
        let port = Arc::new(Port::load(Some(&file)).unwrap());
        let reached = Arc::new(AtomicBool::new(false));
        let page = {
            let reached = Arc::clone(&reached);
            async move || reached.store(true, Ordering::Relaxed)
        };
        let stop = CancellationToken::new();
        let router = Router::new().route("/", get(page));
        let serving = tokio::spawn(Arc::clone(&port).serve(listener, router, stop.clone()));
        let http = Http::new();
        let ask = async |login| http.send(request(address, login)).await.unwrap();
        // alice:secret, alice:other
        let (secret, other) = (Some("YWxpY2U6c2VjcmV0"), Some("YWxpY2U6b3RoZXI="));
        let refused = ask(None).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()["www-authenticate"], "Basic");
        assert_eq!(refused.headers()["x-frame-options"], "deny");
        assert!(!reached.load(Ordering::Relaxed));
        assert_eq!(ask(secret).await.status(), StatusCode::OK);
        write("other");
        port.reload().unwrap();
        assert_eq!(ask(secret).await.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(ask(other).await.status(), StatusCode::OK);
        std::fs::write(&file, "basic_auth_users: { alice: plain }\n").unwrap();
        assert!(port.reload().is_err());
        assert_eq!(ask(other).await.status(), StatusCode::OK);
        stop.cancel();
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn silent_connections_make_room() {
        let (listener, address) = listener().await;
        let stop = CancellationToken::new();
        let port = Arc::new(Port::load(None).unwrap());
        let router = Router::new().route("/", get(async || "here"));
        let serving = tokio::spawn(Arc::clone(&port).serve(listener, router, stop.clone()));
        let mut silent = Vec::new();
        for _ in 0..MAX_CONNECTIONS_OF_ONE + 10 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = Http::new().send(request(address, None)).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "here");
        assert!(port.connections_refused.get() > 0);
        stop.cancel();
        drop(silent);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_head_that_is_too_long_is_refused() {
        let (listener, address) = listener().await;
        let stop = CancellationToken::new();
        let port = Arc::new(Port::load(None).unwrap());
        let serving = tokio::spawn(port.serve(listener, Router::new(), stop.clone()));
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(b"GET /?").await.unwrap();
        // The server may close the connection before it has read everything.
        let _ = tcp.write_all(&vec![b'a'; MAX_HEAD_BYTES + 1]).await;
        let mut answer = Vec::new();
        let _ = tcp.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        stop.cancel();
        serving.await.unwrap();
    }
}
