//! Replaces a certificate and its key so that a crash at any point leaves a pair that fits together.
//!
//! The new key, the new bundle and then the new certificate are written beside the old files, with `.next` at the end
//! of their names; the certificate's appearance is the commit. After that they are moved into place in the same
//! order. [`finish`] drops what was not committed and moves what was, so whoever looks next ends what a crash has
//! interrupted. A lock file beside the key keeps two processes from doing so at once.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
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
    steps(files, new).iter().try_for_each(Step::run)
}

/// Puts a new bundle in place of the old one.
pub fn install_bundle(files: &Files, ca_pem: &str) -> Result<(), TlsError> {
    parse_bundle(files, ca_pem)?;
    let _lock = lock(files)?;
    settle(files)?;
    write_public(&files.ca_file, ca_pem.as_bytes()).map_err(|source| failed(&files.ca_file, source))
}

/// Ends what an interrupted [`install`] has left. Does nothing where nothing is left, and in folders that cannot be
/// written.
pub fn finish(files: &Files) -> Result<(), TlsError> {
    if !staged(files).iter().any(|(next, _)| next.exists()) {
        return Ok(());
    }
    match lock(files) {
        Err(TlsError::Write { source, .. }) if is_read_only(&source) => Ok(()),
        Err(error) => Err(error),
        Ok(_lock) => settle(files),
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

/// Writes a file that only its owner may read, as [`write_public`] does.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk::replace(path, bytes, SECRET)
}

/// Writes beside, syncs, renames: a reader sees the old file or the new one, never half of it. The mode is right
/// from the first byte.
pub fn write_public(path: &Path, bytes: &[u8]) -> io::Result<()> {
    disk::replace(path, bytes, PUBLIC)
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

/// One change on disk. A crash between two of them is what [`settle`] is for.
enum Step<'a> {
    Write { path: PathBuf, text: &'a str, mode: u32 },
    Move { from: PathBuf, to: PathBuf },
}

fn steps<'a>(files: &Files, new: &New<'a>) -> Vec<Step<'a>> {
    let texts = [(Some(new.key_pem), SECRET), (new.ca_pem, PUBLIC), (Some(new.chain_pem), PUBLIC)];
    let writes = staged(files)
        .into_iter()
        .zip(texts)
        .filter_map(|((path, _), (text, mode))| text.map(|text| Step::Write { path, text, mode }));
    writes.chain(moves(files)).collect()
}

fn moves<'a>(files: &Files) -> impl Iterator<Item = Step<'a>> {
    staged(files).into_iter().map(|(from, to)| Step::Move { from, to })
}

/// Each file's name while it waits, and in the end: key, bundle, and last the certificate, which commits.
fn staged(files: &Files) -> [(PathBuf, PathBuf); 3] {
    [&files.key_file, &files.ca_file, &files.cert_file]
        .map(|path| (with_suffix(path, ".next"), path.clone()))
}

/// Moves what was committed, drops what was not. The caller has the lock.
fn settle(files: &Files) -> Result<(), TlsError> {
    let [.., (commit, _)] = staged(files);
    if commit.exists() {
        return moves(files).try_for_each(|step| step.run());
    }
    for (next, _) in staged(files) {
        disk::remove(&next).map_err(|source| failed(&next, source))?;
    }
    Ok(())
}

impl Step<'_> {
    fn run(&self) -> Result<(), TlsError> {
        match self {
            Self::Write { path, text, mode } => {
                disk::replace(path, text.as_bytes(), *mode).map_err(|source| failed(path, source))
            }
            // What is not there any more was moved before the crash, or does not change.
            Self::Move { from, to } => {
                if_there(disk::rename(from, to)).map_err(|source| failed(to, source))
            }
        }
    }
}

/// Waits for other processes; each holds the lock for a few writes only.
fn lock(files: &Files) -> Result<File, TlsError> {
    let path = with_suffix(&files.key_file, ".lock");
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(SECRET)
        .open(&path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| failed(&path, source))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn if_there(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

fn failed(path: &Path, source: io::Error) -> TlsError {
    TlsError::Write { path: path.to_owned(), source }
}
