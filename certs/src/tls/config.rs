//! What all our TLS configurations share: TLS 1.3, one protocol, nothing resumed, no host names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::version::TLS13;
use rustls::{ClientConfig, ConfigBuilder, Error, ServerConfig, WantsVerifier};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use super::handshake::in_time;
use crate::error::HandshakeError;

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

pub(crate) fn server() -> Result<ConfigBuilder<ServerConfig, WantsVerifier>, Error> {
    ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])
}

/// Without tickets and without memory of sessions: a resumed session would skip the check of the certificate.
pub(crate) fn finish_server(mut config: ServerConfig, protocol: &[u8]) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Arc::new(config)
}

pub(crate) fn client(
    verifier: Arc<dyn ServerCertVerifier>,
) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Error> {
    let builder =
        ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier))
}

pub(crate) fn finish_client(mut config: ClientConfig, protocol: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Arc::new(config)
}

/// The handshake of the dialling side.
pub(crate) async fn dial(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    timeout: Duration,
) -> Result<(TlsStream<TcpStream>, SocketAddr), HandshakeError> {
    let address = tcp.peer_addr().map_err(|source| HandshakeError::NoPeer { source })?;
    // Peers are known by identity, so no host name is sent or compared.
    let name = ServerName::IpAddress(address.ip().into());
    let handshake = TlsConnector::from(config).connect(name, tcp);
    let stream = in_time(address, timeout, handshake).await?;
    Ok((stream.into(), address))
}
