//! Bounds a handshake's time, and says in words why one failed.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use rustls::AlertDescription;

use crate::certificate::utc;
use crate::error::HandshakeError;
use crate::verify;

/// How long a peer has for the handshake. Longer: the connection is dropped.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// What a peer means that has no protocol in common with us.
pub(crate) const NO_PROTOCOL: &str = "it does not speak HTTP/2 on this port";

pub(crate) async fn in_time<S>(
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
    match tls_error(&error) {
        Some(error) => explain_tls(peer, error),
        None => HandshakeError::Io { peer, source: error },
    }
}

pub(crate) fn explain_tls(peer: SocketAddr, error: &rustls::Error) -> HandshakeError {
    if let Some(why) = verify::refusal(error) {
        return HandshakeError::Refused { peer, why };
    }
    match error {
        rustls::Error::AlertReceived(alert) => {
            HandshakeError::RefusedByPeer { peer, alert: alert_words(*alert) }
        }
        rustls::Error::NoApplicationProtocol => HandshakeError::Protocol { peer },
        other => HandshakeError::Tls { peer, source: other.clone() },
    }
}

/// An alert in words. This is how a server refuses our certificate: after the handshake is over on our side.
pub(crate) fn in_words(error: io::Error) -> io::Error {
    match tls_error(&error) {
        Some(rustls::Error::AlertReceived(alert)) => {
            let words = format!("the peer ended the connection: {}", alert_words(*alert));
            io::Error::new(error.kind(), words)
        }
        _ => error,
    }
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn alert_words(alert: AlertDescription) -> String {
    use AlertDescription as A;
    match alert {
        A::UnknownCA => "it does not know the authority of our certificate".to_owned(),
        A::CertificateExpired => format!(
            "our certificate is not valid now by its clock (our clock says {}; is one of the clocks wrong?)",
            utc(SystemTime::now())
        ),
        A::CertificateRevoked => "our certificate is revoked".to_owned(),
        A::CertificateUnknown | A::BadCertificate | A::UnsupportedCertificate => {
            "it does not accept our certificate's identity or usage".to_owned()
        }
        A::CertificateRequired => "it wants a certificate and we sent none".to_owned(),
        A::NoApplicationProtocol => NO_PROTOCOL.to_owned(),
        other => format!("TLS alert {other:?}"),
    }
}
