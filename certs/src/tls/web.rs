//! Plain server TLS (1.2 and 1.3) for the HTTP port, with client certificates where a bundle is given.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{DistinguishedName, Error, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::handshake::{HANDSHAKE_TIMEOUT, in_time};
use super::{Files, provider};
use crate::certificate::Certificate;
use crate::error::{HandshakeError, Refusal, TlsError};
use crate::identity::Identity;
use crate::pem;
use crate::verify::{refused, signatures};

const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The HTTP port's server side.
pub struct WebTls {
    current: ArcSwap<ServerConfig>,
}

impl WebTls {
    /// A server with this certificate; with `client_ca`, clients must present one that chains to it.
    pub fn new(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Self, TlsError> {
        Ok(Self { current: ArcSwap::from_pointee(config(cert, key, client_ca)?) })
    }

    /// New connections use these files from now on; running ones go on.
    pub fn replace(
        &self,
        cert: &Path,
        key: &Path,
        client_ca: Option<&Path>,
    ) -> Result<(), TlsError> {
        self.current.store(Arc::new(config(cert, key, client_ca)?));
        Ok(())
    }

    /// Does the handshake with a client that has just connected.
    pub async fn accept(&self, tcp: TcpStream) -> Result<TlsStream<TcpStream>, HandshakeError> {
        let peer = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
        let acceptor = TlsAcceptor::from(self.current.load_full());
        in_time(peer, HANDSHAKE_TIMEOUT, acceptor.accept(tcp)).await
    }
}

fn config(cert: &Path, key: &Path, client_ca: Option<&Path>) -> Result<ServerConfig, TlsError> {
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
            let chain = WebPkiClientVerifier::builder_with_provider(roots(path)?, provider())
                .build()
                .map_err(|why| unusable(Error::General(why.to_string())))?;
            builder.with_client_cert_verifier(Arc::new(People { chain, provider: provider() }))
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(unusable)?;
    config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
    Ok(config)
}

/// As many as there are: an organisation's whole bundle may stand here.
fn roots(path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in pem::read_certificates(path)? {
        let added = roots.add(certificate);
        added.map_err(|source| TlsError::Unusable { path: path.to_owned(), source })?;
    }
    Ok(Arc::new(roots))
}

/// Accepts every certificate of the bundle but those of agents and collectors: these are for streams, and whoever
/// gives the HTTP port the same authority did not mean that every cluster may read all the others.
#[derive(Debug)]
struct People {
    chain: Arc<dyn ClientCertVerifier>,
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl ClientCertVerifier for People {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(leaf, intermediates, now)?;
        let certificate = Certificate::parse(leaf).map_err(|_| refused(Refusal::Malformed))?;
        match certificate.uris.iter().find_map(|uri| uri.parse::<Identity>().ok()) {
            None => Ok(verified),
            Some(found) => Err(refused(Refusal::NotForHttp { found: found.describe() })),
        }
    }

    signatures!();
}
