//! The metadata section and the gaps section.

use tributary_model::fields::{put_bytes, put_signed, put_varint};
use tributary_model::sample::Timestamp;
use tributary_model::series::{Metadata, MetricType};

use super::wire::{Reader, put_len};
use super::{FrameError, Gap, GapCause};
use crate::limits::{MAX_ENTRIES_PER_FRAME, MAX_METADATA_TEXT_BYTES};

pub(super) fn write_metadata(metadata: &[Metadata]) -> Vec<u8> {
    let mut body = Vec::new();
    put_len(&mut body, metadata.len());
    for entry in metadata {
        body.push(type_code(entry.kind));
        for text in [&entry.metric, &entry.help, &entry.unit] {
            put_bytes(&mut body, text.as_bytes());
        }
    }
    body
}

pub(super) fn read_metadata(body: &[u8]) -> Result<Vec<Metadata>, FrameError> {
    let mut reader = Reader::new(body, "metadata");
    let count = entries(&mut reader, 4)?;
    let mut metadata = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = type_of(reader.u8()?);
        metadata.push(Metadata {
            metric: metadata_text(&mut reader)?,
            kind,
            help: metadata_text(&mut reader)?,
            unit: metadata_text(&mut reader)?,
        });
    }
    reader.end()?;
    Ok(metadata)
}

fn metadata_text(reader: &mut Reader<'_>) -> Result<String, FrameError> {
    let text = reader.text()?;
    if text.len() > MAX_METADATA_TEXT_BYTES {
        return Err(FrameError::too_large("metadata text", text.len(), MAX_METADATA_TEXT_BYTES));
    }
    Ok(text.to_owned())
}

pub(super) fn write_gaps(gaps: &[Gap]) -> Vec<u8> {
    let mut body = Vec::new();
    put_len(&mut body, gaps.len());
    for gap in gaps {
        body.push(gap.cause.code());
        put_signed(&mut body, gap.from.as_millis());
        put_signed(&mut body, gap.to.as_millis());
        put_varint(&mut body, gap.samples);
    }
    body
}

pub(super) fn read_gaps(body: &[u8]) -> Result<Vec<Gap>, FrameError> {
    let mut reader = Reader::new(body, "gaps");
    let count = entries(&mut reader, 4)?;
    let mut gaps = Vec::with_capacity(count);
    for _ in 0..count {
        let code = reader.u8()?;
        let cause = GapCause::from_code(code);
        gaps.push(Gap {
            cause: cause.ok_or_else(|| reader.malformed("a gap has an unknown cause"))?,
            from: Timestamp::from_millis(reader.signed()?),
            to: Timestamp::from_millis(reader.signed()?),
            samples: reader.varint()?,
        });
    }
    reader.end()?;
    Ok(gaps)
}

fn entries(reader: &mut Reader<'_>, each: usize) -> Result<usize, FrameError> {
    let count = reader.count(each)?;
    if count > MAX_ENTRIES_PER_FRAME {
        return Err(FrameError::too_large("number of entries", count, MAX_ENTRIES_PER_FRAME));
    }
    Ok(count)
}

fn type_code(kind: MetricType) -> u8 {
    match kind {
        MetricType::Unknown => 0,
        MetricType::Counter => 1,
        MetricType::Gauge => 2,
        MetricType::Histogram => 3,
        MetricType::GaugeHistogram => 4,
        MetricType::Summary => 5,
        MetricType::Info => 6,
        MetricType::StateSet => 7,
    }
}

/// A type that this version does not know is shown as unknown.
fn type_of(code: u8) -> MetricType {
    match code {
        1 => MetricType::Counter,
        2 => MetricType::Gauge,
        3 => MetricType::Histogram,
        4 => MetricType::GaugeHistogram,
        5 => MetricType::Summary,
        6 => MetricType::Info,
        7 => MetricType::StateSet,
        _ => MetricType::Unknown,
    }
}
