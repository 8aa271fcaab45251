//! Writes a block: chunks by ascending place, then their clocks, their series, and the directory.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tributary_model::fields::{put_bytes, put_signed, put_varint};
use tributary_model::histogram::Histogram;
use tributary_model::label::Labels;

use super::clocks;
use super::page::{self, MAX_CHUNK_SAMPLES, Place};
use super::{
    BlockName, CLOCKS, HEADER_BYTES, HISTOGRAMS, NUMBERS, PAGE, SERIES, TEMPORARY, WITH_HISTOGRAMS,
    header, section_key, trailer,
};
use crate::catalogue::encode_series;
use crate::codec::histograms;
use crate::error::Error;
use crate::keys::window_start;
use crate::sealed::{compressor, seal};

/// A section of label sets is closed when it passes this before compression.
const SERIES_BYTES: usize = 64 << 10;
/// A chunk of native histograms is closed when it passes this.
const HISTOGRAM_BYTES: usize = 64 << 10;

/// A block that is being written. Dropped unfinished, it leaves nothing.
pub(crate) struct Writer {
    shard: u32,
    name: BlockName,
    path: PathBuf,
    temporary: PathBuf,
    file: Option<BufWriter<File>>,
    zstd: zstd::bulk::Compressor<'static>,
    offset: u64,
    base: i64,
    clocks: clocks::Builder,
    page: page::Builder,
    histograms: page::Builder,
    series: Vec<u32>,
    directory: Directory,
}

/// What the directory says.
#[derive(Debug, Default)]
struct Directory {
    samples: u64,
    span: Option<(i64, i64)>,
    replaces: Vec<u64>,
    pages: u64,
    has_histograms: bool,
    /// In the order of the file, each as it stands in the directory.
    sections: Vec<u8>,
    count: u64,
}

/// What was written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) samples: u64,
    pub(crate) pages: u64,
    pub(crate) bytes: u64,
}

impl Writer {
    /// Begins a block in a shard's folder, in place of others.
    pub(crate) fn new(
        folder: &Path,
        shard: u32,
        name: BlockName,
        replaces: Vec<u64>,
    ) -> Result<Self, Error> {
        let path = name.path(folder);
        let temporary = path.with_extension(TEMPORARY.trim_start_matches('.'));
        let failed = |source| Error::Io { doing: "making", path: temporary.clone(), source };
        let mut file =
            BufWriter::with_capacity(256 << 10, File::create(&temporary).map_err(failed)?);
        let failed = |source| Error::Io { doing: "writing", path: temporary.clone(), source };
        file.write_all(&header(NUMBERS, shard, &name)).map_err(failed)?;
        let zstd = compressor().map_err(Error::damaged("the compressor"))?;
        let directory = Directory { replaces, ..Directory::default() };
        Ok(Self {
            base: window_start(name.first),
            shard,
            name,
            path,
            temporary,
            file: Some(file),
            zstd,
            offset: HEADER_BYTES as u64,
            clocks: clocks::Builder::default(),
            page: page::Builder::default(),
            histograms: page::Builder::default(),
            series: Vec::new(),
            directory,
        })
    }

    /// Adds a series' samples, by ascending time, each time once. Series come by ascending place.
    pub(crate) fn add(&mut self, place: Place, samples: &[(i64, u64)]) -> Result<(), Error> {
        if !self.note(place, samples) {
            return Ok(());
        }
        // Chunks of equal length: a short one at the end would cost more than it holds.
        let most = samples.len().div_ceil(samples.len().div_ceil(MAX_CHUNK_SAMPLES));
        for samples in samples.chunks(most) {
            let (times, bits): (Vec<i64>, Vec<u64>) = samples.iter().copied().unzip();
            let clock = self.clock(&times)?;
            self.page.add(place, clock, &bits);
            if self.page.is_full() {
                self.end_page()?;
            }
        }
        Ok(())
    }

    /// Adds a series' native histograms in the same way. These, too, come by ascending place.
    pub(crate) fn add_histograms(
        &mut self,
        place: Place,
        samples: &[(i64, Arc<Histogram>)],
    ) -> Result<(), Error> {
        if !self.note(place, samples) {
            return Ok(());
        }
        self.directory.has_histograms = true;
        // Of the same lengths as those of numbers, so that they share clocks with them.
        let most = samples.len().div_ceil(samples.len().div_ceil(MAX_CHUNK_SAMPLES));
        for samples in samples.chunks(most) {
            let (mut times, mut encoded) = (Vec::with_capacity(samples.len()), Vec::new());
            let mut before: Option<&Histogram> = None;
            for (at, histogram) in samples {
                if encoded.len() > HISTOGRAM_BYTES {
                    self.histogram_chunk(place, &times, std::mem::take(&mut encoded))?;
                    times.clear();
                    before = None;
                }
                histograms::append(&mut encoded, before, histogram);
                times.push(*at);
                before = Some(histogram);
            }
            self.histogram_chunk(place, &times, encoded)?;
        }
        Ok(())
    }

    fn histogram_chunk(
        &mut self,
        place: Place,
        times: &[i64],
        encoded: Vec<u8>,
    ) -> Result<(), Error> {
        let clock = self.clock(times)?;
        self.histograms.add_encoded(place, clock, encoded);
        if self.histograms.is_full() { self.end_histograms() } else { Ok(()) }
    }

    /// Takes note of a series and of the times of its samples; false if there is none.
    fn note<T>(&mut self, place: Place, samples: &[(i64, T)]) -> bool {
        let (Some((first, _)), Some((last, _))) = (samples.first(), samples.last()) else {
            return false;
        };
        let span = self.directory.span.get_or_insert((*first, *last));
        *span = (span.0.min(*first), span.1.max(*last));
        self.directory.samples += samples.len() as u64;
        self.series.push(place.series);
        true
    }

    /// The number of the clock with these times.
    fn clock(&mut self, times: &[i64]) -> Result<u32, Error> {
        let clock = self.clocks.number(self.base, times);
        if self.clocks.is_full() {
            self.end_clocks()?;
        }
        Ok(clock)
    }

    /// Writes what is left, and makes the file appear under its name, durable but for the folder's entry.
    pub(crate) fn finish(
        mut self,
        cluster: &str,
        labels: impl Fn(u32) -> Option<Labels>,
    ) -> Result<Written, Error> {
        self.end_page()?;
        self.end_histograms()?;
        self.end_clocks()?;
        self.write_series(labels)?;
        let directory = std::mem::take(&mut self.directory);
        let offset = self.offset;
        let length = self.seal(&directory.encode(cluster, self.base))?;
        self.write(&trailer(self.name.number, offset, length))?;
        self.settle(directory.has_histograms)?;
        let Directory { samples, pages, .. } = directory;
        Ok(Written { samples, pages, bytes: self.offset })
    }

    fn end_page(&mut self) -> Result<(), Error> {
        let page = std::mem::take(&mut self.page);
        self.page_section(PAGE, page)
    }

    fn end_histograms(&mut self) -> Result<(), Error> {
        let page = std::mem::take(&mut self.histograms);
        self.page_section(HISTOGRAMS, page)
    }

    fn page_section(&mut self, kind: u8, page: page::Builder) -> Result<(), Error> {
        let Some((first, last)) = page.places() else { return Ok(()) };
        let mut about = Vec::new();
        for place in [first, last] {
            about.extend_from_slice(&place.group.to_be_bytes());
            put_varint(&mut about, u64::from(place.series));
        }
        self.directory.pages += 1;
        self.section(kind, &about, &page.finish())
    }

    fn end_clocks(&mut self) -> Result<(), Error> {
        let Some((first, section)) = self.clocks.close() else { return Ok(()) };
        self.numbered(CLOCKS, first, &section)
    }

    fn numbered(&mut self, kind: u8, first: u32, section: &[u8]) -> Result<(), Error> {
        let mut about = Vec::new();
        put_varint(&mut about, u64::from(first));
        self.section(kind, &about, section)
    }

    /// Writes a section and what the directory says about it.
    fn section(&mut self, kind: u8, about: &[u8], raw: &[u8]) -> Result<(), Error> {
        let length = self.seal(raw)?;
        let entry = &mut self.directory.sections;
        entry.push(kind);
        put_varint(entry, u64::from(length));
        put_bytes(entry, about);
        self.directory.count += 1;
        Ok(())
    }

    fn write_series(&mut self, labels: impl Fn(u32) -> Option<Labels>) -> Result<(), Error> {
        let mut series = std::mem::take(&mut self.series);
        series.sort_unstable();
        series.dedup();
        let mut section = Vec::new();
        let mut first = None;
        for number in series {
            let Some(labels) = labels(number) else { continue };
            first = first.or(Some(number));
            encode_series(&mut section, number, &labels);
            if section.len() >= SERIES_BYTES {
                let section = std::mem::take(&mut section);
                self.numbered(SERIES, first.take().unwrap_or(number), &section)?;
            }
        }
        first.map_or(Ok(()), |first| self.numbered(SERIES, first, &section))
    }

    fn seal(&mut self, raw: &[u8]) -> Result<u32, Error> {
        let sealed = seal(&section_key(self.name.number, self.offset), raw, &mut self.zstd);
        self.write(&sealed)?;
        u32::try_from(sealed.len()).map_err(|_| Error::TooLarge {
            what: "a section of a block",
            bytes: sealed.len(),
            limit: u32::MAX as usize,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let path = &self.temporary;
        let failed = |source| Error::Io { doing: "writing", path: path.clone(), source };
        if let Some(file) = &mut self.file {
            file.write_all(bytes).map_err(failed)?;
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn settle(&mut self, has_histograms: bool) -> Result<(), Error> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let settle = || -> std::io::Result<()> {
            let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
            if has_histograms {
                file.write_all_at(&header(WITH_HISTOGRAMS, self.shard, &self.name), 0)?;
            }
            file.sync_all()?;
            fs::rename(&self.temporary, &self.path)
        };
        settle().map_err(|source| {
            // The file is of no use; if it cannot be removed, the next opening does that.
            let _ = fs::remove_file(&self.temporary);
            Error::Io { doing: "finishing", path: self.path.clone(), source }
        })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.file.take().is_some() {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

impl Directory {
    fn encode(&self, cluster: &str, base: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, cluster.as_bytes());
        put_varint(&mut out, self.samples);
        let (first, last) = self.span.unwrap_or((base, base));
        put_signed(&mut out, first.wrapping_sub(base));
        put_varint(&mut out, last.abs_diff(first));
        put_varint(&mut out, self.replaces.len() as u64);
        for number in &self.replaces {
            put_varint(&mut out, *number);
        }
        put_varint(&mut out, self.count);
        out.extend_from_slice(&self.sections);
        out
    }
}
