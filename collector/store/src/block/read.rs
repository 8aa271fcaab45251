//! Reads a block: its directory when it is opened, everything else when it is asked for.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tributary_model::cluster::ClusterName;
use tributary_model::fields::{Fields, Malformed};
use tributary_model::label::Labels;

use super::clocks::Clocks;
use super::found::Found;
use super::page::{Page, Place};
use super::{
    BlockName, CLOCKS, HEADER_BYTES, HISTOGRAMS, NUMBERS, PAGE, SERIES, TRAILER_BYTES,
    WITH_HISTOGRAMS, directory_place, header, section_key,
};
use crate::cache::{Cache, Item};
use crate::catalogue::decode_block;
use crate::codec::histograms;
use crate::error::Error;
use crate::keys::window_start;
use crate::sealed::unseal;

/// Memory that an open block counts for at least: it holds a file open.
const OPEN_BYTES: usize = 64 << 10;

/// An open block.
#[derive(Debug)]
pub(crate) struct Block {
    file: File,
    path: PathBuf,
    shard: u32,
    name: BlockName,
    /// What it has.
    pub(crate) directory: Directory,
}

/// What a reader used last of a block: neighbours want the same, or what stands next.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    page: Option<NearPage>,
    /// With their offset.
    clocks: Option<(u64, Arc<Clocks>)>,
}

#[derive(Debug)]
struct NearPage {
    /// Its place among the pages of numbers.
    number: usize,
    page: Arc<Page>,
    /// The place of the chunk behind those used last.
    next: usize,
}

/// What a block says of itself.
#[derive(Debug)]
pub(crate) struct Directory {
    /// The cluster.
    pub(crate) cluster: ClusterName,
    /// How many samples it has.
    pub(crate) samples: u64,
    /// First and last time.
    pub(crate) span: (i64, i64),
    /// Blocks whose content it has taken over.
    pub(crate) replaces: Vec<u64>,
    pages: Vec<PageRef>,
    histograms: Vec<PageRef>,
    clocks: Vec<Section>,
    series: Vec<Section>,
}

/// What samples a page has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Column {
    Numbers,
    Histograms,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct PageRef {
    first: Place,
    last: Place,
    pub(super) offset: u64,
    length: u32,
}

#[derive(Debug, Clone, Copy)]
struct Section {
    first: u32,
    offset: u64,
    length: u32,
}

impl Block {
    /// Opens a block of a shard's folder.
    pub(crate) fn open(folder: &Path, shard: u32, name: BlockName) -> Result<Self, Error> {
        let path = name.path(folder);
        let failed = |source| Error::Io { doing: "opening", path: path.clone(), source };
        let file = File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let damaged = |why| Error::damaged(format!("the block {}", path.display()))(why);
        let mut head = [0; HEADER_BYTES];
        let mut end = [0; TRAILER_BYTES];
        let end_at = bytes.checked_sub(TRAILER_BYTES as u64);
        let end_at = end_at.ok_or_else(|| damaged(Malformed("it is too short")))?;
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        file.read_exact_at(&mut end, end_at).map_err(failed)?;
        if [NUMBERS, WITH_HISTOGRAMS].into_iter().all(|v| head != header(v, shard, &name)) {
            return Err(damaged(Malformed("its header is not that of its name and folder")));
        }
        let (offset, length) = directory_place(name.number, &end).map_err(damaged)?;
        if offset.checked_add(u64::from(length)) != Some(end_at) {
            return Err(damaged(Malformed("its directory is not where its end says")));
        }
        let sealed = read_at(&file, &path, offset, length)?;
        let raw = unseal(&section_key(name.number, offset), &sealed).map_err(damaged)?;
        let directory = Directory::decode(&raw, &name, offset).map_err(damaged)?;
        Ok(Self { file, path, shard, name, directory })
    }

    /// Bytes held in memory, at least what an open file counts for.
    pub(crate) fn size(&self) -> usize {
        let Directory { pages, histograms, clocks, series, .. } = &self.directory;
        let sections = (clocks.len() + series.len()) * size_of::<Section>();
        let pages = (pages.len() + histograms.len()) * size_of::<PageRef>();
        (pages + sections).max(OPEN_BYTES)
    }

    /// Finds a series' chunks of numbers that overlap the range.
    pub(crate) fn find(
        self: &Arc<Self>,
        cache: &Cache,
        recent: &mut Recent,
        place: Place,
        (from, to): (i64, i64),
        out: &mut Vec<Found>,
    ) -> Result<(), Error> {
        let Recent { page, clocks } = recent;
        let pages = &self.directory.pages;
        // The page that was used last, if it may be the first one that has the place.
        let near = page.as_ref().map_or(0, |near| near.number);
        let is_first = |at: usize| {
            pages.get(at).is_some_and(|page| page.last >= place)
                && at.checked_sub(1).is_none_or(|at| pages.get(at).is_some_and(|p| p.last < place))
        };
        let begin =
            if is_first(near) { near } else { pages.partition_point(|page| page.last < place) };
        let behind = pages.iter().enumerate().skip(begin);
        for (number, reference) in behind.take_while(|(_, page)| page.first <= place) {
            let near = match page.take_if(|near| near.number == number) {
                Some(near) => near,
                None => NearPage { number, page: self.page(cache, reference)?, next: 0 },
            };
            let near = page.insert(near);
            let chunks = near.page.of_near(place, near.next);
            near.next = chunks.end;
            for chunk in near.page.chunks().get(chunks).unwrap_or_default() {
                let (section, number) = self.clock_section(chunk.clock)?;
                let clocks = kept(clocks, section.offset, || self.clocks(cache, section))?;
                let clock = clocks.at(number).map_err(self.damaged(reference.offset))?;
                if clock.first > to || clock.last < from {
                    continue;
                }
                out.push(Found {
                    block: Arc::clone(self),
                    page: Arc::clone(&near.page),
                    offset: reference.offset,
                    chunk: chunk.clone(),
                    clocks: Arc::clone(clocks),
                    clock: number,
                    count: clock.count,
                });
            }
        }
        Ok(())
    }

    /// The pages that may have a place.
    pub(super) fn pages_of(&self, column: Column, place: Place) -> impl Iterator<Item = &PageRef> {
        let pages = self.directory.column(column);
        let begin = pages.partition_point(|page| page.last < place);
        pages.iter().skip(begin).take_while(move |page| page.first <= place)
    }

    /// The label sets of its series.
    pub(crate) fn label_sets(&self) -> Result<Vec<(u32, Labels)>, Error> {
        let mut out = Vec::new();
        for section in &self.directory.series {
            let raw = self.section(section.offset, section.length)?;
            out.extend(decode_block(&raw).map_err(self.damaged(section.offset))?);
        }
        Ok(out)
    }

    /// Reads and checks all of it; says how many chunks it has.
    pub(crate) fn verify(&self) -> Result<u64, Error> {
        let sets = self.label_sets()?;
        let known = |series| sets.binary_search_by_key(&series, |(number, _)| *number).is_ok();
        let cache = Cache::new(4 << 20);
        let (mut chunks, mut samples) = (0, 0);
        let mut scratch = Vec::new();
        let columns = [Column::Numbers, Column::Histograms];
        let pages = columns.into_iter().flat_map(|column| {
            self.directory.column(column).iter().map(move |reference| (column, reference))
        });
        for (column, reference) in pages {
            let page = self.page(&cache, reference)?;
            for chunk in page.chunks() {
                if !known(chunk.place.series) {
                    let why = Malformed("a series has no labels");
                    return Err(self.damaged(reference.offset)(why));
                }
                let (clocks, number) = self.clocks_of(&cache, chunk.clock)?;
                let clock = clocks.at(number).map_err(self.damaged(reference.offset))?;
                scratch.resize(clock.count, 0);
                match column {
                    Column::Numbers => page.values(chunk, &mut scratch),
                    Column::Histograms => {
                        histograms::decode(page.encoded(chunk), clock.count, |_| true)
                    }
                }
                .map_err(self.damaged(reference.offset))?;
                clocks.times(clock).map_err(self.damaged(reference.offset))?;
                chunks += 1;
                samples += clock.count as u64;
            }
        }
        if samples == self.directory.samples {
            Ok(chunks)
        } else {
            Err(self.damaged(0)(Malformed("it has another number of samples than it says")))
        }
    }

    pub(super) fn page(&self, cache: &Cache, reference: &PageRef) -> Result<Arc<Page>, Error> {
        let key = (self.shard, self.name.number, reference.offset);
        if let Some(Item::Page(page)) = cache.find(&key) {
            return Ok(page);
        }
        let raw = self.section(reference.offset, reference.length)?;
        let page = Arc::new(Page::parse(raw).map_err(self.damaged(reference.offset))?);
        cache.insert(key, Item::Page(Arc::clone(&page)), page.size());
        Ok(page)
    }

    /// The clocks among which a clock is, and its place among them.
    pub(super) fn clocks_of(
        &self,
        cache: &Cache,
        number: u32,
    ) -> Result<(Arc<Clocks>, u32), Error> {
        let (section, place) = self.clock_section(number)?;
        Ok((self.clocks(cache, section)?, place))
    }

    /// The section that has a clock, and the clock's place in it.
    fn clock_section(&self, number: u32) -> Result<(&Section, u32), Error> {
        let sections = &self.directory.clocks;
        let behind = sections.partition_point(|section| section.first <= number);
        let section = behind.checked_sub(1).and_then(|place| sections.get(place));
        let section = section.ok_or_else(|| self.damaged(0)(Malformed("a chunk has no clock")))?;
        Ok((section, number - section.first))
    }

    fn clocks(&self, cache: &Cache, section: &Section) -> Result<Arc<Clocks>, Error> {
        let key = (self.shard, self.name.number, section.offset);
        if let Some(Item::Clocks(clocks)) = cache.find(&key) {
            return Ok(clocks);
        }
        let raw = self.section(section.offset, section.length)?;
        let base = window_start(self.name.first);
        let clocks = Arc::new(Clocks::parse(base, raw).map_err(self.damaged(section.offset))?);
        cache.insert(key, Item::Clocks(Arc::clone(&clocks)), clocks.size());
        Ok(clocks)
    }

    fn section(&self, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
        let sealed = read_at(&self.file, &self.path, offset, length)?;
        unseal(&section_key(self.name.number, offset), &sealed).map_err(self.damaged(offset))
    }

    pub(super) fn damaged(&self, offset: u64) -> impl FnOnce(Malformed) -> Error {
        move |why| {
            Error::damaged(format!("the block {} at byte {offset}", self.path.display()))(why)
        }
    }
}

/// What is kept of an offset, or else what `find` finds, which is kept then.
fn kept<T>(
    slot: &mut Option<(u64, Arc<T>)>,
    offset: u64,
    find: impl FnOnce() -> Result<Arc<T>, Error>,
) -> Result<&Arc<T>, Error> {
    let found = match slot.take() {
        Some((at, kept)) if at == offset => kept,
        _ => find()?,
    };
    Ok(&slot.insert((offset, found)).1)
}

fn read_at(file: &File, path: &Path, offset: u64, length: u32) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Io { doing: "reading", path: path.to_owned(), source };
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, offset).map_err(failed)?;
    Ok(bytes)
}

impl Directory {
    pub(super) fn decode(raw: &[u8], name: &BlockName, end: u64) -> Result<Self, Malformed> {
        let mut fields = Fields(raw);
        let cluster = crate::ledger::cluster(&mut fields)?;
        let samples = fields.varint()?;
        let first = window_start(name.first).wrapping_add(fields.signed()?);
        let last = first.checked_add_unsigned(fields.varint()?);
        let span = (first, last.ok_or(Malformed("a time is too large"))?);
        let replaces = (0..fields.count()?).map(|_| fields.varint()).collect::<Result<_, _>>()?;
        let (pages, histograms) = (Vec::new(), Vec::new());
        let (clocks, series) = (Vec::new(), Vec::new());
        let mut out = Self { cluster, samples, span, replaces, pages, histograms, clocks, series };
        let mut offset = HEADER_BYTES as u64;
        for _ in 0..fields.count()? {
            let (kind, length) = (fields.byte()?, fields.small()?);
            let mut about = Fields(fields.bytes()?);
            match kind {
                PAGE | HISTOGRAMS => {
                    let first = Place { group: about.u32_be()?, series: about.small()? };
                    let last = Place { group: about.u32_be()?, series: about.small()? };
                    let pages = if kind == PAGE { &mut out.pages } else { &mut out.histograms };
                    pages.push(PageRef { first, last, offset, length });
                }
                CLOCKS => out.clocks.push(Section { first: about.small()?, offset, length }),
                SERIES => out.series.push(Section { first: about.small()?, offset, length }),
                // A kind of a later version that older programs may pass over.
                _ => {}
            }
            offset = offset.saturating_add(u64::from(length));
        }
        fields.end()?;
        if offset != end {
            return Err(Malformed("its sections do not end at its directory"));
        }
        Ok(out)
    }
}

impl Directory {
    fn column(&self, column: Column) -> &[PageRef] {
        match column {
            Column::Numbers => &self.pages,
            Column::Histograms => &self.histograms,
        }
    }
}

/// Walks through a column of a block, series by series.
pub(crate) struct Cursor {
    pub(super) block: Arc<Block>,
    column: Column,
    pub(super) cache: Cache,
    next_page: usize,
    pub(super) page: Option<(Arc<Page>, u64)>,
    pub(super) next_chunk: usize,
    scratch: Vec<u64>,
}

impl Cursor {
    /// In front of the first series.
    pub(crate) fn new(block: Arc<Block>, column: Column) -> Result<Self, Error> {
        let cache = Cache::new(1 << 20);
        let (page, scratch) = (None, Vec::new());
        let mut cursor = Self { block, column, cache, next_page: 0, page, next_chunk: 0, scratch };
        cursor.turn()?;
        Ok(cursor)
    }

    /// The next series; `None` at the end.
    pub(crate) fn place(&self) -> Option<Place> {
        let (page, _) = self.page.as_ref()?;
        page.chunks().get(self.next_chunk).map(|chunk| chunk.place)
    }

    /// Appends all samples of the next series, chunk by chunk, and passes over it.
    pub(crate) fn take(&mut self, out: &mut Vec<(i64, u64)>) -> Result<(), Error> {
        let Some(place) = self.place() else { return Ok(()) };
        while self.place() == Some(place) {
            let Some((page, offset)) = &self.page else { break };
            if let Some(chunk) = page.chunks().get(self.next_chunk) {
                let (clocks, number) = self.block.clocks_of(&self.cache, chunk.clock)?;
                let clock = clocks.at(number).map_err(self.block.damaged(*offset))?;
                self.scratch.resize(clock.count, 0);
                page.values(chunk, &mut self.scratch).map_err(self.block.damaged(*offset))?;
                let times = clocks.times(clock).map_err(self.block.damaged(*offset))?;
                out.extend(times.iter().copied().zip(self.scratch.iter().copied()));
            }
            self.pass()?;
        }
        Ok(())
    }

    /// Goes on behind a chunk.
    pub(super) fn pass(&mut self) -> Result<(), Error> {
        self.next_chunk += 1;
        if self.place().is_none() { self.turn() } else { Ok(()) }
    }

    fn turn(&mut self) -> Result<(), Error> {
        self.next_chunk = 0;
        self.page = match self.block.directory.column(self.column).get(self.next_page) {
            Some(reference) => Some((self.block.page(&self.cache, reference)?, reference.offset)),
            None => None,
        };
        self.next_page += 1;
        Ok(())
    }
}
