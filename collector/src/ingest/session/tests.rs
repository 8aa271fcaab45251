//! A scripted agent against the collector's half of a session.

use std::collections::HashMap;

use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tributary_certs::identity::Identity;
use tributary_model::label::Labels;
use tributary_model::sample::Sample;
use tributary_proto::frame::{Content, Encoder};
use tributary_store::Store;

use super::*;
use crate::ingest::metrics::IngestMetrics;
use crate::ingest::policy::{Policies, Policy};
use crate::ingest::testing::peer;
use crate::ingest::{Config, testing};

mod handover;
mod standing;

fn shared(store: &Store, policy: Policy) -> Arc<Shared> {
    let policies = Policies::new([("*".to_owned(), policy)]);
    let config = Config::new("cluster".to_owned(), policies);
    let (trust, metrics) = (testing::trust(), IngestMetrics::default());
    Arc::new(Shared::new(config, store.clone(), trust, metrics, HashMap::new()))
}

/// The agent's end of a session, and the frames it makes.
struct Agent {
    to: mpsc::Sender<Result<v1::ToCollector, Status>>,
    from: mpsc::Receiver<Result<v1::ToAgent, Status>>,
    stop: CancellationToken,
    session: JoinHandle<()>,
}

impl Agent {
    fn connect(shared: &Arc<Shared>, peer: Peer) -> Self {
        Self::connect_as(shared, Caller { peer, redial: None })
    }

    fn connect_as(shared: &Arc<Shared>, caller: Caller) -> Self {
        let (to, inbound) = mpsc::channel(100);
        let (outbound, from) = mpsc::channel(4);
        let stop = CancellationToken::new();
        let session =
            run(shared.clone(), caller, ReceiverStream::new(inbound), outbound, stop.clone());
        Self { to, from, stop, session: tokio::spawn(session) }
    }

    async fn send(&self, kind: ToCollector) {
        self.to.send(Ok(kind.into())).await.unwrap();
    }

    async fn frame(&self, data: &[u8]) {
        self.send(ToCollector::Frame(v1::Frame { data: data.to_vec().into() })).await;
    }

    /// Says hello and returns what the collector has.
    async fn open(&mut self, epoch: u64) -> (u64, bool) {
        self.greet(hello(epoch)).await
    }

    async fn greet(&mut self, hello: v1::Hello) -> (u64, bool) {
        self.send(ToCollector::Hello(hello)).await;
        match self.next().await {
            ToAgent::Welcome(welcome) => (welcome.resume_after_seq, welcome.has_state),
            other => panic!("{other:?}"),
        }
    }

    async fn next(&mut self) -> ToAgent {
        self.from.recv().await.unwrap().unwrap().kind.unwrap()
    }

    async fn acknowledged(&mut self, seq: u64) {
        loop {
            match self.next().await {
                ToAgent::Ack(ack) if ack.durable_seq == seq => return,
                ToAgent::Ack(ack) => assert!(ack.durable_seq < seq),
                ToAgent::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The collector's last word.
    async fn refused(mut self) -> (Code, String) {
        loop {
            match self.from.recv().await {
                Some(Err(status)) => return (status.code(), status.message().to_owned()),
                Some(Ok(_)) => {}
                None => return (Code::Ok, String::new()),
            }
        }
    }

    async fn close(self) {
        drop((self.to, self.from));
        self.session.await.unwrap();
    }
}

fn hello(epoch: u64) -> v1::Hello {
    v1::Hello {
        protocol: 1,
        agent_version: "test".to_owned(),
        cluster: "eu-1".to_owned(),
        instance: "a".to_owned(),
        epoch,
        first_seq: 1,
        next_seq: 1000,
        now_ms: now(),
        run: 1,
        trust: None,
    }
}

fn now() -> i64 {
    Timestamp::from(SystemTime::now()).as_millis()
}

/// A spool of frames: each has one sample of `up` and one of a series of its own.
fn frames(epoch: u64, segment: u64, seqs: std::ops::RangeInclusive<u64>) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(epoch, segment);
    let at = |seq: u64| now() - 60_000 + i64::try_from(seq).unwrap() * 1000;
    seqs.map(|seq| {
        let own = format!("own_{seq}");
        let samples = [
            (labels(&[("__name__", "up"), ("cluster", "forged")]), Sample::new(at(seq), 1.0)),
            (labels(&[("__name__", own.as_str())]), Sample::new(at(seq), 2.0)),
        ];
        let content = Content { samples: &samples, ..Content::default() };
        encoder.encode(seq, Timestamp::from_millis(at(seq)), &content).unwrap()
    })
    .collect()
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    Labels::from_pairs(pairs.iter().copied()).unwrap()
}

#[tokio::test]
async fn frames_are_stored_under_the_certificates_cluster_and_acknowledged() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, peer());
    assert_eq!(agent.open(7).await, (0, false));
    for frame in frames(7, 1, 1..=3) {
        agent.frame(&frame).await;
    }
    agent.acknowledged(3).await;
    assert_eq!(
        store.series(),
        [
            r#"own_1{cluster="eu-1"}"#,
            r#"own_2{cluster="eu-1"}"#,
            r#"own_3{cluster="eu-1"}"#,
            r#"up{cluster="eu-1", exported_cluster="forged"}"#,
        ]
    );
    let status = &shared.registry.snapshot(std::time::Instant::now())[0];
    assert_eq!((status.stored, status.durable_seq), (6, 3));
    assert!(status.connection.is_some());
    agent.close().await;
    assert!(shared.registry.snapshot(std::time::Instant::now())[0].connection.is_none());
}

#[tokio::test]
async fn a_connection_resumes_where_the_last_one_ended() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let spool = frames(7, 1, 1..=4);
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    agent.frame(&spool[0]).await;
    agent.frame(&spool[1]).await;
    agent.acknowledged(2).await;
    agent.close().await;

    let mut agent = Agent::connect(&shared, peer());
    assert_eq!(agent.open(7).await, (2, true));
    agent.frame(&spool[2]).await;
    agent.acknowledged(3).await;
    agent.close().await;

    // Another spool folder has nothing here.
    let mut agent = Agent::connect(&shared, peer());
    assert_eq!(agent.open(8).await, (0, false));
    agent.close().await;
}

#[tokio::test]
async fn without_the_decoders_state_the_segment_is_sent_again_and_stored_once() {
    let store = testing::Folder::new();
    let spool = frames(7, 1, 1..=4);
    let before = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&before, peer());
    agent.open(7).await;
    for frame in &spool[..2] {
        agent.frame(frame).await;
    }
    agent.acknowledged(2).await;
    agent.close().await;

    // The same store, without readers.
    let after = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&after, peer());
    assert_eq!(agent.open(7).await, (2, false));
    for frame in &spool {
        agent.frame(frame).await;
    }
    agent.acknowledged(4).await;
    assert_eq!(after.registry.snapshot(std::time::Instant::now())[0].stored, 4);
    assert_eq!(
        after.metrics.frames_for_state.get_or_create(&of(&"eu-1".parse().unwrap())).get(),
        2
    );
    agent.close().await;
}

#[tokio::test]
async fn a_restart_reads_the_decoders_state_from_the_journal() {
    let store = testing::Folder::new();
    let spool = frames(7, 1, 1..=4);
    let before = shared(store.store(), Policy { max_series: 3, ..Policy::default() });
    let mut agent = Agent::connect(&before, peer());
    agent.open(7).await;
    for frame in &spool[..3] {
        agent.frame(frame).await;
    }
    agent.acknowledged(3).await;
    agent.close().await;
    drop(before);

    let (store, readers) = store.reopen();
    let config = Config::new("cluster".to_owned(), Policies::default());
    let (trust, metrics) = (testing::trust(), IngestMetrics::default());
    let after = Arc::new(Shared::new(config, store.store().clone(), trust, metrics, readers));
    let mut agent = Agent::connect(&after, peer());
    assert_eq!(agent.open(7).await, (3, true));
    agent.frame(&spool[3]).await;
    agent.acknowledged(4).await;
    agent.close().await;
    assert_eq!(
        store.series(),
        [
            r#"own_1{cluster="eu-1"}"#,
            r#"own_2{cluster="eu-1"}"#,
            r#"own_4{cluster="eu-1"}"#,
            r#"up{cluster="eu-1", exported_cluster="forged"}"#,
        ],
        "own_3 was over the limit of that time"
    );
}

#[tokio::test]
async fn a_new_segment_may_jump_ahead_and_nothing_else_may() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    agent.frame(&frames(7, 1, 1..=1)[0]).await;
    agent.frame(&frames(7, 2, 5..=5)[0]).await;
    agent.acknowledged(5).await;
    let jump = frames(7, 2, 5..=7);
    agent.frame(&jump[2]).await;
    let (code, message) = agent.refused().await;
    assert_eq!(code, Code::FailedPrecondition);
    assert_eq!(message, "frame 7 came after frame 5");
}

#[tokio::test]
async fn each_breach_of_the_protocol_has_its_own_words() {
    type Script = Vec<ToCollector>;
    let frame = |data: Vec<u8>| ToCollector::Frame(v1::Frame { data: data.into() });
    let hello_with = |change: fn(&mut v1::Hello)| {
        let mut hello = hello(7);
        change(&mut hello);
        ToCollector::Hello(hello)
    };
    let good = || ToCollector::Hello(hello(7));
    let spool = frames(7, 1, 1..=2);
    let mut damaged = spool[0].clone();
    *damaged.last_mut().unwrap() ^= 1;
    let cases: Vec<(Script, Code, &str)> = vec![
        (vec![frame(spool[0].clone())], Code::InvalidArgument, "expected Hello, received Frame"),
        (
            vec![hello_with(|h| h.cluster = "us-1".to_owned())],
            Code::PermissionDenied,
            "the agent says it is \"a\" of cluster \"us-1\", its certificate says \"a\" of cluster \"eu-1\": \
             correct `cluster` and `instance` in agent.yml, or use the right certificate",
        ),
        (
            vec![hello_with(|h| h.instance = "b".to_owned())],
            Code::PermissionDenied,
            "the agent says it is \"b\" of cluster \"eu-1\", its certificate says \"a\" of cluster \"eu-1\": \
             correct `cluster` and `instance` in agent.yml, or use the right certificate",
        ),
        (
            vec![hello_with(|h| h.protocol = 0)],
            Code::InvalidArgument,
            "the peer speaks session protocol 0, this version speaks 1",
        ),
        (
            vec![good(), good()],
            Code::InvalidArgument,
            "expected anything but another Hello, received Hello",
        ),
        (
            vec![good(), frame(spool[1].clone())],
            Code::FailedPrecondition,
            "frame 2 does not start a segment, as the first frame must",
        ),
        (
            vec![good(), frame(spool[0].clone()), frame(spool[0].clone())],
            Code::FailedPrecondition,
            "frame 1 came after frame 1",
        ),
        (
            vec![good(), frame(frames(8, 1, 1..=1).remove(0))],
            Code::FailedPrecondition,
            "frame 1 is of another spool than the hello",
        ),
        (
            vec![good(), frame(damaged)],
            Code::InvalidArgument,
            "the frame's checksum does not match its content",
        ),
    ];
    for (script, code, message) in cases {
        let store = testing::Folder::new();
        let shared = shared(store.store(), Policy::default());
        let agent = Agent::connect(&shared, peer());
        for kind in script {
            agent.send(kind).await;
        }
        assert_eq!(agent.refused().await, (code, message.to_owned()));
        let counted: u64 = ["identity", "message", "frame", "sequence"]
            .into_iter()
            .map(|reason| because(&"eu-1".parse().unwrap(), reason))
            .map(|label| shared.metrics.violations.get_or_create(&label).get())
            .sum();
        assert_eq!(counted, 1, "{message}");
    }
}

#[tokio::test]
async fn an_old_copy_of_a_spool_hears_how_far_the_stream_is() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    for frame in frames(7, 1, 1..=3) {
        agent.frame(&frame).await;
    }
    agent.acknowledged(3).await;
    agent.close().await;
    let mut agent = Agent::connect(&shared, peer());
    agent.send(ToCollector::Hello(v1::Hello { next_seq: 3, ..hello(7) })).await;
    let ToAgent::Welcome(welcome) = agent.next().await else { panic!("no welcome") };
    assert_eq!(welcome.resume_after_seq, 3);
    // It goes on behind that, in a segment of its own.
    agent.frame(&frames(7, 2, 4..=4)[0]).await;
    agent.acknowledged(4).await;
    agent.close().await;
}

#[tokio::test]
async fn a_stop_says_so_and_acknowledges_what_it_has() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    agent.frame(&frames(7, 1, 1..=1)[0]).await;
    agent.acknowledged(1).await;
    agent.stop.cancel();
    let ToAgent::Drain(drain) = agent.next().await else { panic!("no drain") };
    assert_eq!(drain.reason, "the collector is stopping");
    assert_eq!(agent.refused().await, (Code::Ok, String::new()));
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, Peer { not_after: SystemTime::now(), ..peer() });
    agent.open(7).await;
    assert_eq!(
        agent.refused().await,
        (Code::Unauthenticated, "the certificate has expired".to_owned())
    );
}

#[tokio::test]
async fn a_collectors_certificate_has_no_stream() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let identity = Identity::collector("td", "c").unwrap();
    let agent = Agent::connect(&shared, Peer { identity, ..peer() });
    let (code, _) = agent.refused().await;
    assert_eq!(code, Code::PermissionDenied);
}

#[tokio::test]
async fn over_the_series_limit_only_new_series_are_refused() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy { max_series: 2, ..Policy::default() });
    let spool = frames(7, 1, 1..=3);
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    for frame in &spool {
        agent.frame(frame).await;
    }
    agent.acknowledged(3).await;
    assert_eq!(
        store.series(),
        [r#"own_1{cluster="eu-1"}"#, r#"up{cluster="eu-1", exported_cluster="forged"}"#]
    );
    let status = &shared.registry.snapshot(std::time::Instant::now())[0];
    assert_eq!(status.stored, 4, "two samples of new series were dropped");
    assert_eq!(status.rejected["max_series"], 2);
    // A new segment names all series again: known ones are taken still.
    agent.frame(&frames(7, 2, 4..=4)[0]).await;
    agent.acknowledged(4).await;
    assert_eq!(shared.registry.snapshot(std::time::Instant::now())[0].stored, 5);
    agent.close().await;
}

#[tokio::test]
async fn a_cluster_over_its_rate_is_read_more_slowly_and_loses_nothing() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy { max_samples_per_second: 20, ..Policy::default() });
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    // Ten seconds of the rate are free: 200 samples; then 4 more take 0.2 s.
    for frame in frames(7, 1, 1..=102) {
        agent.frame(&frame).await;
    }
    agent.acknowledged(102).await;
    let status = &shared.registry.snapshot(std::time::Instant::now())[0];
    assert_eq!(status.stored, 204);
    let cluster = "eu-1".parse().unwrap();
    assert!(shared.metrics.throttled_seconds.get_or_create(&of(&cluster)).get() > 0.05);
    agent.close().await;
}
