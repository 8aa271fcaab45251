//! Dials agents that must not dial out themselves. The session is the same; only who opens the connection differs.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tracing::warn;
use tributary_certs::tls::{ClientTls, Expect, HandshakeError, Peer, PeerStream};
use tributary_model::cluster::ClusterName;
use tributary_proto::convert::ToAgent;
use tributary_proto::limits::MAX_MESSAGE_BYTES;
use tributary_proto::v1;
use tributary_proto::v1::outlet_client::OutletClient;

use super::link::{KEEPALIVE, KEEPALIVE_ANSWER, OUTBOUND_MESSAGES};
use super::{Ingest, Shared, session};

/// How long a connection and the agent's first answer may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A session that lasted this long was a good one: the next pause is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(60);

/// An agent that waits to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The cluster its certificate must carry.
    pub cluster: ClusterName,
    /// `host:port`.
    pub address: String,
}

/// Keeps a session with every target.
pub struct Dialler {
    shared: Arc<Shared>,
    tls: Arc<ClientTls>,
    targets: Vec<Target>,
}

impl Ingest {
    /// A dialler whose sessions are those of this port.
    pub fn dialler(&self, tls: Arc<ClientTls>, targets: Vec<Target>) -> Dialler {
        Dialler { shared: self.shared.clone(), tls, targets }
    }
}

impl Dialler {
    /// Dials until `stop`; then lets the sessions acknowledge what they have.
    pub async fn run(self, stop: CancellationToken) {
        let mut targets = JoinSet::new();
        for target in self.targets {
            targets.spawn(keep(self.shared.clone(), self.tls.clone(), target, stop.clone()));
        }
        while targets.join_next().await.is_some() {}
    }
}

/// Dials one target again and again, with growing pauses.
async fn keep(shared: Arc<Shared>, tls: Arc<ClientTls>, target: Target, stop: CancellationToken) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let since = Instant::now();
        tokio::select! {
            biased;
            opened = open(&tls, &target) => match opened {
                Ok(opened) => opened.run(&shared, &stop).await,
                Err(error) => {
                    warn!(cluster = %target.cluster, address = %target.address, %error, "dialling an agent failed");
                }
            },
            () = stop.cancelled() => return,
        }
        if since.elapsed() > GOOD_SESSION {
            pause = FIRST_PAUSE;
        }
        let jitter = rand::rng().random_range(0.5..1.5);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause.mul_f64(jitter)) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why an agent cannot be dialled.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("no answer within {CONNECT:?}")]
    Silent,
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("opening HTTP/2: {0}")]
    Http(#[from] tonic::transport::Error),
    #[error("opening the session: {}", .0.message().escape_debug())]
    Session(#[from] Box<Status>),
}

/// A session's two directions, not begun yet.
struct Opened {
    peer: Peer,
    inbound: tonic::Streaming<v1::ToCollector>,
    outbound: session::Outbound,
}

impl Opened {
    async fn run(self, shared: &Arc<Shared>, stop: &CancellationToken) {
        session::run(shared.clone(), self.peer, self.inbound, self.outbound, stop.clone()).await;
    }
}

async fn open(tls: &ClientTls, target: &Target) -> Result<Opened, DialError> {
    let opening = async {
        let tcp = TcpStream::connect(&target.address).await.map_err(DialError::Connect)?;
        // Small messages must not wait for more.
        let _ = tcp.set_nodelay(true);
        let expect = Expect::Agent { cluster: target.cluster.to_string() };
        let stream = tls.connect(tcp, expect).await?;
        let peer = stream.peer().clone();
        let channel = channel(stream).await?;
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        let mut client = OutletClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let answer = client.session(ReceiverStream::new(messages).map(last_word)).await;
        let inbound = answer.map_err(|status| DialError::Session(Box::new(status)))?.into_inner();
        Ok(Opened { peer, inbound, outbound })
    };
    timeout(CONNECT, opening).await.map_err(|_| DialError::Silent)?
}

/// A client cannot end its stream with a status, so the reason goes into a drain.
fn last_word(message: Result<v1::ToAgent, Status>) -> v1::ToAgent {
    message.unwrap_or_else(|status| {
        let reason = match status.code() {
            Code::Ok => String::new(),
            _ => status.message().to_owned(),
        };
        ToAgent::Drain(v1::Drain { reason }).into()
    })
}

/// HTTP/2 over a connection that is there already. It is given out once: when it breaks, the session ends.
async fn channel(stream: PeerStream) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        let stream = stream.map(TokioIo::new);
        async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static("http://agent")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await
}
