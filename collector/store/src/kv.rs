//! The key-value store behind the store: a thin trait, and sled behind it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

use crate::error::KvError;

/// Longest value. sled leaks values of 128 KiB and more, and moves those over about 7 KiB to files of their own,
/// which it does not sync.
pub(crate) const MAX_VALUE_BYTES: usize = 7 << 10;

/// One change of a batch: a key, and its new value or `None` to remove it.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);

/// Looks at an entry and says whether to go on.
pub(crate) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// What the store needs of a key-value store. Trees come into being when they are written to.
pub(crate) trait Kv: Send + Sync {
    /// One value.
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;
    /// Visits the entries with `from <= key`, in order, until `visit` breaks off.
    fn range(&self, tree: &str, from: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError>;
    /// Applies changes to one tree, all or none.
    fn batch(&self, tree: &str, changes: Vec<Change>) -> Result<(), KvError>;
    /// The trees' names.
    fn trees(&self) -> Vec<String>;
    /// Removes a tree with everything in it.
    fn drop_tree(&self, tree: &str) -> Result<(), KvError>;
    /// Returns when everything written is on disk, past any cache.
    fn persist(&self) -> Result<(), KvError>;
    /// Bytes of the files, and the number of files beside the main one.
    fn disk(&self) -> (u64, u64);
}

/// sled 0.34.
pub(crate) struct Sled {
    dir: PathBuf,
    /// Taken when it is dropped.
    db: Option<sled::Db>,
    trees: RwLock<HashMap<String, sled::Tree>>,
}

impl Sled {
    /// Opens or makes a database. A panic of sled's over damaged files is an error here.
    pub(crate) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        remove_unfinished(dir)?;
        let open = || {
            let db = sled::Config::new()
                .path(dir)
                .cache_capacity(cache_bytes)
                .flush_every_ms(Some(500))
                .open()?;
            // Reads what recovery read lazily, so that damage shows now.
            for name in db.tree_names() {
                db.open_tree(name)?;
            }
            Ok::<_, sled::Error>(db)
        };
        let db = catch_unwind(open).map_err(|cause| KvError::Panicked(panic_text(&*cause)))??;
        Ok(Self { dir: dir.to_owned(), db: Some(db), trees: RwLock::default() })
    }

    fn db(&self) -> Result<&sled::Db, KvError> {
        self.db.as_ref().ok_or(KvError::Closed)
    }

    fn tree(&self, name: &str) -> Result<sled::Tree, KvError> {
        let known = self.trees.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(tree) = known {
            return Ok(tree);
        }
        let tree = self.db()?.open_tree(name)?;
        let mut trees = self.trees.write().unwrap_or_else(PoisonError::into_inner);
        trees.insert(name.to_owned(), tree.clone());
        Ok(tree)
    }

    /// Whether a tree exists; reading must not make one.
    fn existing(&self, name: &str) -> Result<Option<sled::Tree>, KvError> {
        let known = self.trees.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if known.is_none() && !self.db()?.tree_names().iter().any(|tree| tree == name.as_bytes()) {
            return Ok(None);
        }
        self.tree(name).map(Some)
    }
}

impl Drop for Sled {
    /// sled flushes when it is dropped, and panics if it cannot.
    fn drop(&mut self) {
        let trees =
            std::mem::take(&mut *self.trees.write().unwrap_or_else(PoisonError::into_inner));
        let db = self.db.take();
        // Whatever was to be on disk was synced before; nobody is left to hear of the rest.
        let _ = catch_unwind(AssertUnwindSafe(move || drop((trees, db))));
    }
}

/// Removes snapshots of sled's that were being written when it was killed. It makes them anew from its log, but takes one
/// that is not whole for damage to all of it.
fn remove_unfinished(dir: &Path) -> Result<(), KvError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(&path).map_err(|source| KvError::Remove { path, source })?;
        }
    }
    Ok(())
}

/// Turns a panic inside sled into an error.
fn guarded<T>(work: impl FnOnce() -> Result<T, KvError>) -> Result<T, KvError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|cause| Err(KvError::Panicked(panic_text(&*cause))))
}

fn panic_text(cause: &(dyn std::any::Any + Send)) -> String {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("no reason given").to_owned()
}

impl Kv for Sled {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        guarded(|| {
            let Some(tree) = self.existing(tree)? else { return Ok(None) };
            Ok(tree.get(key)?.map(|value| value.to_vec()))
        })
    }

    fn range(&self, tree: &str, from: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError> {
        guarded(|| {
            let Some(tree) = self.existing(tree)? else { return Ok(()) };
            for entry in tree.range(from..) {
                let (key, value) = entry?;
                if visit(&key, &value).is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    fn batch(&self, tree: &str, changes: Vec<Change>) -> Result<(), KvError> {
        guarded(|| {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            Ok(self.tree(tree)?.apply_batch(batch)?)
        })
    }

    fn trees(&self) -> Vec<String> {
        let names = self.db().map(sled::Db::tree_names).unwrap_or_default();
        names.iter().filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect()
    }

    fn drop_tree(&self, tree: &str) -> Result<(), KvError> {
        guarded(|| {
            self.trees.write().unwrap_or_else(PoisonError::into_inner).remove(tree);
            self.db()?.drop_tree(tree)?;
            Ok(())
        })
    }

    fn persist(&self) -> Result<(), KvError> {
        guarded(|| {
            self.db()?.flush()?;
            // sled's flush hands the data to the system but does not wait until the disk has it.
            sync_folder(&self.dir)
        })
    }

    fn disk(&self) -> (u64, u64) {
        let blobs = fs::read_dir(self.dir.join("blobs")).map_or(0, Iterator::count) as u64;
        (folder_bytes(&self.dir), blobs)
    }
}

/// Syncs every file below a folder, then the folders.
fn sync_folder(dir: &Path) -> Result<(), KvError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| KvError::Sync { path, source }
    };
    for entry in fs::read_dir(dir).map_err(failed(dir))? {
        let entry = entry.map_err(failed(dir))?;
        let path = entry.path();
        if path.is_dir() {
            sync_folder(&path)?;
            continue;
        }
        match File::open(&path) {
            Ok(file) => file.sync_data().map_err(failed(&path))?,
            // sled replaces its snapshots in the background.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(failed(&path)(e)),
        }
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed(dir))
}

fn folder_bytes(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(size).sum()
}

#[cfg(test)]
pub(crate) mod memory;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_that_was_being_written_is_no_damage() {
        let dir = tempfile::TempDir::new().unwrap();
        let open = || Sled::open(dir.path(), 1 << 20).unwrap();
        let kv = open();
        kv.batch("t", vec![(b"a".to_vec(), Some(b"1".to_vec()))]).unwrap();
        kv.persist().unwrap();
        drop(kv);
        fs::write(dir.path().join("snap.0000000000ffffff.generating"), b"").unwrap();
        assert_eq!(open().get("t", b"a").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn sled_keeps_what_was_persisted_and_drops_trees() {
        let dir = tempfile::TempDir::new().unwrap();
        let open = || Sled::open(dir.path(), 1 << 20).unwrap();
        let kv = open();
        assert_eq!(kv.get("t", b"a").unwrap(), None);
        assert!(!kv.trees().contains(&"t".to_owned()));
        let put = |key: &[u8], value: &[u8]| (key.to_vec(), Some(value.to_vec()));
        kv.batch("t", vec![put(b"a", b"1"), put(b"b", b"2"), put(b"c", b"3")]).unwrap();
        kv.batch("t", vec![(b"b".to_vec(), None)]).unwrap();
        kv.persist().unwrap();
        drop(kv);
        let kv = open();
        let mut seen = Vec::new();
        kv.range("t", b"a", &mut |key, value| {
            seen.push((key.to_vec(), value.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(seen, [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec())]);
        kv.drop_tree("t").unwrap();
        assert_eq!(kv.get("t", b"a").unwrap(), None);
        assert!(kv.disk().0 > 0);
    }
}
