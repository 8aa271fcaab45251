//! A rotation of the certificate authority under load: nothing is lost, nothing comes twice, nobody is turned away.

use tributary_tests::fleet::{Fleet, setting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_is_stored() {
    let agents = setting("STORIES_AGENTS", 20);
    let fleet = Fleet::start(agents).await;
    let load = fleet.load();
    load.goes_on(100).await;
    let sent = load.stop().await;
    eprintln!("{} sent", sent.count());
    sent.is_stored(&fleet.collector).await;
    assert_eq!(fleet.failures().await, 0.0);
}
