//! The values of a chunk of version 1: one constant, decimals as integers, or XORs.

use tributary_model::fields::{Fields, Malformed, unzigzag};

use super::pack;

const CONSTANT: u8 = 0;
const DECIMAL: u8 = 1;
const XOR: u8 = 2;

/// Powers of ten that are exact in an `f64`, up to the largest exponent tried.
const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];

/// Decodes `count` values; every byte must be used.
pub(crate) fn decode(bytes: &[u8], count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    if count == 0 {
        return Fields(bytes).end();
    }
    let mut fields = Fields(bytes);
    match fields.byte()? {
        CONSTANT => {
            let value = fields.u64_le()?;
            out.resize(out.len() + count, value);
            fields.end()
        }
        DECIMAL => decode_decimal(fields, count, out),
        XOR => decode_xor(fields, count, out),
        _ => Err(Malformed("a chunk has an unknown kind")),
    }
}

fn decode_decimal(
    mut fields: Fields<'_>,
    count: usize,
    out: &mut Vec<u64>,
) -> Result<(), Malformed> {
    let head = fields.byte()?;
    let second = head >> 7 == 1;
    let power =
        POWERS.get(usize::from(head & 0x7f)).ok_or(Malformed("an exponent is too large"))?;
    let factor = fields.varint()?.cast_signed();
    let patches = fields.count()?;
    if patches > count {
        return Err(Malformed("a chunk has more odd values than values"));
    }
    let mut patch_fields = fields;
    for _ in 0..patches {
        fields.varint()?;
        fields.u64_le()?;
    }
    let start = out.len();
    let mut integer = fields.signed()?;
    let mut delta = 0i64;
    out.push(from_integer(integer, *power));
    let used = pack::unpack(fields.0, count - 1, |residual| {
        let residual = unzigzag(residual);
        delta = if second { delta.wrapping_add(residual) } else { residual };
        integer = integer.wrapping_add(delta.wrapping_mul(factor));
        out.push(from_integer(integer, *power));
    })?;
    fields.take(used)?;
    fields.end()?;
    let mut at = start;
    for _ in 0..patches {
        at = at.saturating_add(patch_fields.count()?);
        let bits = patch_fields.u64_le()?;
        *out.get_mut(at).ok_or(Malformed("an odd value lies behind the chunk"))? = bits;
    }
    Ok(())
}

fn from_integer(integer: i64, power: f64) -> u64 {
    (integer as f64 / power).to_bits()
}

fn decode_xor(mut fields: Fields<'_>, count: usize, out: &mut Vec<u64>) -> Result<(), Malformed> {
    let swapped = match fields.byte()? {
        0 => false,
        1 => true,
        _ => return Err(Malformed("a chunk has an unknown kind")),
    };
    let mut before = 0;
    let used = pack::unpack(fields.0, count, |xor| {
        before ^= if swapped { xor.swap_bytes() } else { xor };
        out.push(before);
    })?;
    fields.take(used)?;
    fields.end()
}
