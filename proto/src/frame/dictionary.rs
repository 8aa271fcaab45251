//! The dictionary section: new symbols, and new series as pairs of symbols.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_model::label::Labels;

use super::FrameError;
use super::wire::{Reader, put_bytes, put_len, put_uvarint};
use crate::limits::{Limits, text_bytes};

/// The series and symbols of a segment, by content.
#[derive(Debug, Default)]
pub(super) struct DictionaryWriter {
    series: HashMap<Labels, u32>,
    symbols: HashMap<Arc<str>, u32>,
    /// Series that no frame has carried yet, in order of their numbers.
    fresh: Vec<Labels>,
    bytes: usize,
}

impl DictionaryWriter {
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    pub(super) fn knows(&self, labels: &Labels) -> bool {
        self.series.contains_key(labels)
    }

    /// The number of a series, new or old; `None` when the segment's dictionary is full.
    pub(super) fn number(&mut self, labels: &Labels, limits: &Limits) -> Option<u32> {
        if let Some(number) = self.series.get(labels) {
            return Some(*number);
        }
        let bytes = self.bytes.saturating_add(text_bytes(labels));
        if self.series.len() >= limits.max_series_per_segment || bytes > limits.max_dictionary_bytes
        {
            return None;
        }
        let number = u32::try_from(self.series.len()).ok()?;
        self.series.insert(labels.clone(), number);
        self.fresh.push(labels.clone());
        self.bytes = bytes;
        Some(number)
    }

    /// Forgets the series that no frame has carried.
    pub(super) fn undo(&mut self) {
        for labels in self.fresh.drain(..) {
            self.series.remove(&labels);
            self.bytes = self.bytes.saturating_sub(text_bytes(&labels));
        }
    }

    /// The section's body for the new series; `None` if there are none.
    pub(super) fn write(&mut self) -> Option<Vec<u8>> {
        if self.fresh.is_empty() {
            return None;
        }
        let (mut symbols, mut symbol_count, mut pairs) = (Vec::new(), 0usize, Vec::new());
        for labels in &self.fresh {
            put_len(&mut pairs, labels.len());
            for text in labels.iter().flat_map(|label| [&label.name, &label.value]) {
                let next = u32::try_from(self.symbols.len()).unwrap_or(u32::MAX);
                let number = *self.symbols.entry(text.clone()).or_insert_with(|| {
                    put_bytes(&mut symbols, text.as_bytes());
                    symbol_count += 1;
                    next
                });
                put_uvarint(&mut pairs, u64::from(number));
            }
        }
        let mut body = Vec::with_capacity(symbols.len() + pairs.len() + 15);
        put_len(&mut body, self.series.len() - self.fresh.len());
        put_len(&mut body, symbol_count);
        body.append(&mut symbols);
        put_len(&mut body, self.fresh.len());
        body.append(&mut pairs);
        self.fresh.clear();
        Some(body)
    }
}

/// The symbols of a segment, by number.
#[derive(Debug, Default)]
pub(super) struct DictionaryReader {
    symbols: Vec<Arc<str>>,
    bytes: usize,
}

impl DictionaryReader {
    /// Reads a section's body: the number of its first series, and the new series.
    pub(super) fn read(
        &mut self,
        body: &[u8],
        known: usize,
        limits: &Limits,
    ) -> Result<Vec<Labels>, FrameError> {
        let mut reader = Reader::new(body, "dictionary");
        if reader.len()? != known {
            return Err(reader.malformed("the first series has the wrong number"));
        }
        let symbols = reader.count(2)?;
        for _ in 0..symbols {
            let text = reader.text()?;
            if text.is_empty() {
                return Err(reader.malformed("a symbol is empty"));
            }
            // Both sums are over texts of segments whose total has its own bound, so symbols alone cannot pass it.
            self.bytes = self.bytes.saturating_add(text.len());
            if self.bytes > limits.max_dictionary_bytes {
                return Err(FrameError::too_large(
                    "dictionary",
                    self.bytes,
                    limits.max_dictionary_bytes,
                ));
            }
            self.symbols.push(text.into());
        }
        let count = reader.count(3)?;
        if known.saturating_add(count) > limits.max_series_per_segment {
            let limit = limits.max_series_per_segment;
            return Err(FrameError::too_large(
                "number of series",
                known.saturating_add(count),
                limit,
            ));
        }
        let mut series = Vec::with_capacity(count);
        for _ in 0..count {
            series.push(self.read_series(&mut reader, limits)?);
        }
        reader.end()?;
        Ok(series)
    }

    fn read_series(&self, reader: &mut Reader<'_>, limits: &Limits) -> Result<Labels, FrameError> {
        let count = reader.count(2)?;
        if count > limits.max_labels {
            return Err(FrameError::too_large("number of labels", count, limits.max_labels));
        }
        let mut pairs = Vec::with_capacity(count);
        for _ in 0..count {
            let name = self.symbol(reader)?;
            pairs.push((name, self.symbol(reader)?));
        }
        let labels = Labels::from_pairs(pairs)
            .map_err(|_| reader.malformed("a series names a label twice"))?;
        if limits.allow(&labels) {
            Ok(labels)
        } else {
            Err(reader.malformed("a series has no labels, or one that is too long"))
        }
    }

    fn symbol(&self, reader: &mut Reader<'_>) -> Result<Arc<str>, FrameError> {
        let number = reader.len()?;
        let symbol = self.symbols.get(number);
        symbol.cloned().ok_or_else(|| reader.malformed("a symbol is not in the dictionary"))
    }
}
