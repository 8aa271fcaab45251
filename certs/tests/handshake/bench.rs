//! Authorities, and peers that do whatever they are told to.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tributary_certs::authority::{Authority, Issued};
use tributary_certs::bundle;
use tributary_certs::tls::{
    Accepted, ClientTls, Expect, HandshakeError, Material, PeerStream, ServerTls, TlsError,
};

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// An authority, and leaf folders made from it.
pub(crate) struct Pki {
    dir: TempDir,
    pub(crate) authority: Authority,
}

impl Pki {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let authority = Authority::create(trust_domain, SystemTime::now()).unwrap();
        Self { dir: TempDir::new().unwrap(), authority }
    }

    pub(crate) fn material(&self, issued: &Issued) -> Material {
        self.material_with(issued, self.authority.pem())
    }

    /// The same, trusting these authorities.
    pub(crate) fn material_with(&self, issued: &Issued, ca: &str) -> Material {
        self.try_material(&issued.certificate_pem, &issued.key_pem, ca).unwrap()
    }

    pub(crate) fn try_material(
        &self,
        cert: &str,
        key: &str,
        ca: &str,
    ) -> Result<Material, TlsError> {
        let files = bundle::files(self.dir.path());
        fs::write(&files.cert_file, cert).unwrap();
        fs::write(&files.key_file, key).unwrap();
        fs::write(&files.ca_file, ca).unwrap();
        Material::load(&files)
    }

    pub(crate) fn agent(&self, cluster: &str) -> Issued {
        self.authority.issue_agent(cluster, "a", SystemTime::now(), HOUR).unwrap()
    }

    pub(crate) fn collector(&self) -> Issued {
        let hosts = ["localhost".to_owned()];
        self.authority.issue_collector("c", &hosts, SystemTime::now(), HOUR).unwrap()
    }

    /// A leaf of this authority that the authority itself would never issue.
    pub(crate) fn odd(
        &self,
        uris: &[&str],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> (String, String) {
        self.odd_named("odd", uris, usages)
    }

    /// The same with a common name of one's choice.
    pub(crate) fn odd_named(
        &self,
        name: &str,
        uris: &[&str],
        usages: &[ExtendedKeyUsagePurpose],
    ) -> (String, String) {
        odd_leaf(self.own(), name, uris, usages)
    }

    /// An authority below this one: its certificate and its key.
    pub(crate) fn intermediate(&self) -> (String, String) {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "intermediate");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        (sign(self.own(), params, &key), key.serialize_pem())
    }

    /// Certificate and key of the authority.
    pub(crate) fn own(&self) -> (&str, &str) {
        (self.authority.pem(), self.authority.key_pem())
    }
}

/// A leaf of any authority.
pub(crate) fn odd_leaf(
    (ca, ca_key): (&str, &str),
    name: &str,
    uris: &[&str],
    usages: &[ExtendedKeyUsagePurpose],
) -> (String, String) {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages.to_vec();
    for uri in uris {
        params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
    }
    let key = KeyPair::generate().unwrap();
    (sign((ca, ca_key), params, &key), key.serialize_pem())
}

fn sign((ca, ca_key): (&str, &str), mut params: CertificateParams, key: &KeyPair) -> String {
    let issuer = Issuer::from_ca_cert_pem(ca, KeyPair::from_pem(ca_key).unwrap()).unwrap();
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + HOUR).into();
    params.signed_by(key, &issuer).unwrap().pem()
}

/// A client that presents whatever it is told to: `ClientTls` itself would not load most of it.
pub(crate) fn raw_client(chain_pem: &str, key_pem: &str) -> TlsConnector {
    raw_client_alpn(Some((chain_pem, key_pem)), &[b"h2"])
}

/// The same, with or without a certificate, and with these protocols.
pub(crate) fn raw_client_alpn(identity: Option<(&str, &str)>, alpn: &[&[u8]]) -> TlsConnector {
    Arc::new(raw_client_config(identity, alpn)).into()
}

pub(crate) fn raw_client_config(identity: Option<(&str, &str)>, alpn: &[&[u8]]) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)));
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain_pem, key_pem)) => {
            builder.with_client_auth_cert(chain(chain_pem), key(key_pem)).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

/// A server that asks for no certificate and, unlike ours, lets clients resume.
pub(crate) fn raw_server(chain_pem: &str, key_pem: &str, alpn: &[u8]) -> ServerConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain(chain_pem), key(key_pem))
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn chain(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().unwrap()
}

fn key(pem: &str) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()
}

#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// What `server` says to a client that presents this certificate.
pub(crate) async fn knock(server: &ServerTls, client: TlsConnector) -> String {
    let (listener, address) = listener().await;
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
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

pub(crate) async fn accept_peer(
    server: &ServerTls,
    tcp: TcpStream,
) -> Result<PeerStream, HandshakeError> {
    match server.accept(tcp).await? {
        Accepted::Peer(stream) => Ok(stream),
        Accepted::Enrol(stream) => Err(HandshakeError::Protocol { peer: stream.address() }),
    }
}

pub(crate) const CLOCK: &str = "(our clock says NOW; is one of the clocks wrong?)";

pub(crate) fn without_clock(text: &str) -> String {
    let Some((before, rest)) = text.split_once("our clock says ") else { return text.to_owned() };
    let (_, after) = rest.split_once(';').unwrap();
    format!("{before}our clock says NOW;{after}")
}

/// Both ends through our own code: what each of them ends with.
pub(crate) async fn meet(
    server: &ServerTls,
    client: &ClientTls,
    expect: Expect,
) -> (Result<PeerStream, HandshakeError>, Result<PeerStream, HandshakeError>) {
    let (listener, address) = listener().await;
    let dial = async { client.connect(TcpStream::connect(address).await.unwrap(), expect).await };
    let answer = async { accept_peer(server, listener.accept().await.unwrap().0).await };
    tokio::join!(answer, dial)
}
