//! Which blocks there are: a folder for each shard, a file for each block.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tributary_model::sample::Timestamp;

use crate::block::{Block, BlockName, is_temporary};
use crate::cache::{Cache, Item};
use crate::error::Error;
use crate::keys::PARTITION_WINDOWS;

/// The blocks of a store.
pub(crate) struct Blocks {
    folder: PathBuf,
    pub(crate) cache: Cache,
    shards: RwLock<HashMap<u32, BTreeMap<BlockName, Entry>>>,
    /// The highest number given to a block.
    last: AtomicU64,
    /// Sections found damaged since the start.
    pub(crate) damaged: AtomicU64,
}

/// What is known of a block that is not open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) bytes: u64,
    /// When this process wrote it; `None` for one of an earlier process.
    pub(crate) written: Option<Timestamp>,
}

impl Blocks {
    /// Lists the blocks below a folder, which is made if it is missing, and deletes what was being written.
    pub(crate) fn open(folder: PathBuf, cache_bytes: usize) -> Result<Self, Error> {
        make_folder(&folder)?;
        let mut shards: HashMap<u32, BTreeMap<BlockName, Entry>> = HashMap::new();
        let mut last = 0;
        for (name, path) in list(&folder)? {
            let Ok(shard) = name.parse::<u32>() else { continue };
            let blocks = shards.entry(shard).or_default();
            for (name, path) in list(&path)? {
                if is_temporary(&name) {
                    delete(&path)?;
                } else if let Some(name) = BlockName::parse(&name) {
                    let bytes = path.metadata().map_err(io_error("looking at", &path))?.len();
                    last = last.max(name.number);
                    blocks.insert(name, Entry { bytes, written: None });
                }
            }
        }
        Ok(Self {
            folder,
            cache: Cache::new(cache_bytes),
            shards: RwLock::new(shards),
            last: AtomicU64::new(last),
            damaged: AtomicU64::new(0),
        })
    }

    /// A shard's folder, which is made if it is missing.
    pub(crate) fn folder(&self, shard: u32) -> Result<PathBuf, Error> {
        let folder = self.folder_of(shard);
        if !folder.is_dir() {
            make_folder(&folder)?;
        }
        Ok(folder)
    }

    /// A name for a new block. Of two names the later one has the higher number.
    pub(crate) fn name(&self, first: i64, windows: u32, attempt: u32) -> BlockName {
        let last = self.last.load(Ordering::Relaxed).saturating_add(1);
        let number = last.max(u64::from(attempt) << 32);
        self.last.store(number, Ordering::Relaxed);
        BlockName { first, windows, number }
    }

    /// The last flush that any block is of.
    pub(crate) fn last_attempt(&self) -> u32 {
        u32::try_from(self.last.load(Ordering::Relaxed) >> 32).unwrap_or(u32::MAX)
    }

    /// Takes in new blocks of a shard, whose files are there, and leaves out what they replace.
    pub(crate) fn change(&self, shard: u32, new: &[(BlockName, Entry)], gone: &[BlockName]) {
        let mut shards = self.write();
        let blocks = shards.entry(shard).or_default();
        blocks.extend(new.iter().copied());
        for name in gone {
            blocks.remove(name);
        }
    }

    /// Deletes the file of a block that was left out.
    pub(crate) fn delete(&self, shard: u32, name: &BlockName) -> Result<(), Error> {
        self.cache.forget(shard, name.number);
        delete(&name.path(&self.folder_of(shard)))
    }

    /// Makes the deletions and renamings in a shard's folder durable.
    pub(crate) fn sync(&self, shard: u32) -> Result<(), Error> {
        sync_folder(&self.folder_of(shard))
    }

    /// A shard's blocks that overlap a range of windows, both inclusive, by their first window.
    pub(crate) fn overlapping(&self, shard: u32, first: i64, last: i64) -> Vec<BlockName> {
        let shards = self.read();
        let Some(blocks) = shards.get(&shard) else { return Vec::new() };
        let from =
            BlockName { first: first.saturating_sub(PARTITION_WINDOWS), windows: 0, number: 0 };
        let names =
            blocks.range(from..).map(|(name, _)| name).take_while(|name| name.first <= last);
        names.filter(|name| name.overlaps(first, last)).copied().collect()
    }

    /// A shard's blocks, by their first window.
    pub(crate) fn of_shard(&self, shard: u32) -> Vec<(BlockName, Entry)> {
        let shards = self.read();
        let blocks = shards.get(&shard).into_iter().flatten();
        blocks.map(|(name, entry)| (*name, *entry)).collect()
    }

    /// Every block with its shard, by time within the shard.
    pub(crate) fn all(&self) -> Vec<(u32, BlockName, Entry)> {
        let shards = self.read();
        let of_shard = |(shard, blocks): (&u32, &BTreeMap<BlockName, Entry>)| {
            let shard = *shard;
            blocks.iter().map(move |(name, entry)| (shard, *name, *entry)).collect::<Vec<_>>()
        };
        shards.iter().flat_map(of_shard).collect()
    }

    /// An open block; `None` if it was deleted in the meantime.
    pub(crate) fn block(&self, shard: u32, name: &BlockName) -> Result<Option<Arc<Block>>, Error> {
        let key = (shard, name.number, 0);
        if let Some(Item::Block(block)) = self.cache.find(&key) {
            return Ok(Some(block));
        }
        match Block::open(&self.folder_of(shard), shard, *name) {
            Ok(block) => {
                let block = Arc::new(block);
                self.cache.insert(key, Item::Block(Arc::clone(&block)), block.size());
                Ok(Some(block))
            }
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.count(e)),
        }
    }

    /// Counts damage.
    pub(crate) fn count(&self, error: Error) -> Error {
        if matches!(error, Error::Damaged { .. }) {
            self.damaged.fetch_add(1, Ordering::Relaxed);
        }
        error
    }

    /// Renames a block that does not belong to the catalogue, and leaves it out.
    pub(crate) fn set_aside(&self, shard: u32, name: &BlockName) -> Result<(), Error> {
        self.change(shard, &[], &[*name]);
        let path = name.path(&self.folder_of(shard));
        let renamed = fs::rename(&path, path.with_extension("foreign"));
        renamed.map_err(io_error("setting aside", &path))
    }

    fn folder_of(&self, shard: u32) -> PathBuf {
        self.folder.join(format!("{shard:06}"))
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<u32, BTreeMap<BlockName, Entry>>> {
        self.shards.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<u32, BTreeMap<BlockName, Entry>>> {
        self.shards.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entries of a folder, by name.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>, Error> {
    let failed = || io_error("listing", folder);
    let mut out = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        out.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    Ok(out)
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(io_error("making the folder", folder))?;
    folder.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(io_error("syncing the folder", folder))
}

fn delete(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("deleting", path)(e)),
        _ => Ok(()),
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}
