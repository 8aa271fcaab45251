//! The ingest port: accepts connections, bounds them, does the handshake, and serves sessions over HTTP/2.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use tributary_certs::tls::{Accepted, HandshakeError, Peer, PeerStream, ServerTls};
use tributary_proto::limits::MAX_MESSAGE_BYTES;
use tributary_proto::v1;
use tributary_proto::v1::ingest_server::IngestServer;

use super::metrics::{IngestMetrics, reason};
use super::{Ingest, Shared, session};

/// A peer is asked whether it is there after this long without a word from it, and has [`KEEPALIVE_ANSWER`] to say so.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(20);
pub(super) const KEEPALIVE_ANSWER: Duration = Duration::from_secs(10);
/// Sessions that one connection may open. An agent needs one.
const MAX_STREAMS: u32 = 16;
/// Longest header list of a request.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// Requests that a peer may open and reset before the connection is closed.
const MAX_PENDING_RESETS: usize = 20;
/// Messages that wait for an agent to read them. Full: the session waits.
pub(super) const OUTBOUND_MESSAGES: usize = 4;
/// How long the operating system is left alone when it has no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How long connections have to close after their sessions have ended.
const CLOSE: Duration = Duration::from_secs(3);

impl Ingest {
    /// Serves agents until `stop`; then lets sessions acknowledge what they have, and closes.
    pub(crate) async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let (incoming, connections) = mpsc::channel(1);
        let sessions = TaskTracker::new();
        let door =
            Door { shared: self.shared.clone(), sessions: sessions.clone(), stop: stop.clone() };
        let service = IngestServer::new(door)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let closing = CancellationToken::new();
        let serve = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .max_concurrent_streams(MAX_STREAMS)
            .add_service(service)
            .serve_with_incoming_shutdown(
                ReceiverStream::new(connections),
                closing.clone().cancelled_owned(),
            );
        let gate = Arc::new(Gate::new(&self.shared));
        let end = async {
            accept(listener, &self.tls, &gate, &incoming, &stop).await;
            sessions.close();
            sessions.wait().await;
            closing.cancel();
            tokio::time::sleep(CLOSE).await;
        };
        tokio::select! {
            served = serve => {
                if let Err(error) = served {
                    warn!(%error, "the ingest port ended");
                }
            }
            () = end => info!("connections of agents were closed"),
        }
    }
}

/// Accepts until `stop`. Handshakes run beside each other; the oldest makes way when there are too many.
async fn accept(
    listener: TcpListener,
    tls: &Arc<ServerTls>,
    gate: &Arc<Gate>,
    incoming: &mpsc::Sender<Result<Connection, io::Error>>,
    stop: &CancellationToken,
) {
    let mut handshakes = JoinSet::new();
    let mut unfinished: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = handshakes.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (tcp, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accepting a connection failed");
                gate.refused("accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        unfinished.retain(|handshake| !handshake.is_finished());
        if unfinished.len() >= gate.max_handshakes
            && let Some(oldest) = unfinished.pop_front()
        {
            oldest.abort();
            gate.refused("handshake_crowded_out");
        }
        let (tls, gate, incoming) = (tls.clone(), gate.clone(), incoming.clone());
        unfinished.push_back(handshakes.spawn(async move {
            if let Some(connection) = gate.admit(tcp, address, &tls).await {
                // The receiver goes away only when the port closes.
                let _ = incoming.send(Ok(connection)).await;
            }
        }));
    }
}

/// Counts connections, and lets in what is within the bounds.
struct Gate {
    open: Mutex<HashMap<IpAddr, usize>>,
    max_connections: usize,
    max_per_address: usize,
    max_handshakes: usize,
    metrics: IngestMetrics,
}

impl Gate {
    fn new(shared: &Shared) -> Self {
        Self {
            open: Mutex::default(),
            max_connections: shared.config.max_connections,
            max_per_address: shared.config.max_connections_per_address,
            max_handshakes: shared.config.max_handshakes.max(1),
            metrics: shared.metrics.clone(),
        }
    }

    async fn admit(
        self: Arc<Self>,
        tcp: TcpStream,
        address: SocketAddr,
        tls: &ServerTls,
    ) -> Option<Connection> {
        // Small messages must not wait for more.
        let _ = tcp.set_nodelay(true);
        let stream = match tls.accept(tcp).await {
            Ok(Accepted::Peer(stream)) => stream,
            Ok(Accepted::Enrol(_)) => {
                self.refused("enrolment_off");
                return None;
            }
            Err(error) => {
                self.refused(label(&error));
                warn!(%error, "connection refused");
                return None;
            }
        };
        let Some(place) = Place::take(&self, address.ip()) else {
            self.refused("too_many");
            warn!(peer = %address, "connection refused: too many connections are open");
            return None;
        };
        Some(Connection { stream, _place: Some(place) })
    }

    fn refused(&self, why: &'static str) {
        self.metrics.connections_refused.get_or_create(&reason(why)).inc();
    }
}

fn label(error: &HandshakeError) -> &'static str {
    match error {
        HandshakeError::TimedOut { .. } => "handshake_timeout",
        HandshakeError::Refused { .. } => "certificate",
        HandshakeError::RefusedByPeer { .. } => "refused_by_peer",
        HandshakeError::Protocol { .. } => "no_http2",
        HandshakeError::EnrolmentOff { .. } | HandshakeError::NoEnrolment { .. } => "enrolment_off",
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

/// The service behind the port.
struct Door {
    shared: Arc<Shared>,
    sessions: TaskTracker,
    stop: CancellationToken,
}

#[tonic::async_trait]
impl v1::ingest_server::Ingest for Door {
    type SessionStream = ReceiverStream<Result<v1::ToAgent, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToCollector>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("the connection has no peer"))?;
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the collector is stopping"));
        }
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        let inbound = request.into_inner();
        self.sessions.spawn(session::run(
            self.shared.clone(),
            peer,
            inbound,
            outbound,
            self.stop.clone(),
        ));
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

/// An agent's connection, as tonic wants it.
pub(super) struct Connection {
    stream: PeerStream,
    _place: Option<Place>,
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.stream.peer().clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
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
pub(super) mod tests;
