//! The dictionary section: new symbols, and new series as pairs of symbols.

use std::collections::HashMap;
use std::sync::Arc;

use tributary_model::fields::{put_bytes, put_varint};
use tributary_model::label::Labels;

use super::FrameError;
use super::header::Version;
use super::wire::{Reader, put_len};
use crate::limits::{Limits, text_bytes};

/// Reference: the symbol that the series before has in this place.
const SAME: u64 = 0;
/// Reference: the first symbol that no reference has named.
const NEXT: u64 = 1;
/// References from here on are numbers of symbols.
const NUMBER: u64 = 2;

/// The series and symbols of a segment, by content.
#[derive(Debug, Default)]
pub(super) struct DictionaryWriter {
    numbers: HashMap<Labels, u32>,
    series: Vec<Known>,
    /// Series that a frame has carried; those behind are new.
    carried: usize,
    symbols: HashMap<Arc<str>, u32>,
    /// Names and values of the new series: at most so many of them are new symbols.
    fresh_texts: usize,
    bytes: usize,
}

/// A series that has a number.
#[derive(Debug)]
struct Known {
    labels: Labels,
    /// The number of the series that came after it last time. Sources keep their order, which saves looking series up.
    next: u32,
}

impl DictionaryWriter {
    pub(super) fn len(&self) -> usize {
        self.series.len()
    }

    /// The number of a known series that comes after another one.
    pub(super) fn find(&self, labels: &Labels, previous: Option<u32>) -> Option<u32> {
        let guess = previous.and_then(|number| self.get(number)).map_or(0, |known| known.next);
        if self.get(guess).is_some_and(|known| known.labels == *labels) {
            return Some(guess);
        }
        self.numbers.get(labels).copied()
    }

    fn get(&self, number: u32) -> Option<&Known> {
        self.series.get(usize::try_from(number).ok()?)
    }

    /// The number of a series, new or old, that comes after another one.
    pub(super) fn number(
        &mut self,
        labels: &Labels,
        previous: Option<u32>,
        limits: &Limits,
    ) -> Result<u32, FrameError> {
        let number = match self.find(labels, previous) {
            Some(number) => number,
            None => self.add(labels, limits)?,
        };
        let previous = previous.and_then(|number| usize::try_from(number).ok());
        if let Some(previous) = previous.and_then(|number| self.series.get_mut(number)) {
            previous.next = number;
        }
        Ok(number)
    }

    fn add(&mut self, labels: &Labels, limits: &Limits) -> Result<u32, FrameError> {
        if !limits.allow(labels) {
            return Err(FrameError::SeriesRefused);
        }
        let bytes = self.bytes.saturating_add(text_bytes(labels));
        let texts = self.fresh_texts + labels.len() * 2;
        if self.series.len() >= limits.max_series_per_segment
            || self.symbols.len() + texts > limits.max_symbols_per_segment
            || bytes > limits.max_dictionary_bytes
        {
            return Err(FrameError::SegmentFull);
        }
        let number = u32::try_from(self.series.len()).map_err(|_| FrameError::SegmentFull)?;
        self.numbers.insert(labels.clone(), number);
        self.series.push(Known { labels: labels.clone(), next: number.saturating_add(1) });
        (self.bytes, self.fresh_texts) = (bytes, texts);
        Ok(number)
    }

    /// The labels of the series from a number on.
    pub(super) fn since(&self, number: usize) -> impl Iterator<Item = &Labels> {
        self.series.iter().skip(number).map(|known| &known.labels)
    }

    /// Forgets the series that no frame has carried.
    pub(super) fn undo(&mut self) {
        for known in self.series.drain(self.carried..) {
            self.numbers.remove(&known.labels);
            self.bytes = self.bytes.saturating_sub(text_bytes(&known.labels));
        }
        self.fresh_texts = 0;
    }

    /// The section's body for the new series; `None` if there are none.
    pub(super) fn write(&mut self) -> Option<Vec<u8>> {
        let fresh = self.series.get(self.carried..).filter(|fresh| !fresh.is_empty())?;
        let (mut symbols, mut symbol_count, mut pairs) = (Vec::new(), 0usize, Vec::new());
        let (mut text_before, mut before): (&str, Vec<u32>) = ("", Vec::new());
        for Known { labels, .. } in fresh {
            put_len(&mut pairs, labels.len());
            let mut numbers = Vec::with_capacity(labels.len() * 2);
            for text in labels.iter().flat_map(|label| [&label.name, &label.value]) {
                let next = u32::try_from(self.symbols.len()).unwrap_or(u32::MAX);
                let number = *self.symbols.entry(text.clone()).or_insert(next);
                if number == next {
                    put_text(&mut symbols, text, text_before);
                    (symbol_count, text_before) = (symbol_count + 1, text);
                }
                let reference = match before.get(numbers.len()) {
                    Some(before) if *before == number => SAME,
                    _ if number == next => NEXT,
                    _ => NUMBER + u64::from(number),
                };
                put_varint(&mut pairs, reference);
                numbers.push(number);
            }
            before = numbers;
        }
        let mut body = Vec::with_capacity(symbols.len() + pairs.len() + 15);
        put_len(&mut body, self.carried);
        put_len(&mut body, symbol_count);
        body.append(&mut symbols);
        put_len(&mut body, fresh.len());
        body.append(&mut pairs);
        (self.carried, self.fresh_texts) = (self.series.len(), 0);
        Some(body)
    }
}

/// A text as how many bytes it shares with the one before, and the rest.
fn put_text(out: &mut Vec<u8>, text: &str, before: &str) {
    let shared = text.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
    put_len(out, shared);
    put_bytes(out, text.as_bytes().get(shared..).unwrap_or_default());
}

/// The symbols of a segment, by number.
#[derive(Debug)]
pub(super) struct DictionaryReader {
    version: Version,
    symbols: Vec<Arc<str>>,
    /// Symbols that a reference has named.
    named: usize,
    bytes: usize,
}

impl DictionaryReader {
    /// For a segment of frames of this version.
    pub(super) fn new(version: Version) -> Self {
        Self { version, symbols: Vec::new(), named: 0, bytes: 0 }
    }

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
        self.read_symbols(&mut reader, limits)?;
        let count = reader.count(3)?;
        let total = known.saturating_add(count);
        if total > limits.max_series_per_segment {
            let limit = limits.max_series_per_segment;
            return Err(FrameError::too_large("number of series", total, limit));
        }
        let mut series = Vec::with_capacity(count);
        let mut before = Vec::new();
        for _ in 0..count {
            series.push(self.read_series(&mut reader, &mut before, limits)?);
        }
        reader.end()?;
        Ok(series)
    }

    fn read_symbols(&mut self, reader: &mut Reader<'_>, limits: &Limits) -> Result<(), FrameError> {
        let longest = limits.max_label_name_bytes.max(limits.max_label_value_bytes);
        let mut text: Vec<u8> = Vec::new();
        let count = reader.count(2)?;
        let total = self.symbols.len().saturating_add(count);
        if total > limits.max_symbols_per_segment {
            let limit = limits.max_symbols_per_segment;
            return Err(FrameError::too_large("number of symbols", total, limit));
        }
        for _ in 0..count {
            let shared = if self.version == Version::V1 { 0 } else { reader.len()? };
            if shared > text.len() {
                return Err(reader.malformed("a symbol shares more than there is"));
            }
            text.truncate(shared);
            text.extend_from_slice(reader.bytes()?);
            if text.is_empty() {
                return Err(reader.malformed("a symbol is empty"));
            }
            if text.len() > longest {
                return Err(FrameError::too_large("symbol", text.len(), longest));
            }
            // Both sums are over texts of segments whose total has its own bound, so symbols alone cannot pass it.
            self.bytes = self.bytes.saturating_add(text.len());
            let limit = limits.max_dictionary_bytes;
            if self.bytes > limit {
                return Err(FrameError::too_large("dictionary", self.bytes, limit));
            }
            let symbol = std::str::from_utf8(&text);
            let symbol = symbol.map_err(|_| reader.malformed("a text is not UTF-8"))?;
            self.symbols.push(symbol.into());
        }
        Ok(())
    }

    /// `before` holds the symbols' numbers of the series before, and then those of this one.
    fn read_series(
        &mut self,
        reader: &mut Reader<'_>,
        before: &mut Vec<usize>,
        limits: &Limits,
    ) -> Result<Labels, FrameError> {
        let count = reader.count(2)?;
        if count > limits.max_labels {
            return Err(FrameError::too_large("number of labels", count, limits.max_labels));
        }
        let mut texts = Vec::with_capacity(count * 2);
        for place in 0..count * 2 {
            let number = self.read_reference(reader, before.get(place).copied())?;
            let symbol = self.symbols.get(number);
            let missing = || reader.malformed("a symbol is not in the dictionary");
            texts.push(symbol.cloned().ok_or_else(missing)?);
            match before.get_mut(place) {
                Some(before) => *before = number,
                None => before.push(number),
            }
        }
        before.truncate(count * 2);
        let mut texts = texts.into_iter();
        let pairs = std::iter::from_fn(|| texts.next().zip(texts.next()));
        let labels = Labels::from_pairs(pairs)
            .map_err(|_| reader.malformed("a series names a label twice"))?;
        if limits.allow(&labels) {
            Ok(labels)
        } else {
            Err(reader.malformed("a series has no labels, or one that is too long"))
        }
    }

    fn read_reference(
        &mut self,
        reader: &mut Reader<'_>,
        before: Option<usize>,
    ) -> Result<usize, FrameError> {
        if self.version == Version::V1 {
            return reader.len();
        }
        match reader.varint()? {
            SAME => before.ok_or_else(|| reader.malformed("no series before has a symbol here")),
            NEXT => {
                self.named = self.named.saturating_add(1);
                Ok(self.named - 1)
            }
            number => {
                let number = usize::try_from(number - NUMBER);
                number.map_err(|_| reader.malformed("a count is too large"))
            }
        }
    }
}
