//! Blocks of 32 non-negative integers, each block as wide as its largest.

use super::bits::{BitReader, BitWriter};
use super::fields::Malformed;

/// Integers a block holds.
const BLOCK: usize = 32;
/// Bits of a block's width field.
const WIDTH_BITS: u32 = 7;

/// Bits that [`pack`] would use.
pub(crate) fn packed_bits(values: &[u64]) -> u64 {
    values
        .chunks(BLOCK)
        .map(|block| {
            let width = block.iter().fold(0, |all, value| all | value);
            u64::from(WIDTH_BITS) + u64::from(64 - width.leading_zeros()) * block.len() as u64
        })
        .sum()
}

/// Appends the integers, padded to whole bytes.
pub(crate) fn pack(out: &mut Vec<u8>, values: &[u64]) {
    let mut bits = BitWriter::default();
    for block in values.chunks(BLOCK) {
        let all = block.iter().fold(0, |all, value| all | value);
        let width = 64 - all.leading_zeros();
        bits.write(u64::from(width), WIDTH_BITS);
        for value in block {
            bits.write(*value, width);
        }
    }
    out.extend_from_slice(&bits.finish());
}

/// Reads `count` integers and says how many bytes they took.
pub(crate) fn unpack(
    bytes: &[u8],
    count: usize,
    mut visit: impl FnMut(u64),
) -> Result<usize, Malformed> {
    let mut bits = BitReader::new(bytes);
    let short = || Malformed("packed integers end too early");
    let mut left = count;
    while left > 0 {
        let width = bits.read(WIDTH_BITS).and_then(|w| u32::try_from(w).ok()).ok_or_else(short)?;
        if width > 64 {
            return Err(Malformed("packed integers are too wide"));
        }
        for _ in 0..left.min(BLOCK) {
            visit(bits.read(width).ok_or_else(short)?);
        }
        left = left.saturating_sub(BLOCK);
    }
    Ok(bits.bytes_read())
}
