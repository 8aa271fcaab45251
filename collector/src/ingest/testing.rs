//! A store in a folder that goes away, for tests.

use std::collections::HashMap;

use tributary_store::{Options, Store, StreamKey};

use super::replay::Replayer;
use super::stream::StreamReader;

/// A store, and what is in it.
pub(crate) struct Folder {
    store: Store,
    dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::open(tempfile::TempDir::new().unwrap()).0
    }

    /// Closes the store and opens it again; the streams' readers come from its journal.
    pub(crate) fn reopen(self) -> (Self, HashMap<StreamKey, StreamReader>) {
        let Self { store, dir } = self;
        drop(store);
        Self::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> (Self, HashMap<StreamKey, StreamReader>) {
        let options = Options { path: dir.path().to_owned(), ..Options::default() };
        let mut replayer = Replayer::default();
        let (store, report) = Store::open(options, &mut replayer).unwrap();
        assert!(report.is_clean(), "{report:?}");
        (Self { store, dir }, replayer.into_readers())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The text of every series.
    pub(crate) fn series(&self) -> Vec<String> {
        use tributary_model::sample::Timestamp;
        let all = self.store.series(&[], Timestamp::MIN, Timestamp::MAX);
        let mut texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }
}
