//! A sample: one value of a series at one millisecond.

use std::fmt;
use std::time::Duration;

/// The bit pattern Prometheus gives a staleness marker (`model/value/value.go`).
pub const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// The staleness marker as a value. Compare with [`is_stale`], never with `==`.
pub fn stale_nan() -> f64 {
    f64::from_bits(STALE_NAN_BITS)
}

/// Whether a value is the staleness marker, bit for bit.
pub fn is_stale(value: f64) -> bool {
    value.to_bits() == STALE_NAN_BITS
}

/// Milliseconds since the Unix epoch; any `i64` is a valid timestamp. Arithmetic saturates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest timestamp.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest timestamp.
    pub const MAX: Self = Self(i64::MAX);

    /// A timestamp from milliseconds since the Unix epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Seconds since the Unix epoch, with fraction.
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1000.0
    }

    /// `duration` later, or [`Timestamp::MAX`].
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(millis(duration)))
    }

    /// `duration` earlier, or [`Timestamp::MIN`].
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(millis(duration)))
    }

    /// Time from `earlier` to here; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0).max(0).unsigned_abs())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

impl From<std::time::SystemTime> for Timestamp {
    fn from(time: std::time::SystemTime) -> Self {
        match time.duration_since(std::time::UNIX_EPOCH) {
            Ok(after) => Self(millis(after)),
            Err(before) => Self(-millis(before.duration())),
        }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One value at one time. Equality is by bits, so NaNs compare as stored.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When the value was true.
    pub at: Timestamp,
    /// The value; any bit pattern, staleness markers included.
    pub value: f64,
}

impl Sample {
    /// A sample at `millis` milliseconds since the Unix epoch.
    pub const fn new(millis: i64, value: f64) -> Self {
        Self { at: Timestamp::from_millis(millis), value }
    }
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at && self.value.to_bits() == other.value.to_bits()
    }
}

/// Numbers of one series: times in milliseconds, ascending, and as many values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Numbers {
    /// When the values were true.
    pub times: Vec<i64>,
    /// The values; staleness markers among them.
    pub values: Vec<f64>,
}

impl Numbers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Leaves none; the room stays.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Leaves the first `len`.
    pub fn truncate(&mut self, len: usize) {
        self.times.truncate(len);
        self.values.truncate(len);
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.times.reserve(more);
        self.values.reserve(more);
    }

    /// Adds one at the end.
    #[inline]
    pub fn push(&mut self, sample: Sample) {
        self.times.push(sample.at.as_millis());
        self.values.push(sample.value);
    }

    /// Them all, as samples.
    pub fn iter(&self) -> impl Iterator<Item = Sample> {
        self.times.iter().zip(&self.values).map(|(at, value)| Sample::new(*at, *value))
    }

    /// Brings what stands from `start` on in order of time, the first of each time only. Times must be less than 2^62
    /// from zero.
    pub fn sort_from(&mut self, start: usize) {
        let new = self.times.get(start..).unwrap_or_default();
        // Quickest it is seen so that there is nothing to do: no difference less one is negative.
        let steps =
            new.iter().zip(new.iter().skip(1)).map(|(a, b)| b.wrapping_sub(*a).wrapping_sub(1));
        if steps.fold(0, |all, step| all | step) >= 0 {
            return;
        }
        let mut samples: Vec<Sample> = self.iter().skip(start).collect();
        samples.sort_by_key(|sample| sample.at);
        samples.dedup_by_key(|sample| sample.at);
        self.truncate(start);
        self.extend(samples);
    }
}

impl Extend<Sample> for Numbers {
    fn extend<T: IntoIterator<Item = Sample>>(&mut self, samples: T) {
        samples.into_iter().for_each(|sample| self.push(sample));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::MAX.plus(Duration::from_secs(1)), Timestamp::MAX);
        assert_eq!(Timestamp::MIN.minus(Duration::MAX), Timestamp::MIN);
        assert_eq!(Timestamp::MIN.since(Timestamp::MAX), Duration::ZERO);
        assert_eq!(
            Timestamp::from_millis(1500).since(Timestamp::from_millis(500)).as_millis(),
            1000
        );
    }

    #[test]
    fn staleness_is_a_bit_pattern() {
        assert!(is_stale(stale_nan()));
        assert!(!is_stale(f64::NAN));
        assert_eq!(Sample::new(1, f64::NAN), Sample::new(1, f64::NAN));
        assert_ne!(Sample::new(1, 0.0), Sample::new(1, -0.0));
    }

    #[test]
    fn numbers_are_put_in_order_from_a_place_on() {
        let mut numbers = Numbers::default();
        let all = [(9, 0.0), (3, 1.0), (1, 2.0), (3, 3.0), (2, 4.0)];
        numbers.extend(all.map(|(at, value)| Sample::new(at, value)));
        numbers.sort_from(1);
        let expected = [(9, 0.0), (1, 2.0), (2, 4.0), (3, 1.0)];
        let expected = expected.map(|(at, value)| Sample::new(at, value));
        assert_eq!(numbers.iter().collect::<Vec<_>>(), expected);
    }
}
