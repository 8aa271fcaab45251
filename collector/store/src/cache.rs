//! What was read of blocks lately: open files with their directories, pages and clocks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::block::{Block, Clocks, Page};

/// Shard, block, and the section's place in the file; 0 is the block itself. Blocks never change.
pub(crate) type Key = (u32, u64, u64);

/// What is kept.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Block(Arc<Block>),
    Page(Arc<Page>),
    Clocks(Arc<Clocks>),
}

/// First in, first out, but what was used since it came in stays for another round.
#[derive(Debug)]
pub(crate) struct Cache {
    limit: usize,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    items: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    bytes: usize,
    used: bool,
}

impl Cache {
    /// A cache of about so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, content: Mutex::default() }
    }

    pub(crate) fn find(&self, key: &Key) -> Option<Item> {
        let mut content = self.lock();
        let entry = content.items.get_mut(key)?;
        entry.used = true;
        Some(entry.item.clone())
    }

    /// Keeps an item.
    pub(crate) fn insert(&self, key: Key, item: Item, bytes: usize) {
        let mut content = self.lock();
        if content.items.insert(key, Entry { item, bytes, used: false }).is_none() {
            content.order.push_back(key);
            content.bytes += bytes;
        }
        while content.bytes > self.limit {
            let Some(oldest) = content.order.pop_front() else { break };
            match content.items.get_mut(&oldest) {
                Some(entry) if entry.used => {
                    entry.used = false;
                    content.order.push_back(oldest);
                }
                _ => content.remove(&oldest),
            }
        }
    }

    /// Forgets a block that is deleted; its file is closed once nobody reads it any more.
    pub(crate) fn forget(&self, shard: u32, number: u64) {
        let mut content = self.lock();
        let gone = |key: &Key| (key.0, key.1) == (shard, number);
        let keys: Vec<Key> = content.order.iter().copied().filter(gone).collect();
        for key in &keys {
            content.remove(key);
        }
        content.order.retain(|key| !gone(key));
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.items.remove(key) {
            self.bytes = self.bytes.saturating_sub(entry.bytes);
        }
    }
}
