//! Mutual TLS 1.3 between agents and collectors, replaceable at any time; plain server TLS for the HTTP port.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::certificate::Certificate;
pub use crate::error::{HandshakeError, Refusal, TlsError};
use crate::identity::Identity;
use crate::pem;
use crate::verify::{self, Party, Side, Verifier};

/// How long a peer has for the handshake. Longer: the connection is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

const ALPN_H2: &[u8] = b"h2";
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Where one side's certificate, its key, and the bundle of authorities it trusts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM; intermediates may follow.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The authorities that peers' certificates must chain to, PEM.
    pub ca_file: PathBuf,
}

/// Certificate, key and bundle, read and checked together; what does not fit together is never used.
pub struct Material {
    cert_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    certificate: Certificate,
    identity: Identity,
}

impl Material {
    /// Reads the three files. The key must fit the certificate, and the certificate must be valid now,
    /// chain to the bundle and carry one of our identities.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let chain = pem::read_certificates(&files.cert_file)?;
        let key = pem::read_key(&files.key_file)?;
        let roots = Arc::new(pem::read_roots(&files.ca_file)?);
        pem::check_key(&provider(), &chain, &key, files)?;
        let refused = |why| TlsError::Refused { path: files.cert_file.clone(), why };
        let certificate = first(&chain)
            .and_then(|leaf| Certificate::parse(leaf).ok())
            .ok_or_else(|| refused(Refusal::Malformed))?;
        let identity = verify::sole_identity(&certificate).map_err(refused)?;
        check_chain(&certificate, &chain, &roots, files)?;
        let cert_file = files.cert_file.clone();
        Ok(Self { cert_file, chain, key, roots, certificate, identity })
    }

    /// Whom the certificate speaks for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.certificate.not_after
    }

    /// Everything the certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    fn verifier(&self, party: Party) -> Result<Verifier, TlsError> {
        let trust_domain = self.identity.trust_domain().to_owned();
        Verifier::new(trust_domain, party, self.roots.clone(), provider())
            .map_err(|why| self.unusable(rustls::Error::General(why.to_string())))
    }

    fn check_usage(&self, side: Side) -> Result<(), TlsError> {
        verify::check_usage(&self.certificate, side)
            .map_err(|why| TlsError::Refused { path: self.cert_file.clone(), why })
    }

    fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable { path: self.cert_file.clone(), source }
    }
}

/// Never prints the key.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("identity", &self.identity)
            .field("serial", &self.certificate.serial)
            .finish_non_exhaustive()
    }
}

/// Who was found at the other end; all of it from the certificate that passed the checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Whom the certificate speaks for.
    pub identity: Identity,
    /// The certificate's serial number in hexadecimal digits.
    pub serial: String,
    /// Until when the certificate is valid; the stream must end then.
    pub not_after: SystemTime,
    /// The hash of the peer's public key: the same key is the same process's folder.
    pub spki_sha256: [u8; 32],
    /// The authority that signed.
    pub issuer: String,
    /// Where the connection comes from or goes to.
    pub address: SocketAddr,
}

/// The accepting side. A collector accepts agents, an agent accepts collectors; nothing else.
///
/// Every connection takes the configuration that is current when it arrives. `replace` puts a fresh one in
/// place, never a changed verifier inside the old one, and nothing is ever resumed: a peer whose authority was
/// removed cannot come back by a ticket.
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
    handshake_timeout: Duration,
}

impl ServerTls {
    /// A server with this material.
    pub fn new(material: &Material) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(server_config(material)?);
        Ok(Self { current, handshake_timeout: HANDSHAKE_TIMEOUT })
    }

    /// The same with another time-out for handshakes.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// New connections use `material` from now on; running ones go on.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        self.current.store(Arc::new(server_config(material)?));
        Ok(())
    }

    /// Does the handshake with a client that has just connected.
    pub async fn accept(&self, tcp: TcpStream) -> Result<PeerStream, HandshakeError> {
        let peer = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = in_time(peer, self.handshake_timeout, acceptor.accept(tcp)).await?;
        PeerStream::new(TlsStream::Server(stream), peer)
    }
}

/// Whom the dialling side wants to find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// Any collector of our trust domain.
    Collector,
    /// An agent of this cluster.
    Agent {
        /// The cluster's name.
        cluster: String,
    },
}

/// The dialling side.
pub struct ClientTls {
    current: ArcSwap<ClientParts>,
    handshake_timeout: Duration,
}

struct ClientParts {
    config: ClientConfig,
    verifier: Verifier,
}

impl ClientTls {
    /// A client with this material.
    pub fn new(material: &Material) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(client_parts(material)?);
        Ok(Self { current, handshake_timeout: HANDSHAKE_TIMEOUT })
    }

    /// The same with another time-out for handshakes.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// New connections use `material` from now on; running ones go on.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        self.current.store(Arc::new(client_parts(material)?));
        Ok(())
    }

    /// Does the handshake on a connection we have just opened. Whoever is not `expect` is refused before
    /// anything is sent. A server that refuses *our* certificate shows this only at the first read.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        expect: Expect,
    ) -> Result<PeerStream, HandshakeError> {
        let peer = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
        let parts = self.current.load_full();
        let mut verifier = parts.verifier.clone();
        verifier.party = match expect {
            Expect::Collector => Party::Collector,
            Expect::Agent { cluster } => Party::AgentOf(cluster),
        };
        let mut config = parts.config.clone();
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        // Peers are known by identity, so no host name is sent or compared.
        let name = ServerName::IpAddress(peer.ip().into());
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        let stream = in_time(peer, self.handshake_timeout, handshake).await?;
        PeerStream::new(TlsStream::Client(stream), peer)
    }
}

/// A connection whose other end is known.
pub struct PeerStream {
    stream: TlsStream<TcpStream>,
    peer: Peer,
}

impl PeerStream {
    fn new(stream: TlsStream<TcpStream>, address: SocketAddr) -> Result<Self, HandshakeError> {
        let (_, state) = stream.get_ref();
        if state.alpn_protocol() != Some(ALPN_H2) {
            return Err(HandshakeError::Protocol { peer: address });
        }
        let refused = |why| HandshakeError::Refused { peer: address, why };
        let leaf = state.peer_certificates().and_then(first);
        let leaf = leaf.ok_or_else(|| refused(Refusal::NoCertificate))?;
        let certificate = Certificate::parse(leaf).map_err(|_| refused(Refusal::Malformed))?;
        let identity = verify::sole_identity(&certificate).map_err(refused)?;
        let peer = Peer {
            identity,
            serial: certificate.serial,
            not_after: certificate.not_after,
            spki_sha256: certificate.spki_sha256,
            issuer: certificate.issuer,
            address,
        };
        Ok(Self { stream, peer })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

/// Plain server TLS (1.2 and 1.3) for the HTTP port, with client certificates where a bundle is given.
pub struct WebTls {
    current: ArcSwap<ServerConfig>,
}

impl WebTls {
    /// A server with this certificate; with `client_ca`, clients must present one that chains to it.
    pub fn new(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(web_config(cert, key, client_ca)?) })
    }

    /// New connections use these files from now on; running ones go on.
    pub fn replace(
        &self,
        cert: &Path,
        key: &Path,
        client_ca: Option<&Path>,
    ) -> Result<(), TlsError> {
        self.current.store(Arc::new(web_config(cert, key, client_ca)?));
        Ok(())
    }

    /// Does the handshake with a client that has just connected.
    pub async fn accept(
        &self,
        tcp: TcpStream,
    ) -> Result<tokio_rustls::server::TlsStream<TcpStream>, HandshakeError> {
        let peer = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
        let acceptor = TlsAcceptor::from(self.current.load_full());
        in_time(peer, HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server_config(material: &Material) -> Result<ServerConfig, TlsError> {
    material.check_usage(Side::Server)?;
    let party = match material.identity {
        Identity::Collector { .. } => Party::AnyAgent,
        Identity::Agent { .. } => Party::Collector,
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| material.unusable(source))?
        .with_client_cert_verifier(Arc::new(material.verifier(party)?))
        .with_single_cert(material.chain.clone(), material.key.clone_key())
        .map_err(|source| material.unusable(source))?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

fn client_parts(material: &Material) -> Result<ClientParts, TlsError> {
    material.check_usage(Side::Client)?;
    let verifier = material.verifier(Party::Collector)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|source| material.unusable(source))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier.clone()))
        .with_client_auth_cert(material.chain.clone(), material.key.clone_key())
        .map_err(|source| material.unusable(source))?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Ok(ClientParts { config, verifier })
}

fn web_config(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerConfig, TlsError> {
    let unusable = |source| TlsError::Unusable { path: cert.to_owned(), source };
    let chain = pem::read_certificates(cert)?;
    let private = pem::read_key(key)?;
    let files = Files {
        cert_file: cert.to_owned(),
        key_file: key.to_owned(),
        ca_file: client_ca.unwrap_or(cert).to_owned(),
    };
    pem::check_key(&provider(), &chain, &private, &files)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(pem::read_roots(path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|why| unusable(rustls::Error::General(why.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// A certificate for one side only is checked as that side; which side it serves is decided later.
fn check_chain(
    certificate: &Certificate,
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    files: &Files,
) -> Result<(), TlsError> {
    let side = if certificate.client_auth { Side::Client } else { Side::Server };
    verify::check_chain(chain, roots, &provider(), side).map_err(|source| {
        match verify::refusal(&source) {
            Some(why) => TlsError::Refused { path: files.cert_file.clone(), why },
            None => TlsError::Unusable { path: files.cert_file.clone(), source },
        }
    })
}

fn first<'a>(chain: &'a [CertificateDer<'static>]) -> Option<&'a CertificateDer<'static>> {
    chain.first()
}

async fn in_time<S>(
    peer: SocketAddr,
    after: Duration,
    handshake: impl Future<Output = io::Result<S>>,
) -> Result<S, HandshakeError> {
    match tokio::time::timeout(after, handshake).await {
        Err(_) => Err(HandshakeError::TimedOut { peer, after }),
        Ok(done) => done.map_err(|error| explain(peer, error)),
    }
}

/// Finds in an I/O error what TLS meant by it.
fn explain(peer: SocketAddr, error: io::Error) -> HandshakeError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return HandshakeError::Io { peer, source: error };
    };
    if let Some(why) = verify::refusal(tls) {
        return HandshakeError::Refused { peer, why };
    }
    match tls {
        rustls::Error::AlertReceived(alert) => {
            HandshakeError::RefusedByPeer { peer, alert: alert_words(*alert) }
        }
        rustls::Error::NoApplicationProtocol => HandshakeError::Protocol { peer },
        other => HandshakeError::Tls { peer, source: other.clone() },
    }
}

fn alert_words(alert: rustls::AlertDescription) -> String {
    use rustls::AlertDescription as A;
    match alert {
        A::UnknownCA => "it does not know the authority of our certificate".to_owned(),
        A::CertificateExpired => "our certificate is not valid now by its clock".to_owned(),
        A::CertificateRevoked => "our certificate is revoked".to_owned(),
        A::CertificateUnknown | A::BadCertificate | A::UnsupportedCertificate => {
            "it does not accept our certificate's identity or usage".to_owned()
        }
        A::CertificateRequired => "it wants a certificate and we sent none".to_owned(),
        A::NoApplicationProtocol => "it does not speak HTTP/2 on this port".to_owned(),
        other => format!("TLS alert {other:?}"),
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
