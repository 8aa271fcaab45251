//! A store in a folder that goes away, for tests.

use tributary_store::Store;

use super::replay::Replayer;

/// A store, and what is in it.
pub struct Folder {
    store: Store,
}

impl Folder {
    pub fn new() -> Self {
        let (store, _) =
            Store::open(tributary_store::Options::default(), &mut Replayer::default()).unwrap();
        Self { store }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The text of every series.
    pub fn series(&self) -> Vec<String> {
        use tributary_model::sample::Timestamp;
        let all = self.store.select(&[], Timestamp::MIN, Timestamp::MAX).unwrap();
        let mut texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }
}
