//! Dials agents that must not dial out themselves. The session is the same; only who opens the connection differs.

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use hyper_util::rt::TokioIo;
use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use tracing::warn;
use tributary_certs::tls::{ClientTls, Expect, HandshakeError, Peer};
use tributary_model::cluster::ClusterName;
use tributary_proto::convert::ToAgent;
use tributary_proto::limits::MAX_MESSAGE_BYTES;
use tributary_proto::v1;
use tributary_proto::v1::outlet_client::OutletClient;

use super::link::{KEEPALIVE, KEEPALIVE_ANSWER, OUTBOUND_MESSAGES};
use super::metrics::because;
use super::session::{self, Caller};
use super::{Ingest, Shared, gate};

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
    let line = Line { shared, tls, target };
    let mut pauses = Pauses::default();
    while !stop.is_cancelled() {
        let since = Instant::now();
        tokio::select! {
            biased;
            opened = line.open() => match opened {
                Ok(opened) => line.serve(opened, &stop).await,
                Err(error) => line.failed(&error, "dialling an agent failed"),
            },
            () = stop.cancelled() => return,
        }
        if since.elapsed() > GOOD_SESSION {
            pauses = Pauses::default();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            // It may be this one.
            () = line.shared.enrolled.notified() => pauses = Pauses::default(),
            () = sleep(pauses.next()) => {}
        }
    }
}

/// The pauses between attempts.
#[derive(Default)]
struct Pauses(u32);

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.0.min(16)).min(LONGEST_PAUSE);
        self.0 += 1;
        pause.mul_f64(rand::rng().random_range(0.5..1.5))
    }
}

/// The way to one agent.
struct Line {
    shared: Arc<Shared>,
    tls: Arc<ClientTls>,
    target: Target,
}

impl Line {
    /// Runs a session to its end. When another connection is wanted, it is opened beside the one that is there, and
    /// takes the stream over when the agent says hello on it.
    async fn serve(&self, first: Opened, stop: &CancellationToken) {
        let wanted = Arc::new(Notify::new());
        let mut sessions = FuturesUnordered::new();
        sessions.push(first.run(&self.shared, &wanted, stop));
        let mut newer = pin!(self.redial(&wanted));
        while !sessions.is_empty() {
            tokio::select! {
                _ = sessions.next() => {}
                opened = &mut newer => {
                    // Wishes of the time before are fulfilled.
                    let _ = wanted.notified().now_or_never();
                    newer.set(self.redial(&wanted));
                    sessions.push(opened.run(&self.shared, &wanted, stop));
                }
            }
        }
    }

    /// Opens another connection once one is wanted. Until it is there, the stream stays where it is.
    async fn redial(&self, wanted: &Notify) -> Opened {
        let rested = sleep(REDIAL_PAUSE);
        wanted.notified().await;
        rested.await;
        let mut pauses = Pauses::default();
        loop {
            match self.open().await {
                Ok(opened) => return opened,
                Err(error) => self.failed(&error, "dialling an agent anew failed"),
            }
            sleep(pauses.next()).await;
        }
    }

    fn failed(&self, error: &DialError, what: &'static str) {
        let Target { cluster, address } = &self.target;
        self.shared.metrics.dials_failed.get_or_create(&because(cluster, error.reason())).inc();
        warn!(%cluster, %address, %error, "{what}");
    }

    async fn open(&self) -> Result<Opened, DialError> {
        let opening = async {
            let tcp = TcpStream::connect(&self.target.address).await.map_err(DialError::Connect)?;
            // Small messages must not wait for more.
            let _ = tcp.set_nodelay(true);
            let expect = Expect::Agent { cluster: self.target.cluster.to_string() };
            let stream = self.tls.connect(tcp, expect).await?;
            let peer = stream.peer().clone();
            let channel = channel(stream).await?;
            let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
            let mut client = OutletClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES);
            let answer = client.session(ReceiverStream::new(messages).map(last_word)).await;
            let inbound =
                answer.map_err(|status| DialError::Session(Box::new(status)))?.into_inner();
            Ok(Opened { peer, inbound, outbound, client })
        };
        timeout(CONNECT, opening).await.map_err(|_| DialError::Silent)?
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

impl DialError {
    /// The reason as it stands in metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::Connect(_) => "connect",
            Self::Silent => "silent",
            Self::Handshake(error) => gate::label(error),
            Self::Http(_) => "http",
            Self::Session(_) => "session",
        }
    }
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
pub(super) async fn channel<S>(stream: S) -> Result<Channel, tonic::transport::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
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
    use std::path::Path;

    use tributary_certs::tls::{Accepted, ServerTls};
    use tributary_proto::convert::ToCollector;
    use tributary_proto::v1::outlet_server::{Outlet, OutletServer};

    use super::*;
    use crate::ingest::gate::Connection;
    use crate::ingest::link::tests::{hello, issue_again, make_pki, material};
    use crate::ingest::metrics::IngestMetrics;
    use crate::ingest::policy::Policies;
    use crate::ingest::{Config, testing};

    /// The agent's end of a session.
    type Says = mpsc::Sender<Result<v1::ToCollector, Status>>;

    /// An agent that says hello, hands on what it hears, and says what it is told to.
    #[derive(Clone)]
    struct Agent {
        heard: mpsc::Sender<(usize, v1::ToAgent)>,
        says: Arc<Mutex<Vec<Says>>>,
    }

    impl Agent {
        /// Serves every connection; what is heard comes with the number of its session.
        async fn listen(
            tls: Arc<ServerTls>,
        ) -> (Self, String, mpsc::Receiver<(usize, v1::ToAgent)>) {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (heard, hears) = mpsc::channel(16);
            let agent = Self { heard, says: Arc::default() };
            let served = agent.clone();
            tokio::spawn(async move {
                loop {
                    let accepted = tls.accept(listener.accept().await.unwrap().0).await;
                    let Ok(Accepted::Peer(stream)) = accepted else { panic!("no collector") };
                    let connection = Ok::<_, io::Error>(Connection::unbounded(stream));
                    let incoming = tokio_stream::iter([connection]).chain(tokio_stream::pending());
                    let server = tonic::transport::Server::builder()
                        .add_service(OutletServer::new(served.clone()))
                        .serve_with_incoming(incoming);
                    tokio::spawn(server);
                }
            });
            (agent, address, hears)
        }

        async fn say(&self, session: usize, kind: ToCollector) {
            let to = self.says.lock().unwrap()[session].clone();
            to.send(Ok(kind.into())).await.unwrap();
        }
    }

    #[tonic::async_trait]
    impl Outlet for Agent {
        type SessionStream = ReceiverStream<Result<v1::ToCollector, Status>>;

        async fn session(
            &self,
            request: tonic::Request<tonic::Streaming<v1::ToAgent>>,
        ) -> Result<tonic::Response<Self::SessionStream>, Status> {
            let (to, messages) = mpsc::channel(4);
            to.send(Ok(hello())).await.unwrap();
            let number = {
                let mut says = self.says.lock().unwrap();
                says.push(to);
                says.len() - 1
            };
            let (heard, says) = (self.heard.clone(), self.says.clone());
            tokio::spawn(async move {
                let mut inbound = request.into_inner();
                while let Ok(Some(message)) = inbound.message().await {
                    heard.send((number, message)).await.unwrap();
                }
                // Closes the other direction, too.
                says.lock().unwrap()[number] = mpsc::channel(1).0;
            });
            Ok(tonic::Response::new(ReceiverStream::new(messages)))
        }
    }

    /// A collector that dials this address until it is stopped.
    fn dial(
        pki: &Path,
        store: &testing::Folder,
        address: String,
    ) -> (CancellationToken, tokio::task::JoinHandle<()>) {
        let collector = material(pki, "collector");
        let ingest = Ingest::new(
            Config::new("cluster".to_owned(), Policies::default()),
            store.store().clone(),
            (Arc::new(ServerTls::new(&collector).unwrap()), testing::trust_of(&collector)),
            IngestMetrics::default(),
            HashMap::new(),
        );
        let target = Target { cluster: "eu-1".parse().unwrap(), address };
        let tls = Arc::new(ClientTls::new(&collector).unwrap());
        let stop = CancellationToken::new();
        let dialler = ingest.dialler(tls, vec![target]);
        (stop.clone(), tokio::spawn(dialler.run(stop)))
    }

    #[tokio::test]
    async fn an_agent_that_waits_is_dialled_and_welcomed() {
        let pki = tempfile::TempDir::new().unwrap();
        make_pki(pki.path());
        let tls = Arc::new(ServerTls::new(&material(pki.path(), "eu-1")).unwrap());
        let (_agent, address, mut hears) = Agent::listen(tls).await;
        let store = testing::Folder::new();
        let (stop, dialler) = dial(pki.path(), &store, address);
        let (_, first) = hears.recv().await.unwrap();
        assert!(matches!(first.kind, Some(ToAgent::Welcome(_))));
        stop.cancel();
        let (_, last) = hears.recv().await.unwrap();
        assert!(matches!(last.kind, Some(ToAgent::Drain(_))));
        dialler.await.unwrap();
    }

    #[tokio::test]
    async fn an_agent_with_a_new_certificate_is_dialled_anew_before_the_old_stream_ends() {
        let pki = tempfile::TempDir::new().unwrap();
        make_pki(pki.path());
        let tls = Arc::new(ServerTls::new(&material(pki.path(), "eu-1")).unwrap());
        let (agent, address, mut hears) = Agent::listen(tls.clone()).await;
        let store = testing::Folder::new();
        let (stop, dialler) = dial(pki.path(), &store, address);
        let (0, first) = hears.recv().await.unwrap() else { panic!("another session") };
        assert!(matches!(first.kind, Some(ToAgent::Welcome(_))));

        issue_again(pki.path());
        let renewed = material(pki.path(), "eu-1");
        tls.replace(&renewed).unwrap();
        let trust = v1::Trust {
            bundle_sha256: renewed.bundle().digest().to_vec().into(),
            leaf_spki_sha256: renewed.certificate().spki_sha256.to_vec().into(),
            ..v1::Trust::default()
        };
        agent.say(0, ToCollector::Trust(trust)).await;
        // The old stream ends only because the agent has said hello on the new one.
        let (0, last) = hears.recv().await.unwrap() else {
            panic!("welcomed before the old ended")
        };
        let Some(ToAgent::Drain(drain)) = last.kind else { panic!("{last:?}") };
        assert_eq!(drain.reason, "the same agent has connected again");
        let (1, welcome) = hears.recv().await.unwrap() else { panic!("the old one again") };
        assert!(matches!(welcome.kind, Some(ToAgent::Welcome(_))));
        stop.cancel();
        dialler.await.unwrap();
    }
}
