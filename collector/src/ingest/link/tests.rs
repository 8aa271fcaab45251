//! The port with real certificates and a real HTTP/2 client.

use std::path::Path;
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint, Uri};
use tributary_certs::bundle::{self, Folder, Init};
use tributary_certs::identity::DEFAULT_TRUST_DOMAIN;
use tributary_certs::tls::{ClientTls, Expect, Material};
use tributary_proto::v1::ingest_client::IngestClient;

use super::*;
use crate::ingest::Config;
use crate::ingest::policy::Policies;
use crate::ingest::testing;

const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A running port.
struct Port {
    address: SocketAddr,
    pki: TempDir,
    metrics: IngestMetrics,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    _store: testing::Folder,
}

impl Port {
    async fn open(change: impl FnOnce(&mut Config)) -> Self {
        let pki = TempDir::new().unwrap();
        make_pki(pki.path());
        let store = testing::Folder::new();
        let mut config = Config::new("cluster".to_owned(), Policies::default());
        change(&mut config);
        let material = Material::load(&bundle::files(&pki.path().join("collector"))).unwrap();
        let tls = Arc::new(ServerTls::new(&material).unwrap());
        let metrics = IngestMetrics::default();
        let ingest =
            Ingest::new(config, store.store().clone(), tls, metrics.clone(), HashMap::new());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(ingest.run(listener, stop.clone()));
        Self { address, pki, metrics, stop, task, _store: store }
    }

    async fn dial(&self, pki: &Path, name: &str) -> Result<Channel, tonic::transport::Error> {
        let material = Material::load(&bundle::files(&pki.join(name))).unwrap();
        let client = Arc::new(ClientTls::new(&material).unwrap());
        let address = self.address;
        let connector = tower::service_fn(move |_: Uri| {
            let client = client.clone();
            async move {
                let tcp = TcpStream::connect(address).await?;
                let stream = client.connect(tcp, Expect::Collector).await;
                stream.map(TokioIo::new).map_err(io::Error::other)
            }
        });
        Endpoint::from_static("http://collector").connect_with_connector(connector).await
    }

    fn refusals(&self, why: &'static str) -> u64 {
        self.metrics.connections_refused.get_or_create(&reason(why)).get()
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn make_pki(dir: &Path) {
    let now = SystemTime::now();
    let init = Init {
        trust_domain: DEFAULT_TRUST_DOMAIN,
        collector: "collector",
        hosts: &["localhost".to_owned()],
        lifetime: MONTH,
        force: false,
    };
    let folder = Folder::init(dir, &init, now).unwrap();
    folder.issue_agent(("eu-1", "a"), None, now, MONTH).unwrap();
}

pub(crate) fn hello() -> v1::ToCollector {
    use tributary_proto::convert::ToCollector;
    let hello = v1::Hello {
        protocol: 1,
        agent_version: "test".to_owned(),
        cluster: "eu-1".to_owned(),
        instance: "a".to_owned(),
        epoch: 1,
        first_seq: 1,
        next_seq: 1,
        now_ms: 0,
        run: 1,
        trust: None,
    };
    ToCollector::Hello(hello).into()
}

async fn session(channel: Channel) -> Result<(mpsc::Sender<v1::ToCollector>, v1::ToAgent), Status> {
    let (to, messages) = mpsc::channel(4);
    to.send(hello()).await.unwrap();
    let request = ReceiverStream::new(messages);
    let mut answers = IngestClient::new(channel).session(request).await?.into_inner();
    let first = answers.message().await?;
    Ok((to, first.unwrap()))
}

#[tokio::test]
async fn an_agent_is_welcomed_and_the_port_closes_in_time() {
    let port = Port::open(|_| ()).await;
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let (_to, first) = session(channel).await.unwrap();
    assert!(matches!(first.kind, Some(v1::to_agent::Kind::Welcome(_))));
    assert_eq!(port.metrics.connections.get(), 1);
    port.close().await;
}

#[tokio::test]
async fn a_stranger_gets_no_session() {
    let port = Port::open(|_| ()).await;
    let other = TempDir::new().unwrap();
    make_pki(other.path());
    // It trusts this collector, but this collector does not trust it.
    std::fs::copy(port.pki.path().join("ca.crt"), other.path().join("eu-1/ours.crt")).unwrap();
    let both = ["ours.crt", "ca.crt"]
        .map(|name| std::fs::read_to_string(other.path().join("eu-1").join(name)).unwrap());
    std::fs::write(other.path().join("eu-1/ca.crt"), both.concat()).unwrap();
    let outcome = match port.dial(other.path(), "eu-1").await {
        Ok(channel) => session(channel).await.err().map(|status| status.to_string()),
        Err(error) => Some(error.to_string()),
    };
    assert!(outcome.is_some());
    assert_eq!(port.refusals("certificate"), 1);
    port.close().await;
}

#[tokio::test]
async fn silent_peers_do_not_keep_an_agent_out() {
    let port = Port::open(|config| config.max_handshakes = 8).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(port.address).await.unwrap());
    }
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    assert!(session(channel).await.is_ok());
    assert!(port.refusals("handshake_crowded_out") >= 190);
    port.close().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let port = Port::open(|config| config.max_connections_per_address = 1).await;
    let first = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let (_to, _) = session(first).await.unwrap();
    let second = match port.dial(port.pki.path(), "eu-1").await {
        Ok(channel) => session(channel).await.err().map(|status| status.to_string()),
        Err(error) => Some(error.to_string()),
    };
    assert!(second.is_some());
    assert_eq!(port.refusals("too_many"), 1);
    port.close().await;
}

impl Connection {
    /// A connection that no gate counts.
    pub(crate) fn unbounded(stream: PeerStream) -> Self {
        Self { stream, _place: None }
    }
}
