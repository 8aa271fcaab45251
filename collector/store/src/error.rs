//! What can go wrong in the store, and while doing what.

use std::io;
use std::path::PathBuf;

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The journal failed.
    #[error("the store's journal failed")]
    Journal(#[from] tributary_journal::Error),
    /// The key-value store failed.
    #[error("the key-value store failed while {doing}")]
    Kv {
        /// What was being done, as a participle.
        doing: &'static str,
        /// What it said.
        source: KvError,
    },
    /// The operating system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as a participle.
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("{what} is damaged: {why}")]
    Damaged {
        /// What is damaged.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The store was written by a newer program.
    #[error("the store in {} has format version {version}; this program reads version {supported}", path.display())]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// The version found.
        version: u64,
        /// The version this program reads.
        supported: u64,
    },
    /// A write failed earlier; nothing more is accepted.
    #[error(
        "the store takes no more data because an earlier write or sync failed; restart the collector once the disk is well again"
    )]
    Poisoned,
    /// The first frame of the stream's frame segment is not in the journal any more: this one could not be decoded
    /// after a restart.
    #[error(
        "the beginning of the frame segment that agent {instance} of cluster {cluster} goes on with is no longer kept; it must begin a new one"
    )]
    SegmentGone {
        /// The stream's cluster.
        cluster: String,
        /// The stream's instance.
        instance: String,
    },
    /// The store is closing.
    #[error("the store is closing")]
    Closed,
    /// A record or value is larger than its limit.
    #[error("{what} of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
}

/// What the key-value store said.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// sled refused.
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    /// A file could not be synced.
    #[error("syncing {}", path.display())]
    Sync {
        /// Which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// sled panicked; it does so on some damaged files.
    #[error("sled panicked: {0}")]
    Panicked(String),
    /// A file that is of no use could not be removed.
    #[error("removing {}", path.display())]
    Remove {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is being dropped.
    #[error("sled is closed")]
    Closed,
    /// A test told it to fail.
    #[error("told to fail")]
    Injected,
}

impl Error {
    /// For `map_err`: names the action.
    pub(crate) fn kv(doing: &'static str) -> impl FnOnce(KvError) -> Self {
        move |source| Self::Kv { doing, source }
    }

    /// For `map_err`: names what is damaged.
    pub(crate) fn damaged<E: std::fmt::Display>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        move |why| Self::Damaged { what: what.into(), why: why.to_string() }
    }
}
