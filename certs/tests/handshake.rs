//! Every kind of peer at both doors: who comes in, who is refused, and in which words.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tributary_certs::authority::{Authority, Issued};
use tributary_certs::bundle;
use tributary_certs::identity::Identity;
use tributary_certs::tls::{
    Accepted, ClientTls, Expect, HandshakeError, Material, PeerStream, Refusal, ServerTls, TlsError,
};

const HOUR: Duration = Duration::from_secs(3600);

/// An authority, and leaf folders made from it.
struct Pki {
    dir: TempDir,
    authority: Authority,
}

impl Pki {
    fn new(trust_domain: &str) -> Self {
        let authority = Authority::create(trust_domain, SystemTime::now()).unwrap();
        Self { dir: TempDir::new().unwrap(), authority }
    }

    fn material(&self, issued: &Issued) -> Material {
        self.material_trusting(issued, &self.authority)
    }

    fn material_trusting(&self, issued: &Issued, trusted: &Authority) -> Material {
        self.try_material(&issued.certificate_pem, &issued.key_pem, trusted.pem()).unwrap()
    }

    fn try_material(&self, cert: &str, key: &str, ca: &str) -> Result<Material, TlsError> {
        let files = bundle::files(self.dir.path());
        fs::write(&files.cert_file, cert).unwrap();
        fs::write(&files.key_file, key).unwrap();
        fs::write(&files.ca_file, ca).unwrap();
        Material::load(&files)
    }

    fn agent(&self, cluster: &str) -> Issued {
        self.authority.issue_agent(cluster, "a", SystemTime::now(), HOUR).unwrap()
    }

    fn collector(&self) -> Issued {
        let hosts = ["localhost".to_owned()];
        self.authority.issue_collector("c", &hosts, SystemTime::now(), HOUR).unwrap()
    }

    /// A leaf of this authority that the authority itself would never issue.
    fn odd(&self, uris: &[&str], usages: &[ExtendedKeyUsagePurpose]) -> (String, String) {
        let key = KeyPair::from_pem(self.authority.key_pem()).unwrap();
        let issuer = Issuer::from_ca_cert_pem(self.authority.pem(), key).unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::ExplicitNoCa;
        params.not_before = (SystemTime::now() - HOUR).into();
        params.not_after = (SystemTime::now() + HOUR).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
    }
}

/// A client that presents whatever it is told to: `ClientTls` itself would not load most of it.
fn raw_client(chain_pem: &str, key_pem: &str) -> tokio_rustls::TlsConnector {
    raw_client_alpn(Some((chain_pem, key_pem)), &[b"h2"])
}

fn raw_client_alpn(identity: Option<(&str, &str)>, alpn: &[&[u8]]) -> tokio_rustls::TlsConnector {
    use rustls_pki_types::pem::PemObject;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(Anyone(provider)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(
                rustls_pki_types::CertificateDer::pem_slice_iter(chain.as_bytes())
                    .collect::<Result<_, _>>()
                    .unwrap(),
                rustls_pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    std::sync::Arc::new(config).into()
}

#[derive(Debug)]
struct Anyone(std::sync::Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What `server` says to a client that presents this certificate.
async fn knock(server: &ServerTls, client: tokio_rustls::TlsConnector) -> String {
    let (listener, address) = listener().await;
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = rustls_pki_types::ServerName::IpAddress(address.ip().into());
        if let Ok(mut stream) = client.connect(name, tcp).await {
            let _ = stream.read_u8().await;
        }
    };
    let answer = async {
        let (tcp, from) = listener.accept().await.unwrap();
        let answer = server.accept(tcp).await;
        match answer {
            Ok(Accepted::Peer(stream)) => stream.peer().identity.to_string(),
            Ok(Accepted::Enrol(_)) => "enrols".to_owned(),
            Err(error) => error.to_string().replace(&from.to_string(), "ADDRESS"),
        }
    };
    tokio::join!(dial, answer).1
}

async fn accept_peer(server: &ServerTls, tcp: TcpStream) -> Result<PeerStream, HandshakeError> {
    server.accept(tcp).await.map(|accepted| match accepted {
        Accepted::Peer(stream) => stream,
        Accepted::Enrol(stream) => panic!("{} enrols", stream.address()),
    })
}

const CLOCK: &str = "(our clock says NOW; is one of the clocks wrong?)";

fn without_clock(text: &str) -> String {
    let Some((before, rest)) = text.split_once("our clock says ") else { return text.to_owned() };
    let (_, after) = rest.split_once(';').unwrap();
    format!("{before}our clock says NOW;{after}")
}

/// Both ends through our own code: what each of them ends with.
async fn meet(
    server: &ServerTls,
    client: &ClientTls,
    expect: Expect,
) -> (Result<PeerStream, HandshakeError>, Result<PeerStream, HandshakeError>) {
    let (listener, address) = listener().await;
    let dial = async { client.connect(TcpStream::connect(address).await.unwrap(), expect).await };
    let answer = async { accept_peer(server, listener.accept().await.unwrap().0).await };
    tokio::join!(answer, dial)
}

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
    let expired_at = tributary_certs::certificate::utc(expired.certificate.not_after);
    let future = pki.authority.issue_agent("eu-1", "a", SystemTime::now() + HOUR, HOUR).unwrap();
    let future_from = tributary_certs::certificate::utc(future.certificate.not_before);

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
            refused(
                "carries no SPIFFE identity (subject \"rcgen self signed cert\" has no URI SAN)",
            ),
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

#[tokio::test]
async fn a_replaced_bundle_shuts_the_old_authority_out_at_once() {
    let (old, new) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let server = ServerTls::new(&old.material(&old.collector())).unwrap();
    let client = ClientTls::new(&old.material(&old.agent("eu-1"))).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    let (mut answered, mut dialled) = (answered.unwrap(), dialled.unwrap());

    server.replace(&new.material(&new.collector())).unwrap();
    let (refused, _) = meet(&server, &client, Expect::Collector).await;
    assert!(refused.is_err());

    // The running stream is not touched.
    dialled.write_all(b"x").await.unwrap();
    dialled.flush().await.unwrap();
    assert_eq!(answered.read_u8().await.unwrap(), b'x');

    client.replace(&new.material(&new.agent("eu-1"))).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    assert!(answered.is_ok() && dialled.is_ok());
}

#[test]
fn files_that_do_not_fit_together_are_never_loaded() {
    let (pki, other) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let (a, b) = (pki.agent("eu-1"), pki.agent("eu-1"));
    let ca = pki.authority.pem();
    let load = |cert: &str, key: &str, ca: &str| pki.try_material(cert, key, ca).err().unwrap();

    assert!(matches!(load(&a.certificate_pem, &b.key_pem, ca), TlsError::KeyMismatch { .. }));
    let cut = &a.certificate_pem[..a.certificate_pem.len() / 2];
    assert!(matches!(load(cut, &a.key_pem, ca), TlsError::Pem { .. }));
    assert!(matches!(load("", &a.key_pem, ca), TlsError::Pem { .. }));
    assert!(matches!(load(&a.certificate_pem, "", ca), TlsError::Pem { .. }));
    assert!(matches!(load(&a.certificate_pem, &a.key_pem, ""), TlsError::Bundle { .. }));
    assert!(matches!(
        load(&a.certificate_pem, &a.key_pem, other.authority.pem()),
        TlsError::Refused { why: Refusal::UnknownAuthority, .. }
    ));
    let expired =
        pki.authority.issue_agent("eu-1", "a", SystemTime::now() - 2 * HOUR, HOUR).unwrap();
    assert!(matches!(
        load(&expired.certificate_pem, &expired.key_pem, ca),
        TlsError::Refused { why: Refusal::Expired { .. }, .. }
    ));
    let missing = Material::load(&bundle::files(Path::new("nowhere"))).unwrap_err();
    assert!(missing.to_string().starts_with("reading nowhere/tls.crt: "), "{missing}");
}

#[test]
fn a_certificate_without_the_usage_of_its_side_serves_only_the_other() {
    let pki = Pki::new("tributary.internal");
    let agent = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    let (cert, key) = pki.odd(&[agent], &[ExtendedKeyUsagePurpose::ClientAuth]);
    let material = pki.try_material(&cert, &key, pki.authority.pem()).unwrap();
    assert!(ClientTls::new(&material).is_ok());
    assert!(matches!(
        ServerTls::new(&material),
        Err(TlsError::Refused { why: Refusal::Usage { wanted: "server" }, .. })
    ));
}
