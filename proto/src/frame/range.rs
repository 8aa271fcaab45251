//! A binary range coder: a bit costs as much as it surprises, and the odds of the next one learn from it.

/// The odds of a bit that has never been coded: even.
const EVEN: u16 = 1 << 15;
/// Odds stay this far from certainty, out of 2^16. That keeps the dearest bit at nine bits.
const LEAST: i32 = 128;
/// How often odds are counted; from there on they learn at the rate of the last count.
const COUNTED: usize = 60;
/// What odds learn from their nth bit: a share of 2 / (2n + 3), of 2^15.
const RATES: [i32; COUNTED + 1] = {
    let mut rates = [0; COUNTED + 1];
    let (mut n, mut divisor) = (0, 3);
    while n <= COUNTED {
        #[expect(
            clippy::indexing_slicing,
            reason = "n is below the length, checked while compiling"
        )]
        {
            rates[n] = (1 << 16) / divisor;
        }
        n += 1;
        divisor += 2;
    }
    rates
};
/// Whenever the range falls below this, a byte is settled.
const SETTLED: u32 = 1 << 24;
/// Bytes a reader is ahead of what is settled; as many may be missing at the end and count as zero.
const AHEAD: u32 = 4;

/// What is expected of a bit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Odds {
    /// The share of zeros, of 2^16.
    zero: u16,
    /// Bits seen, up to [`COUNTED`].
    seen: u8,
}

impl Odds {
    fn learn(&mut self, bit: bool) {
        let zero = i32::from(self.zero);
        let aim = if bit { 0 } else { 1 << 16 };
        let rate = RATES.get(usize::from(self.seen)).copied().unwrap_or_default();
        let zero = (zero + (((aim - zero) * rate) >> 15)).clamp(LEAST, (1 << 16) - LEAST);
        self.zero = u16::try_from(zero).unwrap_or(EVEN);
        self.seen += u8::from(usize::from(self.seen) < COUNTED);
    }
}

/// Odds side by side; `N` is a power of two.
#[derive(Debug, Clone)]
pub(super) struct Contexts<const N: usize>([Odds; N]);

impl<const N: usize> Default for Contexts<N> {
    fn default() -> Self {
        Self([Odds { zero: EVEN, seen: 0 }; N])
    }
}

impl<const N: usize> Contexts<N> {
    pub(super) fn at(&mut self, place: usize) -> &mut Odds {
        debug_assert!(place < N, "two places share their odds");
        #[expect(clippy::indexing_slicing, reason = "the remainder is below the length")]
        &mut self.0[place % N]
    }
}

/// One description of what is coded serves both directions: a [`Writer`] writes what it is told and returns it, a
/// [`Reader`] returns what it reads, whatever it is told.
pub(super) trait Coder {
    /// One bit, at the given odds.
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool;
    /// The lowest `count` bits, at most 64, as they are, high ones first.
    fn raw(&mut self, count: u32, value: u64) -> u64;
}

/// Appends to bytes.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    out: &'a mut Vec<u8>,
    low: u32,
    range: u32,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out, low: 0, range: u32::MAX }
    }

    fn add(&mut self, amount: u32) {
        let (low, carry) = self.low.overflowing_add(amount);
        self.low = low;
        if carry {
            self.carry();
        }
    }

    /// Adds one to the settled bytes. They are a fraction below one, so it never runs past the first of them.
    fn carry(&mut self) {
        for byte in self.out.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
    }

    fn settle(&mut self) {
        while self.range < SETTLED {
            self.out.push(self.low.to_be_bytes()[0]);
            self.low <<= 8;
            self.range <<= 8;
        }
    }

    /// Settles the end with as few bytes as say where it is.
    pub(super) fn finish(mut self) {
        let (value, count) = last_bytes(self.low, self.range);
        if value > u64::from(u32::MAX) {
            self.carry();
        }
        self.out.extend(value.to_be_bytes().iter().skip(4).take(count));
    }
}

/// The number from `low` to below `low + range` that has the fewest bytes before its zeros, out of four, and how many.
fn last_bytes(low: u32, range: u32) -> (u64, usize) {
    let (low, end) = (u64::from(low), u64::from(low) + u64::from(range));
    let with = |count: usize| {
        let below = u64::from(u32::MAX) >> (8 * count);
        ((low + below) & !below, count)
    };
    (0..4).map(with).find(|(value, _)| *value < end).unwrap_or((low, 4))
}

impl Coder for Writer<'_> {
    fn bit(&mut self, odds: &mut Odds, bit: bool) -> bool {
        let zeros = (self.range >> 16) * u32::from(odds.zero);
        if bit {
            self.add(zeros);
            self.range -= zeros;
        } else {
            self.range = zeros;
        }
        self.settle();
        odds.learn(bit);
        bit
    }

    fn raw(&mut self, count: u32, value: u64) -> u64 {
        let mut left = count;
        while left > 0 {
            let now = left.min(16);
            left -= now;
            let part = (value >> left) & ((1 << now) - 1);
            self.range >>= now;
            self.add(u32::try_from(part).unwrap_or_default() * self.range);
            self.settle();
        }
        value
    }
}

/// Reads bytes. It never fails on the way; [`Reader::end`] says whether what it read was there.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: std::slice::Iter<'a, u8>,
    /// The last four bytes.
    window: u32,
    /// How far they are above the writer's low end.
    code: u32,
    range: u32,
    /// Bytes taken as zero behind the end.
    missing: u32,
    impossible: bool,
}

/// How a range-coded string of bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Where it should.
    Exact,
    /// More was read than is there.
    TooEarly,
    /// Bytes are left over, or no writer writes this.
    Wrong,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let mut reader = Self {
            rest: bytes.iter(),
            window: 0,
            code: 0,
            range: u32::MAX,
            missing: 0,
            impossible: false,
        };
        for _ in 0..AHEAD {
            reader.advance();
        }
        reader
    }

    fn advance(&mut self) {
        let byte = self.rest.next().copied().unwrap_or_else(|| {
            self.missing = self.missing.saturating_add(1);
            0
        });
        self.window = (self.window << 8) | u32::from(byte);
        self.code = (self.code << 8) | u32::from(byte);
    }

    fn settle(&mut self) {
        while self.range < SETTLED {
            self.advance();
            self.range <<= 8;
        }
    }

    /// Whether the bytes end exactly as a writer ends them.
    pub(super) fn end(&self) -> End {
        let Some(count) = AHEAD.checked_sub(self.missing) else {
            return End::TooEarly;
        };
        let (value, written) = last_bytes(self.window.wrapping_sub(self.code), self.range);
        let last = value & u64::from(u32::MAX) == u64::from(self.window);
        let all = self.rest.as_slice().is_empty() && usize::try_from(count) == Ok(written);
        if all && last && !self.impossible { End::Exact } else { End::Wrong }
    }
}

impl Coder for Reader<'_> {
    fn bit(&mut self, odds: &mut Odds, _: bool) -> bool {
        let zeros = (self.range >> 16) * u32::from(odds.zero);
        let bit = self.code >= zeros;
        if bit {
            self.code -= zeros;
            self.range -= zeros;
        } else {
            self.range = zeros;
        }
        self.settle();
        odds.learn(bit);
        bit
    }

    fn raw(&mut self, count: u32, _: u64) -> u64 {
        let (mut value, mut left) = (0, count);
        while left > 0 {
            let now = left.min(16);
            left -= now;
            self.range >>= now;
            let most = (1 << now) - 1;
            let mut part = self.code / self.range;
            if part > most {
                self.impossible = true;
                part = most;
            }
            self.code -= part * self.range;
            self.settle();
            value = (value << now) | u64::from(part);
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Bit(usize, bool),
        Raw(u32, u64),
    }

    fn run(steps: &[Step], coder: &mut impl Coder) -> Vec<u64> {
        let mut odds = Contexts::<4>::default();
        let one = |step: &Step| match *step {
            Step::Bit(place, bit) => u64::from(coder.bit(odds.at(place), bit)),
            Step::Raw(count, value) => coder.raw(count, value),
        };
        steps.iter().map(one).collect()
    }

    fn round_trip(steps: &[Step]) -> usize {
        let mut out = vec![0xff];
        let mut writer = Writer::new(&mut out);
        let written = run(steps, &mut writer);
        writer.finish();
        assert_eq!(out[0], 0xff, "a carry ran out of the coded bytes");
        let mut reader = Reader::new(&out[1..]);
        let blank: Vec<Step> = steps
            .iter()
            .map(|step| match *step {
                Step::Bit(place, _) => Step::Bit(place, false),
                Step::Raw(count, _) => Step::Raw(count, 0),
            })
            .collect();
        assert_eq!(run(&blank, &mut reader), written);
        assert_eq!(reader.end(), End::Exact);
        for other in 0..=255 {
            out.push(other);
            let mut reader = Reader::new(&out[1..]);
            let same = run(&blank, &mut reader) == written;
            assert!(!same || reader.end() != End::Exact, "with {other} behind");
            out.pop();
        }
        out.len() - 1
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bit = (0..4usize, any::<bool>()).prop_map(|(place, bit)| Step::Bit(place, bit));
        let raw = (0..=64u32, any::<u64>())
            .prop_map(|(count, value)| Step::Raw(count, value & mask(count)));
        prop::collection::vec(prop_oneof![bit, raw], 0..200)
    }

    fn mask(count: u32) -> u64 {
        u64::MAX.checked_shr(64 - count).unwrap_or(0)
    }

    #[test]
    fn what_is_expected_costs_next_to_nothing() {
        assert_eq!(round_trip(&[]), 0);
        assert!(round_trip(&vec![Step::Bit(0, false); 1_000]) <= 2);
        assert!(round_trip(&vec![Step::Bit(0, true); 1_000]) <= 3);
        assert_eq!(round_trip(&[Step::Raw(64, u64::MAX)]), 9);
        // Carries through many settled bytes.
        let ones = vec![Step::Raw(16, 0xffff); 40];
        round_trip(&ones);
        round_trip(&[ones, vec![Step::Bit(1, true); 300]].concat());
    }

    proptest! {
        #[test]
        fn any_steps_round_trip(steps in steps()) {
            round_trip(&steps);
        }

        #[test]
        fn any_bytes_are_read_to_some_end(
            steps in steps(),
            bytes in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let mut reader = Reader::new(&bytes);
            run(&steps, &mut reader);
            let _ = reader.end();
        }
    }
}
