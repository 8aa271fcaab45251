//! One agent's stream: its decoder, and the series its frames speak of, kept across connections.

use std::collections::BTreeMap;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_proto::frame::{Decoder, Frame, FrameError, Gap, Header};
use tributary_proto::limits::Limits;
use tributary_store::{Batch, GapEntry, SeriesId, Store, StreamKey};

use super::policy::{Policy, Reason, stamp};
use super::replay::Envelope;

/// Reads a stream's frames in order.
#[derive(Debug)]
pub(crate) struct StreamReader {
    key: StreamKey,
    decoder: Decoder,
    /// What each series number of the current segment stands for.
    series: Vec<Result<SeriesId, Reason>>,
    /// Epoch and number of the last frame that was read; nothing after an error.
    last: Option<(u64, u64)>,
}

/// What is decided for frames that arrive now.
pub(crate) struct Conditions<'a> {
    /// Where series are looked up.
    pub(crate) store: &'a Store,
    /// The name of the label that the cluster is stamped into.
    pub(crate) cluster_label: &'a str,
    /// What the cluster may send.
    pub(crate) policy: Policy,
}

/// A frame that was read, its series resolved.
#[derive(Debug)]
pub(crate) struct Read {
    /// What the frame says of itself.
    pub(crate) header: Header,
    /// Its samples, without those of refused series.
    pub(crate) samples: Vec<(SeriesId, Sample)>,
    /// Its native histograms in the same way.
    pub(crate) histograms: Vec<(SeriesId, HistogramSample)>,
    /// Samples of refused series, by reason.
    pub(crate) dropped: Vec<(Reason, u32)>,
    /// Series that were new in this frame and refused, by number.
    pub(crate) refused: Vec<(u32, Reason)>,
    metadata: Vec<Metadata>,
    gaps: Vec<Gap>,
}

impl StreamReader {
    /// A reader that waits for the start of a segment.
    pub(crate) fn new(key: StreamKey) -> Self {
        Self { key, decoder: Decoder::new(Limits::default()), series: Vec::new(), last: None }
    }

    /// Whether the frame after `seq` of `epoch` can be read.
    pub(crate) fn is_after(&self, epoch: u64, seq: u64) -> bool {
        self.last == Some((epoch, seq))
    }

    /// Reads a frame that has arrived: the journal's record and the batch for the store.
    pub(crate) fn accept(
        &mut self,
        frame: &[u8],
        conditions: &Conditions<'_>,
        received_at: Timestamp,
        state_only: bool,
    ) -> Result<Admitted, FrameError> {
        let cluster = self.key.cluster.clone();
        // Counted once a frame; the frame's own new series are added as they are made.
        let mut count = conditions.store.series_count(&cluster);
        let read = self.read(frame, |_, labels| {
            let stamped = stamp(labels, conditions.cluster_label, &cluster);
            conditions.policy.check_shape(&stamped)?;
            if let Some(id) = conditions.store.find(&cluster, &stamped) {
                return Ok(id);
            }
            if count >= conditions.policy.max_series {
                return Err(Reason::SeriesLimit);
            }
            count += 1;
            Ok(conditions.store.resolve(&cluster, &stamped))
        })?;
        let envelope = Envelope {
            stream: self.key.clone(),
            received_at,
            state_only,
            cluster_label: Some(conditions.cluster_label),
            refused: read.refused.clone(),
            frame,
        };
        let payload = envelope.encode();
        let dropped = if state_only { Vec::new() } else { read.dropped.clone() };
        let refused = by_reason(&read.refused);
        let batch = read.into_batch(self.key.clone(), received_at, state_only);
        Ok(Admitted { payload, batch, dropped, refused })
    }

    /// Reads a frame; `resolve` says what each new series stands for.
    pub(crate) fn read(
        &mut self,
        frame: &[u8],
        mut resolve: impl FnMut(u32, &Labels) -> Result<SeriesId, Reason>,
    ) -> Result<Read, FrameError> {
        self.last = None;
        let Frame { header, first_new, new_series, samples, histograms, metadata, gaps, .. } =
            self.decoder.decode(frame)?;
        if header.starts_segment {
            self.series.clear();
        }
        let mut refused = Vec::new();
        for (number, labels) in (first_new..).zip(&new_series) {
            let resolved = resolve(number, labels);
            if let Err(reason) = resolved {
                refused.push((number, reason));
            }
            self.series.push(resolved);
        }
        let mut taken = Vec::with_capacity(samples.len());
        let mut dropped: BTreeMap<Reason, u32> = BTreeMap::new();
        for sample in &samples {
            match self.series_of(sample.series)? {
                Ok(id) => taken.push((id, sample.sample)),
                Err(reason) => *dropped.entry(reason).or_insert(0) += 1,
            }
        }
        let mut taken_histograms = Vec::with_capacity(histograms.len());
        for histogram in histograms {
            match self.series_of(histogram.series)? {
                Ok(id) => taken_histograms.push((id, histogram.sample)),
                Err(reason) => *dropped.entry(reason).or_insert(0) += 1,
            }
        }
        self.last = Some((header.epoch, header.seq));
        let dropped = dropped.into_iter().collect();
        let (samples, histograms) = (taken, taken_histograms);
        Ok(Read { header, samples, histograms, dropped, refused, metadata, gaps })
    }

    /// What a series number of the current segment stands for.
    fn series_of(&self, number: u32) -> Result<Result<SeriesId, Reason>, FrameError> {
        let series = usize::try_from(number).ok().and_then(|number| self.series.get(number));
        let why = "a sample's series is not in the dictionary";
        series.copied().ok_or(FrameError::Malformed { what: "samples", why })
    }
}

fn by_reason(refused: &[(u32, Reason)]) -> Vec<(Reason, u64)> {
    let mut counts = BTreeMap::new();
    for (_, reason) in refused {
        *counts.entry(*reason).or_insert(0) += 1;
    }
    counts.into_iter().collect()
}

/// A frame that is ready for the store.
#[derive(Debug)]
pub(crate) struct Admitted {
    /// The journal's record.
    pub(crate) payload: Vec<u8>,
    /// What it means.
    pub(crate) batch: Batch,
    /// Samples of refused series, by reason.
    pub(crate) dropped: Vec<(Reason, u32)>,
    /// Series that were refused, by reason.
    pub(crate) refused: Vec<(Reason, u64)>,
}

impl Read {
    /// The store's view of the frame. One that is only for the decoder's state carries no content.
    pub(crate) fn into_batch(
        self,
        stream: StreamKey,
        received_at: Timestamp,
        state_only: bool,
    ) -> Batch {
        let content = !state_only;
        let gaps = self.gaps.iter().filter(|_| content).map(|gap| GapEntry {
            from: gap.from,
            to: gap.to,
            cause: gap.cause.as_str().to_owned(),
            samples: gap.samples,
        });
        Batch {
            stream,
            epoch: self.header.epoch,
            seq: self.header.seq,
            starts_segment: self.header.starts_segment,
            state_only,
            received_at,
            complete_until: self.header.complete_until,
            gaps: gaps.collect(),
            samples: if content { self.samples } else { Vec::new() },
            histograms: if content { self.histograms } else { Vec::new() },
            metadata: if content { self.metadata } else { Vec::new() },
        }
    }
}
