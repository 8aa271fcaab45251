//! Which connection has the stream: the same agent moves, of two agents the older is fenced.

use super::*;

#[tokio::test]
async fn the_same_run_moves_its_stream_with_frames_in_flight() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let spool = frames(7, 1, 1..=60);
    let mut old = Agent::connect(&shared, peer());
    old.open(7).await;
    for frame in &spool[..40] {
        old.frame(frame).await;
    }
    // Renewed: another key. What the collector has not read of the old connection is not lost, it comes again.
    let mut new = Agent::connect(&shared, Peer { spki_sha256: [2; 32], ..peer() });
    let (resume_after, _) = new.open(7).await;
    let mut acknowledged = 0;
    let mut drained = false;
    while let Some(message) = old.from.recv().await {
        match message.unwrap().kind.unwrap() {
            ToAgent::Ack(ack) => acknowledged = ack.durable_seq,
            ToAgent::Drain(drain) => drained = drain.reason == "the same agent has connected again",
            other => panic!("{other:?}"),
        }
    }
    assert!(drained);
    assert_eq!(
        acknowledged, resume_after,
        "the old stream's last acknowledgement is the new one's start"
    );
    for frame in &spool[usize::try_from(resume_after).unwrap()..] {
        new.frame(frame).await;
    }
    new.acknowledged(60).await;
    let status = &shared.registry.snapshot(std::time::Instant::now())[0];
    assert_eq!((status.stored, status.rejected.len()), (120, 0), "each once");
    assert_eq!(fenced(&shared), 0);
    new.close().await;
}

#[tokio::test]
async fn two_agents_with_one_certificate_the_older_is_fenced() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut first = Agent::connect(&shared, peer());
    first.open(7).await;
    let mut second = Agent::connect(&shared, peer());
    second.greet(v1::Hello { run: 2, ..hello(8) }).await;
    let ToAgent::Drain(drain) = first.next().await else { panic!("no drain") };
    assert_eq!(
        drain.reason,
        "another agent uses this identity now, from 127.0.0.1:5000: stop one of them, or restart this one"
    );
    assert_eq!(first.refused().await, (Code::Ok, String::new()));
    assert_eq!(fenced(&shared), 1);

    let again = Agent::connect(&shared, peer());
    again.send(ToCollector::Hello(hello(7))).await;
    let (code, message) = again.refused().await;
    assert_eq!(code, Code::AlreadyExists);
    assert!(message.starts_with("another agent uses this identity since 20"), "{message}");
    assert_eq!(fenced(&shared), 2);
    second.frame(&frames(8, 1, 1..=1)[0]).await;
    second.acknowledged(1).await;
    second.close().await;

    let mut restarted = Agent::connect(&shared, peer());
    restarted.greet(v1::Hello { run: 3, ..hello(7) }).await;
    assert_eq!(fenced(&shared), 2, "a restart is nothing to worry about");
    restarted.close().await;
}

fn fenced(shared: &Shared) -> u64 {
    shared.metrics.agents_fenced.get_or_create(&of(&"eu-1".parse().unwrap())).get()
}

#[tokio::test]
async fn of_agents_that_do_not_say_their_run_another_key_waits_outside() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let old = || v1::Hello { run: 0, ..hello(7) };
    let mut first = Agent::connect(&shared, peer());
    first.greet(old()).await;
    let thief = Agent::connect(&shared, Peer { spki_sha256: [2; 32], ..peer() });
    thief.send(ToCollector::Hello(old())).await;
    let (code, message) = thief.refused().await;
    assert_eq!(code, Code::AlreadyExists);
    assert_eq!(
        message,
        "this identity is already connected from 127.0.0.1:5000 with another private key"
    );
    let mut second = Agent::connect(&shared, peer());
    second.greet(old()).await;
    assert!(matches!(first.next().await, ToAgent::Drain(_)));
    second.close().await;
}
