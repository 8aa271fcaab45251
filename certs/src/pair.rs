//! Replaces a certificate and its key so that a crash at any point leaves a pair that fits together.
//!
//! The new key, the new bundle and then the new certificate are written beside the old files, with `.next` at the end
//! of their names; the certificate's appearance is the commit. After that they are moved into place in the same
//! order. [`finish`] drops what was not committed and moves what was, so whoever looks next ends what a crash has
//! interrupted. A lock on the key's folder keeps two processes from doing so at once.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{self, PUBLIC, SECRET};
use crate::error::TlsError;
use crate::pem;
use crate::tls::{Files, provider};
use crate::trust::Bundle;

/// A new certificate with its key, and a new bundle if that changes too.
pub struct New<'a> {
    /// The certificate, PEM; intermediates may follow.
    pub chain_pem: &'a str,
    /// Its private key, PEM.
    pub key_pem: &'a str,
    /// The authorities to trust from now on, PEM.
    pub ca_pem: Option<&'a str>,
}

/// Puts a new pair in place of the old one. What does not fit together is refused before anything is written.
pub fn install(files: &Files, new: &New<'_>) -> Result<(), TlsError> {
    check(files, new)?;
    let _lock = lock(files)?;
    settle(files)?;
    let texts = [(Some(new.key_pem), SECRET), (new.ca_pem, PUBLIC), (Some(new.chain_pem), PUBLIC)];
    for ((next, _), (text, mode)) in staged(files).iter().zip(texts) {
        if let Some(text) = text {
            disk::replace(next, text.as_bytes(), mode).map_err(|source| failed(next, source))?;
        }
    }
    settle(files)
}

/// Puts a new bundle in place of the old one.
pub fn install_bundle(files: &Files, ca_pem: &str) -> Result<(), TlsError> {
    parse_bundle(files, ca_pem)?;
    let _lock = lock(files)?;
    settle(files)?;
    disk::replace(&files.ca_file, ca_pem.as_bytes(), PUBLIC)
        .map_err(|source| failed(&files.ca_file, source))
}

/// Ends what an interrupted [`install`] has left. Does nothing where nothing is left, and in folders that cannot be
/// written.
pub fn finish(files: &Files) -> Result<(), TlsError> {
    if !staged(files).iter().any(|(next, _)| next.exists()) {
        return Ok(());
    }
    let _lock = lock(files)?;
    match settle(files) {
        Err(TlsError::Write { source, .. }) if is_read_only(&source) => Ok(()),
        settled => settled,
    }
}

/// Whether [`install`] can work on these files. It cannot on read-only mounts, nor where the files are symbolic
/// links, as in a Kubernetes Secret's mount: there somebody else replaces them.
pub fn is_writable(files: &Files) -> bool {
    [&files.key_file, &files.ca_file, &files.cert_file].into_iter().all(|path| {
        let probe = with_suffix(path, ".probe");
        !path.is_symlink() && File::create(&probe).and_then(|_| fs::remove_file(&probe)).is_ok()
    })
}

fn check(files: &Files, new: &New<'_>) -> Result<(), TlsError> {
    let chain = pem::certificates(new.chain_pem.as_bytes(), &files.cert_file)?;
    let key = pem::key(new.key_pem.as_bytes(), &files.key_file)?;
    pem::check_key(&provider(), &chain, &key, files)?;
    new.ca_pem.map_or(Ok(()), |ca_pem| parse_bundle(files, ca_pem))
}

fn parse_bundle(files: &Files, ca_pem: &str) -> Result<(), TlsError> {
    match Bundle::parse(ca_pem.as_bytes()) {
        Ok(_) => Ok(()),
        Err(source) => Err(TlsError::Bundle { path: files.ca_file.clone(), source }),
    }
}

/// Each file's name while it waits, and in the end: key, bundle, and last the certificate, which commits.
fn staged(files: &Files) -> [(PathBuf, PathBuf); 3] {
    [&files.key_file, &files.ca_file, &files.cert_file]
        .map(|path| (with_suffix(path, ".next"), path.clone()))
}

/// Moves what was committed, drops what was not. The caller has the lock.
fn settle(files: &Files) -> Result<(), TlsError> {
    let staged = staged(files);
    let [.., (commit, _)] = &staged;
    let committed = commit.exists();
    // What is not there was moved before the crash, or is not to change.
    for (next, path) in staged.iter().filter(|(next, _)| next.exists()) {
        let done = if committed { disk::rename(next, path) } else { disk::remove(next) };
        done.map_err(|source| failed(path, source))?;
    }
    Ok(())
}

/// The key's folder. Waits for other processes; each holds the lock for a few writes only.
fn lock(files: &Files) -> Result<File, TlsError> {
    let folder = files.key_file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let locked = File::open(folder).and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| failed(folder, source))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn failed(path: &Path, source: io::Error) -> TlsError {
    TlsError::Write { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use tempfile::TempDir;

    use super::*;
    use crate::authority::{Authority, Issued};
    use crate::bundle;
    use crate::tls::Material;

    const HOUR: Duration = Duration::from_secs(3600);

    fn authority() -> Authority {
        Authority::create("tributary.internal", SystemTime::now()).unwrap()
    }

    fn issue(authority: &Authority) -> Issued {
        authority.issue_agent("eu-1", "a", SystemTime::now(), HOUR).unwrap()
    }

    fn new<'a>(issued: &'a Issued, ca_pem: Option<&'a str>) -> New<'a> {
        New { chain_pem: &issued.certificate_pem, key_pem: &issued.key_pem, ca_pem }
    }

    /// Runs `change` again and again, each time in a copy of the same folder and with one more of its changes to the
    /// disk coming through; says what `look` sees after each crash.
    fn crash_everywhere(
        prepare: impl Fn(&Files),
        change: impl Fn(&Files) -> Result<(), TlsError>,
        mut look: impl FnMut(&Files),
    ) -> u32 {
        let mut changes = 0;
        loop {
            let dir = TempDir::new().unwrap();
            let files = bundle::files(dir.path());
            prepare(&files);
            disk::fault::after(Some(changes));
            let done = change(&files);
            disk::fault::after(None);
            look(&files);
            if done.is_ok() {
                return changes;
            }
            changes += 1;
        }
    }

    #[test]
    fn a_crash_anywhere_leaves_the_old_three_or_the_new_three() {
        let (old_ca, new_ca) = (authority(), authority());
        let (old, next) = (issue(&old_ca), issue(&new_ca));
        let prepare = |files: &Files| install(files, &new(&old, Some(old_ca.pem()))).unwrap();
        let change = |files: &Files| install(files, &new(&next, Some(new_ca.pem())));
        let mut serials = Vec::new();
        let look = |files: &Files| {
            // Whoever loads next ends it, even if that is interrupted, too.
            for changes in 0..3 {
                disk::fault::after(Some(changes));
                let _ = finish(files);
            }
            disk::fault::after(None);
            let material = Material::load(files).unwrap();
            assert!(staged(files).iter().all(|(next, _)| !next.exists()), "a rest is left");
            serials.push(material.certificate().serial.clone());
        };
        let changes = crash_everywhere(prepare, change, look);
        assert!(changes >= 9, "only {changes} changes were interrupted");
        // All before the commit end old, all after it new.
        serials.dedup();
        assert_eq!(serials, [old.certificate.serial.clone(), next.certificate.serial.clone()]);
    }

    #[test]
    fn a_crash_in_a_bundle_s_replacement_leaves_one_of_both() {
        let (old_ca, new_ca) = (authority(), authority());
        let issued = issue(&old_ca);
        let both = old_ca.pem().to_owned() + new_ca.pem();
        let prepare = |files: &Files| install(files, &new(&issued, Some(old_ca.pem()))).unwrap();
        let mut sizes = Vec::new();
        let look = |files: &Files| sizes.push(Material::load(files).unwrap().bundle().len());
        crash_everywhere(prepare, |files| install_bundle(files, &both), look);
        sizes.dedup();
        assert_eq!(sizes, [1, 2]);
    }

    #[test]
    fn what_does_not_fit_is_refused_before_anything_is_written() {
        let dir = TempDir::new().unwrap();
        let files = bundle::files(dir.path());
        let ca = authority();
        let (a, b) = (issue(&ca), issue(&ca));
        let mixed =
            New { chain_pem: &a.certificate_pem, key_pem: &b.key_pem, ca_pem: Some(ca.pem()) };
        assert!(matches!(install(&files, &mixed), Err(TlsError::KeyMismatch { .. })));
        let leaf = Some(a.certificate_pem.as_str());
        assert!(matches!(install(&files, &new(&a, leaf)), Err(TlsError::Bundle { .. })));
        assert!(matches!(install_bundle(&files, ""), Err(TlsError::Bundle { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_at_once_take_turns() {
        let dir = TempDir::new().unwrap();
        let files = bundle::files(dir.path());
        let ca = authority();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..8 {
                        install(&files, &new(&issue(&ca), Some(ca.pem()))).unwrap();
                        finish(&files).unwrap();
                    }
                });
            }
        });
        Material::load(&files).unwrap();
    }

    #[test]
    fn the_key_is_its_owner_s_alone() {
        let dir = TempDir::new().unwrap();
        let files = bundle::files(dir.path());
        let ca = authority();
        install(&files, &new(&issue(&ca), Some(ca.pem()))).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&files.key_file), 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing else is left there");
    }

    #[test]
    fn folders_that_others_fill_are_not_ours_to_write() {
        let dir = TempDir::new().unwrap();
        let files = bundle::files(dir.path());
        assert!(is_writable(&files));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "no trace");

        // As Kubernetes mounts a Secret.
        fs::create_dir(dir.path().join("..2026")).unwrap();
        symlink("..2026", dir.path().join("..data")).unwrap();
        for name in [bundle::LEAF_CERT, bundle::LEAF_KEY, bundle::CA_CERT] {
            symlink(format!("..data/{name}"), dir.path().join(name)).unwrap();
        }
        assert!(!is_writable(&files));
        assert!(!is_writable(&bundle::files(&dir.path().join("nowhere"))));
    }
}
