//! The trust bundle: which authorities' certificates are accepted. Small, immutable, named by a digest.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use crate::certificate::Certificate;
use crate::digest::sha256;
use crate::error::TlsError;
use crate::pem;

/// Authorities in a bundle. Two are needed during a rotation, a few where several installations meet.
/// More: the bundle is refused.
pub const MAX_AUTHORITIES: usize = 16;

/// Bytes of a bundle's text. More: it is refused before it is read.
pub const MAX_BUNDLE_BYTES: usize = 256 << 10;

/// Some authorities, each once, in the order in which they were given.
///
/// Cloning is cheap; a bundle never changes, a changed one is another bundle.
#[derive(Clone)]
pub struct Bundle(Arc<[Trusted]>);

/// One authority that is trusted.
#[derive(Clone)]
pub(crate) struct Trusted {
    pub(crate) der: CertificateDer<'static>,
    pub(crate) certificate: Certificate,
    /// It and no other.
    pub(crate) root: Arc<RootCertStore>,
}

impl Bundle {
    /// Reads certificates in PEM. Every one of them must be an authority's.
    pub fn parse(text: &[u8]) -> Result<Self, TrustError> {
        if text.len() > MAX_BUNDLE_BYTES {
            return Err(TrustError::TooLong);
        }
        let ders = CertificateDer::pem_slice_iter(text)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| TrustError::Pem(why.to_string()))?;
        if ders.is_empty() {
            return Err(TrustError::Empty);
        }
        Self::from_ders(ders)
    }

    /// Reads a file of certificates in PEM.
    pub fn read(path: &Path) -> Result<Self, TlsError> {
        Self::parse(&pem::read(path)?)
            .map_err(|source| TlsError::Bundle { path: path.to_owned(), source })
    }

    pub(crate) fn from_ders(ders: Vec<CertificateDer<'static>>) -> Result<Self, TrustError> {
        let all = ders.into_iter().map(Trusted::new).collect::<Result<Vec<_>, _>>()?;
        Self::of(all)
    }

    fn of(given: impl IntoIterator<Item = Trusted>) -> Result<Self, TrustError> {
        let mut all: Vec<Trusted> = Vec::new();
        for one in given {
            if all.iter().any(|other| other.der == one.der) {
                continue;
            }
            if all.len() == MAX_AUTHORITIES {
                return Err(TrustError::TooMany);
            }
            all.push(one);
        }
        Ok(Self(all.into()))
    }

    /// The certificates in PEM.
    pub fn pem(&self) -> String {
        self.0.iter().map(|one| pem::text(&one.der)).collect()
    }

    /// Names the bundle whatever the order and the text form: the SHA-256 of the SHA-256s of the certificates
    /// (DER), in ascending order.
    pub fn digest(&self) -> [u8; 32] {
        let mut hashes: Vec<_> = self.0.iter().map(|one| sha256(&one.der)).collect();
        hashes.sort_unstable();
        sha256(hashes.as_flattened())
    }

    /// What the authorities' certificates say.
    pub fn authorities(&self) -> impl ExactSizeIterator<Item = &Certificate> {
        self.0.iter().map(|one| &one.certificate)
    }

    /// Whether an authority with this key (SHA-256 of its SPKI) is in it.
    pub fn contains(&self, spki_sha256: &[u8; 32]) -> bool {
        self.authorities().any(|authority| authority.spki_sha256 == *spki_sha256)
    }

    /// These and those; refused if they are too many together.
    pub fn with(&self, other: &Self) -> Result<Self, TrustError> {
        Self::of(self.0.iter().chain(&*other.0).cloned())
    }

    /// These without the authority that has this key. May leave none: then nobody is trusted.
    #[must_use]
    pub fn without(&self, spki_sha256: &[u8; 32]) -> Self {
        let other = |one: &&Trusted| one.certificate.spki_sha256 != *spki_sha256;
        Self(self.0.iter().filter(other).cloned().collect())
    }

    /// How many authorities.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, as rustls wants them.
    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        let roots = self.0.iter().flat_map(|one| one.root.roots.iter().cloned());
        Arc::new(RootCertStore { roots: roots.collect() })
    }

    /// Each of them alone.
    pub(crate) fn each(&self) -> &[Trusted] {
        &self.0
    }
}

impl Trusted {
    fn new(der: CertificateDer<'static>) -> Result<Self, TrustError> {
        let certificate = Certificate::parse(&der).map_err(|_| TrustError::Malformed)?;
        if !certificate.is_ca {
            return Err(TrustError::NotAuthority { subject: certificate.subject });
        }
        let mut root = RootCertStore::empty();
        root.add(der.clone()).map_err(TrustError::Unusable)?;
        Ok(Self { der, certificate, root: Arc::new(root) })
    }
}

/// The same authorities, whatever the order.
impl PartialEq for Bundle {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Bundle {}

impl fmt::Debug for Bundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.authorities().map(|authority| &authority.subject)).finish()
    }
}

/// Why a bundle is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum TrustError {
    /// Cut short, or not PEM.
    #[error("it is not well-formed PEM: {0}")]
    Pem(String),
    /// No certificate in it.
    #[error("it holds no CERTIFICATE block")]
    Empty,
    /// More than [`MAX_BUNDLE_BYTES`].
    #[error("it is longer than {MAX_BUNDLE_BYTES} bytes")]
    TooLong,
    /// More than [`MAX_AUTHORITIES`].
    #[error("it holds more than {MAX_AUTHORITIES} authorities")]
    TooMany,
    /// A block is not a certificate.
    #[error("one of its certificates is not well-formed X.509")]
    Malformed,
    /// A leaf: trusting it as a root would be a mistake.
    #[error(
        "the certificate of \"{subject}\" is not an authority's (basic constraints say CA:FALSE)"
    )]
    NotAuthority {
        /// Its subject.
        subject: String,
    },
    /// An authority that the TLS library does not take.
    #[error("one of its certificates cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use proptest::prelude::*;

    use super::*;
    use crate::authority::Authority;

    fn authority() -> Authority {
        Authority::create("tributary.internal", SystemTime::now()).unwrap()
    }

    fn bundle(authorities: &[&Authority]) -> Bundle {
        let text: String = authorities.iter().map(|authority| authority.pem()).collect();
        Bundle::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_digest_names_the_set_and_not_the_text() {
        let (a, b) = (authority(), authority());
        let both = bundle(&[&a, &b]);
        assert_eq!(both.digest(), bundle(&[&b, &a, &b]).digest());
        assert_eq!(both, Bundle::parse(both.pem().as_bytes()).unwrap());
        let commented = format!("# ours\r\n{}\n\n", a.pem().replace('\n', "\r\n"));
        assert_eq!(Bundle::parse(commented.as_bytes()).unwrap(), bundle(&[&a]));
        assert_ne!(both, bundle(&[&a]));
    }

    #[test]
    fn pem_is_what_others_write() {
        let a = authority();
        assert_eq!(bundle(&[&a]).pem(), a.pem().replace('\r', ""));
    }

    #[test]
    fn authorities_come_and_go() {
        let (a, b) = (authority(), authority());
        let (key_a, key_b) = (a.certificate().spki_sha256, b.certificate().spki_sha256);
        let both = bundle(&[&a]).with(&bundle(&[&b, &a])).unwrap();
        assert_eq!(both.len(), 2);
        assert!(both.contains(&key_a) && both.contains(&key_b));
        assert_eq!(both.without(&key_a), bundle(&[&b]));
        assert_eq!(both.roots().len(), 2);
        let nobody = both.without(&key_a).without(&key_b);
        assert!(nobody.is_empty() && nobody.roots().is_empty());
    }

    #[test]
    fn only_authorities_and_not_too_many_of_them() {
        let a = authority();
        let hour = Duration::from_secs(3600);
        let leaf = a.issue_agent("eu-1", "a", SystemTime::now(), hour).unwrap();
        let cut = &a.pem()[..a.pem().len() / 2];
        let second_cut = a.pem().to_owned() + cut;
        let many: String = (0..=MAX_AUTHORITIES).map(|_| authority().pem().to_owned()).collect();
        let refused = |text: &str| Bundle::parse(text.as_bytes()).unwrap_err().to_string();
        for (text, why) in [
            ("", "it holds no CERTIFICATE block"),
            (&*leaf.key_pem, "it holds no CERTIFICATE block"),
            (
                &*leaf.certificate_pem,
                "the certificate of \"eu-1\" is not an authority's (basic constraints say CA:FALSE)",
            ),
            (&*many, "it holds more than 16 authorities"),
            (&*"x".repeat(MAX_BUNDLE_BYTES + 1), "it is longer than 262144 bytes"),
        ] {
            assert_eq!(refused(text), why);
        }
        for half in [cut, &second_cut] {
            assert!(refused(half).starts_with("it is not well-formed PEM: "), "{half}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = Bundle::parse(&bytes);
            let block = pem::text(&CertificateDer::from(bytes));
            prop_assert!(Bundle::parse(block.as_bytes()).is_err());
        }

        #[test]
        fn no_damaged_certificate_makes_it_panic(at in any::<prop::sample::Index>(), to: u8) {
            let mut der = bundle(&[&authority()]).each()[0].der.to_vec();
            let at = at.index(der.len());
            der[at] = to;
            let _ = Bundle::parse(pem::text(&CertificateDer::from(der)).as_bytes());
        }
    }
}
