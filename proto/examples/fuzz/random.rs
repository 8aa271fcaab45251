//! Numbers that look random and are the same for the same seed.

/// A 64-bit mixing generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
        mixed ^ (mixed >> 32)
    }

    /// Below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound.max(1) as u64;
        usize::try_from(self.next() % bound).unwrap_or(0)
    }

    /// Below a small `bound`.
    pub fn small(&mut self, bound: u8) -> u8 {
        self.next().to_le_bytes()[0] % bound
    }

    /// Once in so many times.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn byte(&mut self) -> u8 {
        // Where formats have their edges, half of the time.
        const EDGES: [u8; 10] = [0, 1, 2, 3, 0x20, 0x7f, 0x80, 0x81, 0xfe, 0xff];
        let any = self.next().to_le_bytes()[0];
        if self.one_in(2) {
            EDGES.get(usize::from(any) % EDGES.len()).copied().unwrap_or(any)
        } else {
            any
        }
    }

    /// Small numbers more often than large ones.
    pub fn skewed(&mut self) -> u64 {
        let bits = self.below(65);
        if bits == 0 { 0 } else { self.next() >> (64 - bits) }
    }
}
