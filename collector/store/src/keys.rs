//! Names of trees and keys in the key-value store, and how time is cut into windows and partitions.

use tributary_model::sample::Timestamp;

use crate::codec::fields::{Fields, Malformed};

/// A head chunk and a page never reach over a window's end.
pub(crate) const WINDOW_MILLIS: i64 = 2 * 3_600_000;
/// One tree of pages per day.
pub(crate) const PARTITION_MILLIS: i64 = 86_400_000;
/// The first millisecond of the year 1: nothing older is stored.
pub(crate) const EARLIEST_MILLIS: i64 = -62_135_596_800_000;

/// Cluster names by shard.
pub(crate) const SHARDS: &str = "shards";
/// Label sets, many to a value.
pub(crate) const SERIES: &str = "series";
/// First and last times of the series' pages, many to a value.
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

const PAGES_PREFIX: &str = "pages/";

/// The window a time lies in.
pub(crate) fn window(millis: i64) -> i64 {
    millis.div_euclid(WINDOW_MILLIS)
}

/// A window's first millisecond.
pub(crate) fn window_start(window: i64) -> i64 {
    window.saturating_mul(WINDOW_MILLIS)
}

/// The partition a window lies in.
pub(crate) fn partition_of(window: i64) -> i64 {
    window.div_euclid(PARTITION_MILLIS / WINDOW_MILLIS)
}

/// The first millisecond behind a partition.
pub(crate) fn partition_end(partition: i64) -> Timestamp {
    Timestamp::from_millis(partition.saturating_add(1).saturating_mul(PARTITION_MILLIS))
}

/// The partition's tree. Days before 1970 are negative.
pub(crate) fn pages_tree(partition: i64) -> String {
    format!("{PAGES_PREFIX}{partition}")
}

/// The partition of a tree, if it is one of pages.
pub(crate) fn partition_of_tree(tree: &str) -> Option<i64> {
    tree.strip_prefix(PAGES_PREFIX)?.parse().ok()
}

/// What groups series into pages: the checksum of the metric's name. A collision costs nothing but some order.
pub(crate) fn metric_group(metric: &str) -> u32 {
    crc32c::crc32c(metric.as_bytes())
}

/// A page's key. Keys of one window stand together, then those of one shard and metric, ordered by their last series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PageKey {
    /// The window.
    pub(crate) window: i64,
    /// The shard.
    pub(crate) shard: u32,
    /// The metric group.
    pub(crate) group: u32,
    /// The last series in it.
    pub(crate) last: u32,
    /// The first series in it.
    pub(crate) first: u32,
    /// Tells pages with the same series apart.
    pub(crate) number: u64,
}

impl PageKey {
    /// The key's bytes; they sort as the fields do.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(32);
        key.extend_from_slice(&(self.window.cast_unsigned() ^ 1 << 63).to_be_bytes());
        for part in [self.shard, self.group, self.last, self.first] {
            key.extend_from_slice(&part.to_be_bytes());
        }
        key.extend_from_slice(&self.number.to_be_bytes());
        key
    }

    /// Reads what `encode` wrote.
    pub(crate) fn decode(key: &[u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(key);
        let high = u64::from(fields.u32_be()?) << 32 | u64::from(fields.u32_be()?);
        let key = Self {
            window: (high ^ 1 << 63).cast_signed(),
            shard: fields.u32_be()?,
            group: fields.u32_be()?,
            last: fields.u32_be()?,
            first: fields.u32_be()?,
            number: u64::from(fields.u32_be()?) << 32 | u64::from(fields.u32_be()?),
        };
        fields.end()?;
        Ok(key)
    }
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
    fn page_keys_sort_as_their_fields() {
        let key =
            |window, group, last| PageKey { window, shard: 1, group, last, first: 0, number: 9 };
        let keys = [key(-5, 0, 0), key(-1, 9, 9), key(0, 0, 1), key(0, 1, 0), key(7, 0, 0)];
        assert!(keys.is_sorted());
        assert!(keys.map(|key| key.encode()).is_sorted());
        for key in keys {
            assert_eq!(PageKey::decode(&key.encode()), Ok(key));
        }
    }

    #[test]
    fn windows_and_partitions() {
        assert_eq!(window(-1), -1);
        assert_eq!(partition_of(window(-1)), -1);
        assert_eq!(partition_of(window(86_399_999)), 0);
        assert_eq!(partition_of(window(86_400_000)), 1);
        assert_eq!(partition_of_tree(&pages_tree(-3)), Some(-3));
        assert_eq!(partition_of_tree(SERIES), None);
    }
}
