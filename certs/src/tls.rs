//! Mutual TLS 1.3 between agents and collectors, replaceable at any time; plain server TLS for the HTTP port.

mod config;
mod handshake;
mod material;
mod stream;
mod web;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::server::Acceptor;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use crate::certificate::Certificate;
use crate::enrol;
pub use crate::error::{HandshakeError, Refusal, TlsError};
use crate::identity::Identity;
use crate::trust::Bundle;
use crate::verify::{self, Party, Side, Verifier};
pub(crate) use config::{client, dial, finish_client, finish_server, provider, server};
pub use handshake::HANDSHAKE_TIMEOUT;
pub(crate) use handshake::{NO_PROTOCOL, explain_tls, in_time};
pub(crate) use material::check_chain;
pub use material::{Files, Material};
pub use stream::{Collector, Encrypted, EnrolStream, Enrolling, Peer, PeerStream};
pub use web::WebTls;

const ALPN_H2: &[u8] = b"h2";
const FIRST_GENERATION: u64 = 1;

/// The accepting side. A collector accepts agents, an agent accepts collectors; nothing else, but for those who have
/// no certificate yet and want to enrol, where that is switched on.
///
/// Every connection takes the configuration that is current when it arrives. `replace` puts a fresh one in
/// place, never a changed verifier inside the old one, and nothing is ever resumed: a peer whose authority was
/// removed cannot come back by a ticket.
pub struct ServerTls {
    current: ArcSwap<ServerParts>,
    handshake_timeout: Duration,
    enrolment: bool,
}

/// What one generation of a server is made of.
struct ServerParts {
    peers: Arc<ServerConfig>,
    enrol: Arc<ServerConfig>,
    ours: Ours,
}

/// Who has come in.
#[expect(clippy::large_enum_variant, reason = "it is taken apart where it is made")]
pub enum Accepted {
    /// Somebody whose certificate was checked.
    Peer(PeerStream),
    /// Somebody without a certificate; all it may do is ask for one.
    Enrol(EnrolStream),
}

impl ServerTls {
    /// A server with this material.
    pub fn new(material: &Material) -> Result<Self, TlsError> {
        Ok(Self {
            current: ArcSwap::from_pointee(ServerParts::new(material, FIRST_GENERATION)?),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            enrolment: false,
        })
    }

    /// The same with another time-out for handshakes.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// The same, letting in those who want to enrol, or not (as without this call).
    #[must_use]
    pub fn with_enrolment(mut self, on: bool) -> Self {
        self.enrolment = on;
        self
    }

    /// New connections use `material` from now on; running ones go on. One caller at a time.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        let next = ServerParts::new(material, self.generation() + 1)?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Which configuration is current; counted from 1, up by 1 with each `replace`.
    pub fn generation(&self) -> u64 {
        self.current.load().ours.generation
    }

    /// Does the handshake with a client that has just connected.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Accepted, HandshakeError> {
        let address = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
        let parts = self.current.load_full();
        let mut wants_enrolment = false;
        let handshake = async {
            let hello = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
            let mut protocols = hello.client_hello().alpn().into_iter().flatten();
            wants_enrolment = protocols.any(|protocol| protocol == enrol::ALPN);
            drop(protocols);
            // Where enrolment is off, the usual configuration refuses: no protocol in common.
            let enrols = wants_enrolment && self.enrolment;
            let config = if enrols { &parts.enrol } else { &parts.peers };
            hello.into_stream(config.clone()).await
        };
        let stream = in_time(address, self.handshake_timeout, handshake).await;
        match stream {
            Err(HandshakeError::Protocol { peer }) if wants_enrolment => {
                Err(HandshakeError::EnrolmentOff { peer })
            }
            Err(error) => Err(error),
            Ok(stream) if wants_enrolment && self.enrolment => {
                let end = Enrolling { address, collector: None };
                Ok(Accepted::Enrol(Encrypted::new(stream.into(), end)))
            }
            Ok(stream) => {
                parts.ours.known(stream.into(), Side::Client, address).map(Accepted::Peer)
            }
        }
    }
}

impl ServerParts {
    fn new(material: &Material, generation: u64) -> Result<Self, TlsError> {
        material.check_usage(Side::Server)?;
        let party = match material.identity() {
            Identity::Collector { .. } => Party::AnyAgent,
            Identity::Agent { .. } => Party::Collector,
        };
        let verifier = Arc::new(material.verifier(party)?);
        let peers = server()
            .map(|builder| builder.with_client_cert_verifier(verifier))
            .and_then(|builder| builder.with_single_cert(material.chain(), material.key()))
            .map_err(|source| material.unusable(source))?;
        Ok(Self {
            peers: finish_server(peers, ALPN_H2),
            enrol: enrol::server_config(material)?,
            ours: Ours::new(material, generation),
        })
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

/// What one generation of a client is made of.
struct ClientParts {
    config: Arc<ClientConfig>,
    verifier: Verifier,
    enrol: Arc<ClientConfig>,
    ours: Ours,
}

impl ClientTls {
    /// A client with this material.
    pub fn new(material: &Material) -> Result<Self, TlsError> {
        let current = ArcSwap::from_pointee(ClientParts::new(material, FIRST_GENERATION)?);
        Ok(Self { current, handshake_timeout: HANDSHAKE_TIMEOUT })
    }

    /// The same with another time-out for handshakes.
    #[must_use]
    pub fn with_handshake_timeout(mut self, timeout: Duration) -> Self {
        self.handshake_timeout = timeout;
        self
    }

    /// New connections use `material` from now on; running ones go on. One caller at a time.
    pub fn replace(&self, material: &Material) -> Result<(), TlsError> {
        let next = ClientParts::new(material, self.generation() + 1)?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    /// Which configuration is current; counted from 1, up by 1 with each `replace`.
    pub fn generation(&self) -> u64 {
        self.current.load().ours.generation
    }

    /// Does the handshake on a connection we have just opened. Whoever is not `expect` is refused before
    /// anything is sent. A server that refuses *our* certificate shows this only at the first read.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        expect: Expect,
    ) -> Result<PeerStream, HandshakeError> {
        let parts = self.current.load_full();
        let mut verifier = parts.verifier.clone();
        verifier.party = match expect {
            Expect::Collector => Party::Collector,
            Expect::Agent { cluster } => Party::AgentOf(cluster),
        };
        let mut config = ClientConfig::clone(&parts.config);
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        let (stream, address) = dial(tcp, Arc::new(config), self.handshake_timeout).await?;
        parts.ours.known(stream, Side::Server, address)
    }

    /// Does the handshake with an agent that waits to be enrolled. It has no certificate, so anybody could be there
    /// who has *its address*: what it says must prove itself by a token. It does see our certificate.
    pub async fn enrol(&self, tcp: TcpStream) -> Result<EnrolStream, HandshakeError> {
        let config = self.current.load().enrol.clone();
        let (stream, address) = enrol::shake(tcp, config, self.handshake_timeout).await?;
        Ok(Encrypted::new(stream, Enrolling { address, collector: None }))
    }
}

impl ClientParts {
    fn new(material: &Material, generation: u64) -> Result<Self, TlsError> {
        material.check_usage(Side::Client)?;
        let verifier = material.verifier(Party::Collector)?;
        let config = client(Arc::new(verifier.clone()))
            .and_then(|builder| builder.with_client_auth_cert(material.chain(), material.key()))
            .map_err(|source| material.unusable(source))?;
        Ok(Self {
            config: finish_client(config, ALPN_H2),
            verifier,
            enrol: enrol::client_config(material)?,
            ours: Ours::new(material, generation),
        })
    }
}

/// What our side was when a connection was made.
struct Ours {
    bundle: Bundle,
    authority: [u8; 32],
    leaf_sha256: [u8; 32],
    generation: u64,
}

impl Ours {
    fn new(material: &Material, generation: u64) -> Self {
        Self {
            bundle: material.bundle().clone(),
            authority: material.authority(),
            leaf_sha256: material.certificate().sha256,
            generation,
        }
    }

    /// Makes the other end of a connection known: the peer has been on `side`, and passed the handshake.
    fn known(
        &self,
        stream: TlsStream<TcpStream>,
        side: Side,
        address: SocketAddr,
    ) -> Result<PeerStream, HandshakeError> {
        let (_, state) = stream.get_ref();
        if state.alpn_protocol() != Some(ALPN_H2) {
            return Err(HandshakeError::Protocol { peer: address });
        }
        let refused = |why| HandshakeError::Refused { peer: address, why };
        let chain = state.peer_certificates().unwrap_or_default();
        let leaf = chain.first().ok_or_else(|| refused(Refusal::NoCertificate))?;
        let certificate = Certificate::parse(leaf).map_err(|_| refused(Refusal::Malformed))?;
        let identity = verify::sole_identity(&certificate).map_err(refused)?;
        let intermediates = chain.iter().skip(1).map(Certificate::parse);
        let intermediates = intermediates.map(|parsed| parsed.map(|parsed| parsed.spki_sha256));
        let intermediates = intermediates.collect::<Result<_, _>>();
        let authority = verify::authority_of(chain, &self.bundle, &provider(), side)
            .map_err(|error| explain_tls(address, &error))?;
        let authority = &authority.certificate;
        let peer = Peer {
            identity,
            serial: certificate.serial,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            spki_sha256: certificate.spki_sha256,
            intermediates: intermediates.map_err(|_| refused(Refusal::Malformed))?,
            issuer: certificate.issuer,
            authority: authority.spki_sha256,
            authority_name: authority.subject.clone(),
            generation: self.generation,
            local_authority: self.authority,
            local_sha256: self.leaf_sha256,
            address,
        };
        Ok(Encrypted::new(stream, peer))
    }
}
