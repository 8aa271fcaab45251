//! The port with real certificates and a real HTTP/2 client.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tributary_certs::bundle::{self, Folder, Init};
use tributary_certs::enrol;
use tributary_certs::identity::DEFAULT_TRUST_DOMAIN;
use tributary_certs::tls::{ClientTls, Expect, Material};
use tributary_proto::v1::ingest_client::IngestClient;

use super::*;
use crate::ingest::Config;
use crate::ingest::gate::EnrolConnection;
use crate::ingest::metrics::{IngestMetrics, reason};
use crate::ingest::policy::Policies;
use crate::ingest::testing;
use crate::ingest::trust::{Terms, Trust};

const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A running port.
struct Port {
    address: SocketAddr,
    pki: TempDir,
    tls: Arc<ServerTls>,
    trust: Trust,
    enrolments: mpsc::Receiver<EnrolConnection>,
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
        let material = material(pki.path(), "collector");
        let tls = Arc::new(ServerTls::new(&material).unwrap().with_enrolment(true));
        let trust = testing::trust_of(&material);
        let metrics = IngestMetrics::default();
        let mut ingest = Ingest::new(
            config,
            store.store().clone(),
            (tls.clone(), trust.clone()),
            metrics.clone(),
            HashMap::new(),
        );
        let enrolments = ingest.enrolments();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let task = tokio::spawn(ingest.run(listener, stop.clone()));
        Self { address, pki, tls, trust, enrolments, metrics, stop, task, _store: store }
    }

    async fn dial(&self, pki: &Path, name: &str) -> Result<Channel, tonic::transport::Error> {
        let client = Arc::new(ClientTls::new(&material(pki, name)).unwrap());
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

pub(crate) fn material(pki: &Path, name: &str) -> Material {
    Material::load(&bundle::files(&pki.join(name))).unwrap()
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

/// The same agent's certificate again, with another key.
pub(crate) fn issue_again(dir: &Path) {
    let folder = Folder::open(dir).unwrap();
    folder.issue_agent(("eu-1", "a"), None, SystemTime::now(), MONTH).unwrap();
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

/// The agent's end of a session.
struct Talk {
    to: mpsc::Sender<v1::ToCollector>,
    answers: Streaming<v1::ToAgent>,
}

/// Opens a session; the collector must welcome it.
async fn session(channel: Channel) -> Result<Talk, Status> {
    let (to, messages) = mpsc::channel(4);
    to.send(hello()).await.unwrap();
    let request = ReceiverStream::new(messages);
    let mut answers = IngestClient::new(channel).session(request).await?.into_inner();
    let first = answers.message().await?.unwrap();
    assert!(matches!(first.kind, Some(v1::to_agent::Kind::Welcome(_))));
    Ok(Talk { to, answers })
}

/// Dials and opens a session, or says why not.
async fn refused(port: &Port, pki: &Path) -> String {
    match port.dial(pki, "eu-1").await {
        Ok(channel) => session(channel).await.err().unwrap().to_string(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn an_agent_is_welcomed_and_the_port_closes_in_time() {
    let port = Port::open(|_| ()).await;
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let _talk = session(channel).await.unwrap();
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
    refused(&port, other.path()).await;
    assert_eq!(port.refusals("unknown_authority"), 1);
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
    let _talk = session(first).await.unwrap();
    refused(&port, port.pki.path()).await;
    assert_eq!(port.refusals("too_many"), 1);
    port.close().await;
}

#[tokio::test]
async fn a_revoked_agent_loses_its_stream_and_cannot_come_back() {
    let port = Port::open(|_| ()).await;
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let mut talk = session(channel.clone()).await.unwrap();
    let denied = HashSet::from([material(port.pki.path(), "eu-1").certificate().spki_sha256]);
    let denied = Arc::new(denied);
    let ours = material(port.pki.path(), "collector").with_denied(denied.clone());
    port.tls.replace(&ours).unwrap();
    port.trust.publish(Terms { denied, ..Terms::clone(&port.trust.terms()) });
    let status = talk.answers.message().await.unwrap_err();
    assert_eq!(status.message(), "the certificate is revoked");
    // Neither over the connection that is still there, nor over another.
    assert_eq!(session(channel).await.err().unwrap().message(), "the certificate is revoked");
    refused(&port, port.pki.path()).await;
    assert_eq!(port.refusals("revoked"), 1);
    drop(talk.to);
    port.close().await;
}

#[tokio::test]
async fn an_agent_of_a_retired_authority_loses_its_stream_and_cannot_come_back() {
    let port = Port::open(|_| ()).await;
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let mut talk = session(channel).await.unwrap();
    let other = TempDir::new().unwrap();
    make_pki(other.path());
    let ours = material(other.path(), "collector");
    port.tls.replace(&ours).unwrap();
    port.trust.publish(testing::terms_of(&ours));
    let status = talk.answers.message().await.unwrap_err();
    assert!(status.message().ends_with("is not trusted any more"), "{status}");
    // It trusts the new authority, but nobody trusts it.
    std::fs::copy(other.path().join("ca.crt"), port.pki.path().join("eu-1/new.crt")).unwrap();
    let both = ["new.crt", "ca.crt"]
        .map(|name| std::fs::read_to_string(port.pki.path().join("eu-1").join(name)).unwrap());
    std::fs::write(port.pki.path().join("eu-1/ca.crt"), both.concat()).unwrap();
    refused(&port, port.pki.path()).await;
    assert_eq!(port.refusals("unknown_authority"), 1);
    drop(talk.to);
    port.close().await;
}

#[tokio::test]
async fn a_connection_without_a_session_is_closed() {
    let port = Port::open(|config| config.max_idle = Duration::from_millis(500)).await;
    let client = ClientTls::new(&material(port.pki.path(), "eu-1")).unwrap();
    let tcp = TcpStream::connect(port.address).await.unwrap();
    let mut stream = client.connect(tcp, Expect::Collector).await.unwrap();
    // How it ends does not matter.
    let _ = stream.read_to_end(&mut Vec::new()).await;
    // One with a session outlives the time many times over.
    let channel = port.dial(port.pki.path(), "eu-1").await.unwrap();
    let mut talk = session(channel).await.unwrap();
    let tcp = TcpStream::connect(port.address).await.unwrap();
    let mut stream = client.connect(tcp, Expect::Collector).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    talk.to.send(hello()).await.unwrap();
    assert!(talk.answers.message().await.unwrap_err().message().contains("another Hello"));
    port.close().await;
}

#[tokio::test]
async fn who_wants_to_enrol_is_handed_on_and_counted() {
    let mut port = Port::open(|config| config.max_connections_per_address = 1).await;
    let pin = material(port.pki.path(), "collector").authority();
    let tcp = TcpStream::connect(port.address).await.unwrap();
    let stream = enrol::dial(tcp, &[pin]).await.unwrap();
    let connection = port.enrolments.recv().await.unwrap();
    assert_eq!(port.metrics.connections.get(), 1);
    refused(&port, port.pki.path()).await;
    assert_eq!(port.refusals("too_many"), 1);
    drop((connection, stream));
    assert_eq!(port.metrics.connections.get(), 0);
    port.close().await;
}
