//! The times of a chunk of version 1.

use tributary_model::fields::{Fields, Malformed, unzigzag};

use super::pack;

const STEADY: u8 = 0;
const UNSTEADY: u8 = 1;

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
