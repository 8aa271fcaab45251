//! The link over real mutual TLS, to a collector of a few lines.

use std::collections::HashSet;
use std::path::PathBuf;
use std::pin::Pin;

use futures_util::Stream;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tributary_certs::tls::{Accepted, Material, Peer, ServerTls};
use tributary_certs::trust::Bundle;
use tributary_proto::convert::{ToAgent, ToCollector};
use tributary_proto::frame::{Decoder, Frame};
use tributary_proto::limits::Limits;
use tributary_proto::v1;
use tributary_proto::v1::ingest_server::{Ingest, IngestServer};

use super::*;
use crate::connection::Connection;
use crate::handover::LinkState;
use crate::metrics::{Reached, Stage};
use crate::outlet::Outlet;
use crate::testing::{self, Bench, make_pki};

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

/// Stores in memory, acknowledges everything, breaks off after `frames`. The newest stream takes over: the one before
/// ends with its acknowledgements first.
#[derive(Clone, Default)]
struct Collector {
    stored: Arc<Mutex<Vec<Frame>>>,
    frames: Option<usize>,
    refuse: Option<&'static str>,
    streams: Arc<Mutex<Vec<(Peer, CancellationToken)>>>,
    serving: Arc<tokio::sync::Mutex<()>>,
    /// Said to every stream.
    wish: watch::Sender<Option<ToAgent>>,
    /// What the agent said last that it trusts and holds.
    trust: watch::Sender<v1::Trust>,
    /// Whose authority signs certificates.
    signer: Arc<Mutex<PathBuf>>,
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
        let (answers, outgoing) = mpsc::channel(16);
        let peer = request.extensions().get::<Peer>().unwrap().clone();
        let (collector, incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move { collector.talk(peer, incoming, answers).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

impl Collector {
    /// Nothing once the agent is gone.
    async fn talk(
        self,
        peer: Peer,
        mut incoming: Streaming<v1::ToCollector>,
        answers: mpsc::Sender<Result<v1::ToAgent, Status>>,
    ) -> Option<()> {
        let say = async |answer: ToAgent| answers.send(Ok(answer.into())).await.ok();
        incoming.message().await.ok()??;
        let ours = CancellationToken::new();
        let before = self.streams.lock().unwrap().last().cloned();
        self.streams.lock().unwrap().push((peer, ours.clone()));
        before.inspect(|(_, before)| before.cancel());
        let _serving = self.serving.lock().await;
        let resume_after_seq = self.last();
        say(ToAgent::Welcome(v1::Welcome { protocol: 1, resume_after_seq, ..Default::default() }))
            .await?;
        let mut decoder = Decoder::new(Limits::default());
        let mut rest = self.frames.unwrap_or(usize::MAX);
        let mut wish = self.wish.subscribe();
        loop {
            let message = tokio::select! {
                message = incoming.message() => message.ok()??,
                _ = wish.changed() => {
                    let wish = wish.borrow_and_update().clone();
                    say(wish.unwrap()).await?;
                    continue;
                }
                () = ours.cancelled() => {
                    say(ToAgent::Drain(v1::Drain::default())).await?;
                    return say(ToAgent::Ack(v1::Ack { durable_seq: self.last() })).await;
                }
            };
            let frame = match message.kind {
                Some(ToCollector::Frame(frame)) => frame,
                Some(ToCollector::CertificateRequest(request)) => {
                    let chain_pem = self.sign(&request.csr_der).into();
                    say(ToAgent::Certificate(v1::Certificate { chain_pem, ..Default::default() }))
                        .await?;
                    continue;
                }
                Some(ToCollector::Trust(trust)) => {
                    self.trust.send_replace(trust);
                    continue;
                }
                _ => continue,
            };
            rest = rest.checked_sub(1)?;
            let frame = decoder.decode(&frame.data).unwrap();
            if frame.header.seq > self.last() {
                self.stored.lock().unwrap().push(frame);
            }
            // Every other acknowledgement waits for the next one.
            if self.last().is_multiple_of(2) {
                say(ToAgent::Ack(v1::Ack { durable_seq: self.last() })).await?;
            }
        }
    }

    fn sign(&self, csr_der: &[u8]) -> String {
        testing::sign(&self.signer.lock().unwrap(), csr_der, "agent")
    }

    fn ask(&self, wish: ToAgent) {
        self.wish.send_replace(Some(wish));
    }

    fn streams(&self) -> usize {
        self.streams.lock().unwrap().len()
    }

    /// The numbers of the stored frames.
    fn numbers(&self) -> Vec<u64> {
        self.stored.lock().unwrap().iter().map(|frame| frame.header.seq).collect()
    }

    fn last(&self) -> u64 {
        self.stored.lock().unwrap().last().map_or(0, |frame| frame.header.seq)
    }
}

impl Bench {
    /// Starts a collector; returns its address, and the TLS to change.
    async fn collector(&self, collector: Collector) -> (String, Arc<ServerTls>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ours = Arc::new(ServerTls::new(&self.material("pki", "collector")).unwrap());
        let (accepted, connections) = mpsc::channel(1);
        let tls = ours.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(Accepted::Peer(stream)) = tls.accept(tcp).await {
                    let _ = accepted.send(Ok::<_, io::Error>(Connection(stream))).await;
                }
            }
        });
        let server = Server::builder().add_service(IngestServer::new(collector));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
        (address, ours)
    }

    /// Dials until it is told why it cannot have a session.
    async fn why_not(&self, address: String) -> String {
        let running = tokio::spawn(self.link(address).run(CancellationToken::new()));
        let said = error(&mut self.handover.watch()).await;
        running.abort();
        said
    }

    fn link(&self, address: String) -> Link {
        Link::new(address, self.tls.clone(), self.session.clone(), self.handover.clone())
    }
}

async fn error(link: &mut watch::Receiver<LinkState>) -> String {
    let state = link.wait_for(|state| state.error.is_some()).await.unwrap();
    state.error.clone().unwrap()
}

#[tokio::test]
async fn everything_arrives_once_over_broken_streams() {
    let bench = Bench::new();
    let collector = Collector { frames: Some(5), ..Collector::default() };
    let (address, _) = bench.collector(collector.clone()).await;
    for second in 1..=8 {
        // Two segments.
        bench.append(second + 4000 * (second / 5));
    }
    let drain = CancellationToken::new();
    drain.cancel();
    bench.link(address).run(drain).await;
    assert_eq!(collector.numbers(), [1, 2, 3, 4, 5, 6, 7, 8]);
    let stored = collector.stored.lock().unwrap();
    assert!(stored.iter().all(|frame| frame.samples[0].sample.value == 0.5));
    assert_eq!(bench.spool.status().waiting(), 0);
}

#[tokio::test]
async fn everything_arrives_once_over_one_new_connection_after_another() {
    let bench = Bench::new();
    let collector = Collector::default();
    let (address, _) = bench.collector(collector.clone()).await;
    let drain = CancellationToken::new();
    let running = tokio::spawn(bench.link(address).run(drain.clone()));
    let mut state = bench.handover.watch();
    state.wait_for(|state| state.connected).await.unwrap();
    let mut up = bench.handover.watch();
    let was_down = tokio::spawn(async move { up.wait_for(|state| !state.connected).await.is_ok() });
    let mut second = 0;
    for streams in 2..6 {
        collector.ask(ToAgent::Reconnect(v1::Reconnect::default()));
        while collector.streams() < streams {
            second += 1;
            bench.append(second);
            tokio::task::yield_now().await;
        }
    }
    assert!(!was_down.is_finished(), "the link was never down");
    was_down.abort();
    // An even number: the last one is acknowledged.
    (0..=(second + 1) % 2).for_each(|more| bench.append(second + 1 + more));
    drain.cancel();
    running.await.unwrap();
    let all: Vec<u64> = (1..=bench.spool.status().acked).collect();
    assert_eq!(collector.numbers(), all);
    assert_eq!(bench.spool.status().waiting(), 0);
    assert_eq!(bench.metrics.failures.get_or_create(&Stage { stage: Reached::connect }).get(), 0);
}

#[tokio::test]
async fn a_new_connection_that_fails_leaves_the_old_one_in_place() {
    let bench = Bench::new();
    make_pki(&bench.path("other"));
    let collector = Collector::default();
    let (address, tls) = bench.collector(collector.clone()).await;
    let running = tokio::spawn(bench.link(address).run(CancellationToken::new()));
    let mut state = bench.handover.watch();
    state.wait_for(|state| state.connected).await.unwrap();
    tls.replace(&bench.material("other", "collector")).unwrap();
    collector.ask(ToAgent::Reconnect(v1::Reconnect::default()));
    let said = error(&mut state).await;
    assert!(said.contains("not signed by an authority"), "{said}");
    assert!(state.borrow().connected);
    (1..=2).for_each(|second| bench.append(second));
    bench.session.done().await;
    assert_eq!(collector.streams(), 1);

    tls.replace(&bench.material("pki", "collector")).unwrap();
    let handovers = bench.metrics.handovers.clone();
    state.wait_for(|_| handovers.get() == 1).await.unwrap();
    assert!(state.borrow().connected && state.borrow().error.is_none());
    (3..=4).for_each(|second| bench.append(second));
    bench.session.done().await;
    assert_eq!(collector.numbers(), [1, 2, 3, 4]);
    running.abort();
}

#[tokio::test]
async fn a_whole_rotation_of_the_authority_loses_nothing() {
    let bench = Bench::new();
    make_pki(&bench.path("next"));
    let collector = Collector::default();
    *collector.signer.lock().unwrap() = bench.path("next");
    let (address, tls) = bench.collector(collector.clone()).await;
    let drain = CancellationToken::new();
    let running = tokio::spawn(bench.link(address).run(drain.clone()));
    let mut state = bench.handover.watch();
    state.wait_for(|state| state.connected).await.unwrap();
    let (old, new) = (bench.material("pki", "collector"), bench.material("next", "collector"));
    let both = old.bundle().with(new.bundle()).unwrap();
    let mut trust = collector.trust.subscribe();
    let mut trusts = async |bundle: &Bundle| {
        let ca_pem = bundle.pem().into_bytes().into();
        collector.ask(ToAgent::Bundle(v1::Bundle { ca_pem }));
        let digest = bundle.digest();
        trust.wait_for(|trust| trust.bundle_sha256 == digest.as_slice()).await.unwrap();
    };
    let material = |bundle: &Bundle, leaf: &str| {
        let files = bench.files(leaf, "collector");
        let read = |path| std::fs::read(path).unwrap();
        let (cert, key) = (read(&files.cert_file), read(&files.key_file));
        Material::from_parts(&files, &cert, &key, bundle.clone()).unwrap()
    };

    bench.append(1);
    trusts(&both).await;
    tls.replace(&material(&both, "next")).unwrap();
    bench.append(2);
    collector.ask(ToAgent::Renew(v1::Renew { reason: "a new authority".into() }));
    let handovers = bench.metrics.handovers.clone();
    state.wait_for(|_| handovers.get() == 1).await.unwrap();
    bench.append(3);
    trusts(new.bundle()).await;
    tls.replace(&material(new.bundle(), "next")).unwrap();
    bench.append(4);
    collector.ask(ToAgent::Reconnect(v1::Reconnect::default()));
    state.wait_for(|_| handovers.get() == 2).await.unwrap();
    drain.cancel();
    running.await.unwrap();
    assert_eq!(collector.numbers(), [1, 2, 3, 4]);
    let streams = collector.streams.lock().unwrap();
    let authorities: Vec<_> = streams.iter().map(|(peer, _)| peer.authority).collect();
    assert_eq!(authorities, [old.authority(), new.authority(), new.authority()]);
    assert_eq!(bench.material("pki", "eu-1").authority(), new.authority());
    assert_eq!(bench.metrics.failures.get_or_create(&Stage { stage: Reached::connect }).get(), 0);
}

#[tokio::test]
async fn refusals_say_why() {
    let bench = Bench::new();
    bench.append(1);
    let why = Some("the hello names cluster \"us-1\"");
    let refusing = Collector { refuse: why, ..Collector::default() };
    let (address, _) = bench.collector(refusing).await;
    let said = bench.why_not(address.clone()).await;
    assert_eq!(said, "the collector refuses: the hello names cluster \"us-1\"");

    // A certificate of another authority: we notice first, because we check too.
    let said = Bench::new().why_not(address).await;
    assert!(said.contains("127.0.0.1") && said.contains("not signed by an authority"), "{said}");

    // We take its certificate, it does not take ours: it says so after the handshake.
    let bench = Bench::new();
    let (address, tls) = bench.collector(Collector::default()).await;
    let denied = HashSet::from([bench.material("pki", "eu-1").certificate().spki_sha256]);
    tls.replace(&bench.material("pki", "collector").with_denied(Arc::new(denied))).unwrap();
    let said = bench.why_not(address).await;
    assert!(said.contains("our certificate is revoked"), "{said}");

    let said = Bench::new().why_not("127.0.0.1:1".into()).await;
    assert!(said.contains("127.0.0.1:1: Connection refused"), "{said}");
}

#[tokio::test]
async fn a_collector_that_dials_gets_the_same() {
    let bench = Bench::new();
    (1..=3).for_each(|second| bench.append(second));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tls = Arc::new(ServerTls::new(&bench.material("pki", "eu-1")).unwrap());
    let drain = CancellationToken::new();
    let outlet = Outlet::new(listener, tls, bench.session.clone(), bench.handover.clone());
    let running = tokio::spawn(outlet.run(drain.clone()));

    let ours = Arc::new(ClientTls::new(&bench.material("pki", "collector")).unwrap());
    // The second session takes over from the first, which is still there.
    let mut earlier = Vec::new();
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
        earlier.push((answers, messages));
    }
    assert_eq!(bench.metrics.handovers.get(), 1);
    running.await.unwrap();
    assert_eq!(bench.spool.status().waiting(), 0);
}
