//! Knows series again by the bytes or text they are written in, so that labels are read, checked and held against the
//! allowlist once per series, not once per sample.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use tributary_model::label::Labels;

use crate::allow::digest::{Digest, Key};

/// Most series remembered; the ones not seen for longest are forgotten first.
const MAX_SERIES: usize = 200_000;
/// Most names and values shared between label sets; then sharing begins anew.
const MAX_TEXTS: usize = 50_000;

/// What is known of a series.
#[derive(Debug, Clone)]
pub(crate) enum Series {
    /// The allowlist lists it.
    Listed(Labels),
    /// No rule lists it.
    Unlisted,
    /// Its labels are not valid, and why.
    Invalid(&'static str),
}

/// Series by the fingerprint of how they are written, for the rules of one generation.
#[derive(Debug)]
pub(crate) struct Cache {
    key: Key,
    generation: u64,
    young: Map,
    old: Map,
}

type Map = HashMap<u128, Series, BuildHasherDefault<Folded>>;

impl Cache {
    /// A cache that knows nothing.
    pub(crate) fn new() -> Self {
        Self { key: Key::random(), generation: 0, young: Map::default(), old: Map::default() }
    }

    /// Forgets everything if the rules have changed since the last call.
    pub(crate) fn follow(&mut self, generation: u64) {
        if self.generation != generation {
            self.generation = generation;
            self.young.clear();
            self.old.clear();
        }
    }

    /// What is known of the series written as `raw`, or else what `learn` finds out.
    pub(crate) fn look(&mut self, raw: &[u8], learn: impl FnOnce() -> Series) -> &Series {
        let Digest(digest) = self.key.bytes(raw);
        if self.young.len() >= MAX_SERIES / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        let old = &mut self.old;
        self.young.entry(digest).or_insert_with(|| old.remove(&digest).unwrap_or_else(learn))
    }
}

/// Names and values, each held once however many label sets have it.
#[derive(Debug, Default)]
pub(crate) struct Texts(HashSet<Arc<str>>);

impl Texts {
    /// The shared copy of a text.
    pub(crate) fn share(&mut self, text: &str) -> Arc<str> {
        if let Some(shared) = self.0.get(text) {
            return shared.clone();
        }
        if self.0.len() >= MAX_TEXTS {
            self.0.clear();
        }
        let shared: Arc<str> = text.into();
        self.0.insert(shared.clone());
        shared
    }
}

/// Fingerprints are hashes already.
#[derive(Debug, Default)]
struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, n: u128) {
        self.0 = n.to_le_bytes().first_chunk().map_or(0, |low| u64::from_le_bytes(*low));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_learned_once_per_generation() {
        let mut cache = Cache::new();
        let labels = Labels::from_pairs([("__name__", "up")]).unwrap();
        let mut learned = 0;
        for generation in [0, 0, 1, 1] {
            cache.follow(generation);
            let series = cache.look(b"up", || {
                learned += 1;
                Series::Listed(labels.clone())
            });
            assert!(matches!(series, Series::Listed(found) if *found == labels));
        }
        assert_eq!(learned, 2);
    }

    #[test]
    fn memory_is_bounded_and_what_is_in_use_stays() {
        let mut cache = Cache::new();
        let mut learned = 0;
        for n in 0..250_000_u32 {
            cache.look(&n.to_le_bytes(), || Series::Unlisted);
            if n % 50_000 == 0 {
                cache.look(b"in use", || {
                    learned += 1;
                    Series::Unlisted
                });
            }
        }
        assert_eq!(learned, 1);
        assert!(cache.young.len() + cache.old.len() <= MAX_SERIES);
    }

    #[test]
    fn texts_are_shared() {
        let mut texts = Texts::default();
        assert!(Arc::ptr_eq(&texts.share("a"), &texts.share("a")));
    }
}
