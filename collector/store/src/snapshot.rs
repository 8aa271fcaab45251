//! Makes a copy of a store that another one can open, while this one goes on.
//!
//! Blocks never change, so they are linked where the file system can. The key-value store changes only in maintenance,
//! which waits; it is written out tree by tree. The journal is copied last: it has everything that is not in the others.

use std::fs::{self, File};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::core::Core;
use crate::error::Error;
use crate::kv::{Change, Kv, Sled};

/// Bytes of entries that go into one batch of the copy.
const BATCH_BYTES: usize = 256 << 10;

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of the journal.
    pub journal_bytes: u64,
}

/// Copies a store to a folder that must not be there yet. Nothing may move samples meanwhile. Cut short, it leaves a
/// folder with another name, `….partial`.
pub(crate) fn snapshot(core: &Core, to: &Path) -> Result<Snapshot, Error> {
    if to.exists() {
        let source = io::ErrorKind::AlreadyExists.into();
        return Err(Error::Io { doing: "making a snapshot in", path: to.to_owned(), source });
    }
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing: "making a snapshot in", path, source }
    };
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(failed(&partial))?;
    }
    let mut done = Snapshot::default();
    for (shard, name, _) in core.blocks.all() {
        let from = core.blocks.folder(shard)?;
        let folder = partial.join("blocks").join(from.file_name().unwrap_or_default());
        fs::create_dir_all(&folder).map_err(failed(&folder))?;
        let (from, into) = (name.path(&from), name.path(&folder));
        done.block_bytes += link(&from, &into).map_err(failed(&into))?;
        done.blocks += 1;
    }
    copy_kv(core, &partial.join("sled"))?;
    let journal = partial.join("journal");
    fs::create_dir_all(&journal).map_err(failed(&journal))?;
    let from = core.options.path.join("journal");
    for entry in fs::read_dir(&from).map_err(failed(&from))? {
        let entry = entry.map_err(failed(&from))?;
        let into = journal.join(entry.file_name());
        done.journal_bytes += copy(&entry.path(), &into).map_err(failed(&into))?;
    }
    sync_all(&partial).map_err(failed(&partial))?;
    fs::rename(&partial, to).map_err(failed(to))?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    File::open(parent).and_then(|folder| folder.sync_all()).map_err(failed(parent))?;
    Ok(done)
}

/// Another name for the same bytes; a copy where that cannot be.
fn link(from: &Path, to: &Path) -> io::Result<u64> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(to.metadata()?.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(e),
        Err(_) => copy(from, to),
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let bytes = fs::copy(from, to)?;
    File::open(to)?.sync_all()?;
    Ok(bytes)
}

fn copy_kv(core: &Core, to: &Path) -> Result<(), Error> {
    let copy = Sled::open(to, core.options.cache_bytes).map_err(Error::kv("making a copy"))?;
    for tree in core.kv.trees() {
        let mut batch: Vec<Change> = Vec::new();
        let mut bytes = 0;
        let mut written = Ok(());
        let visit = &mut |key: &[u8], value: &[u8]| {
            bytes += key.len() + value.len();
            batch.push((key.to_vec(), Some(value.to_vec())));
            if bytes >= BATCH_BYTES {
                bytes = 0;
                written = copy.batch(&tree, std::mem::take(&mut batch));
            }
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        core.kv.range(&tree, &[], visit).map_err(Error::kv("reading for a copy"))?;
        written.map_err(Error::kv("writing a copy"))?;
        if !batch.is_empty() {
            copy.batch(&tree, batch).map_err(Error::kv("writing a copy"))?;
        }
    }
    copy.persist().map_err(Error::kv("flushing a copy to disk"))
}

/// Makes the entries of a folder and of those below it durable.
fn sync_all(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_all(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}
