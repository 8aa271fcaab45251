//! Opens a store: the key-value store, what it knows, and then the journal, record by record.

mod adopt;
mod replay;

use std::collections::HashMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tributary_journal::{Journal, Position};
use tributary_model::cluster::ClusterName;
use tributary_model::fields::{Fields, Malformed, put_varint};
use tributary_model::label::Labels;

use crate::batch::{Batch, SeriesId, StreamKey};
use crate::blocks::Blocks;
use crate::codec::checked::unchecked;
use crate::core::Core;
use crate::error::{Error, KvError};
use crate::flush::{Progress, Stored, write_checkpoint};
use crate::kv::{Kv, Sled};
use crate::ledger::{Gap, Stream, decode_metadata, stream_key};
use crate::writer::Summaries;
use crate::{Options, catalogue, compact, keys, state, v1};

use replay::Replayed;

/// The format of the key-value store's content.
const VERSION: u64 = 3;
/// The first version with samples in blocks.
const VERSION_OF_BLOCKS: u64 = 2;
/// sled gives its lock back a moment after it was closed.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// Decodes the payloads that were given to [`crate::Store::append`], at the next start.
pub trait Replay {
    /// Decodes one payload. Series are to be resolved as they were when it came in.
    fn replay(&mut self, store: &Resolver, payload: &[u8]) -> Result<Batch, ReplayError>;
}

/// A payload cannot be decoded.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReplayError(pub String);

/// Finds and makes series while the store is being opened.
#[derive(Clone)]
pub struct Resolver(pub(crate) Arc<Core>);

impl Resolver {
    /// The series with these labels, made if it is missing.
    pub fn resolve(&self, cluster: &ClusterName, labels: &Labels) -> SeriesId {
        self.0.resolve(cluster, labels)
    }
}

/// What opening found. [`OpenReport::is_clean`] says whether a person must hear of it.
#[derive(Debug, Default)]
pub struct OpenReport {
    /// What the journal found and mended.
    pub journal: tributary_journal::Recovery,
    /// The key-value store could not be opened: where it was put, and why. The catalogue was made anew from the blocks;
    /// small state and gaps older than the journal are missing.
    pub set_aside: Option<(PathBuf, String)>,
    /// The key-value store opened well but lacks what it had said to be on disk. The catalogue was completed from the
    /// blocks; small state may be old.
    pub rolled_back: bool,
    /// Blocks that the key-value store did not know of; their series are in the catalogue now.
    pub adopted_blocks: u64,
    /// Blocks of an earlier format that were written anew.
    pub migrated_blocks: u64,
    /// Entries of the key-value store that are damaged, one sentence each.
    pub damaged: Vec<String>,
    /// The journal is not the one that the key-value store belongs to; it was read from its beginning.
    pub foreign_journal: bool,
    /// Journal records read.
    pub records: u64,
    /// Samples put back into the head.
    pub samples: u64,
    /// Journal records that were needed and could not be decoded.
    pub lost_records: u64,
    /// Samples in them.
    pub lost_samples: u64,
    /// Why the first of them could not be decoded.
    pub lost_why: Option<String>,
    /// Streams whose sequence has a hole behind damage; the agent is asked again from there.
    pub rewound: Vec<StreamKey>,
    /// How long it took.
    pub took: Duration,
}

impl OpenReport {
    /// Whether everything that was acknowledged is there. A torn tail was never acknowledged.
    pub fn is_clean(&self) -> bool {
        self.journal.damaged.is_empty()
            && self.set_aside.is_none()
            && !self.rolled_back
            && !self.foreign_journal
            && self.damaged.is_empty()
            && self.lost_records == 0
            && self.rewound.is_empty()
    }
}

/// An opened store, before its writer runs.
pub(crate) struct Opened {
    pub(crate) core: Arc<Core>,
    pub(crate) journal: Journal,
    pub(crate) summaries: Summaries,
    pub(crate) starts: HashMap<StreamKey, Position>,
    pub(crate) progress: Progress,
    pub(crate) report: OpenReport,
}

/// Opens the store in the options' folder; `kv` replaces sled in tests. The journal is read on as many threads as there
/// are readers, a cluster's records by one of them.
pub(crate) fn open<R: Replay + Send>(
    options: Options,
    kv: Option<Box<dyn Kv>>,
    readers: &mut [R],
) -> Result<Opened, Error> {
    let begun = Instant::now();
    let (journal, recovery) = Journal::open(tributary_journal::Options {
        dir: options.path.join("journal"),
        segment_bytes: options.journal_segment_bytes,
    })?;
    let mut report = OpenReport { journal: recovery, ..OpenReport::default() };
    let (core, mut progress) = match kv {
        Some(kv) => load(options, kv, &mut report)?,
        None => open_sled(options, &mut report)?,
    };
    let core = Arc::new(core);
    let end = journal.end_position();
    if progress.marks.iter().any(|mark| mark.position > end) {
        report.foreign_journal = true;
        progress.marks.clear();
        for stream in core.ledger_mut().streams.values_mut() {
            stream.as_of = Position::default();
        }
        write_checkpoint(&core, &progress.marks, progress.attempts)?;
    }
    let Replayed { summaries, starts, attempts } =
        replay::replay(&core, &journal, &progress.marks, readers, &mut report)?;
    report.rolled_back = attempts > progress.attempts;
    progress.attempts = progress.attempts.max(attempts).max(core.blocks.last_attempt());
    report.took = begun.elapsed();
    Ok(Opened { core, journal, summaries, starts, progress, report })
}

/// Opens sled. If it refuses or what it holds makes no sense, it is put aside and a new one begun.
fn open_sled(options: Options, report: &mut OpenReport) -> Result<(Core, Progress), Error> {
    let dir = options.path.join("sled");
    if !dir.is_dir() {
        make_sled(&options, &dir)?;
    }
    let opened = Sled::open_patiently(&dir, options.cache_bytes, LOCK_PATIENCE);
    let why = match opened {
        Ok(kv) => match load(options.clone(), Box::new(kv), report) {
            Err(e @ (Error::Kv { .. } | Error::Damaged { .. })) => chain(&e),
            other => return other,
        },
        Err(e) if e.is_lock() => return Err(Error::kv("opening sled")(e)),
        Err(e) => chain(&e),
    };
    let aside = free_name(&options.path)?;
    rename(&dir, &aside, "putting aside the damaged folder")?;
    report.set_aside = Some((aside, why));
    report.damaged.clear();
    make_sled(&options, &dir)?;
    let kv = Sled::open_patiently(&dir, options.cache_bytes, LOCK_PATIENCE);
    load(options, Box::new(kv.map_err(Error::kv("opening sled"))?), report)
}

/// Makes an empty sled under another name, and renames it once it is on disk: one that was cut short in the making would
/// look damaged.
fn make_sled(options: &Options, dir: &Path) -> Result<(), Error> {
    let new = dir.with_extension("new");
    if new.is_dir() {
        let removed = fs::remove_dir_all(&new);
        removed.map_err(|source| Error::Io { doing: "removing", path: new.clone(), source })?;
    }
    let kv = Sled::open_patiently(&new, options.cache_bytes, LOCK_PATIENCE);
    kv.and_then(|kv| kv.persist()).map_err(Error::kv("making sled"))?;
    rename(&new, dir, "making the folder")
}

/// Renames a folder beside itself, and returns when that is on disk.
fn rename(from: &Path, to: &Path, doing: &'static str) -> Result<(), Error> {
    let folder = to.parent().unwrap_or(Path::new("."));
    let renamed = fs::rename(from, to);
    let synced = renamed.and_then(|()| fs::File::open(folder)?.sync_all());
    synced.map_err(|source| Error::Io { doing, path: to.to_owned(), source })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        out = format!("{out}: {cause}");
        source = cause.source();
    }
    out
}

fn free_name(path: &Path) -> Result<PathBuf, Error> {
    (1..10_000)
        .map(|n| path.join(format!("sled.broken-{n}")))
        .find(|name| !name.exists())
        .ok_or_else(|| Error::Io {
            doing: "finding a free name for a damaged folder in",
            path: path.to_owned(),
            source: std::io::ErrorKind::AlreadyExists.into(),
        })
}

/// Reads the key-value store, and what it does not know from blocks.
fn load(
    options: Options,
    kv: Box<dyn Kv>,
    report: &mut OpenReport,
) -> Result<(Core, Progress), Error> {
    let path = options.path.clone();
    let blocks = Blocks::open(path.join("blocks"), options.page_cache_bytes)?;
    let core = Core::new(options, kv, blocks);
    let version = version(&core, path)?;
    let stored = core
        .kv
        .get(keys::META, keys::META_CHECKPOINT)
        .map_err(Error::kv("reading the checkpoint"))?
        .map(|value| unchecked(keys::META_CHECKPOINT, &value).and_then(Stored::decode));
    // Without its checkpoint the journal is read from its beginning; what is in blocks already does no harm.
    let stored = stored.and_then(|stored| {
        stored.map_err(|why| report.damaged.push(format!("the checkpoint: {why}"))).ok()
    });
    // Without a checkpoint there may be blocks of a flush that was cut short.
    let until = stored.as_ref().map_or(i64::MAX, |stored| stored.in_blocks_until);
    core.in_blocks_until.store(until, Ordering::Release);
    catalogue::load(&core, &mut report.damaged)?;
    let attempts = stored.as_ref().map_or(0, |stored| stored.attempts);
    if version < VERSION_OF_BLOCKS {
        report.migrated_blocks = v1::migrate(&core, attempts, &mut report.damaged)?;
    }
    if version < VERSION {
        // From here on there may be native histograms, which an earlier program would lose.
        write_version(&core)?;
    }
    v1::drop_trees(&core)?;
    report.adopted_blocks = adopt::adopt(&core, attempts, &mut report.damaged)?;
    compact::finish(&core)?;
    load_ledger(&core, &mut report.damaged)?;
    let progress = stored.map(|stored| {
        let (marks, attempts) = (stored.marks, stored.attempts);
        Progress { marks, attempts, flushed_at: None }
    });
    Ok((core, progress.unwrap_or_default()))
}

/// The version of the key-value store's content; a new one gets this program's.
fn version(core: &Core, path: PathBuf) -> Result<u64, Error> {
    let found =
        core.kv.get(keys::META, keys::META_VERSION).map_err(Error::kv("reading the version"))?;
    let Some(found) = found else { return write_version(core).map(|()| VERSION) };
    let version = Fields(&found).varint().map_err(Error::damaged("the store's version"))?;
    if (1..=VERSION).contains(&version) {
        Ok(version)
    } else {
        Err(Error::Version { path, version, supported: VERSION })
    }
}

fn write_version(core: &Core) -> Result<(), Error> {
    let mut value = Vec::new();
    put_varint(&mut value, VERSION);
    let change = (keys::META_VERSION.to_vec(), Some(value));
    core.kv.batch(keys::META, vec![change]).map_err(Error::kv("writing the version"))?;
    core.kv.persist().map_err(Error::kv("writing the version"))
}

/// Takes an entry in.
type Add<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Malformed> + 'a;

fn load_ledger(core: &Core, damaged: &mut Vec<String>) -> Result<(), Error> {
    let mut ledger = core.ledger_mut();
    let mut entries = |tree: &str, add: &mut Add<'_>| {
        core.kv
            .range(tree, &[], &mut |key, value| {
                if let Err(why) = unchecked(key, value).and_then(|value| add(key, value)) {
                    damaged.push(format!("the entry {key:?} of \"{tree}\": {why}"));
                }
                ControlFlow::Continue(())
            })
            .map_err(Error::kv("reading the ledger"))
    };
    entries(keys::STREAMS, &mut |key, value| {
        let stream = Stream::decode(value)?;
        ledger.streams.insert(stream_key(&mut Fields(key))?, stream);
        Ok(())
    })?;
    entries(keys::GAPS, &mut |_, value| {
        ledger.add_gap(Gap::decode(value)?, false);
        Ok(())
    })?;
    entries(keys::METADATA, &mut |key, value| {
        let (cluster, metadata) = decode_metadata(key, value)?;
        ledger.set_metadata(&cluster, metadata, false);
        Ok(())
    })?;
    drop(ledger);
    core.ledger_mut().state = state::load(core.kv.as_ref(), damaged)?;
    Ok(())
}

impl Sled {
    /// Opens, and waits for a lock that was not given back yet.
    fn open_patiently(dir: &Path, cache_bytes: u64, patience: Duration) -> Result<Self, KvError> {
        let begun = Instant::now();
        loop {
            match Self::open(dir, cache_bytes) {
                Err(e) if e.is_lock() && begun.elapsed() < patience => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }
}

impl KvError {
    /// Whether another handle has the database open.
    fn is_lock(&self) -> bool {
        matches!(self, Self::Sled(sled::Error::Io(e)) if e.to_string().contains("acquire lock"))
    }
}
