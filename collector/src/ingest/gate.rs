//! Who comes in at the ingest port: bounds, the handshake, and an end for connections on which nobody speaks.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;
use tracing::warn;
use tributary_certs::tls::{Accepted, EnrolStream, HandshakeError, Peer, PeerStream, ServerTls};

use super::Shared;
use super::metrics::{IngestMetrics, reason};

/// A connection of somebody who wants to enrol.
pub(crate) type EnrolConnection = Connection<EnrolStream>;

/// Counts connections, and lets in what is within the bounds.
pub(super) struct Gate {
    open: Mutex<HashMap<IpAddr, usize>>,
    max_connections: usize,
    max_per_address: usize,
    max_idle: Duration,
    metrics: IngestMetrics,
    sessions: mpsc::Sender<io::Result<Connection<PeerStream>>>,
    enrolments: Option<mpsc::Sender<EnrolConnection>>,
}

impl Gate {
    /// A gate that hands connections on to `sessions`, and those of newcomers to `enrolments`.
    pub(super) fn new(
        shared: &Shared,
        sessions: mpsc::Sender<io::Result<Connection<PeerStream>>>,
        enrolments: Option<mpsc::Sender<EnrolConnection>>,
    ) -> Self {
        Self {
            open: Mutex::default(),
            max_connections: shared.config.max_connections,
            max_per_address: shared.config.max_connections_per_address,
            max_idle: shared.config.max_idle,
            metrics: shared.metrics.clone(),
            sessions,
            enrolments,
        }
    }

    /// Does the handshake and hands the connection on, or says why not.
    pub(super) async fn admit(
        self: Arc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        tls: &ServerTls,
    ) {
        // Small messages must not wait for more.
        let _ = tcp.set_nodelay(true);
        let accepted = match tls.accept(tcp).await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.refused(label(&error));
                warn!(%error, "connection refused");
                return;
            }
        };
        let Some(place) = Place::take(&self, address.ip()) else {
            self.refused("too_many");
            warn!(peer = %address, "connection refused: too many connections are open");
            return;
        };
        match accepted {
            Accepted::Peer(stream) => {
                let connection = Connection::new(stream, self.max_idle, Some(place));
                // The receiver goes away only when the port closes.
                let _ = self.sessions.send(Ok(connection)).await;
            }
            Accepted::Enrol(stream) => {
                let connection = Connection::new(stream, self.max_idle, Some(place));
                let sent =
                    self.enrolments.as_ref().is_some_and(|to| to.try_send(connection).is_ok());
                if !sent {
                    self.refused("enrolments_full");
                    warn!(peer = %address, "connection refused: too many enrol at the same time");
                }
            }
        }
    }

    pub(super) fn refused(&self, why: &'static str) {
        self.metrics.connections_refused.get_or_create(&reason(why)).inc();
    }
}

/// Why a handshake failed, as it stands in metrics.
pub(super) fn label(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::TimedOut { .. } => "handshake_timeout",
        HandshakeError::Refused { why, .. } => why.reason(),
        HandshakeError::RefusedByPeer { .. } => "refused_by_peer",
        HandshakeError::Protocol { .. } | HandshakeError::NoEnrolment { .. } => "no_http2",
        HandshakeError::EnrolmentOff { .. } => "enrolment_off",
        HandshakeError::Tls { .. } => "tls",
        HandshakeError::Io { .. } | HandshakeError::NoPeer { .. } => "broken",
    }
}

/// One of the connections that may be open; given back when dropped.
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
}

impl Place {
    fn take(gate: &Arc<Gate>, address: IpAddr) -> Option<Self> {
        let mut open = gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = open.values().sum();
        let here = open.get(&address).copied().unwrap_or(0);
        if all >= gate.max_connections || here >= gate.max_per_address {
            return None;
        }
        open.insert(address, here + 1);
        gate.metrics.connections.inc();
        Some(Self { gate: gate.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.gate.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = open.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                open.remove(&self.address);
            }
        }
        self.gate.metrics.connections.dec();
    }
}

/// The sessions that a connection carries now. All clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sessions(Arc<AtomicUsize>);

impl Sessions {
    /// One more, until what this returns is dropped.
    pub(super) fn begin(&self) -> Begun {
        self.0.fetch_add(1, Ordering::Relaxed);
        Begun(self.clone())
    }

    fn is_empty(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// A session that counts.
pub(super) struct Begun(Sessions);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection, as tonic wants it. It breaks if it carries no session when [`Config::max_idle`](super::Config) has
/// passed, and whenever as much has passed again.
pub(crate) struct Connection<S> {
    stream: S,
    sessions: Sessions,
    idle: Pin<Box<Sleep>>,
    max_idle: Duration,
    _place: Option<Place>,
}

impl<S> Connection<S> {
    fn new(stream: S, max_idle: Duration, place: Option<Place>) -> Self {
        let (sessions, idle) = (Sessions::default(), Box::pin(sleep(max_idle)));
        Self { stream, sessions, idle, max_idle, _place: place }
    }

    fn is_idle(&mut self, cx: &mut Context<'_>) -> bool {
        while self.idle.as_mut().poll(cx).is_ready() {
            if self.sessions.is_empty() {
                return true;
            }
            self.idle.as_mut().reset(Instant::now() + self.max_idle);
        }
        false
    }
}

/// What a session learns of its connection.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Who is at the other end.
    pub(super) peer: Peer,
    /// What keeps the connection.
    pub(super) sessions: Sessions,
}

impl Connected for Connection<PeerStream> {
    type ConnectInfo = Line;

    fn connect_info(&self) -> Line {
        Line { peer: self.stream.peer().clone(), sessions: self.sessions.clone() }
    }
}

impl Connected for EnrolConnection {
    type ConnectInfo = SocketAddr;

    fn connect_info(&self) -> SocketAddr {
        self.stream.address()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_idle(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no session in time")));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
impl Connection<PeerStream> {
    /// A connection that no gate counts.
    pub(super) fn unbounded(stream: PeerStream) -> Self {
        Self::new(stream, Duration::from_secs(3600), None)
    }
}
