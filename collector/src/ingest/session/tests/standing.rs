//! Live streams under terms that change: sent away, asked for what lacks, given certificates.

use std::collections::HashSet;

use tributary_certs::rotate::Desired;
use tributary_certs::trust::Bundle;

use super::*;
use crate::ingest::testing::{authorities, key, terms};
use crate::ingest::trust::{Issuer, Terms};

/// Old and new authority are trusted; the new one is active.
fn both() -> Bundle {
    let [old, new] = authorities();
    old.with(new).unwrap()
}

fn desired() -> Desired {
    Desired {
        bundle: both(),
        authority: key(&authorities()[1]),
        renew_authorities: HashSet::new(),
        renew_keys: HashSet::new(),
        reconnect: false,
        tainted: HashSet::new(),
    }
}

fn rotating(change: impl FnOnce(&mut Desired)) -> Terms {
    let mut desired = desired();
    change(&mut desired);
    Terms { trusted: both(), desired: Some(desired), ..terms() }
}

/// What an agent says of itself that has this bundle and this key.
fn holds(bundle: &Bundle, leaf: u8) -> v1::Trust {
    v1::Trust {
        bundle_sha256: bundle.digest().to_vec().into(),
        leaf_spki_sha256: vec![leaf; 32].into(),
        renewable: true,
        error: String::new(),
    }
}

impl Agent {
    /// Connects and says that it has this bundle and the key of its certificate.
    async fn with_bundle(shared: &Arc<Shared>, bundle: &Bundle) -> Self {
        let mut agent = Self::connect(shared, peer());
        agent.greet(v1::Hello { trust: Some(holds(bundle, 1)), ..hello(7) }).await;
        agent
    }
}

#[tokio::test]
async fn a_revoked_key_is_sent_away_at_once_and_not_let_in_again() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    let mut signed = Agent::connect(
        &shared,
        Peer {
            identity: Identity::agent("td", "eu-1", "b").unwrap(),
            spki_sha256: [2; 32],
            intermediates: vec![[3; 32], peer().spki_sha256],
            ..peer()
        },
    );
    signed.greet(v1::Hello { instance: "b".to_owned(), ..hello(7) }).await;
    let denied = Arc::new(HashSet::from([peer().spki_sha256]));
    shared.trust.publish(Terms { denied, ..terms() });
    let revoked = (Code::PermissionDenied, "the certificate is revoked".to_owned());
    assert_eq!(agent.refused().await, revoked);
    assert_eq!(signed.refused().await, revoked, "the key is that of an intermediate");
    // Over the same connection, say.
    assert_eq!(Agent::connect(&shared, peer()).refused().await, revoked);
    let other = Peer { spki_sha256: [2; 32], ..peer() };
    Agent::connect(&shared, other).open(7).await;
}

#[tokio::test]
async fn a_retired_authority_ends_the_streams_of_its_certificates_and_of_ours() {
    let [_, new] = authorities();
    let cases = [
        (peer(), "its authority, \"CA\", is not trusted any more"),
        (
            Peer { authority: key(new), ..peer() },
            "the authority of our certificate in this connection is not trusted any more",
        ),
    ];
    for (peer, message) in cases {
        let store = testing::Folder::new();
        let shared = shared(store.store(), Policy::default());
        shared.trust.publish(Terms { trusted: both(), ..terms() });
        let mut agent = Agent::connect(&shared, peer);
        agent.open(7).await;
        shared.trust.publish(Terms { trusted: new.clone(), ..terms() });
        assert_eq!(agent.refused().await, (Code::Unauthenticated, message.to_owned()));
    }
}

#[tokio::test]
async fn an_agent_is_asked_for_one_thing_after_another() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::with_bundle(&shared, &authorities()[0]).await;
    let old = key(&authorities()[0]);
    shared.trust.publish(rotating(|desired| {
        desired.renew_authorities = HashSet::from([old]);
        desired.reconnect = true;
    }));
    let ToAgent::Bundle(bundle) = agent.next().await else { panic!("no bundle") };
    let bundle = Bundle::parse(&bundle.ca_pem).unwrap();
    assert_eq!(bundle.digest(), both().digest());

    agent.send(ToCollector::Trust(holds(&bundle, 1))).await;
    assert!(matches!(agent.next().await, ToAgent::Renew(_)));

    // Our own certificate changes, too. An agent that has its new one is asked to come again.
    shared.trust.publish(Terms {
        leaf: [10; 32],
        ..rotating(|desired| {
            desired.renew_authorities = HashSet::from([old]);
            desired.reconnect = true;
        })
    });
    agent.send(ToCollector::Trust(holds(&bundle, 2))).await;
    let ToAgent::Reconnect(reconnect) = agent.next().await else { panic!("no reconnect") };
    assert_eq!(reconnect.within_ms, 1000);
    let seen = &shared.registry.fleet()[0];
    assert_eq!((seen.identity.as_str(), seen.connected, seen.renewable), ("eu-1/a", true, true));
    assert_eq!(seen.bundle, Some(both().digest()));
    assert_eq!((seen.leaf_authority, seen.leaf_spki), (Some(old), Some([1; 32])));
    assert_eq!(seen.collector_authority, Some(old));
    agent.close().await;
    assert!(!shared.registry.fleet()[0].connected);
}

#[tokio::test]
async fn what_an_agent_cannot_do_it_is_not_asked_for() {
    let peer = || Caller { peer: peer(), redial: None };
    let dialled = || Caller { redial: Some(Arc::default()), ..peer() };
    let [old, _] = authorities();
    let trust = |change: fn(&mut v1::Trust)| {
        let mut trust = holds(&both(), 1);
        change(&mut trust);
        Some(Trust::try_from(trust).unwrap())
    };
    let renew = |desired: &mut Desired| desired.renew_keys = HashSet::from([[1; 32]]);
    let table = [
        ("nothing lacks", rotating(|_| ()), peer(), trust(|_| ()), "None"),
        ("no folder", terms(), peer(), trust(|t| t.bundle_sha256 = vec![0; 32].into()), "None"),
        ("too old to say", rotating(renew), peer(), None, "None"),
        ("files are not its own", rotating(renew), peer(), trust(|t| t.renewable = false), "None"),
        ("a named key", rotating(renew), peer(), trust(|_| ()), "Some(Certificate)"),
        (
            "renewed; it dials again by itself",
            rotating(renew),
            peer(),
            trust(|t| t.leaf_spki_sha256 = vec![2; 32].into()),
            "None",
        ),
        (
            "renewed; we dial",
            rotating(renew),
            dialled(),
            trust(|t| t.leaf_spki_sha256 = vec![2; 32].into()),
            "Some(Connection(1s))",
        ),
        (
            "our certificate was renewed",
            Terms { leaf: [10; 32], ..terms() },
            peer(),
            None,
            "Some(Connection(30s))",
        ),
        (
            "another authority's key",
            rotating(|desired| desired.renew_authorities = HashSet::from([[7; 32]])),
            peer(),
            trust(|_| ()),
            "None",
        ),
    ];
    for (name, terms, caller, trust, expected) in table {
        let lack = crate::ingest::session::standing::lack(&terms, &caller, trust.as_ref());
        assert_eq!(format!("{lack:?}"), expected, "{name}");
    }
    assert_ne!(old.digest(), both().digest());
}

/// Signs by writing down what it was given.
struct Scribe;

impl Issuer for Scribe {
    fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<String, String> {
        match csr {
            b"bad" => Err("not a request".to_owned()),
            csr => Ok(format!("{}: {}", peer.identity, String::from_utf8_lossy(csr))),
        }
    }
}

#[tokio::test]
async fn certificates_are_signed_over_the_stream() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let ask = |csr: &'static str| {
        let csr_der = csr.as_bytes().into();
        ToCollector::CertificateRequest(v1::CertificateRequest { csr_der })
    };
    let answer = async |csr| {
        let mut agent = Agent::connect(&shared, peer());
        agent.open(7).await;
        agent.send(ask(csr)).await;
        let ToAgent::Certificate(answer) = agent.next().await else { panic!("no answer") };
        (agent, String::from_utf8(answer.chain_pem.to_vec()).unwrap(), answer.refused)
    };
    let (agent, chain, refused) = answer("csr").await;
    assert_eq!((chain.as_str(), refused.contains("pki.dir")), ("", true), "{refused}");
    agent.close().await;

    shared.trust.issue_by(Arc::new(Scribe));
    let (mut agent, chain, refused) = answer("csr").await;
    assert_eq!(chain, "spiffe://td/cluster/eu-1/agent/a: csr");
    assert_eq!(refused, "");
    // Again at once is too soon.
    agent.send(ask("csr")).await;
    let ToAgent::Certificate(answered) = agent.next().await else { panic!("no answer") };
    assert_eq!(answered.refused, "the last certificate was asked for a moment ago");
    agent.close().await;

    let (agent, _, refused) = answer("bad").await;
    assert_eq!(refused, "not a request");
    let cluster = "eu-1".parse().unwrap();
    assert_eq!(shared.metrics.renewals_refused.get_or_create(&of(&cluster)).get(), 3);
    agent.close().await;
}

#[tokio::test]
async fn a_stream_of_a_tainted_authority_is_counted_once() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    let mut agent = Agent::with_bundle(&shared, &both()).await;
    let old = key(&authorities()[0]);
    for grace in [false, true] {
        shared.trust.publish(rotating(|desired| {
            desired.tainted = HashSet::from([old]);
            desired.reconnect = grace;
        }));
        // Whoever has heard an answer was looked at.
        agent.send(ToCollector::CertificateRequest(v1::CertificateRequest::default())).await;
        assert!(matches!(agent.next().await, ToAgent::Certificate(_)));
    }
    let cluster = "eu-1".parse().unwrap();
    assert_eq!(shared.metrics.tainted_uses.get_or_create(&of(&cluster)).get(), 1);
    agent.close().await;
}

#[tokio::test]
async fn streams_are_counted_by_the_authority_of_their_certificates() {
    let store = testing::Folder::new();
    let shared = shared(store.store(), Policy::default());
    // Counts one more while it looks.
    let up = || {
        let up = shared.metrics.stream(&"eu-1".parse().unwrap(), &peer());
        up.0.each_ref().map(|gauge| gauge.get() - 1)
    };
    let mut agent = Agent::connect(&shared, peer());
    agent.open(7).await;
    agent.frame(&frames(7, 1, 1..=1)[0]).await;
    agent.acknowledged(1).await;
    assert_eq!(up(), [1, 1]);
    agent.close().await;
    assert_eq!(up(), [0, 0]);
}
