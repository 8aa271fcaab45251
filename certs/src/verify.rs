//! Decides whether a peer's certificate is good enough: our authority, the right usage, the right identity.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::Certificate;
use crate::error::Refusal;
use crate::identity::Identity;

/// Which identities a peer may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Party {
    /// Any agent.
    AnyAgent,
    /// An agent of this cluster.
    AgentOf(String),
    /// Any collector.
    Collector,
}

/// Which side of the TLS connection the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// The rule for one kind of peer; used as rustls' verifier for clients and for servers.
#[derive(Clone)]
pub(crate) struct Verifier {
    pub(crate) trust_domain: String,
    pub(crate) party: Party,
    pub(crate) roots: Arc<RootCertStore>,
    pub(crate) provider: Arc<CryptoProvider>,
    client_chain: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    pub(crate) fn new(
        trust_domain: String,
        party: Party,
        roots: Arc<RootCertStore>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let client_chain =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        Ok(Self { trust_domain, party, roots, provider, client_chain })
    }

    fn check_leaf(&self, leaf: &CertificateDer<'_>, side: Side) -> Result<(), Error> {
        let certificate = Certificate::parse(leaf).map_err(|_| CertificateError::BadEncoding)?;
        check_usage(&certificate, side)
            .and_then(|()| check_identity(&certificate, &self.trust_domain, &self.party))
            .map_err(|refusal| CertificateError::Other(OtherError(Arc::new(refusal))).into())
    }
}

/// Whether a chain leads to one of the roots now, used as a certificate of this side.
pub(crate) fn check_chain(
    chain: &[CertificateDer<'static>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    side: Side,
) -> Result<(), Error> {
    let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let now = UnixTime::now();
    match side {
        Side::Client => {
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
                .build()
                .map_err(|why| Error::General(why.to_string()))?
                .verify_client_cert(leaf, intermediates, now)
                .map(|_| ())
        }
        Side::Server => verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            roots,
            intermediates,
            now,
            provider.signature_verification_algorithms.all,
        ),
    }
}

/// The extended key usage must be there and must name the side the peer is on.
pub(crate) fn check_usage(certificate: &Certificate, side: Side) -> Result<(), Refusal> {
    let (allowed, wanted) = match side {
        Side::Client => (certificate.client_auth, "client"),
        Side::Server => (certificate.server_auth, "server"),
    };
    if allowed { Ok(()) } else { Err(Refusal::Usage { wanted }) }
}

/// Exactly one URI, of a known form, in our trust domain, and of the wanted party.
pub(crate) fn check_identity(
    certificate: &Certificate,
    trust_domain: &str,
    party: &Party,
) -> Result<(), Refusal> {
    let identity = sole_identity(certificate)?;
    if identity.trust_domain() != trust_domain {
        return Err(Refusal::TrustDomain {
            theirs: identity.trust_domain().to_owned(),
            ours: trust_domain.to_owned(),
        });
    }
    let (good, wanted) = match (party, &identity) {
        (Party::AnyAgent, found) => {
            (matches!(found, Identity::Agent { .. }), "an agent".to_owned())
        }
        (Party::AgentOf(wanted), found) => (
            matches!(found, Identity::Agent { cluster, .. } if cluster == wanted),
            format!("an agent of cluster \"{wanted}\""),
        ),
        (Party::Collector, found) => {
            (matches!(found, Identity::Collector { .. }), "a collector".to_owned())
        }
    };
    if good { Ok(()) } else { Err(Refusal::WrongParty { found: identity.describe(), wanted }) }
}

/// The certificate's one identity.
pub(crate) fn sole_identity(certificate: &Certificate) -> Result<Identity, Refusal> {
    match certificate.uris.as_slice() {
        [] => Err(Refusal::NoIdentity { subject: certificate.subject.clone() }),
        [uri] => uri.parse().map_err(Refusal::BadIdentity),
        several => Err(Refusal::SeveralIdentities { count: several.len() }),
    }
}

/// What a failed TLS handshake says about the peer's certificate, if that is why it failed.
pub(crate) fn refusal(error: &Error) -> Option<Refusal> {
    use CertificateError as C;
    let certificate = match error {
        Error::InvalidCertificate(certificate) => certificate,
        Error::NoCertificatesPresented => return Some(Refusal::NoCertificate),
        _ => return None,
    };
    Some(match certificate {
        C::Other(OtherError(inner)) => match inner.downcast_ref::<Refusal>() {
            Some(refusal) => refusal.clone(),
            None => Refusal::Other { why: inner.to_string() },
        },
        C::ExpiredContext { not_after, .. } => Refusal::Expired { at: system_time(*not_after) },
        C::NotValidYetContext { not_before, .. } => {
            Refusal::NotYetValid { from: system_time(*not_before) }
        }
        // Another authority with our authority's subject shows as a bad signature.
        C::UnknownIssuer | C::BadSignature => Refusal::UnknownAuthority,
        C::Revoked => Refusal::Revoked,
        C::BadEncoding => Refusal::Malformed,
        C::InvalidPurposeContext { required, .. } => match required {
            rustls::ExtendedKeyPurpose::ClientAuth => Refusal::Usage { wanted: "client" },
            rustls::ExtendedKeyPurpose::ServerAuth => Refusal::Usage { wanted: "server" },
            rustls::ExtendedKeyPurpose::Other(_) => Refusal::Other { why: error.to_string() },
        },
        other => Refusal::Other { why: other.to_string() },
    })
}

fn system_time(time: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(time.as_secs())
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("trust_domain", &self.trust_domain)
            .field("party", &self.party)
            .finish_non_exhaustive()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hint: the client has one certificate, and the authority's name is nobody's business.
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.client_chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check_leaf(end_entity, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        self.check_leaf(end_entity, Side::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
