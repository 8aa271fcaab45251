//! Enrolment: an agent without a certificate finds the collector whose authority it was told, and nobody else.

use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tributary_certs::enrol::{self, pin_text};
use tributary_certs::identity::Identity;
use tributary_certs::tls::{
    Accepted, ClientTls, EnrolStream, Expect, HandshakeError, Refusal, ServerTls,
};

use crate::bench::{Pki, knock, listener, odd_leaf, raw_client, raw_client_alpn, raw_server};

type Ends<T> = (Result<T, HandshakeError>, Result<EnrolStream, HandshakeError>);

fn pin(pki: &Pki) -> [u8; 32] {
    pki.authority.certificate().spki_sha256
}

fn collector_of(pki: &Pki) -> ServerTls {
    ServerTls::new(&pki.material(&pki.collector())).unwrap().with_enrolment(true)
}

/// The agent dials: what the collector and what the agent end with.
async fn dial(server: &ServerTls, pins: &[[u8; 32]]) -> Ends<Accepted> {
    let (listener, address) = listener().await;
    let answer = async { server.accept(listener.accept().await.unwrap().0).await };
    let dial = async { enrol::dial(TcpStream::connect(address).await.unwrap(), pins).await };
    tokio::join!(answer, dial)
}

/// The agent is dialled: what the collector and what the agent end with.
async fn wait(client: &ClientTls, pins: &[[u8; 32]]) -> Ends<EnrolStream> {
    let (listener, address) = listener().await;
    let answer = async { enrol::wait(listener.accept().await.unwrap().0, pins).await };
    let dial = async { client.enrol(TcpStream::connect(address).await.unwrap()).await };
    let (answered, dialled) = tokio::join!(answer, dial);
    (dialled, answered)
}

/// What `wait` says to this client.
async fn knock_at_the_waiting(client: TlsConnector, pins: &[[u8; 32]]) -> String {
    let (listener, address) = listener().await;
    let answer = async {
        let (tcp, from) = listener.accept().await.unwrap();
        match enrol::wait(tcp, pins).await {
            Ok(stream) => stream.collector().unwrap().identity.to_string(),
            Err(error) => error.to_string().replace(&from.to_string(), "ADDRESS"),
        }
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        if let Ok(mut stream) =
            client.connect(ServerName::IpAddress(address.ip().into()), tcp).await
        {
            let _ = stream.read_u8().await;
        }
    };
    tokio::join!(answer, dial).0
}

/// What the agent says of a server that is not ours.
async fn dial_a_stranger(chain: &str, key: &str, pins: &[[u8; 32]]) -> String {
    let (listener, address) = listener().await;
    let server = TlsAcceptor::from(std::sync::Arc::new(raw_server(chain, key, enrol::ALPN)));
    let answer = async { server.accept(listener.accept().await.unwrap().0).await.map(drop) };
    let dial = async { enrol::dial(TcpStream::connect(address).await.unwrap(), pins).await };
    let error = tokio::join!(answer, dial).1.err().unwrap();
    error.to_string().replace(&address.to_string(), "ADDRESS")
}

async fn talk(from: &mut EnrolStream, to: &mut EnrolStream) {
    from.write_all(b"token").await.unwrap();
    from.flush().await.unwrap();
    let mut read = [0; 5];
    to.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"token");
}

fn both_refused(ends: Ends<Accepted>) -> (HandshakeError, HandshakeError) {
    (ends.0.err().unwrap(), ends.1.err().unwrap())
}

#[tokio::test]
async fn an_agent_dials_the_collector_of_its_pin() {
    let (pki, other) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    // During a rotation it is given two.
    let (accepted, dialled) = dial(&collector_of(&pki), &[pin(&other), pin(&pki)]).await;
    let Accepted::Enrol(mut accepted) = accepted.unwrap() else { panic!("a peer") };
    let mut dialled = dialled.unwrap();
    let collector = dialled.collector().unwrap();
    assert_eq!(collector.identity, Identity::collector("tributary.internal", "c").unwrap());
    assert_eq!(collector.authority, pin(&pki));
    assert!(accepted.collector().is_none());
    assert_eq!(accepted.address().ip(), dialled.address().ip());
    talk(&mut dialled, &mut accepted).await;
    talk(&mut accepted, &mut dialled).await;
}

#[tokio::test]
async fn enrolment_that_is_off_is_said_to_both() {
    let pki = Pki::new("tributary.internal");
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let (refused, told) = both_refused(dial(&server, &[pin(&pki)]).await);
    assert!(matches!(refused, HandshakeError::EnrolmentOff { .. }), "{refused}");
    assert!(matches!(told, HandshakeError::NoEnrolment { .. }), "{told}");

    // The same when the collector dials a port where nobody waits to be enrolled.
    let (listener, address) = listener().await;
    let agent = ServerTls::new(&pki.material(&pki.agent("eu-1"))).unwrap();
    let client = ClientTls::new(&pki.material(&pki.collector())).unwrap();
    let answer = async { agent.accept(listener.accept().await.unwrap().0).await };
    let dial = async { client.enrol(TcpStream::connect(address).await.unwrap()).await };
    let (refused, told) = tokio::join!(answer, dial);
    assert!(matches!(refused.err().unwrap(), HandshakeError::EnrolmentOff { .. }));
    assert!(matches!(told.err().unwrap(), HandshakeError::NoEnrolment { .. }));
}

#[tokio::test]
async fn enrolment_opens_no_other_door() {
    let pki = Pki::new("tributary.internal");
    let server = collector_of(&pki);
    let agent = pki.agent("eu-1");
    let own = (agent.certificate_pem.as_str(), agent.key_pem.as_str());
    let uri = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    assert_eq!(knock(&server, raw_client(own.0, own.1)).await, uri);
    assert_eq!(
        knock(&server, raw_client_alpn(None, &[b"h2"])).await,
        "peer ADDRESS refused: its certificate is missing: the peer presented none"
    );
    // Whoever mentions enrolment gets that and no session, whatever else it offers.
    for identity in [None, Some(own)] {
        let both = raw_client_alpn(identity, &[b"h2", enrol::ALPN]);
        assert_eq!(knock(&server, both).await, "enrols");
    }
}

#[tokio::test]
async fn a_wrong_pin_shows_what_was_presented() {
    let (pki, other) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let words = format!(
        "its certificate is not signed by the authority we were told to expect: wanted {}, presented {}",
        pin_text(&pin(&other)),
        pin_text(&pin(&pki)),
    );
    let (told, refused) = both_refused(dial(&collector_of(&pki), &[pin(&other)]).await);
    assert!(refused.to_string().ends_with(&words), "{refused}");
    assert!(matches!(told, HandshakeError::RefusedByPeer { .. }), "{told}");

    let client = ClientTls::new(&pki.material(&pki.collector())).unwrap();
    let (dialled, refused) = wait(&client, &[pin(&other)]).await;
    let refused = refused.err().unwrap();
    assert!(refused.to_string().ends_with(&words), "{refused}");
    assert!(matches!(&refused, HandshakeError::Refused { why, .. } if why.reason() == "wrong_pin"));
    // The collector hears of it at its first read.
    assert!(dialled.unwrap().read_u8().await.is_err());
}

#[tokio::test]
async fn nobody_else_can_be_the_collector() {
    let pki = Pki::new("tributary.internal");
    let (agent, collector) = (pki.agent("eu-1"), pki.collector());
    let ca = pki.authority.pem();
    let refused = |why: &str| format!("peer ADDRESS refused: its certificate {why}");
    let collector_uri = "spiffe://tributary.internal/collector/c";
    let server = [ExtendedKeyUsagePurpose::ServerAuth];

    // The authority's certificate is public: it proves nothing without a leaf that it has signed.
    let mallory = Pki::new("tributary.internal");
    let (forged, forged_key) = odd_leaf(mallory.own(), "c", &[collector_uri], &server);
    let said = dial_a_stranger(&(forged.clone() + ca), &forged_key, &[pin(&pki)]).await;
    assert_eq!(said, refused("is not signed by an authority in our CA bundle"));
    let said = dial_a_stranger(&(forged + mallory.own().0), &forged_key, &[pin(&pki)]).await;
    assert!(said.starts_with(&refused("is not signed by the authority we were told")), "{said}");

    let said =
        dial_a_stranger(&(agent.certificate_pem.clone() + ca), &agent.key_pem, &[pin(&pki)]).await;
    assert_eq!(said, refused("is that of agent \"a\" of cluster \"eu-1\"; expected a collector"));

    let said = dial_a_stranger(&collector.certificate_pem, &collector.key_pem, &[pin(&pki)]).await;
    assert!(said.ends_with("presented none"), "{said}");

    let client = [ExtendedKeyUsagePurpose::ClientAuth];
    let (wrong, key) = pki.odd(&[collector_uri], &client);
    let said = dial_a_stranger(&(wrong + ca), &key, &[pin(&pki)]).await;
    assert!(said.starts_with(&refused("may not be used as a server certificate")), "{said}");
}

#[tokio::test]
async fn a_waiting_agent_is_found_by_the_collector_of_its_pin() {
    let (pki, other) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let client = ClientTls::new(&pki.material(&pki.collector())).unwrap();
    let (dialled, waited) = wait(&client, &[pin(&other), pin(&pki)]).await;
    let (mut dialled, mut waited) = (dialled.unwrap(), waited.unwrap());
    assert_eq!(waited.collector().unwrap().authority, pin(&pki));
    assert!(dialled.collector().is_none());
    talk(&mut waited, &mut dialled).await;
}

#[tokio::test]
async fn a_waiting_agent_refuses_everybody_else() {
    let pki = Pki::new("tributary.internal");
    let ca = pki.authority.pem();
    let agent = pki.agent("eu-1");
    let collector = pki.collector();
    let refused = |why: &str| format!("peer ADDRESS refused: its certificate {why}");
    let alpn: &[&[u8]] = &[enrol::ALPN];

    let said = knock_at_the_waiting(raw_client_alpn(None, alpn), &[pin(&pki)]).await;
    assert_eq!(said, refused("is missing: the peer presented none"));
    let chain = agent.certificate_pem.clone() + ca;
    let said = raw_client_alpn(Some((&chain, &agent.key_pem)), alpn);
    assert_eq!(
        knock_at_the_waiting(said, &[pin(&pki)]).await,
        refused("is that of agent \"a\" of cluster \"eu-1\"; expected a collector")
    );
    // A collector that wants a session, not an enrolment, and takes the agent for one that has a certificate.
    let chain = collector.certificate_pem.clone() + ca;
    let session = raw_client(&chain, &collector.key_pem);
    assert!(knock_at_the_waiting(session, &[pin(&pki)]).await.contains("does not enrol"));
    let good = raw_client_alpn(Some((&chain, &collector.key_pem)), alpn);
    let found = knock_at_the_waiting(good, &[pin(&pki)]).await;
    assert_eq!(found, "spiffe://tributary.internal/collector/c");
}

#[tokio::test]
async fn a_waiting_agent_is_no_peer() {
    let pki = Pki::new("tributary.internal");
    let client = ClientTls::new(&pki.material(&pki.collector())).unwrap();
    let (listener, address) = listener().await;
    let pins = [pin(&pki)];
    let answer = async { enrol::wait(listener.accept().await.unwrap().0, &pins).await };
    let wanted = Expect::Agent { cluster: "eu-1".to_owned() };
    let dial = async { client.connect(TcpStream::connect(address).await.unwrap(), wanted).await };
    let (waited, dialled) = tokio::join!(answer, dial);
    assert!(waited.is_err());
    let error = dialled.err().unwrap();
    assert!(
        matches!(
            error,
            HandshakeError::RefusedByPeer { .. }
                | HandshakeError::Refused { why: Refusal::UnknownAuthority, .. }
        ),
        "{error}"
    );
}
