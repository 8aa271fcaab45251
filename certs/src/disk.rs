//! The few changes this crate makes to a disk, each of them whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Everybody may read it.
pub(crate) const PUBLIC: u32 = 0o644;
/// Only its owner may read it.
pub(crate) const SECRET: u32 = 0o600;

/// Writes beside, syncs, renames: a reader sees the old file or the new one, never half of it. The mode is
/// right from the first byte.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    write(&beside, bytes, mode)?;
    rename(&beside, path)
}

/// Writes a new file and syncs it; a file of the same name, the rest of an attempt that was killed, goes first.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    remove(path)?;
    fault::spend()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    sync(&file)
}

/// Renames within one folder, and syncs the folder.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fault::spend()?;
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Removes a file; one that is not there is as it should be.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    fault::spend()?;
    fs::remove_file(path)?;
    sync_parent(path)
}

/// Makes a folder and those above it.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fault::spend()?;
    fs::create_dir_all(path)
}

fn sync_parent(path: &Path) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    sync(&File::open(dir.unwrap_or(Path::new(".")))?)
}

/// Unit tests kill a process, not a machine: what was written is there without it, thousands of times faster.
fn sync(file: &File) -> io::Result<()> {
    if cfg!(test) { Ok(()) } else { file.sync_all() }
}

/// A process that dies between two changes, for tests: after so many changes every further one fails.
pub(crate) mod fault {
    use std::io;

    #[cfg(test)]
    thread_local! {
        static CHANGES_LEFT: std::cell::Cell<Option<u32>> = const { std::cell::Cell::new(None) };
    }

    /// Lets so many changes through, then none; `None` lifts it. Returns how many were left.
    #[cfg(test)]
    pub(crate) fn after(changes: Option<u32>) -> Option<u32> {
        CHANGES_LEFT.replace(changes)
    }

    #[cfg(test)]
    pub(super) fn spend() -> io::Result<()> {
        match CHANGES_LEFT.get() {
            Some(0) => Err(io::Error::other("killed by the test")),
            Some(left) => {
                CHANGES_LEFT.set(Some(left - 1));
                Ok(())
            }
            None => Ok(()),
        }
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "tests have a version that fails")]
    pub(super) fn spend() -> io::Result<()> {
        Ok(())
    }
}
