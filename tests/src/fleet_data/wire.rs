//! Remote-write 1.0 bodies, written straight into their buffer: labels are encoded once, not for each scrape.

use bytes::Bytes;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tributary_proto::prometheus::{Label, Sample};

/// Tags of `WriteRequest.timeseries`, `TimeSeries.labels` and `TimeSeries.samples`.
const TIMESERIES: u32 = 1;
const LABELS: u32 = 1;
const SAMPLES: u32 = 2;

/// The labels of one series, as they stand in its message.
pub(super) fn labels(pairs: &[(String, String)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        encode_key(LABELS, WireType::LengthDelimited, &mut out);
        Label { name: bytes(name), value: bytes(value) }.encode_length_delimited(&mut out).unwrap();
    }
    out
}

/// A body in the making.
#[derive(Default)]
pub(super) struct Body(Vec<u8>);

impl Body {
    /// One series with one sample.
    pub(super) fn push(&mut self, labels: &[u8], value: f64, timestamp: i64) {
        let sample = Sample { value, timestamp };
        let length = sample.encoded_len();
        let length = labels.len() + key_len(SAMPLES) + encoded_len_varint(length as u64) + length;
        encode_key(TIMESERIES, WireType::LengthDelimited, &mut self.0);
        encode_varint(length as u64, &mut self.0);
        self.0.extend_from_slice(labels);
        encode_key(SAMPLES, WireType::LengthDelimited, &mut self.0);
        sample.encode_length_delimited(&mut self.0).unwrap();
    }

    /// The snappy block.
    pub(super) fn finish(self) -> Bytes {
        snap::raw::Encoder::new().compress_vec(&self.0).unwrap().into()
    }
}
