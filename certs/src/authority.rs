//! The authority: makes its own certificate and signs those of agents and collectors.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use crate::certificate::Certificate;
use crate::identity::{self, Identity, InvalidIdentity};
use crate::request::Request;

/// Life of an authority's certificate.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Life of a leaf certificate unless another is asked for.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(30 * 86_400);
/// Certificates are valid from this long before they were made: clocks differ.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// A number follows.
const AUTHORITY_NAME: &str = "Tributary CA ";
const TRUST_DOMAIN_SCHEME: &str = "spiffe://";
const SERIAL_BYTES: usize = 16;
const MAX_COMMON_NAME_BYTES: usize = 64;

/// A certificate with its key, able to sign others.
pub struct Authority {
    pem: String,
    key_pem: Zeroizing<String>,
    certificate: Certificate,
    trust_domain: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A new certificate and its key.
pub struct Issued {
    /// The certificate, PEM.
    pub certificate_pem: String,
    /// Its private key, PKCS#8 PEM; wiped from memory when dropped.
    pub key_pem: Zeroizing<String>,
    /// What the certificate says.
    pub certificate: Certificate,
}

/// A new certificate for a key that somebody else has.
pub struct Signed {
    /// The certificate, PEM.
    pub chain_pem: String,
    /// What the certificate says.
    pub certificate: Certificate,
}

impl Authority {
    /// A new authority for a trust domain, valid for [`AUTHORITY_LIFETIME`] from `now`.
    pub fn create(trust_domain: &str, now: SystemTime) -> Result<Self, AuthorityError> {
        Self::create_numbered(trust_domain, 1, now)
    }

    /// The authority that comes after this one: same trust domain, next number, new key.
    pub fn successor(&self, now: SystemTime) -> Result<Self, AuthorityError> {
        let number = self.certificate.subject.strip_prefix(AUTHORITY_NAME);
        let number = number.and_then(|number| number.parse::<u32>().ok()).unwrap_or(1);
        Self::create_numbered(&self.trust_domain, number.saturating_add(1), now)
    }

    fn create_numbered(
        trust_domain: &str,
        number: u32,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        identity::check_trust_domain(trust_domain)?;
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let name = format!("{AUTHORITY_NAME}{number}");
        let mut params = base_params(&name, now, now + AUTHORITY_LIFETIME)?;
        // One level below it is allowed: an intermediate that a collector holds.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri(&format!("{TRUST_DOMAIN_SCHEME}{trust_domain}"))?];
        let pem = params.self_signed(&key).map_err(AuthorityError::Make)?.pem();
        let key_pem = Zeroizing::new(key.serialize_pem());
        Self::load(&pem, key_pem)
    }

    /// An authority from its certificate and key, both PEM.
    pub fn load(pem: &str, key_pem: Zeroizing<String>) -> Result<Self, AuthorityError> {
        Self::load_in(pem, key_pem, None)
    }

    /// The same for an authority whose certificate may name no trust domain, as those made by others do: then it is
    /// for this one.
    pub fn load_in(
        pem: &str,
        key_pem: Zeroizing<String>,
        trust_domain: Option<&str>,
    ) -> Result<Self, AuthorityError> {
        let der = CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|why| AuthorityError::Certificate(why.to_string()))?;
        let certificate =
            Certificate::parse(&der).map_err(|why| AuthorityError::Certificate(why.to_string()))?;
        if !certificate.is_ca {
            return Err(AuthorityError::NotAuthority);
        }
        let trust_domain = named_trust_domain(&certificate).or(trust_domain);
        let trust_domain = trust_domain.ok_or(AuthorityError::NoTrustDomain)?.to_owned();
        identity::check_trust_domain(&trust_domain)?;
        let key = KeyPair::from_pem(&key_pem).map_err(AuthorityError::Key)?;
        if !same_key(&key, &certificate) {
            return Err(AuthorityError::KeyMismatch);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key).map_err(AuthorityError::Key)?;
        // Of a chain only the authority itself is kept: it is what peers are to trust.
        let pem = crate::pem::text(&der);
        Ok(Self { pem, key_pem, certificate, trust_domain, issuer })
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The authority's private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// What the authority's certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The trust domain all its identities are in.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Whether its certificate says so; if not, whoever keeps it must keep the trust domain, too.
    pub fn names_trust_domain(&self) -> bool {
        named_trust_domain(&self.certificate).is_some()
    }

    /// A certificate for an agent of `cluster`.
    pub fn issue_agent(
        &self,
        cluster: &str,
        instance: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let identity = Identity::agent(&self.trust_domain, cluster, instance)?;
        self.issue(cluster, &identity, &[], (now, lifetime))
    }

    /// A certificate for a collector that is reached under `hosts` (names or addresses).
    pub fn issue_collector(
        &self,
        name: &str,
        hosts: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Issued, AuthorityError> {
        let identity = Identity::collector(&self.trust_domain, name)?;
        let subject = hosts.first().filter(|host| host.len() <= MAX_COMMON_NAME_BYTES);
        self.issue(subject.map_or(name, String::as_str), &identity, hosts, (now, lifetime))
    }

    /// A certificate for an agent that has made its own key. The names come from the arguments alone, whatever
    /// the request asks for.
    pub fn sign_agent(
        &self,
        request: &Request,
        (cluster, instance): (&str, &str),
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Signed, AuthorityError> {
        let identity = Identity::agent(&self.trust_domain, cluster, instance)?;
        let params = self.leaf_params(cluster, &identity, &[], (now, lifetime))?;
        self.sign(&params, &request.key)
    }

    fn issue(
        &self,
        subject: &str,
        identity: &Identity,
        hosts: &[String],
        period: (SystemTime, Duration),
    ) -> Result<Issued, AuthorityError> {
        let params = self.leaf_params(subject, identity, hosts, period)?;
        let key = KeyPair::generate().map_err(AuthorityError::Make)?;
        let Signed { chain_pem, certificate } = self.sign(&params, &key)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Issued { certificate_pem: chain_pem, key_pem, certificate })
    }

    /// Both kinds may be client and server, because either side may dial; which of the two a peer may be in a
    /// given connection is decided by the kind of its identity. A certificate without the usage of its side
    /// is refused all the same.
    fn leaf_params(
        &self,
        subject: &str,
        identity: &Identity,
        hosts: &[String],
        (now, lifetime): (SystemTime, Duration),
    ) -> Result<CertificateParams, AuthorityError> {
        let not_after = now
            .checked_add(lifetime)
            .filter(|end| *end > now && *end <= self.certificate.not_after)
            .ok_or(AuthorityError::Lifetime { authority_ends: self.certificate.not_after })?;
        let mut params = base_params(subject, now, not_after)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = vec![uri(&identity.to_string())?];
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        Ok(params)
    }

    fn sign(
        &self,
        params: &CertificateParams,
        key: &impl PublicKeyData,
    ) -> Result<Signed, AuthorityError> {
        let signed = params.signed_by(key, &self.issuer).map_err(AuthorityError::Make)?;
        let certificate = Certificate::parse(signed.der())
            .map_err(|why| AuthorityError::Certificate(why.to_string()))?;
        Ok(Signed { chain_pem: signed.pem(), certificate })
    }
}

/// Why an authority cannot be made, read, or sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A name in the request is not valid.
    #[error(transparent)]
    Name(#[from] InvalidIdentity),
    /// A host is neither a DNS name nor an address.
    #[error("\"{0}\" is neither a host name nor an IP address")]
    Host(String),
    /// The certificate cannot be read.
    #[error("the authority's certificate cannot be read: {0}")]
    Certificate(String),
    /// The certificate is a leaf.
    #[error("the certificate is not an authority's (basic constraints say CA:FALSE)")]
    NotAuthority,
    /// The certificate does not name the trust domain.
    #[error(
        "the authority's certificate names no trust domain (one URI SAN spiffe://<trust-domain>)"
    )]
    NoTrustDomain,
    /// The key cannot be read.
    #[error("the authority's private key cannot be used: {0}")]
    Key(#[source] rcgen::Error),
    /// Certificate and key do not belong together.
    #[error("the authority's private key does not belong to its certificate")]
    KeyMismatch,
    /// The asked life is zero or longer than the authority's.
    #[error(
        "the certificate would have to end after now and not later than the authority's own, {}",
        crate::certificate::utc(*authority_ends)
    )]
    Lifetime {
        /// The authority's last second.
        authority_ends: SystemTime,
    },
    /// No randomness, or the library refuses a parameter.
    #[error("making the certificate: {0}")]
    Make(#[source] rcgen::Error),
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a serial number")]
    Random,
}

fn named_trust_domain(certificate: &Certificate) -> Option<&str> {
    match certificate.uris.as_slice() {
        [uri] => uri.strip_prefix(TRUST_DOMAIN_SCHEME),
        _ => None,
    }
}

/// Whether `host` is an IP address or a DNS name without wildcards.
pub fn is_host(host: &str) -> bool {
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    host.parse::<IpAddr>().is_ok() || (host.len() <= 253 && host.split('.').all(label))
}

fn host_name(host: &str) -> Result<SanType, AuthorityError> {
    let refused = || AuthorityError::Host(host.escape_debug().to_string());
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    if !is_host(host) {
        return Err(refused());
    }
    Ok(SanType::DnsName(host.try_into().map_err(|_| refused())?))
}

fn uri(text: &str) -> Result<SanType, AuthorityError> {
    Ok(SanType::URI(text.try_into().map_err(AuthorityError::Make)?))
}

fn base_params(
    common_name: &str,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, AuthorityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = whole_seconds(now - CLOCK_SKEW);
    params.not_after = whole_seconds(not_after);
    params.serial_number = Some(random_serial()?);
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn whole_seconds(time: SystemTime) -> OffsetDateTime {
    OffsetDateTime::from(time).replace_nanosecond(0).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Positive, and never with a leading zero byte, so that every tool prints it alike.
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = [0_u8; SERIAL_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| AuthorityError::Random)?;
    if let Some(first) = bytes.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(SerialNumber::from_slice(&bytes))
}

fn same_key(key: &KeyPair, certificate: &Certificate) -> bool {
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.subject_public_key_info());
    digest.as_ref() == certificate.spki_sha256
}
