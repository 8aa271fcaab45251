//! The link over real mutual TLS, to a collector of a few lines.

use std::path::Path;
use std::pin::Pin;
use std::sync::Mutex;

use futures_util::Stream;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tributary_certs::bundle::{self, Folder, Init};
use tributary_certs::identity::DEFAULT_TRUST_DOMAIN;
use tributary_certs::tls::{Material, ServerTls};
use tributary_model::label::Labels;
use tributary_model::sample::Sample;
use tributary_proto::convert::{ToAgent, ToCollector};
use tributary_proto::frame::{Decoder, Frame};
use tributary_proto::limits::Limits;
use tributary_proto::v1;
use tributary_proto::v1::ingest_server::{Ingest, IngestServer};

use super::*;
use crate::metrics::SpoolMetrics;
use crate::outlet::{Connection, Outlet};
use crate::session::Speaker;
use crate::spool::{Batch, Companion, Options, SharedSpool};

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn waits_double_with_jitter_and_are_bounded() {
    let mut wait = Wait::default();
    let waits: Vec<Duration> = (0..20).map(|_| wait.next()).collect();
    assert!(waits[0] >= FIRST_WAIT / 2 && waits[0] <= FIRST_WAIT);
    assert!(waits[3] >= FIRST_WAIT * 4 && waits[3] <= FIRST_WAIT * 8);
    assert!(waits[19] >= LAST_WAIT / 2 && waits[19] <= LAST_WAIT);
}

#[test]
fn chains_name_every_cause_once() {
    let inner = io::Error::other("alert: UnknownCA");
    let error = SessionError::Spool(crate::spool::SpoolError::Epoch {
        path: "epoch".into(),
        source: io::Error::other(inner),
    });
    assert_eq!(
        chain(&error),
        "the spool failed: the spool's epoch file epoch cannot be used: alert: UnknownCA"
    );
}

/// Stores in memory, acknowledges everything, breaks off after `frames`.
#[derive(Clone)]
struct Collector {
    stored: Arc<Mutex<Vec<Frame>>>,
    frames: usize,
    refuse: Option<&'static str>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

#[tonic::async_trait]
impl Ingest for Collector {
    type SessionStream = Answers;

    async fn session(
        &self,
        request: Request<Streaming<v1::ToCollector>>,
    ) -> Result<Response<Answers>, Status> {
        if let Some(why) = self.refuse {
            return Err(Status::permission_denied(why));
        }
        let mut incoming = request.into_inner();
        let (answers, outgoing) = mpsc::channel(16);
        let collector = self.clone();
        tokio::spawn(async move {
            let mut decoder = Decoder::new(Limits::default());
            let mut rest = collector.frames;
            while let Ok(Some(message)) = incoming.message().await {
                let answer = match message.kind {
                    Some(ToCollector::Hello(_)) => {
                        let after = collector.last();
                        ToAgent::Welcome(v1::Welcome {
                            protocol: 1,
                            resume_after_seq: after,
                            has_state: false,
                            limits: None,
                            now_ms: 0,
                        })
                    }
                    Some(ToCollector::Frame(frame)) => {
                        if rest == 0 {
                            return;
                        }
                        rest -= 1;
                        let frame = decoder.decode(&frame.data).unwrap();
                        if frame.header.seq > collector.last() {
                            collector.stored.lock().unwrap().push(frame);
                        }
                        ToAgent::Ack(v1::Ack { durable_seq: collector.last() })
                    }
                    _ => continue,
                };
                if answers.send(Ok(answer.into())).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Collector {
    fn last(&self) -> u64 {
        self.stored.lock().unwrap().last().map_or(0, |frame| frame.header.seq)
    }
}

struct Nothing;

impl Companion for Nothing {
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn changes(&mut self) -> Option<Vec<u8>> {
        None
    }
}

struct Bench {
    folder: tempfile::TempDir,
    spool: Arc<SharedSpool>,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::default();
        let options = Options { dir: folder.path().join("spool"), max_bytes: 64 << 20 };
        let metrics = SpoolMetrics::new(&mut registry, 64 << 20);
        let (spool, _) = SharedSpool::open(options, metrics).unwrap();
        spool.with(|spool| spool.begin(&mut Nothing, &[])).unwrap();
        let bench = Self { folder, spool, registry };
        bench.pki("pki");
        bench
    }

    fn pki(&self, name: &str) {
        let init = Init {
            trust_domain: DEFAULT_TRUST_DOMAIN,
            collector: "collector",
            hosts: &["localhost".to_owned()],
            lifetime: DAY,
            force: false,
        };
        let now = SystemTime::now();
        let pki = Folder::init(&self.folder.path().join(name), &init, now).unwrap();
        pki.issue_agent(("eu-1", "agent"), None, now, DAY).unwrap();
    }

    fn material(&self, pki: &str, leaf: &str) -> Material {
        let dir: &Path = &self.folder.path().join(pki).join(leaf);
        Material::load(&bundle::files(dir)).unwrap()
    }

    fn append(&self, second: i64) {
        let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
        let samples = [(labels, Sample::new(second * 1000, 0.5))];
        let at = Timestamp::from_millis(second * 1000);
        let batch = Batch { samples: &samples, metadata: &[], gaps: &[], complete_until: at };
        self.spool.with(|spool| spool.append(&batch, &mut Nothing, at)).unwrap();
    }

    /// Starts a collector; returns its address.
    async fn collector(&self, collector: Collector) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let tls = ServerTls::new(&self.material("pki", "collector")).unwrap();
        let (accepted, connections) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(stream) = tls.accept(tcp).await {
                    let _ = accepted.send(Ok::<_, io::Error>(Connection(stream))).await;
                }
            }
        });
        let server = Server::builder().add_service(IngestServer::new(collector));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
        address
    }

    fn link(&mut self, address: String, pki: &str) -> Link {
        let metrics = LinkMetrics::new(&mut self.registry);
        let speaker = Speaker { cluster: "eu-1".parse().unwrap(), instance: "agent".into() };
        let session = Session::new(self.spool.clone(), speaker, metrics.clone());
        let tls = ClientTls::new(&self.material(pki, "eu-1")).unwrap();
        Link::new(address, Arc::new(tls), session, metrics)
    }
}

async fn error(link: &mut watch::Receiver<LinkState>) -> String {
    let state = link.wait_for(|state| state.error.is_some()).await.unwrap();
    state.error.clone().unwrap()
}

#[tokio::test]
async fn everything_arrives_once_over_broken_streams() {
    let mut bench = Bench::new();
    let collector = Collector { stored: Arc::default(), frames: 5, refuse: None };
    let address = bench.collector(collector.clone()).await;
    for second in 1..=8 {
        // Two segments.
        bench.append(second + 1000 * (second / 5));
    }
    let drain = CancellationToken::new();
    drain.cancel();
    bench.link(address, "pki").run(drain).await;
    let stored = collector.stored.lock().unwrap();
    let numbers: Vec<u64> = stored.iter().map(|frame| frame.header.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(stored.iter().all(|frame| frame.samples[0].sample.value == 0.5));
    assert_eq!(bench.spool.status().waiting(), 0);
}

#[tokio::test]
async fn refusals_say_why() {
    let mut bench = Bench::new();
    bench.append(1);
    let why = Some("the hello names cluster \"us-1\"");
    let refusing = Collector { stored: Arc::default(), frames: 9, refuse: why };
    let address = bench.collector(refusing).await;
    let link = bench.link(address.clone(), "pki");
    let mut state = link.watch();
    let running = tokio::spawn(link.run(CancellationToken::new()));
    let said = error(&mut state).await;
    assert_eq!(said, "the collector refuses: the hello names cluster \"us-1\"");
    running.abort();

    // A certificate of another authority: we notice first, because we check too.
    bench.pki("other");
    let link = bench.link(address, "other");
    let mut state = link.watch();
    let running = tokio::spawn(link.run(CancellationToken::new()));
    let said = error(&mut state).await;
    assert!(said.contains("127.0.0.1") && said.contains("not signed by an authority"), "{said}");
    running.abort();

    let link = bench.link("127.0.0.1:1".into(), "pki");
    let mut state = link.watch();
    let running = tokio::spawn(link.run(CancellationToken::new()));
    let said = error(&mut state).await;
    assert!(said.contains("127.0.0.1:1: Connection refused"), "{said}");
    running.abort();
}

#[tokio::test]
async fn a_collector_that_dials_gets_the_same() {
    let mut bench = Bench::new();
    (1..=3).for_each(|second| bench.append(second));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(ServerTls::new(&bench.material("pki", "eu-1")).unwrap());
    let metrics = LinkMetrics::new(&mut bench.registry);
    let speaker = Speaker { cluster: "eu-1".parse().unwrap(), instance: "agent".into() };
    let session = Session::new(bench.spool.clone(), speaker, metrics.clone());
    let drain = CancellationToken::new();
    let outlet = Outlet::new(listener, tls, session, metrics);
    let running = tokio::spawn(outlet.run(drain.clone()));

    let ours = Arc::new(ClientTls::new(&bench.material("pki", "collector")).unwrap());
    // The second session takes over from the first.
    for resume_after_seq in [0, 1] {
        let ours = ours.clone();
        let channel = Endpoint::from_static("http://agent").connect_with_connector_lazy(
            tower::service_fn(move |_: http::Uri| {
                let ours = ours.clone();
                async move {
                    let tcp = TcpStream::connect(address).await?;
                    let expect = Expect::Agent { cluster: "eu-1".into() };
                    ours.connect(tcp, expect).await.map(TokioIo::new).map_err(io::Error::other)
                }
            }),
        );
        let (answers, outgoing) = mpsc::channel(16);
        let mut client = v1::outlet_client::OutletClient::new(channel);
        let response = client.session(ReceiverStream::new(outgoing)).await.unwrap();
        let mut messages = response.into_inner();
        let mut decoder = Decoder::new(Limits::default());
        let mut last = 0;
        while let Ok(Some(message)) = messages.message().await {
            let answer = match message.kind {
                Some(ToCollector::Hello(_)) => ToAgent::Welcome(v1::Welcome {
                    protocol: 1,
                    resume_after_seq,
                    has_state: false,
                    limits: None,
                    now_ms: 0,
                }),
                Some(ToCollector::Frame(frame)) => {
                    last = decoder.decode(&frame.data).unwrap().header.seq;
                    if last == 3 && resume_after_seq == 0 {
                        break;
                    }
                    ToAgent::Ack(v1::Ack { durable_seq: last })
                }
                Some(ToCollector::Drain(_)) => break,
                _ => continue,
            };
            answers.send(answer.into()).await.unwrap();
            if last == 3 {
                drain.cancel();
            }
        }
        assert_eq!(last, 3);
    }
    running.await.unwrap();
    assert_eq!(bench.spool.status().waiting(), 0);
}
