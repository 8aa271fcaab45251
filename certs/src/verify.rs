//! Decides whether a peer's certificate is good enough: our authority, the right usage, the right identity.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, DistinguishedName, Error, OtherError, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::certificate::Certificate;
use crate::error::Refusal;
use crate::identity::Identity;
use crate::trust::{Bundle, Trusted};

/// The part that is the same in every verifier: signatures are checked by `self.provider`, never waved through.
macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(
                message,
                cert,
                dss,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(
                message,
                cert,
                dss,
                &self.provider.signature_verification_algorithms,
            )
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.provider.signature_verification_algorithms.supported_schemes()
        }
    };
}
pub(crate) use signatures;

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
    pub(crate) party: Party,
    trust_domain: String,
    roots: Arc<RootCertStore>,
    denied: Arc<HashSet<[u8; 32]>>,
    provider: Arc<CryptoProvider>,
    client_chain: Arc<dyn ClientCertVerifier>,
}

impl Verifier {
    pub(crate) fn new(
        trust_domain: String,
        party: Party,
        bundle: &Bundle,
        denied: Arc<HashSet<[u8; 32]>>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let roots = bundle.roots();
        let client_chain =
            WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build()?;
        Ok(Self { party, trust_domain, roots, denied, provider, client_chain })
    }

    /// What is left to check of a chain that leads to one of the roots. Intermediates count, too: a path cannot do
    /// without them.
    fn check(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        side: Side,
    ) -> Result<(), Error> {
        let parse = |der| Certificate::parse(der).map_err(|_| refused(Refusal::Malformed));
        let certificate = parse(leaf)?;
        let mut keys = vec![certificate.spki_sha256];
        for der in intermediates {
            keys.push(parse(der)?.spki_sha256);
        }
        if keys.iter().any(|key| self.denied.contains(key)) {
            return Err(CertificateError::Revoked.into());
        }
        check_usage(&certificate, side)
            .and_then(|()| check_identity(&certificate, &self.trust_domain, &self.party))
            .map_err(refused)
    }
}

/// A refusal in the form in which rustls hands it on; [`refusal`] takes it out again.
pub(crate) fn refused(why: Refusal) -> Error {
    CertificateError::Other(OtherError(Arc::new(why))).into()
}

/// The authority that a chain leads to now, used as a certificate of this side.
pub(crate) fn authority_of<'a>(
    chain: &[CertificateDer<'_>],
    bundle: &'a Bundle,
    provider: &Arc<CryptoProvider>,
    side: Side,
) -> Result<&'a Trusted, Error> {
    // With all roots first: the one that is nearest gives the reason.
    check_chain(chain, &bundle.roots(), provider, side)?;
    let found =
        bundle.each().iter().find(|one| check_chain(chain, &one.root, provider, side).is_ok());
    found.ok_or_else(|| refused(Refusal::UnknownAuthority))
}

fn check_chain(
    chain: &[CertificateDer<'_>],
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
        C::ExpiredContext { not_after, time } => {
            Refusal::Expired { at: system_time(*not_after), now: system_time(*time) }
        }
        C::NotValidYetContext { not_before, time } => {
            Refusal::NotYetValid { from: system_time(*not_before), now: system_time(*time) }
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
        self.check(end_entity, intermediates, Side::Client)?;
        Ok(ClientCertVerified::assertion())
    }

    signatures!();
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
        self.check(end_entity, intermediates, Side::Server)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}
