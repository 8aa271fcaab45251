//! Names of trees and keys in the key-value store, and how time is cut into windows and partitions.

use tributary_model::fields::{Fields, Malformed};

/// A head chunk and a page never reach over a window's end.
pub(crate) const WINDOW_MILLIS: i64 = 2 * 3_600_000;
/// Windows of a day: the blocks of a day become one.
pub(crate) const PARTITION_WINDOWS: i64 = 12;
/// The first millisecond of the year 1: nothing older is stored.
pub(crate) const EARLIEST_MILLIS: i64 = -62_135_596_800_000;

/// Cluster names by shard.
pub(crate) const SHARDS: &str = "shards";
/// Label sets, many to a value.
pub(crate) const SERIES: &str = "series";
/// First and last times of what the series have in blocks, many to a value.
pub(crate) const SPANS: &str = "spans";
/// The streams.
pub(crate) const STREAMS: &str = "streams";
/// Type, help and unit of metrics.
pub(crate) const METADATA: &str = "metadata";
/// The gap ledger.
pub(crate) const GAPS: &str = "gaps";
/// Small durable state.
pub(crate) const STATE: &str = "state";
/// The format's version and the checkpoint.
pub(crate) const META: &str = "meta";
/// In [`META`].
pub(crate) const META_VERSION: &[u8] = b"version";
/// In [`META`].
pub(crate) const META_CHECKPOINT: &[u8] = b"checkpoint";

/// The window a time lies in.
pub(crate) fn window(millis: i64) -> i64 {
    millis.div_euclid(WINDOW_MILLIS)
}

/// A window's first millisecond.
pub(crate) fn window_start(window: i64) -> i64 {
    window.saturating_mul(WINDOW_MILLIS)
}

/// The day a window lies in.
pub(crate) fn partition_of(window: i64) -> i64 {
    window.div_euclid(PARTITION_WINDOWS)
}

/// What groups series in blocks: the checksum of the metric's name. A collision costs nothing but some order.
pub(crate) fn metric_group(metric: &str) -> u32 {
    crc32c::crc32c(metric.as_bytes())
}

/// A key of a shard's block of something.
pub(crate) fn block_key(shard: u32, block: u32) -> Vec<u8> {
    [shard.to_be_bytes(), block.to_be_bytes()].concat()
}

/// Reads a [`block_key`].
pub(crate) fn block_of(key: &[u8]) -> Result<(u32, u32), Malformed> {
    let mut fields = Fields(key);
    let out = (fields.u32_be()?, fields.u32_be()?);
    fields.end()?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_partitions() {
        assert_eq!(window(-1), -1);
        assert_eq!(partition_of(window(-1)), -1);
        assert_eq!(partition_of(window(86_399_999)), 0);
        assert_eq!(partition_of(window(86_400_000)), 1);
    }
}
