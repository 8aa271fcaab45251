//! Dials agents that must not dial out themselves. The session is the same; only who opens the connection differs.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
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
use super::session::{self, Caller};
use super::{Ingest, Shared};

/// How long a connection and the agent's first answer may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an agent has to read the last words and close.
const CLOSE: Duration = Duration::from_secs(3);
/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Between two connections, one made to follow the other.
const REDIAL_PAUSE: Duration = Duration::from_secs(1);
/// A session that lasted this long was a good one: the next pause is the first again.
const GOOD_SESSION: Duration = Duration::from_secs(60);

/// An agent that waits to be dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The cluster its certificate must carry.
    pub(crate) cluster: ClusterName,
    /// `host:port`.
    pub(crate) address: String,
}

/// Keeps a session with every target.
pub(crate) struct Dialler {
    shared: Arc<Shared>,
    tls: Arc<ClientTls>,
    targets: Vec<Target>,
}

impl Ingest {
    /// A dialler whose sessions are those of this port.
    pub(crate) fn dialler(&self, tls: Arc<ClientTls>, targets: Vec<Target>) -> Dialler {
        Dialler { shared: self.shared.clone(), tls, targets }
    }
}

impl Dialler {
    /// Dials until `stop`; then lets the sessions acknowledge what they have.
    pub(crate) async fn run(self, stop: CancellationToken) {
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
                Ok(opened) => serve(opened, &tls, &target, (&shared, &stop)).await,
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

/// Runs a session to its end. When it wants another connection, that is opened beside it, and takes the stream over
/// when its agent says hello there; one that cannot be opened changes nothing.
async fn serve(
    first: Opened,
    tls: &ClientTls,
    target: &Target,
    (shared, stop): (&Arc<Shared>, &CancellationToken),
) {
    let wanted = Arc::new(Notify::new());
    let mut sessions = FuturesUnordered::new();
    sessions.push(first.run(shared, &wanted, stop));
    let mut newer = pin!(redial(&wanted, tls, target));
    while !sessions.is_empty() {
        let opened = tokio::select! {
            _ = sessions.next() => continue,
            opened = &mut newer => opened,
        };
        newer.set(redial(&wanted, tls, target));
        match opened {
            Ok(opened) => sessions.push(opened.run(shared, &wanted, stop)),
            Err(error) => {
                warn!(
                    cluster = %target.cluster, address = %target.address, %error,
                    "dialling an agent anew failed; its stream stays where it is"
                );
            }
        }
    }
}

/// Opens another connection once one is wanted. The pause is for an agent that never has what it announces.
async fn redial(wanted: &Notify, tls: &ClientTls, target: &Target) -> Result<Opened, DialError> {
    let rested = sleep(REDIAL_PAUSE);
    wanted.notified().await;
    rested.await;
    open(tls, target).await
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
    /// The connection ends with its last handle.
    client: OutletClient<Channel>,
}

impl Opened {
    async fn run(self, shared: &Arc<Shared>, redial: &Arc<Notify>, stop: &CancellationToken) {
        let mut inbound = self.inbound;
        let caller = Caller { peer: self.peer, redial: Some(redial.clone()) };
        session::run(shared.clone(), caller, &mut inbound, self.outbound, stop.clone()).await;
        // Letting go at once would take back what was said last; the agent closes when it has read it.
        let closed = async { while let Ok(Some(_)) = inbound.message().await {} };
        let _ = timeout(CLOSE, closed).await;
        drop(self.client);
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
        Ok(Opened { peer, inbound, outbound, client })
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tributary_certs::bundle;
    use tributary_certs::tls::{Accepted, Material, ServerTls};
    use tributary_proto::convert::ToCollector;
    use tributary_proto::v1::outlet_server::{Outlet, OutletServer};

    use super::*;
    use crate::ingest::gate::Connection;
    use crate::ingest::link::tests::{hello, make_pki};
    use crate::ingest::metrics::IngestMetrics;
    use crate::ingest::policy::Policies;
    use crate::ingest::{Config, testing};

    /// An agent that says hello and hands on what it hears.
    struct Agent(mpsc::Sender<v1::ToAgent>);

    #[tonic::async_trait]
    impl Outlet for Agent {
        type SessionStream = ReceiverStream<Result<v1::ToCollector, Status>>;

        async fn session(
            &self,
            request: tonic::Request<tonic::Streaming<v1::ToAgent>>,
        ) -> Result<tonic::Response<Self::SessionStream>, Status> {
            let (to, messages) = mpsc::channel(4);
            to.send(Ok(hello())).await.unwrap();
            let heard = self.0.clone();
            tokio::spawn(async move {
                let mut inbound = request.into_inner();
                while let Ok(Some(message)) = inbound.message().await {
                    heard.send(message).await.unwrap();
                }
                drop(to);
            });
            Ok(tonic::Response::new(ReceiverStream::new(messages)))
        }
    }

    #[tokio::test]
    async fn an_agent_that_waits_is_dialled_and_welcomed() {
        let pki = tempfile::TempDir::new().unwrap();
        make_pki(pki.path());
        let material = |name: &str| Material::load(&bundle::files(&pki.path().join(name))).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, mut hears) = mpsc::channel(4);
        let agent_tls = ServerTls::new(&material("eu-1")).unwrap();
        tokio::spawn(async move {
            let tcp = listener.accept().await.unwrap().0;
            let Ok(Accepted::Peer(stream)) = agent_tls.accept(tcp).await else { panic!("refused") };
            let incoming = tokio_stream::iter([Ok::<_, io::Error>(Connection::unbounded(stream))])
                .chain(tokio_stream::pending());
            tonic::transport::Server::builder()
                .add_service(OutletServer::new(Agent(heard)))
                .serve_with_incoming(incoming)
                .await
        });

        let store = testing::Folder::new();
        let ingest = Ingest::new(
            Config::new("cluster".to_owned(), Policies::default()),
            store.store().clone(),
            (
                Arc::new(ServerTls::new(&material("collector")).unwrap()),
                testing::trust_of(&material("collector")),
            ),
            IngestMetrics::default(),
            HashMap::new(),
        );
        let target = Target { cluster: "eu-1".parse().unwrap(), address };
        let tls = Arc::new(ClientTls::new(&material("collector")).unwrap());
        let stop = CancellationToken::new();
        let dialler = tokio::spawn(ingest.dialler(tls, vec![target]).run(stop.clone()));
        let first = hears.recv().await.unwrap();
        assert!(matches!(first.kind, Some(ToAgent::Welcome(_))));
        stop.cancel();
        let last = hears.recv().await.unwrap();
        assert!(matches!(last.kind, Some(ToAgent::Drain(_))));
        dialler.await.unwrap();
        assert!(matches!(hello().kind, Some(ToCollector::Hello(_))));
    }
}
