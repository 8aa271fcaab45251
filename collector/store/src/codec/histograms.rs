//! Native histograms of a chunk, each as what changed since the one before it. How many there are, their times say.

use std::sync::Arc;

use tributary_model::histogram::{CodecError, Histogram};

use tributary_model::fields::Malformed;

/// Appends a histogram behind the one before it in the chunk.
pub(crate) fn append(out: &mut Vec<u8>, before: Option<&Histogram>, histogram: &Histogram) {
    histogram.encode(before, out);
}

/// Reads `count` histograms and nothing else; `visit` says whether to go on.
pub(crate) fn decode(
    bytes: &[u8],
    count: usize,
    mut visit: impl FnMut(Arc<Histogram>) -> bool,
) -> Result<(), Malformed> {
    let (mut rest, mut before): (&[u8], Option<Arc<Histogram>>) = (bytes, None);
    for _ in 0..count {
        let next = Histogram::decode(&mut rest, before.as_deref()).map_err(malformed)?;
        let next = Arc::new(next);
        if !visit(Arc::clone(&next)) {
            return Ok(());
        }
        before = Some(next);
    }
    if rest.is_empty() { Ok(()) } else { Err(Malformed("bytes are left over behind histograms")) }
}

fn malformed(error: CodecError) -> Malformed {
    Malformed(match error {
        CodecError::Truncated => "a histogram ends too early",
        CodecError::Malformed(why) => why,
        CodecError::TooMany => "a histogram has too many buckets",
        CodecError::Invalid(_) => "a histogram is not valid",
    })
}
