//! What can go wrong with certificates and handshakes, each as one clear sentence.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::certificate::utc;
use crate::enrol::pin_text;
use crate::identity::InvalidIdentity;
use crate::trust::TrustError;

/// Why a certificate is not accepted. Reads on after "its certificate" or a file's name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The peer sent none.
    #[error("is missing: the peer presented none")]
    NoCertificate,
    /// It does not chain to our bundle.
    #[error("is not signed by an authority in our CA bundle")]
    UnknownAuthority,
    /// Too old.
    #[error(
        "expired at {} (our clock says {}; is one of the clocks wrong?)",
        utc(*at), utc(*now)
    )]
    Expired {
        /// Its last second.
        at: SystemTime,
        /// Our clock.
        now: SystemTime,
    },
    /// Too new, or our clock is behind.
    #[error(
        "is not valid before {} (our clock says {}; is one of the clocks wrong?)",
        utc(*from), utc(*now)
    )]
    NotYetValid {
        /// Its first second.
        from: SystemTime,
        /// Our clock.
        now: SystemTime,
    },
    /// Its key is on our deny-list.
    #[error("is revoked")]
    Revoked,
    /// Not X.509, or not DER.
    #[error("is not well-formed X.509")]
    Malformed,
    /// The extended key usage is missing or another one.
    #[error(
        "may not be used as a {wanted} certificate (extended key usage {wanted}Auth is missing)"
    )]
    Usage {
        /// `client` or `server`.
        wanted: &'static str,
    },
    /// No URI among its alternative names.
    #[error("carries no SPIFFE identity (subject \"{subject}\" has no URI SAN)")]
    NoIdentity {
        /// Its subject.
        subject: String,
    },
    /// More than one URI: which one would count?
    #[error("carries {count} URI SANs where exactly one is wanted")]
    SeveralIdentities {
        /// How many.
        count: usize,
    },
    /// The URI is not one of ours.
    #[error("carries an identity that is not valid: {0}")]
    BadIdentity(InvalidIdentity),
    /// Another installation's.
    #[error("belongs to trust domain \"{theirs}\", ours is \"{ours}\"")]
    TrustDomain {
        /// The certificate's.
        theirs: String,
        /// Our own certificate's.
        ours: String,
    },
    /// A good certificate of somebody else.
    #[error("is that of {found}; expected {wanted}")]
    WrongParty {
        /// Who it is.
        found: String,
        /// Who may connect here.
        wanted: String,
    },
    /// The collector does not hold an authority with the key that we were told to expect.
    #[error(
        "is not signed by the authority we were told to expect: wanted {}, presented {}",
        pins(wanted),
        pins(presented)
    )]
    WrongPin {
        /// SHA-256 of the keys (SPKI) that were given.
        wanted: Vec<[u8; 32]>,
        /// Those of the authorities that the peer presented.
        presented: Vec<[u8; 32]>,
    },
    /// One of our own identities at the HTTP port.
    #[error(
        "is that of {found}; an agent's or a collector's certificate gives no access to the HTTP API"
    )]
    NotForHttp {
        /// Who it is.
        found: String,
    },
    /// Whatever else the TLS library finds.
    #[error("cannot be used: {why}")]
    Other {
        /// The library's words.
        why: String,
    },
}

impl Refusal {
    /// One word for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::Malformed => "malformed",
            Self::Usage { .. } => "usage",
            Self::NoIdentity { .. } | Self::SeveralIdentities { .. } | Self::BadIdentity(_) => {
                "identity"
            }
            Self::TrustDomain { .. } => "trust_domain",
            Self::WrongParty { .. } | Self::NotForHttp { .. } => "wrong_party",
            Self::WrongPin { .. } => "wrong_pin",
            Self::Other { .. } => "other",
        }
    }
}

fn pins(keys: &[[u8; 32]]) -> String {
    if keys.is_empty() {
        return "none".to_owned();
    }
    keys.iter().map(pin_text).collect::<Vec<_>>().join(", ")
}

/// Why a connection did not come up. Each prints as one sentence with the peer's address.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer did not finish in time.
    #[error("peer {peer}: the TLS handshake did not finish within {after:?}")]
    TimedOut {
        /// Its address.
        peer: SocketAddr,
        /// The time it had.
        after: Duration,
    },
    /// We do not accept its certificate.
    #[error("peer {peer} refused: its certificate {why}")]
    Refused {
        /// Its address.
        peer: SocketAddr,
        /// The reason.
        why: Refusal,
    },
    /// It does not accept ours, or found another fault and said so.
    #[error("peer {peer} ended the TLS handshake: {alert}")]
    RefusedByPeer {
        /// Its address.
        peer: SocketAddr,
        /// Its alert in words.
        alert: String,
    },
    /// The peer does not speak HTTP/2.
    #[error("peer {peer} refused: it does not offer HTTP/2 (ALPN \"h2\")")]
    Protocol {
        /// Its address.
        peer: SocketAddr,
    },
    /// The peer has no certificate yet and asks for one, which is not on offer here.
    #[error("peer {peer} refused: it wants to enrol, and enrolment is switched off here")]
    EnrolmentOff {
        /// Its address.
        peer: SocketAddr,
    },
    /// We want to enrol, and the peer is not there for that.
    #[error(
        "peer {peer} does not enrol agents (a collector's ingest port does, with pki.dir set and pki.enrol on)"
    )]
    NoEnrolment {
        /// Its address.
        peer: SocketAddr,
    },
    /// Not TLS, or TLS that we do not speak.
    #[error("peer {peer}: the TLS handshake failed: {source}")]
    Tls {
        /// Its address.
        peer: SocketAddr,
        /// What the TLS library found.
        source: rustls::Error,
    },
    /// The connection broke.
    #[error("peer {peer}: the connection broke during the TLS handshake: {source}")]
    Io {
        /// Its address.
        peer: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The connection had no peer any more when it was looked at.
    #[error("the connection was gone before the TLS handshake: {source}")]
    NoPeer {
        /// The cause.
        source: io::Error,
    },
}

/// Why certificate files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error(
        "reading {}: {source}\n  = help: certificates are made by tributary-certs init and tributary-certs issue",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file is not PEM, or holds something else.
    #[error("{}: no usable {what} in this file: {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// The parser's words.
        why: String,
    },
    /// The bundle of authorities is refused.
    #[error("{}: no usable CA bundle in this file: {source}", path.display())]
    Bundle {
        /// The bundle's file.
        path: PathBuf,
        /// The reason.
        source: TrustError,
    },
    /// A file cannot be written.
    #[error("writing {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The key belongs to another certificate.
    #[error("{}: this private key does not belong to the certificate in {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// We would not accept our own certificate.
    #[error("{}: the certificate {why}", path.display())]
    Refused {
        /// The certificate's file.
        path: PathBuf,
        /// The reason.
        why: Refusal,
    },
    /// The TLS library refuses the files for another reason.
    #[error("{}: {source}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// What the TLS library found.
        source: rustls::Error,
    },
}
