//! In version 1: blocks of 32 non-negative integers, each block as wide as its largest.

use tributary_model::fields::Malformed;

use crate::codec::bits::BitReader;

/// Integers a block holds.
const BLOCK: usize = 32;
/// Bits of a block's width field.
const WIDTH_BITS: u32 = 7;

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
