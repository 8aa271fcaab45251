//! Sessions against a scripted collector.

mod care;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tributary_proto::frame;

use super::*;
use crate::testing::{Bench, Nothing};

impl Bench {
    /// The collector's certificate in short.
    fn peer(&self) -> Peer {
        let material = self.material("pki", "collector");
        let certificate = material.certificate().clone();
        Peer {
            identity: certificate.uris[0].parse().unwrap(),
            serial: certificate.serial,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            spki_sha256: certificate.spki_sha256,
            authority: material.authority(),
            authority_name: certificate.issuer.clone(),
            issuer: certificate.issuer,
            generation: 1,
            local_authority: material.authority(),
            intermediates: Vec::new(),
            local_sha256: [9; 32],
            address: "127.0.0.1:9391".parse().unwrap(),
        }
    }

    pub(crate) fn connect(&self) -> Collector {
        self.connect_as(self.peer())
    }

    fn connect_as(&self, peer: Peer) -> Collector {
        let (to_agent, incoming) = mpsc::channel(16);
        let (outgoing, from_agent) = mpsc::channel(4);
        let (session, drain) = (self.session.clone(), CancellationToken::new());
        let stop = drain.clone();
        let mut turn = self.handover.begin();
        let running = tokio::spawn(async move {
            let line = Line { peer, incoming: ReceiverStream::new(incoming), outgoing };
            let end = session.run(line, &mut turn, stop).await;
            turn.end(&end);
            end
        });
        Collector { to_agent, from_agent, drain, running }
    }
}

/// The collector's side.
pub(crate) struct Collector {
    pub(crate) to_agent: mpsc::Sender<Result<v1::ToAgent, tonic::Status>>,
    pub(crate) from_agent: mpsc::Receiver<v1::ToCollector>,
    pub(crate) drain: CancellationToken,
    pub(crate) running: JoinHandle<Result<End, SessionError>>,
}

impl Collector {
    pub(crate) async fn say(&self, message: ToAgent) {
        self.to_agent.send(Ok(message.into())).await.unwrap();
    }

    pub(crate) async fn welcome(
        &mut self,
        resume_after: u64,
        has_state: bool,
        window: u32,
    ) -> v1::Hello {
        let hello = self.hello().await;
        self.answer(resume_after, has_state, window).await;
        hello
    }

    pub(crate) async fn hello(&mut self) -> v1::Hello {
        let Some(ToCollector::Hello(hello)) = self.from_agent.recv().await.unwrap().kind else {
            panic!("the first message is a hello")
        };
        hello
    }

    pub(crate) async fn answer(&self, resume_after_seq: u64, has_state: bool, window: u32) {
        let limits = v1::Limits { max_frame_bytes: 1 << 20, max_frames_in_flight: window };
        let protocol = limits::PROTOCOL;
        let welcome =
            v1::Welcome { protocol, resume_after_seq, has_state, limits: Some(limits), now_ms: 0 };
        self.say(ToAgent::Welcome(welcome)).await;
    }

    pub(crate) async fn ack(&self, durable_seq: u64) {
        self.say(ToAgent::Ack(v1::Ack { durable_seq })).await;
    }

    /// The next message that is not a heartbeat.
    pub(crate) async fn hear(&mut self) -> Option<ToCollector> {
        loop {
            match self.from_agent.recv().await?.kind? {
                ToCollector::Heartbeat(_) => {}
                other => return Some(other),
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> (u64, bool) {
        let Some(ToCollector::Frame(frame)) = self.hear().await else { panic!("not a frame") };
        let header = frame::header(&frame.data).unwrap();
        (header.seq, header.starts_segment)
    }

    /// Waits until the agent has taken everything that was said to it.
    pub(crate) async fn is_heard(&self) {
        while self.to_agent.capacity() < self.to_agent.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    /// Whether there is nothing to hear although everything had its turn.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        // Heartbeats are not counted: the first one comes at once.
        self.hear().now_or_never().is_none()
    }
}

#[tokio::test]
async fn frames_flow_and_acknowledgements_empty_the_spool() {
    let bench = Bench::new();
    bench.append(1);
    bench.append(2);
    let mut peer = bench.connect();
    let hello = peer.welcome(0, false, 8).await;
    assert_eq!((hello.cluster.as_str(), hello.instance.as_str()), ("eu-1", "agent"));
    assert_eq!((hello.first_seq, hello.next_seq), (1, 3));
    assert_eq!(peer.frame().await, (1, true));
    assert_eq!(peer.frame().await, (2, false));
    bench.append(3);
    assert_eq!(peer.frame().await, (3, false));
    peer.drain.cancel();
    assert!(peer.is_quiet().await, "not before the last acknowledgement");
    peer.ack(3).await;
    assert!(matches!(peer.hear().await, Some(ToCollector::Drain(_))));
    assert_eq!(peer.running.await.unwrap().unwrap(), End::Drained);
    assert_eq!(bench.spool.status().waiting(), 0);
}

#[tokio::test]
async fn a_collector_with_state_gets_only_what_is_new() {
    let bench = Bench::new();
    (1..=4).for_each(|second| bench.append(second));
    let mut peer = bench.connect();
    peer.welcome(2, true, 8).await;
    assert_eq!(peer.frame().await, (3, false));
    assert_eq!(peer.frame().await, (4, false));
    assert_eq!(bench.spool.status().acked, 2, "what the collector has is acknowledged");
}

#[tokio::test]
async fn a_collector_without_state_gets_the_segment_from_its_start() {
    let bench = Bench::new();
    (1..=3).for_each(|second| bench.append(second));
    bench.append(5000);
    bench.append(5001);
    let mut peer = bench.connect();
    peer.welcome(2, false, 8).await;
    let mut frames = Vec::new();
    for _ in 0..5 {
        frames.push(peer.frame().await);
    }
    assert_eq!(frames, [(1, true), (2, false), (3, false), (4, true), (5, false)]);
    let mut peer = bench.connect();
    peer.welcome(4, false, 8).await;
    assert_eq!(peer.frame().await, (4, true));
    assert_eq!(peer.frame().await, (5, false));
}

#[tokio::test]
async fn nothing_waits_but_the_state_is_gone() {
    let bench = Bench::new();
    (1..=2).for_each(|second| bench.append(second));
    let mut peer = bench.connect();
    peer.welcome(2, false, 8).await;
    // The decoder needs the segment's start before frame 3 can come.
    assert_eq!(peer.frame().await, (1, true));
    assert_eq!(peer.frame().await, (2, false));
    bench.append(3);
    assert_eq!(peer.frame().await, (3, false));
}

#[tokio::test]
async fn dropped_data_is_jumped_over_at_a_segment_start() {
    let bench = Bench::new();
    bench.append(1);
    bench.append(5000);
    bench.append(10_000);
    // As if an over-full spool had dropped the first two segments.
    bench.spool.with(|spool| spool.ack(2)).unwrap();
    let mut peer = bench.connect();
    let hello = peer.welcome(0, true, 8).await;
    assert_eq!(hello.first_seq, 3);
    assert_eq!(peer.frame().await, (3, true));
    peer.ack(3).await;
    bench.append(10_001);
    assert_eq!(peer.frame().await, (4, false));
}

#[tokio::test]
async fn the_window_bounds_what_is_in_flight() {
    let bench = Bench::new();
    (1..=5).for_each(|second| bench.append(second));
    let mut peer = bench.connect();
    peer.welcome(0, false, 2).await;
    assert_eq!(peer.frame().await, (1, true));
    assert_eq!(peer.frame().await, (2, false));
    assert!(peer.is_quiet().await);
    peer.ack(1).await;
    assert_eq!(peer.frame().await, (3, false));
    assert!(peer.is_quiet().await);
}

#[tokio::test]
async fn a_collector_ahead_of_the_spool_renumbers_it() {
    let bench = Bench::new();
    bench.append(1);
    let mut peer = bench.connect();
    peer.welcome(100, true, 8).await;
    let renumbered = |seen: &Seen| seen.status.next_seq == 101;
    bench.spool.watch().wait_for(renumbered).await.unwrap();
    bench.append(2);
    assert_eq!(peer.frame().await, (101, true));
}

#[tokio::test]
async fn what_a_collector_may_not_do_ends_the_session() {
    let bench = Bench::new();
    bench.append(1);
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    peer.ack(7).await;
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Ack { acked: 7, .. })));

    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    peer.say(ToAgent::Welcome(v1::Welcome::default())).await;
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Message(_))));

    let peer = bench.connect();
    peer.ack(1).await;
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Message(_))));

    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    let status = tonic::Status::permission_denied("not you");
    peer.to_agent.send(Err(status)).await.unwrap();
    let error = peer.running.await.unwrap().unwrap_err();
    assert!(matches!(&error, SessionError::Stream(status) if status.message() == "not you"));
}

#[tokio::test]
async fn a_collector_that_drains_gets_no_more_frames() {
    let bench = Bench::new();
    bench.append(1);
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    assert_eq!(peer.frame().await, (1, true));
    peer.say(ToAgent::Drain(v1::Drain { reason: "update".into() })).await;
    peer.is_heard().await;
    bench.append(2);
    assert!(peer.is_quiet().await);
    peer.ack(1).await;
    let Collector { to_agent, running, .. } = peer;
    drop(to_agent);
    assert_eq!(running.await.unwrap().unwrap(), End::PeerDrained);
    assert_eq!(bench.spool.status().acked, 1);
}

#[tokio::test]
async fn a_collector_that_listens_no_more_is_heard_to_its_end() {
    let bench = Bench::new();
    bench.append(1);
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    assert_eq!(peer.frame().await, (1, true));
    let Collector { to_agent, from_agent, running, .. } = peer;
    drop(from_agent);
    // The agent finds out when it has something to say; the last acknowledgement is on its way then.
    bench.append(2);
    for message in [ToAgent::Ack(v1::Ack { durable_seq: 1 }), ToAgent::Drain(v1::Drain::default())]
    {
        to_agent.send(Ok(message.into())).await.unwrap();
    }
    drop(to_agent);
    assert_eq!(running.await.unwrap().unwrap(), End::PeerDrained);
    assert_eq!(bench.spool.status().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_silent_collector_is_given_up() {
    let bench = Bench::new();
    let silent = bench.connect();
    assert!(matches!(silent.running.await.unwrap(), Err(SessionError::NoWelcome)));
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    let Collector { to_agent, mut from_agent, running, .. } = peer;
    let heartbeats = tokio::spawn(async move {
        let mut count = 0;
        while from_agent.recv().await.is_some() {
            count += 1;
        }
        count
    });
    assert!(matches!(running.await.unwrap(), Err(SessionError::Silent)));
    drop(to_agent);
    assert!(heartbeats.await.unwrap() >= 3);
}

#[tokio::test]
async fn a_spool_that_was_opened_again_needs_another_session() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    assert!(peer.is_quiet().await);
    let spool = bench.spool.clone();
    tokio::task::spawn_blocking(move || spool.reopen(&mut Nothing)).await.unwrap().unwrap();
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Reopened)));
}
