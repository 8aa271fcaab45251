//! Who may be a peer: everybody else is refused in its own words.

use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tributary_certs::authority::Issued;
use tributary_certs::certificate::utc;
use tributary_certs::identity::Identity;
use tributary_certs::tls::{ClientTls, Expect, HandshakeError, ServerTls};

use crate::bench::{
    CLOCK, HOUR, Pki, knock, listener, meet, raw_client, raw_client_alpn, without_clock,
};

#[tokio::test]
async fn an_agent_and_its_collector_know_each_other() {
    let pki = Pki::new("tributary.internal");
    let (collector, agent) = (pki.collector(), pki.agent("eu-1"));
    let server = ServerTls::new(&pki.material(&collector)).unwrap();
    let client = ClientTls::new(&pki.material(&agent)).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    let (mut answered, mut dialled) = (answered.unwrap(), dialled.unwrap());

    let found = answered.peer().clone();
    assert_eq!(found.identity, Identity::agent("tributary.internal", "eu-1", "a").unwrap());
    assert_eq!(found.serial, agent.certificate.serial);
    assert_eq!(found.not_after, agent.certificate.not_after);
    assert_eq!(found.spki_sha256, agent.certificate.spki_sha256);
    assert_eq!(found.issuer, "Tributary CA 1");
    assert!(matches!(&dialled.peer().identity, Identity::Collector { name, .. } if name == "c"));

    dialled.write_all(b"ping").await.unwrap();
    dialled.flush().await.unwrap();
    let mut read = [0; 4];
    answered.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"ping");
}

#[tokio::test]
async fn the_collector_may_dial_the_agent_it_wants_and_no_other() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.agent("eu-1"))).unwrap();
    let client = ClientTls::new(&pki.material(&pki.collector())).unwrap();
    let wanted = Expect::Agent { cluster: "eu-1".to_owned() };
    let (answered, dialled) = meet(&server, &client, wanted).await;
    assert!(matches!(answered.unwrap().peer().identity, Identity::Collector { .. }));
    assert!(matches!(dialled.unwrap().peer().identity, Identity::Agent { .. }));

    let other = Expect::Agent { cluster: "us-1".to_owned() };
    let (answered, dialled) = meet(&server, &client, other).await;
    let text = dialled.err().unwrap().to_string();
    assert!(
        text.contains(
            "is that of agent \"a\" of cluster \"eu-1\"; expected an agent of cluster \"us-1\""
        ),
        "{text}"
    );
    assert!(matches!(answered.err().unwrap(), HandshakeError::RefusedByPeer { .. }));
}

#[tokio::test]
async fn an_agent_does_not_take_an_agent_for_the_collector() {
    let pki = Pki::new("tributary.internal");
    // An agent's server accepts collectors only, so the refusal can come from either side.
    let server = ServerTls::new(&pki.material(&pki.agent("eu-1"))).unwrap();
    let client = ClientTls::new(&pki.material(&pki.agent("us-1"))).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    let text = dialled.err().unwrap().to_string();
    assert!(
        text.contains("is that of agent \"a\" of cluster \"eu-1\"; expected a collector"),
        "{text}"
    );
    assert!(answered.is_err());
}

#[tokio::test]
async fn each_wrong_client_is_refused_in_its_own_words() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let both = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let agent = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    let odd = |uris: &[&str], usages: &[ExtendedKeyUsagePurpose]| pki.odd(uris, usages);
    let of = |issued: Issued| (issued.certificate_pem.clone(), issued.key_pem.to_string());

    let other_authority = Pki::new("tributary.internal");
    let long_ago = SystemTime::now() - 2 * HOUR;
    let expired = pki.authority.issue_agent("eu-1", "a", long_ago, HOUR).unwrap();
    let expired_at = utc(expired.certificate.not_after);
    let future = pki.authority.issue_agent("eu-1", "a", SystemTime::now() + HOUR, HOUR).unwrap();
    let future_from = utc(future.certificate.not_before);

    let refused = |why: &str| format!("peer ADDRESS refused: its certificate {why}");
    let cases: Vec<(&str, (String, String), String)> = vec![
        ("good", of(pki.agent("eu-1")), agent.to_owned()),
        (
            "other CA",
            of(other_authority.agent("eu-1")),
            refused("is not signed by an authority in our CA bundle"),
        ),
        ("expired", of(expired), refused(&format!("expired at {expired_at} {CLOCK}"))),
        ("not yet", of(future), refused(&format!("is not valid before {future_from} {CLOCK}"))),
        (
            "collector as client",
            of(pki.collector()),
            refused("is that of collector \"c\"; expected an agent"),
        ),
        (
            "server certificate as client",
            odd(&[agent], &[ExtendedKeyUsagePurpose::ServerAuth]),
            refused(
                "may not be used as a client certificate (extended key usage clientAuth is missing)",
            ),
        ),
        (
            "no usage at all",
            odd(&[agent], &[]),
            refused(
                "may not be used as a client certificate (extended key usage clientAuth is missing)",
            ),
        ),
        (
            "no URI SAN",
            odd(&[], &both),
            refused("carries no SPIFFE identity (subject \"odd\" has no URI SAN)"),
        ),
        (
            "two URI SANs",
            odd(&[agent, "spiffe://tributary.internal/cluster/us-1/agent/a"], &both),
            refused("carries 2 URI SANs where exactly one is wanted"),
        ),
        (
            "other trust domain",
            odd(&["spiffe://evil.example/cluster/eu-1/agent/a"], &both),
            refused("belongs to trust domain \"evil.example\", ours is \"tributary.internal\""),
        ),
        (
            "path traversal",
            odd(&["spiffe://tributary.internal/cluster/../agent/a"], &both),
            refused(
                "carries an identity that is not valid: \"..\" is not a cluster name: use 1 to 63 \
                 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ),
        ),
        (
            "upper case",
            odd(&["spiffe://tributary.internal/cluster/EU-1/agent/a"], &both),
            refused(
                "carries an identity that is not valid: \"EU-1\" is not a cluster name: use 1 to 63 \
                 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ),
        ),
        (
            "NUL",
            odd(&["spiffe://tributary.internal/cluster/eu-1\0.evil/agent/a"], &both),
            refused(
                "carries an identity that is not valid: \"eu-1\\0.evil\" is not a cluster name: use \
                 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ),
        ),
        (
            "control characters",
            odd(&["spiffe://tributary.internal/cluster/a\nlevel=info/agent/a"], &both),
            refused(
                "carries an identity that is not valid: \"a\\nlevel=info\" is not a cluster name: \
                 use 1 to 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
            ),
        ),
        (
            "authority as client",
            (pki.authority.pem().to_owned(), pki.authority.key_pem().to_owned()),
            refused("cannot be used: CaUsedAsEndEntity"),
        ),
    ];
    for (what, (cert, key), expected) in cases {
        let said = without_clock(&knock(&server, raw_client(&cert, &key)).await);
        assert_eq!(said, expected, "{what}");
        assert!(!said.contains('\n'), "{what}: one line");
    }
}

#[tokio::test]
async fn no_certificate_and_no_http2_are_refused() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let agent = pki.agent("eu-1");
    let own = Some((agent.certificate_pem.as_str(), agent.key_pem.as_str()));
    assert_eq!(
        knock(&server, raw_client_alpn(None, &[b"h2"])).await,
        "peer ADDRESS refused: its certificate is missing: the peer presented none"
    );
    for alpn in [&[][..], &[b"http/1.1".as_slice()][..]] {
        assert_eq!(
            knock(&server, raw_client_alpn(own, alpn)).await,
            "peer ADDRESS refused: it does not offer HTTP/2 (ALPN \"h2\")"
        );
    }
}

#[tokio::test]
async fn a_silent_peer_has_only_so_long() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector()))
        .unwrap()
        .with_handshake_timeout(Duration::from_millis(50));
    let (listener, address) = listener().await;
    let _silent = TcpStream::connect(address).await.unwrap();
    let error = server.accept(listener.accept().await.unwrap().0).await.err().unwrap();
    assert!(matches!(error, HandshakeError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn something_that_is_not_tls_is_one_clear_sentence() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let (listener, address) = listener().await;
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let error = server.accept(listener.accept().await.unwrap().0).await.err().unwrap();
    assert!(matches!(error, HandshakeError::Tls { .. }), "{error}");
}

/// The common name is for people: no name in it makes a peer of anybody.
#[tokio::test]
async fn no_common_name_stands_in_for_an_identity() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let both = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    for (name, shown) in [
        ("eu-1", "eu-1"),
        (
            "spiffe://tributary.internal/cluster/eu-1/agent/a",
            "spiffe://tributary.internal/cluster/eu-1/agent/a",
        ),
        ("../eu-1", "../eu-1"),
        ("EU-1", "EU-1"),
        ("eu-1\0", "eu-1\\0"),
        ("eu-1\nlevel=info", "eu-1\\nlevel=info"),
    ] {
        let (cert, key) = pki.odd_named(name, &[], &both);
        assert_eq!(
            knock(&server, raw_client(&cert, &key)).await,
            format!(
                "peer ADDRESS refused: its certificate carries no SPIFFE identity (subject \"{shown}\" has no URI SAN)"
            )
        );
        // Nor does it get in the way of one.
        let uri = "spiffe://tributary.internal/cluster/eu-1/agent/a";
        let (cert, key) = pki.odd_named(name, &[uri], &both);
        assert_eq!(knock(&server, raw_client(&cert, &key)).await, uri);
    }
}
