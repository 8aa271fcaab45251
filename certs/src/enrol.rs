//! Connections for an agent that has no certificate yet: it knows the collector by the hash of its authority's key.
//!
//! The agent checks the collector before it says anything; the collector cannot check the agent, whose token does
//! that inside the connection. Either side may dial.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{ClientConfig, DistinguishedName, Error, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::certificate::{Certificate, hex};
use crate::error::{HandshakeError, Refusal, TlsError};
use crate::identity::Identity;
use crate::tls::{
    self, Collector, Encrypted, EnrolStream, Enrolling, HANDSHAKE_TIMEOUT, Material, provider,
};
use crate::trust::{Bundle, MAX_AUTHORITIES};
use crate::verify::{self, Side, refused, signatures};

/// The protocol (ALPN) of these connections; sessions use another.
pub const ALPN: &[u8] = b"tributary-enrol/1";

/// Nobody looks at it: the agent's certificate of a connection in which it is not checked.
const THROW_AWAY_NAME: &str = "tributary-agent join";

/// A pin as people pass it on, `sha256:` and 64 hexadecimal digits; [`crate::digest::parse_hex`] reads it.
pub fn pin_text(spki_sha256: &[u8; 32]) -> String {
    format!("sha256:{}", hex(spki_sha256))
}

/// The agent dials: the handshake on a connection it has just opened. Whoever does not hold one of these authorities
/// is refused before anything is sent.
pub async fn dial(tcp: TcpStream, pins: &[[u8; 32]]) -> Result<EnrolStream, HandshakeError> {
    let pinned = Arc::new(Pinned::new(pins));
    let config = tls::client(pinned.clone())
        .map(|builder| tls::finish_client(builder.with_no_client_auth(), ALPN))
        .map_err(|source| unusable(&tcp, source))?;
    let (stream, address) = shake(tcp, config, HANDSHAKE_TIMEOUT).await?;
    pinned.found(stream, Side::Server, address)
}

/// The agent is dialled: the handshake on a connection it has just accepted. Whoever does not hold one of these
/// authorities is refused.
pub async fn wait(tcp: TcpStream, pins: &[[u8; 32]]) -> Result<EnrolStream, HandshakeError> {
    let address = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
    let pinned = Arc::new(Pinned::new(pins));
    let config = waiting(pinned.clone()).map_err(|source| unusable(&tcp, source))?;
    let handshake = TlsAcceptor::from(config).accept(tcp);
    let stream = match tls::in_time(address, HANDSHAKE_TIMEOUT, handshake).await {
        Err(HandshakeError::Protocol { peer }) => Err(HandshakeError::NoEnrolment { peer }),
        shaken => shaken,
    }?;
    pinned.found(stream.into(), Side::Client, address)
}

/// The dialling side's handshake, whoever that is.
pub(crate) async fn shake(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<(TlsStream<TcpStream>, SocketAddr), HandshakeError> {
    match tls::dial(tcp, config, timeout).await {
        Err(HandshakeError::RefusedByPeer { peer, alert }) if alert == tls::NO_PROTOCOL => {
            Err(HandshakeError::NoEnrolment { peer })
        }
        Ok((stream, peer)) if stream.get_ref().1.alpn_protocol() != Some(ALPN) => {
            Err(HandshakeError::NoEnrolment { peer })
        }
        dialled => dialled,
    }
}

/// The collector's side when it is dialled: shows its authority, asks for no certificate.
pub(crate) fn server_config(material: &Material) -> Result<Arc<ServerConfig>, TlsError> {
    tls::server()
        .and_then(|builder| {
            let builder = builder.with_no_client_auth();
            builder.with_single_cert(material.chain_with_authority(), material.key())
        })
        .map(|config| tls::finish_server(config, ALPN))
        .map_err(|source| material.unusable(source))
}

/// The collector's side when it dials: shows its certificate and authority, does not check the agent's.
pub(crate) fn client_config(material: &Material) -> Result<Arc<ClientConfig>, TlsError> {
    tls::client(Arc::new(Anybody { provider: provider() }))
        .and_then(|builder| {
            builder.with_client_auth_cert(material.chain_with_authority(), material.key())
        })
        .map(|config| tls::finish_client(config, ALPN))
        .map_err(|source| material.unusable(source))
}

/// The agent's side when it is dialled, with a certificate for this one connection.
fn waiting(pinned: Arc<Pinned>) -> Result<Arc<ServerConfig>, Error> {
    let other = |why: rcgen::Error| Error::General(why.to_string());
    let key = KeyPair::generate().map_err(other)?;
    let params = CertificateParams::new([THROW_AWAY_NAME.to_owned()]).map_err(other)?;
    let chain = vec![params.self_signed(&key).map_err(other)?.der().clone()];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let builder = tls::server()?.with_client_cert_verifier(pinned);
    Ok(tls::finish_server(builder.with_single_cert(chain, key)?, ALPN))
}

/// Accepts a collector whose chain holds, and leads to, an authority with one of these keys.
#[derive(Debug)]
struct Pinned {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn new(pins: &[[u8; 32]]) -> Self {
        Self { pins: pins.to_vec(), provider: provider() }
    }

    /// Makes the collector known after the handshake.
    fn found(
        &self,
        stream: TlsStream<TcpStream>,
        side: Side,
        address: SocketAddr,
    ) -> Result<EnrolStream, HandshakeError> {
        let (_, state) = stream.get_ref();
        if state.alpn_protocol() != Some(ALPN) {
            return Err(HandshakeError::NoEnrolment { peer: address });
        }
        let collector = self.check(state.peer_certificates().unwrap_or_default(), side);
        let collector = collector.map_err(|error| tls::explain_tls(address, &error))?;
        Ok(Encrypted::new(stream, Enrolling { address, collector: Some(collector) }))
    }

    fn check(&self, chain: &[CertificateDer<'static>], side: Side) -> Result<Collector, Error> {
        let leaf = chain.first().ok_or(Error::NoCertificatesPresented)?;
        let certificate = Certificate::parse(leaf).map_err(|_| refused(Refusal::Malformed))?;
        let bundle = self.bundle(chain)?;
        let authority = verify::authority_of(chain, &bundle, &self.provider, side)?;
        verify::check_usage(&certificate, side).map_err(refused)?;
        let identity = verify::sole_identity(&certificate).map_err(refused)?;
        let Identity::Collector { .. } = identity else {
            let (found, wanted) = (identity.describe(), "a collector".to_owned());
            return Err(refused(Refusal::WrongParty { found, wanted }));
        };
        Ok(Collector { identity, authority: authority.certificate.spki_sha256 })
    }

    /// The authorities of the chain that we were told to expect; at least one.
    fn bundle(&self, chain: &[CertificateDer<'static>]) -> Result<Bundle, Error> {
        let (mut wanted, mut presented) = (Vec::new(), Vec::new());
        for der in chain.iter().take(MAX_AUTHORITIES) {
            let Ok(certificate) = Certificate::parse(der) else { continue };
            if certificate.is_ca {
                presented.push(certificate.spki_sha256);
                if self.pins.contains(&certificate.spki_sha256) {
                    wanted.push(der.clone());
                }
            }
        }
        if wanted.is_empty() {
            return Err(refused(Refusal::WrongPin { wanted: self.pins.clone(), presented }));
        }
        Bundle::from_ders(wanted).map_err(|why| refused(Refusal::Other { why: why.to_string() }))
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(&whole(leaf, intermediates), Side::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(&whole(leaf, intermediates), Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
}

/// Accepts every server: an agent without a certificate proves itself later, by its token.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
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

    signatures!();
}

fn whole(leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Vec<CertificateDer<'static>> {
    std::iter::once(leaf).chain(rest).map(|der| der.clone().into_owned()).collect()
}

fn unusable(tcp: &TcpStream, source: Error) -> HandshakeError {
    match tcp.peer_addr() {
        Ok(peer) => HandshakeError::Tls { peer, source },
        Err(source) => HandshakeError::NoPeer { source },
    }
}
