//! The authority that comes next: made in `next/`, then exchanged for the present one.

use std::fs;
use std::path::Path;

use crate::authority::Authority;
use crate::bundle::{self, BundleError, CA_CERT, CA_KEY, Folder, NEXT};
use crate::disk;

/// An authority that is somewhere else, for the trust domain of this folder.
pub fn authority_in(dir: &Path, (cert, key): (&Path, &Path)) -> Result<Authority, BundleError> {
    let trust_domain = Folder::open(dir)?.authority().trust_domain().to_owned();
    bundle::load_authority(cert, key, Some(&trust_domain))
}

/// Ends an exchange of `ca.key` and `ca.crt` for those in `next/`: the key goes first, so a certificate that is there
/// without its key belongs to the key that is in place.
pub(crate) fn settle(dir: &Path) -> Result<(), BundleError> {
    let next = dir.join(NEXT);
    if next.join(CA_CERT).exists() && !next.join(CA_KEY).exists() {
        bundle::move_file(&next.join(CA_CERT), &dir.join(CA_CERT))?;
        // Nothing but the folder itself is left, and an empty one is no harm.
        let _ = fs::remove_dir(&next);
    }
    Ok(())
}

/// Puts the authority in `next/` in place of the present one.
pub(crate) fn exchange(dir: &Path) -> Result<(), BundleError> {
    if dir.join(NEXT).join(CA_KEY).exists() {
        bundle::move_file(&dir.join(NEXT).join(CA_KEY), &dir.join(CA_KEY))?;
    }
    settle(dir)
}

/// The authority in `next/`; `None` if there is none, or only half of one.
pub(crate) fn next_authority(dir: &Path, trust_domain: &str) -> Option<Authority> {
    let next = dir.join(NEXT);
    bundle::load_authority(&next.join(CA_CERT), &next.join(CA_KEY), Some(trust_domain)).ok()
}

/// Writes the next authority into `next/`.
pub(crate) fn write_next(dir: &Path, authority: &Authority) -> Result<(), BundleError> {
    let next = dir.join(NEXT);
    remove_next(dir)?;
    bundle::create_dir(&next)?;
    bundle::write(&next.join(CA_KEY), authority.key_pem().as_bytes(), disk::SECRET)?;
    bundle::write(&next.join(CA_CERT), authority.pem().as_bytes(), disk::PUBLIC)
}

/// Removes the next authority: the certificate first, so that it never stands there without its key.
pub(crate) fn remove_next(dir: &Path) -> Result<(), BundleError> {
    for name in [CA_CERT, CA_KEY] {
        bundle::remove(&dir.join(NEXT).join(name))?;
    }
    let _ = fs::remove_dir(dir.join(NEXT));
    Ok(())
}
