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
}

impl PageCache {
    /// A cache of about so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, content: Mutex::default() }
    }

    pub(crate) fn find(&self, key: &PageKey) -> Option<Arc<Page>> {
        self.lock().pages.get(key).cloned()
    }

    /// Keeps a page and returns it.
    pub(crate) fn insert(&self, key: PageKey, page: Page) -> Arc<Page> {
        let page = Arc::new(page);
        let mut content = self.lock();
        if content.pages.insert(key, Arc::clone(&page)).is_none() {
            content.order.push_back(key);
            content.bytes += page.size();
        }
        while content.bytes > self.limit {
            let Some(oldest) = content.order.pop_front() else { break };
            if let Some(page) = content.pages.remove(&oldest) {
                content.bytes = content.bytes.saturating_sub(page.size());
            }
        }
        page
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        *self.lock() = Content::default();
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
