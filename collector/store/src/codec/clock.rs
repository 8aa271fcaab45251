//! A sealed chunk's times. Series scraped together share one clock in a page.

use super::fields::{Fields, Malformed, put_signed, put_varint, unzigzag, zigzag};
use super::pack;

const STEADY: u8 = 0;
const UNSTEADY: u8 = 1;

/// Encodes ascending times, relative to `base`.
pub(crate) fn encode(out: &mut Vec<u8>, base: i64, times: &[i64]) {
    put_varint(out, times.len() as u64);
    let Some(first) = times.first() else { return };
    put_signed(out, first.wrapping_sub(base));
    let mut deltas = times.iter().zip(times.iter().skip(1)).map(|(a, b)| b.wrapping_sub(*a));
    let Some(mut before) = deltas.next() else { return };
    put_signed(out, before);
    let steps: Vec<u64> = deltas
        .map(|delta| zigzag(delta.wrapping_sub(std::mem::replace(&mut before, delta))))
        .collect();
    if steps.iter().all(|step| *step == 0) {
        out.push(STEADY);
    } else {
        out.push(UNSTEADY);
        pack::pack(out, &steps);
    }
}

/// Decodes a clock of at most `limit` times; every byte must be used.
pub(crate) fn decode(bytes: &[u8], base: i64, limit: usize) -> Result<Vec<i64>, Malformed> {
    let mut fields = Fields(bytes);
    let count = fields.count()?;
    if count > limit {
        return Err(Malformed("a clock has too many times"));
    }
    let mut times = Vec::with_capacity(count);
    if count > 0 {
        let mut at = base.wrapping_add(fields.signed()?);
        times.push(at);
        if count > 1 {
            let mut delta = fields.signed()?;
            at = at.wrapping_add(delta);
            times.push(at);
            let steps = count - 2;
            match fields.byte()? {
                STEADY => times.extend((0..steps).map(|_| {
                    at = at.wrapping_add(delta);
                    at
                })),
                UNSTEADY => {
                    let used = pack::unpack(fields.0, steps, |step| {
                        delta = delta.wrapping_add(unzigzag(step));
                        at = at.wrapping_add(delta);
                        times.push(at);
                    })?;
                    fields.take(used)?;
                }
                _ => return Err(Malformed("a clock has an unknown kind")),
            }
        }
    }
    fields.end()?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn times_come_back(base in any::<i64>(), mut times in prop::collection::vec(any::<i64>(), 0..200)) {
            times.sort_unstable();
            let mut bytes = Vec::new();
            encode(&mut bytes, base, &times);
            prop_assert_eq!(decode(&bytes, base, 200), Ok(times));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes, 0, 1000);
        }
    }

    #[test]
    fn a_steady_clock_is_a_few_bytes() {
        let times: Vec<i64> = (0..480).map(|i| 1_000 + i * 15_000).collect();
        let mut bytes = Vec::new();
        encode(&mut bytes, 0, &times);
        assert!(bytes.len() <= 8, "{}", bytes.len());
    }
}
