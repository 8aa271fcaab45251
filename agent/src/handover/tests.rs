//! Sessions that overlap: nothing lost, nothing twice, and the metrics of the one that serves.

use futures_util::FutureExt as _;
use tributary_proto::convert::{ToAgent, ToCollector};
use tributary_proto::v1;

use super::*;
use crate::session::tests::Collector;
use crate::testing::Bench;

impl Bench {
    fn is_connected(&self) -> (bool, i64) {
        (self.handover.watch().borrow().connected, self.metrics.connected.get())
    }
}

#[tokio::test]
async fn frames_in_flight_are_acknowledged_on_the_old_stream_and_new_ones_go_over_the_new() {
    let bench = Bench::new();
    (1..=3).for_each(|second| bench.append(second));
    let mut old = bench.connect();
    let hello = old.welcome(0, false, 8).await;
    for seq in 1..=3 {
        assert_eq!(old.frame().await.0, seq);
    }
    old.ack(1).await;

    let mut new = bench.connect();
    let again = new.hello().await;
    assert_eq!((again.run, again.epoch), (hello.run, hello.epoch));
    assert_ne!(again.run, 0);
    // What a collector does: lets go of the old stream once its frames are on disk, then welcomes.
    old.say(ToAgent::Drain(v1::Drain { reason: "the same agent has connected again".into() }))
        .await;
    old.is_heard().await;
    bench.append(4);
    assert!(old.is_quiet().await, "a stream that is let go takes no more frames");
    old.ack(3).await;
    let Collector { to_agent, running, .. } = old;
    drop(to_agent);
    assert_eq!(running.await.unwrap().unwrap(), End::PeerDrained);
    assert_eq!(bench.is_connected(), (true, 1), "between two streams the link is not down");
    new.answer(3, true, 8).await;
    assert_eq!(new.frame().await, (4, false));
    assert_eq!(bench.is_connected(), (true, 1));
    assert_eq!((bench.metrics.sessions.get(), bench.metrics.handovers.get()), (2, 1));
    assert_eq!(bench.metrics.in_flight.get(), 1);
    new.ack(4).await;
    new.drain.cancel();
    assert!(matches!(new.hear().await, Some(ToCollector::Drain(_))));
    assert_eq!(new.running.await.unwrap().unwrap(), End::Drained);
    assert_eq!(bench.spool.status().waiting(), 0);
    assert_eq!(bench.is_connected(), (false, 0));
}

#[tokio::test]
async fn a_welcome_on_the_new_stream_ends_the_old_one_however_it_ends() {
    let bench = Bench::new();
    bench.append(1);
    let mut old = bench.connect();
    old.welcome(0, false, 8).await;
    assert_eq!(old.frame().await.0, 1);
    let mut new = bench.connect();
    new.welcome(0, false, 8).await;
    assert_eq!(new.frame().await, (1, true));
    bench.append(2);
    assert_eq!(new.frame().await, (2, false));
    assert!(old.is_quiet().await);
    // The last acknowledgement counts, wherever it comes.
    old.ack(1).await;
    let acked = |seen: &crate::spool::Seen| seen.status.acked == 1;
    bench.spool.watch().wait_for(acked).await.unwrap();
    old.to_agent.send(Err(tonic::Status::unavailable("gone"))).await.unwrap();
    assert_eq!(old.running.await.unwrap().unwrap(), End::Replaced);
    assert_eq!(bench.is_connected(), (true, 1));
    assert_eq!(bench.metrics.in_flight.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_old_stream_that_does_not_end_is_ended() {
    let bench = Bench::new();
    let mut old = bench.connect();
    old.welcome(0, false, 8).await;
    let mut new = bench.connect();
    new.welcome(0, false, 8).await;
    assert_eq!(old.running.await.unwrap().unwrap(), End::Replaced);
    assert!(!new.running.is_finished());
}

#[tokio::test]
async fn a_new_stream_that_fails_leaves_the_old_one_in_place() {
    let bench = Bench::new();
    let mut old = bench.connect();
    old.welcome(0, false, 8).await;
    let mut new = bench.connect();
    new.hello().await;
    new.to_agent.send(Err(tonic::Status::permission_denied("no"))).await.unwrap();
    new.running.await.unwrap().unwrap_err();
    assert_eq!(bench.is_connected(), (true, 1));
    assert_eq!(bench.handover.watch().borrow().error.as_deref(), Some("the collector refuses: no"));
    bench.append(1);
    assert_eq!(old.frame().await.0, 1);
    assert_eq!((bench.metrics.sessions.get(), bench.metrics.handovers.get()), (1, 0));
}

#[tokio::test]
async fn a_wish_is_heard_once_and_only_until_it_is_fulfilled() {
    let bench = Bench::new();
    let mut wishes = Wishes::new(&bench.handover);
    let soon = Duration::from_secs(1);
    let first = bench.handover.begin();
    first.reconnect(Duration::MAX);
    assert_eq!(wishes.next().await, MAX_WITHIN);
    first.reconnect(soon);
    assert_eq!(wishes.next().await, soon, "it has become urgent");
    first.reconnect(Duration::MAX);
    assert!(wishes.next().now_or_never().is_none(), "the same wish twice");
    let second = bench.handover.begin();
    first.reconnect(soon);
    assert!(wishes.next().now_or_never().is_none(), "there is a later session already");
    second.reconnect(soon);
    assert_eq!(wishes.next().await, soon);
    second.reconnect(soon);
    assert!(wishes.next().now_or_never().is_none(), "that one is not begun yet");
    bench.handover.begin();
    bench.handover.renew();
    assert_eq!(wishes.next().await, Duration::ZERO);
}
