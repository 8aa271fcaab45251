//! A key-value store in memory that fails when it is told to, and forgets what was not persisted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use super::{Change, Kv, Visit};
use crate::error::KvError;

type Trees = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Clones share the content.
#[derive(Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Trees,
    durable: Trees,
    /// Operations that still succeed.
    budget: Option<u32>,
}

impl Memory {
    /// After so many more writes and syncs every one fails; `None` heals.
    pub(crate) fn fail_after(&self, operations: Option<u32>) {
        self.0.lock().unwrap().budget = operations;
    }

    /// Every entry, one on a line: tree, key and value; the latter two as hexadecimal digits.
    pub(crate) fn dump(&self) -> String {
        let state = self.0.lock().unwrap();
        let mut out = String::new();
        for (tree, entries) in &state.now {
            for (key, value) in entries {
                out.push_str(tree);
                for part in [key, value] {
                    out.push(' ');
                    for byte in part {
                        write!(out, "{byte:02x}").unwrap();
                    }
                }
                out.push('\n');
            }
        }
        out
    }

    /// Reads a dump.
    pub(crate) fn restore(dump: &str) -> Self {
        let bytes = |hex: &str| {
            let pairs = (0..hex.len()).step_by(2).map(|at| &hex[at..at + 2]);
            pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<u8>>()
        };
        let mut now = Trees::new();
        for line in dump.lines() {
            let mut parts = line.split(' ');
            let mut part = || parts.next().unwrap();
            let tree = now.entry(part().to_owned()).or_default();
            tree.insert(bytes(part()), bytes(part()));
        }
        Self(Arc::new(Mutex::new(State { durable: now.clone(), now, budget: None })))
    }

    /// Flips one bit in the middle of the first value of a tree.
    pub(crate) fn damage(&self, tree: &str) {
        let mut state = self.0.lock().unwrap();
        let value = state.now.get_mut(tree).unwrap().values_mut().next().unwrap();
        let middle = value.len() / 2;
        value[middle] ^= 4;
    }

    /// What a power cut leaves.
    pub(crate) fn cut_power(&self) {
        let mut state = self.0.lock().unwrap();
        state.now = state.durable.clone();
    }
}

impl State {
    fn spend(&mut self) -> Result<(), KvError> {
        match &mut self.budget {
            Some(0) => Err(KvError::Injected),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl Kv for Memory {
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        Ok(self.0.lock().unwrap().now.get(tree).and_then(|tree| tree.get(key)).cloned())
    }

    fn range(&self, tree: &str, from: &[u8], visit: &mut Visit<'_>) -> Result<(), KvError> {
        let state = self.0.lock().unwrap();
        for (key, value) in state.now.get(tree).into_iter().flat_map(|t| t.range(from.to_vec()..)) {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn batch(&self, tree: &str, changes: Vec<Change>) -> Result<(), KvError> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        let tree = state.now.entry(tree.to_owned()).or_default();
        for (key, value) in changes {
            assert!(value.as_ref().is_none_or(|v| v.len() <= super::MAX_VALUE_BYTES));
            match value {
                Some(value) => tree.insert(key, value),
                None => tree.remove(&key),
            };
        }
        Ok(())
    }

    fn trees(&self) -> Vec<String> {
        self.0.lock().unwrap().now.keys().cloned().collect()
    }

    fn drop_tree(&self, tree: &str) -> Result<(), KvError> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.now.remove(tree);
        Ok(())
    }

    fn persist(&self) -> Result<(), KvError> {
        let mut state = self.0.lock().unwrap();
        state.spend()?;
        state.durable = state.now.clone();
        Ok(())
    }

    fn disk(&self) -> (u64, u64) {
        (0, 0)
    }
}
