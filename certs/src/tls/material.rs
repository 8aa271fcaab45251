//! One side's certificate, key and trust bundle: read and checked together, never used if they do not fit.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::provider;
use crate::certificate::Certificate;
use crate::error::{Refusal, TlsError};
use crate::identity::Identity;
use crate::trust::{Bundle, Trusted};
use crate::verify::{self, Party, Side, Verifier};
use crate::{pair, pem};

/// Where one side's certificate, its key, and the bundle of authorities it trusts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM; intermediates may follow.
    pub cert_file: PathBuf,
    /// Its private key, PEM.
    pub key_file: PathBuf,
    /// The authorities that peers' certificates must chain to, PEM.
    pub ca_file: PathBuf,
}

/// Certificate, key and bundle, read and checked together; what does not fit together is never used.
#[derive(Clone)]
pub struct Material {
    cert_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
    bundle: Bundle,
    authority: Trusted,
    denied: Arc<HashSet<[u8; 32]>>,
    certificate: Certificate,
    identity: Identity,
}

impl Material {
    /// Reads the three files, after a replacement that a crash has interrupted was ended. The key must fit the
    /// certificate, and the certificate must be valid now, chain to the bundle and carry one of our identities.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        pair::finish(files)?;
        let chain = pem::read(&files.cert_file)?;
        let key = Zeroizing::new(pem::read(&files.key_file)?);
        Self::from_parts(files, &chain, &key, Bundle::read(&files.ca_file)?)
    }

    /// The same with texts (PEM) that are not on disk yet; `files` says where they belong, for errors.
    pub fn from_parts(
        files: &Files,
        chain_pem: &[u8],
        key_pem: &[u8],
        bundle: Bundle,
    ) -> Result<Self, TlsError> {
        let cert_file = files.cert_file.clone();
        let chain = pem::certificates(chain_pem, &cert_file)?;
        let key = pem::key(key_pem, &files.key_file)?;
        pem::check_key(&provider(), &chain, &key, files)?;
        let refused = |why| TlsError::Refused { path: files.cert_file.clone(), why };
        let certificate = chain
            .first()
            .and_then(|leaf| Certificate::parse(leaf).ok())
            .ok_or_else(|| refused(Refusal::Malformed))?;
        let identity = verify::sole_identity(&certificate).map_err(refused)?;
        let authority = check_chain(&certificate, &chain, &bundle, &cert_file)?;
        let denied = Arc::default();
        let key = Arc::new(key);
        Ok(Self { cert_file, chain, key, bundle, authority, denied, certificate, identity })
    }

    /// The same, refusing peers whose key (SHA-256 of its SPKI), or that of an intermediate, is one of these.
    #[must_use]
    pub fn with_denied(mut self, denied: Arc<HashSet<[u8; 32]>>) -> Self {
        self.denied = denied;
        self
    }

    /// Whom the certificate speaks for.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Until when the certificate is valid.
    pub fn not_after(&self) -> SystemTime {
        self.certificate.not_after
    }

    /// Everything the certificate says.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Whom it trusts.
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The authority in the bundle that its own certificate chains to (SHA-256 of the SPKI).
    pub fn authority(&self) -> [u8; 32] {
        self.authority.certificate.spki_sha256
    }

    /// The chain up to and with the authority, for a peer that knows the authority by its hash only.
    pub(crate) fn chain_with_authority(&self) -> Vec<CertificateDer<'static>> {
        let authority = &self.authority.der;
        let chain = self.chain.iter().filter(|der| *der != authority);
        chain.chain([authority]).cloned().collect()
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.chain.clone()
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(super) fn verifier(&self, party: Party) -> Result<Verifier, TlsError> {
        let trust_domain = self.identity.trust_domain().to_owned();
        Verifier::new(trust_domain, party, &self.bundle, self.denied.clone(), provider())
            .map_err(|why| self.unusable(rustls::Error::General(why.to_string())))
    }

    pub(super) fn check_usage(&self, side: Side) -> Result<(), TlsError> {
        verify::check_usage(&self.certificate, side)
            .map_err(|why| TlsError::Refused { path: self.cert_file.clone(), why })
    }

    pub(crate) fn unusable(&self, source: rustls::Error) -> TlsError {
        TlsError::Unusable { path: self.cert_file.clone(), source }
    }
}

/// Never prints the key.
impl std::fmt::Debug for Material {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Material")
            .field("identity", &self.identity)
            .field("serial", &self.certificate.serial)
            .finish_non_exhaustive()
    }
}

/// A certificate for one side only is checked as that side; which side it serves is decided later.
pub(crate) fn check_chain(
    certificate: &Certificate,
    chain: &[CertificateDer<'static>],
    bundle: &Bundle,
    cert_file: &Path,
) -> Result<Trusted, TlsError> {
    let side = if certificate.client_auth { Side::Client } else { Side::Server };
    let found = verify::authority_of(chain, bundle, &provider(), side);
    found.cloned().map_err(|source| {
        let path = cert_file.to_owned();
        match verify::refusal(&source) {
            Some(why) => TlsError::Refused { path, why },
            None => TlsError::Unusable { path, source },
        }
    })
}
