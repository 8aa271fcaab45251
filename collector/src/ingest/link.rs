//! The ingest port: accepts connections, and serves sessions over HTTP/2.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use tributary_certs::tls::ServerTls;
use tributary_proto::limits::MAX_MESSAGE_BYTES;
use tributary_proto::v1;
use tributary_proto::v1::ingest_server::IngestServer;

use super::gate::{Gate, Line};
use super::session::{self, Caller};
use super::{Ingest, Shared};

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
        let gate = Arc::new(Gate::new(&self.shared, incoming, self.enrolments));
        let max_handshakes = self.shared.config.max_handshakes.max(1);
        let end = async {
            accept(listener, &self.tls, &gate, max_handshakes, &stop).await;
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
    max_handshakes: usize,
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
        if unfinished.len() >= max_handshakes
            && let Some(oldest) = unfinished.pop_front()
        {
            oldest.abort();
            gate.refused("handshake_crowded_out");
        }
        let (tls, gate) = (tls.clone(), gate.clone());
        let handshake = async move { gate.admit(tcp, address, &tls).await };
        unfinished.push_back(handshakes.spawn(handshake));
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
        let line = request.extensions().get::<Line>().cloned();
        let Line { peer, sessions } =
            line.ok_or_else(|| Status::internal("the connection has no peer"))?;
        if self.stop.is_cancelled() {
            return Err(Status::unavailable("the collector is stopping"));
        }
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        let inbound = request.into_inner();
        let begun = sessions.begin();
        let caller = Caller { peer, redial: None };
        let session =
            session::run(self.shared.clone(), caller, inbound, outbound, self.stop.clone());
        self.sessions.spawn(async move {
            session.await;
            drop(begun);
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

#[cfg(test)]
pub(super) mod tests;
