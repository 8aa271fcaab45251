//! Bounds of a frame and of a segment's state, the same numbers at both ends.

use tributary_model::label::Labels;

/// Longest frame. A longer one is refused before it is read; the agent splits its batches.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// Longest section after decompression. A section that says it is longer is refused before memory is taken for it.
pub const MAX_SECTION_BYTES: usize = 4 << 20;

/// Most samples in a frame. The agent splits its batches; the collector refuses the frame before it takes memory for them,
/// which a few bytes can ask for.
pub const MAX_SAMPLES_PER_FRAME: usize = 50_000;

/// Most metadata entries, and most gaps, in a frame. The agent leaves the rest for the next frame.
pub const MAX_ENTRIES_PER_FRAME: usize = 10_000;

/// Most series in one segment's dictionary. The agent starts a new segment; the collector refuses the frame.
pub const MAX_SERIES_PER_SEGMENT: usize = 500_000;

/// Most bytes of names and values in one segment's dictionary. The agent starts a new segment; the collector refuses.
pub const MAX_DICTIONARY_BYTES: usize = 64 << 20;

/// Most different names and values in one segment's dictionary, each of which takes memory beside its text. The agent starts
/// a new segment; the collector refuses the frame.
pub const MAX_SYMBOLS_PER_SEGMENT: usize = 1_000_000;

/// Most series lists that a segment remembers. Further lists are written out each time.
pub const MAX_REMEMBERED_LISTS: usize = 1_024;

/// Most runs in all remembered lists of a segment. Further lists are written out each time.
pub const MAX_REMEMBERED_RUNS: usize = 65_536;

/// Most counts of histograms that a segment remembers, sixteen more for each of them. Further histograms are written in full.
pub const MAX_REMEMBERED_COUNTS: usize = 4 << 20;

/// Most labels of a series. The agent drops the series and counts it; the collector refuses the frame.
pub const MAX_LABELS: usize = 128;

/// Longest label name. The agent drops the series and counts it; the collector refuses the frame.
pub const MAX_LABEL_NAME_BYTES: usize = 1 << 10;

/// Longest label value. The agent drops the series and counts it; the collector refuses the frame.
pub const MAX_LABEL_VALUE_BYTES: usize = 8 << 10;

/// Most bytes of all names and values of a series. The agent drops the series and counts it; the collector refuses.
pub const MAX_SERIES_BYTES: usize = 32 << 10;

/// Longest text in a metadata entry; the agent drops a longer entry.
pub const MAX_METADATA_TEXT_BYTES: usize = 8 << 10;

/// Frames that may be sent and not yet acknowledged. At the bound the session waits and the spool grows.
pub const MAX_FRAMES_IN_FLIGHT: u32 = 64;

/// Longest gRPC message: a frame and the few bytes around it.
pub const MAX_MESSAGE_BYTES: usize = MAX_FRAME_BYTES + 1_024;

/// The session protocol that this version speaks.
pub const PROTOCOL: u32 = 1;

/// What a decoder accepts. [`Limits::default`] is the constants of this module; a collector may be stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest frame.
    pub max_frame_bytes: usize,
    /// Longest section after decompression.
    pub max_section_bytes: usize,
    /// Most samples in a frame.
    pub max_samples_per_frame: usize,
    /// Most series in a segment's dictionary.
    pub max_series_per_segment: usize,
    /// Most bytes of names and values in a segment's dictionary.
    pub max_dictionary_bytes: usize,
    /// Most different names and values in a segment's dictionary.
    pub max_symbols_per_segment: usize,
    /// Most labels of a series.
    pub max_labels: usize,
    /// Longest label name.
    pub max_label_name_bytes: usize,
    /// Longest label value.
    pub max_label_value_bytes: usize,
    /// Most bytes of all names and values of a series.
    pub max_series_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_frame_bytes: MAX_FRAME_BYTES,
            max_section_bytes: MAX_SECTION_BYTES,
            max_samples_per_frame: MAX_SAMPLES_PER_FRAME,
            max_series_per_segment: MAX_SERIES_PER_SEGMENT,
            max_dictionary_bytes: MAX_DICTIONARY_BYTES,
            max_symbols_per_segment: MAX_SYMBOLS_PER_SEGMENT,
            max_labels: MAX_LABELS,
            max_label_name_bytes: MAX_LABEL_NAME_BYTES,
            max_label_value_bytes: MAX_LABEL_VALUE_BYTES,
            max_series_bytes: MAX_SERIES_BYTES,
        }
    }
}

impl Limits {
    /// Whether a series may be in a frame: it has a label, and no count or length is over its bound.
    pub fn allow(&self, labels: &Labels) -> bool {
        !labels.is_empty()
            && labels.len() <= self.max_labels
            && labels.iter().all(|label| {
                label.name.len() <= self.max_label_name_bytes
                    && label.value.len() <= self.max_label_value_bytes
            })
            && text_bytes(labels) <= self.max_series_bytes
    }
}

/// Bytes of all names and values.
pub(crate) fn text_bytes(labels: &Labels) -> usize {
    labels.iter().map(|label| label.name.len() + label.value.len()).sum()
}
