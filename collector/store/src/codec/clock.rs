//! A sealed chunk's times. Series scraped together share one clock in a block.

use tributary_model::fields::{Fields, Malformed, put_signed, put_varint};

use super::integers;

/// Differences of times that follow each other.
const STEPS: u8 = 0;
/// Differences from a steady clock.
const GRID: u8 = 1;

/// Encodes ascending times, relative to `base`.
pub(crate) fn encode(out: &mut Vec<u8>, base: i64, times: &[i64]) {
    put_varint(out, times.len() as u64);
    let Some(first) = times.first() else { return };
    put_signed(out, first.wrapping_sub(base));
    let steps: Vec<i64> =
        times.iter().zip(times.iter().skip(1)).map(|(a, b)| b.wrapping_sub(*a)).collect();
    if steps.is_empty() {
        return;
    }
    let mut sorted = steps.clone();
    sorted.sort_unstable();
    let step = sorted.get(sorted.len() / 2).copied().unwrap_or(0);
    let off: Vec<i64> = grid(*first, step)
        .zip(times.iter().skip(1))
        .map(|(at, time)| time.wrapping_sub(at))
        .collect();
    let mut by_steps = vec![STEPS];
    integers::encode(&mut by_steps, &steps);
    let mut by_grid = vec![GRID];
    put_signed(&mut by_grid, step);
    integers::encode(&mut by_grid, &off);
    out.extend_from_slice(if by_grid.len() < by_steps.len() { &by_grid } else { &by_steps });
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
        let first = base.wrapping_add(fields.signed()?);
        times.push(first);
    }
    if let Some(first) = times.first().copied().filter(|_| count > 1) {
        let mut slots = vec![0; count - 1];
        match fields.byte()? {
            STEPS => {
                integers::decode(&mut fields, &mut slots)?;
                times.extend(slots.into_iter().scan(first, |at, step| {
                    *at = at.wrapping_add_unsigned(step);
                    Some(*at)
                }));
            }
            GRID => {
                let grid = grid(first, fields.signed()?);
                integers::decode(&mut fields, &mut slots)?;
                times.extend(grid.zip(slots).map(|(at, off)| at.wrapping_add_unsigned(off)));
            }
            _ => return Err(Malformed("a clock has an unknown kind")),
        }
    }
    fields.end()?;
    Ok(times)
}

/// The times behind the first one of a steady clock, without end.
fn grid(first: i64, step: i64) -> impl Iterator<Item = i64> {
    std::iter::successors(Some(first.wrapping_add(step)), move |at| Some(at.wrapping_add(step)))
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
        fn scrapes_come_back(jitter in prop::collection::vec(0i64..40, 0..200)) {
            let times: Vec<i64> = (0..).zip(jitter).map(|(i, off)| i * 15_000 + off).collect();
            let mut bytes = Vec::new();
            encode(&mut bytes, 0, &times);
            prop_assert_eq!(decode(&bytes, 0, 200), Ok(times));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = decode(&bytes, 0, 1000);
        }
    }

    #[test]
    fn a_clock_is_small() {
        let size = |time: &dyn Fn(i64) -> i64| {
            let mut bytes = Vec::new();
            encode(&mut bytes, 0, &(0..480).map(time).collect::<Vec<_>>());
            bytes.len()
        };
        assert!(size(&|i| 1_000 + i * 15_000) <= 10);
        // Every fiftieth scrape is late.
        assert!(size(&|i| i * 15_000 + i64::from(i % 50 == 0) * (i % 37)) <= 40);
        // Every scrape is off by some milliseconds.
        assert!(size(&|i| i * 15_000 + i * i % 7) <= 240);
    }
}
