//! A store in a folder that goes away, for tests.

use tributary_store::{Options, Store};

use super::replay::Replayer;

/// A store, and what is in it.
pub(crate) struct Folder {
    store: Store,
    _dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let options = Options { path: dir.path().to_owned(), ..Options::default() };
        let (store, _) = Store::open(options, &mut Replayer::default()).unwrap();
        Self { store, _dir: dir }
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
