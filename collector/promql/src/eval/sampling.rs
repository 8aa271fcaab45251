//! Which series `limit_ratio` takes: a hash of the labels decides, the same one as in Prometheus.

use tributary_model::label::Labels;

/// Whether a series is among the wanted share: the first so many for a positive ratio, the last for a negative one.
pub(super) fn is_taken(labels: &Labels, ratio: f64) -> bool {
    let position = hash(&encode(labels)) as f64 / u64::MAX as f64;
    (ratio >= 0.0 && position < ratio) || (ratio < 0.0 && position >= 1.0 + ratio)
}

/// Prometheus' own encoding of a label set: name and value one after the other, each after its length.
fn encode(labels: &Labels) -> Vec<u8> {
    let mut out = Vec::new();
    for label in labels {
        for text in [&label.name, &label.value] {
            match u8::try_from(text.len()) {
                Ok(length) if length < u8::MAX => out.push(length),
                _ => {
                    out.push(u8::MAX);
                    out.extend(text.len().to_le_bytes().into_iter().take(3));
                }
            }
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

const PRIMES: [u64; 5] = [
    0x9e37_79b1_85eb_ca87,
    0xc2b2_ae3d_27d4_eb4f,
    0x1656_67b1_9e37_79f9,
    0x85eb_ca77_c2b2_ae63,
    0x27d4_eb2f_1656_67c5,
];

/// xxHash64 with seed zero.
fn hash(data: &[u8]) -> u64 {
    let [p1, p2, p3, p4, p5] = PRIMES;
    let (stripes, mut rest) = data.as_chunks::<32>();
    let mut h = if stripes.is_empty() {
        p5
    } else {
        let mut lanes = [p1.wrapping_add(p2), p2, 0, 0_u64.wrapping_sub(p1)];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.as_chunks::<8>().0) {
                *lane = round(*lane, u64::from_le_bytes(*bytes));
            }
        }
        let turned = lanes.iter().zip([1, 7, 12, 18]);
        let mut h = turned.fold(0_u64, |sum, (lane, by)| sum.wrapping_add(lane.rotate_left(by)));
        for lane in lanes {
            h = (h ^ round(0, lane)).wrapping_mul(p1).wrapping_add(p4);
        }
        h
    };
    h = h.wrapping_add(data.len() as u64);
    while let Some((bytes, after)) = rest.split_first_chunk::<8>() {
        h ^= round(0, u64::from_le_bytes(*bytes));
        h = h.rotate_left(27).wrapping_mul(p1).wrapping_add(p4);
        rest = after;
    }
    if let Some((bytes, after)) = rest.split_first_chunk::<4>() {
        h ^= u64::from(u32::from_le_bytes(*bytes)).wrapping_mul(p1);
        h = h.rotate_left(23).wrapping_mul(p2).wrapping_add(p3);
        rest = after;
    }
    for byte in rest {
        h ^= u64::from(*byte).wrapping_mul(p5);
        h = h.rotate_left(11).wrapping_mul(p1);
    }
    h = (h ^ (h >> 33)).wrapping_mul(p2);
    h = (h ^ (h >> 29)).wrapping_mul(p3);
    h ^ (h >> 32)
}

fn round(lane: u64, input: u64) -> u64 {
    let [p1, p2, ..] = PRIMES;
    lane.wrapping_add(input.wrapping_mul(p2)).rotate_left(31).wrapping_mul(p1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes() {
        assert_eq!(hash(b""), 0xef46_db37_51d8_e999);
        assert_eq!(hash(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(hash(b"abc"), 0x44bc_2cf5_ad77_0999);
        let text = b"Call me Ishmael. Some years ago--never mind how long precisely-";
        assert_eq!(hash(text), 0x02a2_e854_70d6_fd96);
    }

    #[test]
    fn halves_complement_each_other() {
        for i in 0..100 {
            let labels = Labels::from_pairs([("i", i.to_string())]).unwrap();
            assert_ne!(is_taken(&labels, 0.3), is_taken(&labels, -0.7));
            assert!(is_taken(&labels, 1.0) && !is_taken(&labels, 0.0));
        }
    }
}
