//! What can go wrong with a journal, and while doing what.

use std::io;
use std::path::PathBuf;

/// A journal operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as a participle: "writing", "syncing".
        doing: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has the journal open.
    #[error("the journal in {} is in use by another process", path.display())]
    Locked {
        /// The journal's folder.
        path: PathBuf,
    },
    /// A write or sync failed earlier; what is on disk is unknown, so nothing more is promised.
    #[error(
        "the journal takes no more records because an earlier write or sync failed; restart the process once the disk is well again"
    )]
    Poisoned,
    /// A record is larger than [`crate::MAX_RECORD_BYTES`].
    #[error("a record of {bytes} bytes is larger than the limit of {limit} bytes")]
    TooLarge {
        /// The record's payload.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A segment was written by a newer program.
    #[error("{} has format version {version}; this program reads version {supported}", path.display())]
    Version {
        /// The segment's file.
        path: PathBuf,
        /// The version in its header.
        version: u32,
        /// The version this program reads.
        supported: u32,
    },
    /// The number of segments is exhausted; cannot happen in practice.
    #[error("the journal has no segment number left")]
    Exhausted,
}

impl Error {
    /// For `map_err`: names the action and the path.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}
