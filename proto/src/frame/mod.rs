//! Frames: the bytes that travel unchanged from the agent's spool to the collector's journal. PROTOCOL.md lists them.

mod decimal;
mod dictionary;
mod gap;
mod header;
mod histograms;
mod pack;
mod range;
mod records;
mod samples;
mod section;
mod v1;
mod value;
mod wire;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;

use crate::limits::{self, Limits};
use dictionary::{DictionaryReader, DictionaryWriter};
pub use gap::{Gap, GapCause};
use header::Version;
use histograms::Histograms;
use pack::{GAP_COST, SAMPLE_COST, histogram_cost, series_cost};
use samples::{SampleReader, SampleWriter};
use section::Kind;

/// What a frame says of itself before anything is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Identifies the agent's spool.
    pub epoch: u64,
    /// The frame's number, from 1, one more than the frame before it.
    pub seq: u64,
    /// Tells the segments of an epoch apart; grows.
    pub segment: u64,
    /// The decoder starts anew here.
    pub starts_segment: bool,
    /// Nothing older is missing, except what gaps name.
    pub complete_until: Timestamp,
    /// The oldest sample, number or histogram; `complete_until` if there is none.
    pub min_at: Timestamp,
    /// The newest sample; `complete_until` if there is none.
    pub max_at: Timestamp,
    /// How many samples, numbers and histograms.
    pub samples: u32,
}

/// Reads a frame's header; checks magic, version, length and checksum.
pub fn header(bytes: &[u8]) -> Result<Header, FrameError> {
    let (header, ..) = header::read(bytes, limits::MAX_FRAME_BYTES)?;
    Ok(header)
}

/// What goes into a frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Content<'a> {
    /// Samples in any order, each with its series.
    pub samples: &'a [(Labels, Sample)],
    /// Native histograms in any order, each with its series.
    pub histograms: &'a [(Labels, HistogramSample)],
    /// Types, helps and units.
    pub metadata: &'a [Metadata],
    /// Intervals that are missing.
    pub gaps: &'a [Gap],
}

/// Makes the frames of one segment.
///
/// A frame that was made must be the next one its readers see: drop the encoder when a frame was lost, and start a new
/// segment.
#[derive(Debug)]
pub struct Encoder {
    epoch: u64,
    segment: u64,
    limits: Limits,
    last_seq: Option<u64>,
    dictionary: DictionaryWriter,
    samples: SampleWriter,
    histograms: Histograms,
}

impl Encoder {
    /// An encoder for a new segment.
    pub fn new(epoch: u64, segment: u64) -> Self {
        Self {
            epoch,
            segment,
            limits: Limits::default(),
            last_seq: None,
            dictionary: DictionaryWriter::default(),
            samples: SampleWriter::default(),
            histograms: Histograms::default(),
        }
    }

    /// Series in the segment's dictionary.
    pub fn series(&self) -> usize {
        self.dictionary.len()
    }

    /// Makes the next frame. After an error the encoder is as before, and the content can be split or go into a new
    /// segment ([`FrameError::SegmentFull`]).
    pub fn encode(
        &mut self,
        seq: u64,
        complete_until: Timestamp,
        content: &Content<'_>,
    ) -> Result<Vec<u8>, FrameError> {
        if let Some(expected) = self.last_seq.map(|last| last.saturating_add(1))
            && seq != expected
        {
            return Err(FrameError::OutOfSequence { expected, found: seq });
        }
        let known = self.dictionary.len();
        let Numbered { samples, histograms } =
            self.number(content).inspect_err(|_| self.dictionary.undo())?;
        let times = || times(&samples, &histograms);
        let header = Header {
            epoch: self.epoch,
            seq,
            segment: self.segment,
            starts_segment: self.last_seq.is_none(),
            complete_until,
            min_at: times().min().unwrap_or(complete_until),
            max_at: times().max().unwrap_or(complete_until),
            samples: u32::try_from(samples.len() + histograms.len()).unwrap_or(u32::MAX),
        };
        let mut out = header::write(&header, Version::of(histograms.len()));
        debug_assert!(known <= self.dictionary.len(), "numbers only grow");
        if let Some(body) = self.dictionary.write() {
            section::write(&mut out, Kind::Dictionary, &body);
        }
        if !samples.is_empty() {
            let body = self.samples.write(&samples, self.dictionary.len());
            section::write(&mut out, Kind::Samples, &body);
        }
        if !content.metadata.is_empty() {
            section::write(&mut out, Kind::Metadata, &records::write_metadata(content.metadata));
        }
        if !content.gaps.is_empty() {
            section::write(&mut out, Kind::Gaps, &records::write_gaps(content.gaps));
        }
        if !histograms.is_empty() {
            let body = self.histograms.write(&histograms, header.min_at);
            section::write(&mut out, Kind::Histograms, &body);
        }
        header::seal(&mut out);
        self.last_seq = Some(seq);
        Ok(out)
    }

    /// Gives every sample its series' number, and checks that the frame cannot become too large.
    fn number(&mut self, content: &Content<'_>) -> Result<Numbered, FrameError> {
        let too_many = |what, found, limit| {
            if found > limit { Err(FrameError::too_large(what, found, limit)) } else { Ok(()) }
        };
        let count = content.samples.len().saturating_add(content.histograms.len());
        too_many("number of samples", count, limits::MAX_SAMPLES_PER_FRAME)?;
        too_many("number of entries", content.metadata.len(), limits::MAX_ENTRIES_PER_FRAME)?;
        too_many("number of entries", content.gaps.len(), limits::MAX_ENTRIES_PER_FRAME)?;
        let mut cost = FRAME_COST + content.gaps.len().saturating_mul(GAP_COST);
        for entry in content.metadata {
            for text in [&entry.metric, &entry.help, &entry.unit] {
                too_many("metadata text", text.len(), limits::MAX_METADATA_TEXT_BYTES)?;
            }
            cost = cost.saturating_add(metadata_cost(entry));
        }
        let mut samples = Vec::with_capacity(content.samples.len());
        let mut previous = None;
        let known = self.dictionary.len();
        for (labels, sample) in content.samples {
            let series = self.dictionary.number(labels, previous, &self.limits)?;
            previous = Some(series);
            samples.push(FrameSample { series, sample: *sample });
            cost = cost.saturating_add(SAMPLE_COST);
        }
        let mut histograms = Vec::with_capacity(content.histograms.len());
        for (labels, sample) in content.histograms {
            histograms::check(&sample.histogram)?;
            let series = self.dictionary.number(labels, previous, &self.limits)?;
            previous = Some(series);
            histograms.push(FrameHistogram { series, sample: sample.clone() });
            cost = cost.saturating_add(histogram_cost(sample));
        }
        cost = self
            .dictionary
            .since(known)
            .fold(cost, |cost, new| cost.saturating_add(series_cost(new)));
        too_many("frame", cost, limits::MAX_FRAME_BYTES)?;
        Ok(Numbered { samples, histograms })
    }
}

/// A frame's samples with their series' numbers.
struct Numbered {
    samples: Vec<FrameSample>,
    histograms: Vec<FrameHistogram>,
}

/// The times of all samples.
fn times(
    samples: &[FrameSample],
    histograms: &[FrameHistogram],
) -> impl Iterator<Item = Timestamp> {
    let of_histograms = histograms.iter().map(|histogram| histogram.sample.at);
    samples.iter().map(|sample| sample.sample.at).chain(of_histograms)
}

/// Most bytes a frame takes beside its entries.
const FRAME_COST: usize = 256;
/// Most bytes a metadata entry takes. A caller that packs frames adds this up for itself.
pub fn metadata_cost(entry: &Metadata) -> usize {
    10 + entry.metric.len() + entry.help.len() + entry.unit.len()
}

/// Reads the frames of one stream, segment after segment.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    segment: Option<SegmentReader>,
}

/// What a decoder knows inside a segment.
#[derive(Debug)]
struct SegmentReader {
    epoch: u64,
    segment: u64,
    last_seq: u64,
    dictionary: DictionaryReader,
    samples: SampleReader,
    histograms: Histograms,
}

impl Decoder {
    /// A decoder that waits for the start of a segment.
    pub fn new(limits: Limits) -> Self {
        Self { limits, segment: None }
    }

    /// Reads the next frame. After an error only the start of a segment can be read.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<Frame, FrameError> {
        let (header, version, sections) = header::read(bytes, self.limits.max_frame_bytes)?;
        let taken = self.segment.take();
        let mut state = match taken {
            _ if header.starts_segment => SegmentReader {
                epoch: header.epoch,
                segment: header.segment,
                last_seq: header.seq,
                dictionary: DictionaryReader::new(version),
                samples: SampleReader::new(version),
                histograms: Histograms::default(),
            },
            Some(state) if (state.epoch, state.segment) == (header.epoch, header.segment) => {
                let expected = state.last_seq.saturating_add(1);
                if header.seq != expected {
                    return Err(FrameError::OutOfSequence { expected, found: header.seq });
                }
                if (version == Version::V1) != state.samples.is_first_version() {
                    let why = "its version is not that of its segment";
                    return Err(FrameError::Malformed { what: "header", why });
                }
                state
            }
            _ => return Err(FrameError::NoState { segment: header.segment }),
        };
        let frame = state.read(header, version, sections, &self.limits)?;
        state.last_seq = header.seq;
        self.segment = Some(state);
        Ok(frame)
    }
}

impl SegmentReader {
    fn read(
        &mut self,
        header: Header,
        version: Version,
        body: &[u8],
        limits: &Limits,
    ) -> Result<Frame, FrameError> {
        let known = self.samples.len();
        let first_new = u32::try_from(known).map_err(|_| FrameError::SegmentFull)?;
        let mut frame = Frame {
            header,
            first_new,
            new_series: Vec::new(),
            samples: Vec::new(),
            histograms: Vec::new(),
            metadata: Vec::new(),
            gaps: Vec::new(),
            unknown: 0,
        };
        let mut sections = section::Sections::new(body, limits.max_section_bytes);
        while let Some((kind, body)) = sections.next()? {
            match kind {
                Some(Kind::Dictionary) => {
                    frame.new_series = self.dictionary.read(&body, known, limits)?;
                    self.samples.extend(frame.new_series.len());
                }
                Some(Kind::Samples) => {
                    let expected = header.samples.saturating_sub(version.histograms());
                    let expected = usize::try_from(expected).unwrap_or(usize::MAX);
                    frame.samples = self.samples.read(&body, expected, header.min_at, limits)?;
                }
                Some(Kind::Metadata) => frame.metadata = records::read_metadata(&body)?,
                Some(Kind::Gaps) => frame.gaps = records::read_gaps(&body)?,
                Some(Kind::Histograms) => {
                    let expected = usize::try_from(version.histograms()).unwrap_or(usize::MAX);
                    let (series, base) = (self.samples.len(), header.min_at);
                    frame.histograms =
                        self.histograms.read(&body, series, expected, base, limits)?;
                }
                None => frame.unknown = frame.unknown.saturating_add(1),
            }
        }
        frame.check_header(version)?;
        Ok(frame)
    }
}

/// A decoded frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// What the frame says of itself.
    pub header: Header,
    /// The number of the first of `new_series`; the others follow it.
    pub first_new: u32,
    /// Series that the segment has not named before.
    pub new_series: Vec<Labels>,
    /// Samples, in order of their times.
    pub samples: Vec<FrameSample>,
    /// Native histograms, in order of their times.
    pub histograms: Vec<FrameHistogram>,
    /// Types, helps and units.
    pub metadata: Vec<Metadata>,
    /// Intervals that are missing.
    pub gaps: Vec<Gap>,
    /// Sections of kinds that this version does not know.
    pub unknown: u32,
}

impl Frame {
    /// The header's counts and times must be those of the samples: others rely on them without decoding.
    fn check_header(&self, version: Version) -> Result<(), FrameError> {
        let times = || times(&self.samples, &self.histograms);
        let count = self.samples.len().saturating_add(self.histograms.len());
        let honest = u32::try_from(count) == Ok(self.header.samples)
            && u32::try_from(self.histograms.len()) == Ok(version.histograms())
            && times().min().unwrap_or(self.header.complete_until) == self.header.min_at
            && times().max().unwrap_or(self.header.complete_until) == self.header.max_at;
        if honest {
            return Ok(());
        }
        Err(FrameError::Malformed { what: "header", why: "it differs from the samples" })
    }
}

/// A sample of a series of the segment's dictionary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameSample {
    /// The series' number in the segment, from 0.
    pub series: u32,
    /// Time and value.
    pub sample: Sample,
}

/// A native histogram of a series of the segment's dictionary.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameHistogram {
    /// The series' number in the segment, from 0.
    pub series: u32,
    /// Time and histogram.
    pub sample: HistogramSample,
}

/// Why bytes are not a frame, or why a frame cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes do not begin as a frame does.
    #[error("these bytes are not a frame")]
    NotAFrame,
    /// A format that this version does not know.
    #[error("the frame has format version {0}; this version reads 1 and 2")]
    Version(u8),
    /// The content is not what was written.
    #[error("the frame's checksum does not match its content")]
    Checksum,
    /// A bound is passed.
    #[error("the {what} is {found}, over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The bytes end too early.
    #[error("the frame's {what} ends too early")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// The bytes contradict the format.
    #[error("the frame's {what} is malformed: {why}")]
    Malformed {
        /// What was being read.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// Samples in a codec that this version does not know.
    #[error("the frame's samples are in codec {0}, which this version does not know")]
    UnknownCodec(u8),
    /// A section is compressed in a way that this version does not know, or its bytes are damaged.
    #[error("the frame's section cannot be decompressed: {0}")]
    Compression(String),
    /// The frame builds on others that were not read.
    #[error("the frame builds on the start of segment {segment}, which was not read")]
    NoState {
        /// The segment.
        segment: u64,
    },
    /// A frame is missing or repeated inside a segment.
    #[error("the frame has number {found}, expected {expected}")]
    OutOfSequence {
        /// The number that is next.
        expected: u64,
        /// The frame's number.
        found: u64,
    },
    /// The segment's dictionary is full: start a new segment.
    #[error("the segment's dictionary is full")]
    SegmentFull,
    /// A series has no labels, or is over the bounds of [`Limits::allow`].
    #[error("a series has no labels, too many of them, or one that is too long")]
    SeriesRefused,
}

impl FrameError {
    fn too_large(what: &'static str, found: usize, limit: usize) -> Self {
        Self::TooLarge { what, found, limit }
    }
}

#[cfg(test)]
mod tests;
