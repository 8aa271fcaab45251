//! A keyed 128-bit fingerprint (SipHash): knows a label set again without keeping its text; and a hash of addresses.

use std::hash::Hasher;

use tributary_model::label::Labels;

/// The secret that fingerprints depend on; one per agent, kept with its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) u64, pub(crate) u64);

/// A fingerprint. Two label sets have the same one with a chance of 2⁻¹²⁸ a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(pub(crate) u128);

impl Key {
    /// A new secret.
    pub(crate) fn random() -> Self {
        Self(rand::random(), rand::random())
    }

    /// The fingerprint of a label set: every name and value with its length.
    pub(crate) fn labels(self, labels: &Labels) -> Digest {
        let mut text = Vec::with_capacity(256);
        for label in labels {
            for part in [&label.name, &label.value] {
                text.extend_from_slice(&(part.len() as u64).to_le_bytes());
                text.extend_from_slice(part.as_bytes());
            }
        }
        Digest(siphash::<2, 4>(self, &text))
    }

    /// The fingerprint of bytes, with fewer rounds: for look-ups inside one process.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Digest {
        Digest(siphash::<1, 3>(self, bytes))
    }
}

/// Hashes addresses in this process, which nobody chooses: one multiplication spreads them.
#[derive(Debug, Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, n: usize) {
        let spread = (self.0 ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ (spread >> 32);
    }
}

/// `SipHash-C-D` with 128 bits of output.
fn siphash<const C: usize, const D: usize>(key: Key, bytes: &[u8]) -> u128 {
    let mut state = State {
        a: 0x736f_6d65_7073_6575 ^ key.0,
        b: 0x646f_7261_6e64_6f6d ^ key.1 ^ 0xee,
        c: 0x6c79_6765_6e65_7261 ^ key.0,
        d: 0x7465_6462_7974_6573 ^ key.1,
    };
    let (words, tail) = bytes.as_chunks::<8>();
    for word in words {
        state.absorb::<C>(u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    for (to, from) in last.iter_mut().zip(tail) {
        *to = *from;
    }
    // The top byte is the length, modulo 256.
    let length = (bytes.len() as u64) << 56;
    state.absorb::<C>(u64::from_le_bytes(last) | length);
    state.c ^= 0xee;
    state.rounds::<D>();
    let low = state.fold();
    state.b ^= 0xdd;
    state.rounds::<D>();
    u128::from(low) | (u128::from(state.fold()) << 64)
}

struct State {
    a: u64,
    b: u64,
    c: u64,
    d: u64,
}

impl State {
    #[inline]
    fn absorb<const C: usize>(&mut self, word: u64) {
        self.d ^= word;
        self.rounds::<C>();
        self.a ^= word;
    }

    #[inline]
    fn rounds<const N: usize>(&mut self) {
        for _ in 0..N {
            self.a = self.a.wrapping_add(self.b);
            self.c = self.c.wrapping_add(self.d);
            self.b = self.b.rotate_left(13) ^ self.a;
            self.d = self.d.rotate_left(16) ^ self.c;
            self.a = self.a.rotate_left(32);
            self.c = self.c.wrapping_add(self.b);
            self.a = self.a.wrapping_add(self.d);
            self.b = self.b.rotate_left(17) ^ self.c;
            self.d = self.d.rotate_left(21) ^ self.a;
            self.c = self.c.rotate_left(32);
        }
    }

    fn fold(&self) -> u64 {
        self.a ^ self.b ^ self.c ^ self.d
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_reference_vectors() {
        let key = Key(0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
        for (length, expected) in
            [(0_u8, "a3817f04ba25a8e66df67214c7550293"), (1, "da87c1d86b99af44347659119b22fc45")]
        {
            let bytes: Vec<u8> = (0..length).collect();
            let expected = u128::from_str_radix(expected, 16).unwrap().swap_bytes();
            assert_eq!(siphash::<2, 4>(key, &bytes), expected, "{length}");
        }
    }

    #[test]
    fn borders_between_names_and_values_count() {
        let key = Key::random();
        let digest = |pairs: &[(&str, &str)]| {
            key.labels(&Labels::from_pairs(pairs.iter().copied()).unwrap())
        };
        assert_ne!(digest(&[("a", "bc")]), digest(&[("ab", "c")]));
        assert_eq!(digest(&[("a", "b"), ("c", "d")]), digest(&[("c", "d"), ("a", "b")]));
    }
}
