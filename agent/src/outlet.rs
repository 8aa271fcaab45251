//! The way from the collector: waits to be dialled where the agent must make no outbound call.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tributary_certs::tls::{Accepted, HandshakeError, Peer, PeerStream, ServerTls};
use tributary_proto::limits;
use tributary_proto::v1;
use tributary_proto::v1::outlet_server::{self, OutletServer};

use crate::connection::Connection;
use crate::handover::Handover;
use crate::link::chain;
use crate::session::{Line, Session};

/// Handshakes at once. Full: new connections wait in the kernel.
const MAX_HANDSHAKES: usize = 16;
/// Streams of one connection; a collector needs one.
const MAX_STREAMS: u32 = 4;
/// HTTP/2 asks a silent peer after this time, and gives up after the other.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between session and gRPC.
const QUEUE_MESSAGES: usize = 4;
/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves sessions to collectors that dial.
pub(crate) struct Outlet {
    listener: TcpListener,
    tls: Arc<ServerTls>,
    service: Service,
}

impl Outlet {
    /// An outlet on a port that is bound already.
    pub(crate) fn new(
        listener: TcpListener,
        tls: Arc<ServerTls>,
        session: Session,
        handover: Arc<Handover>,
    ) -> Self {
        let service = Service { session, handover, drain: CancellationToken::new() };
        Self { listener, tls, service }
    }

    /// Runs until `drain` and the last acknowledgement after it.
    pub(crate) async fn run(self, drain: CancellationToken) {
        let Self { listener, tls, mut service } = self;
        service.drain = drain.clone();
        let session = service.session.clone();
        let (accepted, connections) = mpsc::channel(1);
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(MAX_STREAMS)
            .add_service(
                OutletServer::new(service)
                    .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(limits::MAX_MESSAGE_BYTES),
            )
            .serve_with_incoming(ReceiverStream::new(connections));
        let drained = async {
            drain.cancelled().await;
            session.done().await;
        };
        tokio::select! {
            () = accept(listener, tls, accepted) => {}
            ended = server => {
                if let Err(error) = ended {
                    tracing::error!(error = chain(&error), "the gRPC port failed");
                }
            }
            () = drained => tracing::info!("everything is acknowledged"),
        }
    }
}

/// Hands on every connection whose other end is a collector.
async fn accept(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    accepted: mpsc::Sender<io::Result<Connection<PeerStream>>>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        while handshakes.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned().await;
        match listener.accept().await {
            Ok((tcp, _)) => {
                // Small messages must not wait for more.
                let _ = tcp.set_nodelay(true);
                let (tls, accepted) = (Arc::clone(&tls), accepted.clone());
                handshakes.spawn(async move {
                    match tls.accept(tcp).await {
                        Ok(Accepted::Peer(stream)) => {
                            drop(accepted.send(Ok(Connection(stream))).await);
                        }
                        // An agent enrols nobody.
                        Ok(Accepted::Enrol(_)) => {}
                        // A collector with an open token calls on everybody it dials.
                        Err(error @ HandshakeError::EnrolmentOff { .. }) => {
                            tracing::debug!(error = chain(&error), "connection refused");
                        }
                        Err(error) => tracing::warn!(error = chain(&error), "connection refused"),
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[derive(Clone)]
struct Service {
    session: Session,
    handover: Arc<Handover>,
    drain: CancellationToken,
}

type Messages = Pin<Box<dyn Stream<Item = Result<v1::ToCollector, Status>> + Send>>;

#[tonic::async_trait]
impl outlet_server::Outlet for Service {
    type SessionStream = Messages;

    /// Sessions may overlap: one that the collector has welcomed takes over from earlier ones.
    async fn session(
        &self,
        request: Request<Streaming<v1::ToAgent>>,
    ) -> Result<Response<Messages>, Status> {
        let peer = request.extensions().get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Status::internal("a connection without a certificate"))?;
        let (outgoing, messages) = mpsc::channel(QUEUE_MESSAGES);
        let line = Line { peer, incoming: request.into_inner(), outgoing };
        let service = self.clone();
        // Whoever reads the answers drives the session, so it ends when nobody does.
        let driver = stream::once(async move {
            let mut turn = service.handover.begin();
            let end = service.session.run(line, &mut turn, service.drain.clone()).await;
            turn.end(&end);
        });
        let messages = ReceiverStream::new(messages).map(|message| Some(Ok(message)));
        let both = stream::select(messages, driver.map(|()| None));
        Ok(Response::new(Box::pin(both.filter_map(std::future::ready))))
    }
}
