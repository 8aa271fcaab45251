//! Looks at a certificate file as the other side of a connection would.

use std::path::Path;
use std::time::SystemTime;

use crate::certificate::Certificate;
use crate::error::{Refusal, TlsError};
use crate::identity::Identity;
use crate::pem;
use crate::state::State;
use crate::tls::{Files, check_chain, provider};
use crate::trust::Bundle;
use crate::verify;

/// What a good certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Good {
    /// Of an agent or a collector.
    Leaf {
        /// Whom it speaks for.
        identity: Identity,
        /// What it says.
        certificate: Certificate,
        /// Whether a key was found beside it, and fits.
        key: bool,
    },
    /// Of an authority that is trusted.
    Authority {
        /// What it says.
        certificate: Certificate,
    },
}

/// Checks one file: valid now, signed by one of these authorities, one identity, not revoked; a key beside it
/// (`tls.key` beside `tls.crt`) must fit.
pub fn file(
    path: &Path,
    bundle: &Bundle,
    state: &State,
    now: SystemTime,
) -> Result<Good, TlsError> {
    let chain = pem::read_certificates(path)?;
    let refused = |why| TlsError::Refused { path: path.to_owned(), why };
    let certificate = chain.first().and_then(|der| Certificate::parse(der).ok());
    let certificate = certificate.ok_or_else(|| refused(Refusal::Malformed))?;
    if state.is_denied(&certificate.spki_sha256) {
        return Err(refused(Refusal::Revoked));
    }
    if certificate.is_ca {
        if certificate.not_after < now {
            return Err(refused(Refusal::Expired { at: certificate.not_after, now }));
        }
        if !bundle.contains(&certificate.spki_sha256) {
            return Err(refused(Refusal::UnknownAuthority));
        }
        return Ok(Good::Authority { certificate });
    }
    check_chain(&certificate, &chain, bundle, path)?;
    let identity = verify::sole_identity(&certificate).map_err(refused)?;
    let key_file = path.with_extension("key");
    let key = key_file.exists();
    if key {
        let private = pem::read_key(&key_file)?;
        let files = Files { cert_file: path.to_owned(), key_file, ca_file: path.to_owned() };
        pem::check_key(&provider(), &chain, &private, &files)?;
    }
    Ok(Good::Leaf { identity, certificate, key })
}
