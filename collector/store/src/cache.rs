//! Pages that were read lately, decompressed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::keys::PageKey;
use crate::page::Page;

/// First in, first out: a query reads the series of a page one after the other, and then no more.
pub(crate) struct PageCache {
    limit: usize,
    content: Mutex<Content>,
}

#[derive(Default)]
struct Content {
    pages: HashMap<PageKey, Arc<Page>>,
    order: VecDeque<PageKey>,
    bytes: usize,
    /// Grows whenever pages were written: what was read before may be old.
    version: u64,
}

impl PageCache {
    /// A cache of about so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, content: Mutex::default() }
    }

    pub(crate) fn find(&self, key: &PageKey) -> Option<Arc<Page>> {
        self.lock().pages.get(key).cloned()
    }

    /// To be taken before a page is read that is to be kept.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Keeps a page, unless pages were written since `version` was taken, and returns it.
    pub(crate) fn insert(&self, key: PageKey, page: Page, version: u64) -> Arc<Page> {
        let page = Arc::new(page);
        let mut content = self.lock();
        if content.version != version {
            return page;
        }
        if content.pages.insert(key, Arc::clone(&page)).is_none() {
            content.order.push_back(key);
            content.bytes += page.size();
        }
        while content.bytes > self.limit {
            let Some(oldest) = content.order.pop_front() else { break };
            content.remove(&oldest);
        }
        page
    }

    /// Forgets pages that were just written: a flush after a crash uses the numbers of the one that did not end.
    pub(crate) fn written(&self, keys: &[PageKey]) {
        let mut content = self.lock();
        content.version += 1;
        let before = content.pages.len();
        for key in keys {
            content.remove(key);
        }
        if content.pages.len() < before {
            let Content { pages, order, .. } = &mut *content;
            order.retain(|key| pages.contains_key(key));
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        let mut content = self.lock();
        let version = content.version + 1;
        *content = Content { version, ..Content::default() };
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn remove(&mut self, key: &PageKey) {
        if let Some(page) = self.pages.remove(key) {
            self.bytes = self.bytes.saturating_sub(page.size());
        }
    }
}
