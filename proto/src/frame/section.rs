//! Sections: kind, compression and length in front of a body, so that unknown kinds can be skipped.

use std::borrow::Cow;

use super::FrameError;
use super::wire::{Reader, put_len};

/// Zstandard level: beyond 3 costs more time than it saves bytes.
const LEVEL: i32 = 3;
/// Shorter bodies do not get smaller.
const MIN_COMPRESSED_BYTES: usize = 64;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Kinds of sections, in the order in which they stand in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Dictionary,
    Samples,
    Metadata,
    Gaps,
    Histograms,
}

impl Kind {
    const ALL: [Self; 5] =
        [Self::Dictionary, Self::Samples, Self::Metadata, Self::Gaps, Self::Histograms];

    fn code(self) -> u8 {
        match self {
            Self::Dictionary => 1,
            Self::Samples => 2,
            Self::Metadata => 3,
            Self::Gaps => 4,
            Self::Histograms => 5,
        }
    }
}

/// Appends a section, compressed if that makes it smaller. Samples are as small as they get.
pub(super) fn write(out: &mut Vec<u8>, kind: Kind, body: &[u8]) {
    out.push(kind.code());
    let compressed = if kind == Kind::Samples || body.len() < MIN_COMPRESSED_BYTES {
        None
    } else {
        zstd::bulk::compress(body, LEVEL).ok().filter(|packed| packed.len() + 4 < body.len())
    };
    if let Some(packed) = compressed {
        out.push(ZSTD);
        put_len(out, body.len());
        put_len(out, packed.len());
        out.extend_from_slice(&packed);
    } else {
        out.push(PLAIN);
        put_len(out, body.len());
        out.extend_from_slice(body);
    }
}

/// A section's kind, if it is known, and its body.
pub(super) type Section<'a> = (Option<Kind>, Cow<'a, [u8]>);

/// Reads section after section.
#[derive(Debug)]
pub(super) struct Sections<'a> {
    reader: Reader<'a>,
    max_bytes: usize,
    last: Option<Kind>,
}

impl<'a> Sections<'a> {
    pub(super) fn new(bytes: &'a [u8], max_bytes: usize) -> Self {
        Self { reader: Reader::new(bytes, "section"), max_bytes, last: None }
    }

    /// The next section.
    pub(super) fn next(&mut self) -> Result<Option<Section<'a>>, FrameError> {
        if self.reader.remaining() == 0 {
            return Ok(None);
        }
        let code = self.reader.u8()?;
        let compression = self.reader.u8()?;
        let plain_len = if compression == PLAIN { None } else { Some(self.reader.len()?) };
        let body = self.reader.bytes()?;
        let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.code() == code) else {
            return Ok(Some((None, Cow::Borrowed(&[]))));
        };
        if self.last.is_some_and(|last| kind <= last) {
            return Err(self.reader.malformed("a kind stands twice or in the wrong order"));
        }
        self.last = Some(kind);
        let plain_len = match (compression, plain_len) {
            (PLAIN, _) => return Ok(Some((Some(kind), Cow::Borrowed(body)))),
            (ZSTD, Some(len)) => len,
            _ => return Err(FrameError::Compression(format!("unknown method {compression}"))),
        };
        if plain_len > self.max_bytes {
            return Err(FrameError::too_large("section", plain_len, self.max_bytes));
        }
        // Never grows past the capacity, whatever the compressed bytes say.
        let plain = zstd::bulk::decompress(body, plain_len)
            .map_err(|error| FrameError::Compression(error.to_string()))?;
        if plain.len() != plain_len {
            return Err(self.reader.malformed("its length is not the one announced"));
        }
        Ok(Some((Some(kind), Cow::Owned(plain))))
    }
}
