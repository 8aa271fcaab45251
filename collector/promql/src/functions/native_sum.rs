//! Sums and means of native histograms, with every count kept to the last bit.

use tributary_model::histogram::{Histogram, MixedSchemas, ResetHint};

use super::number::Sum;
use super::remark::{Operation, Remark, Remarks};

/// What is remarked about the histograms of one aggregation.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    reset: bool,
    not_reset: bool,
    reconciled: bool,
}

impl Seen {
    fn note(&mut self, histogram: &Histogram) {
        self.reset |= histogram.hint() == ResetHint::Reset;
        self.not_reset |= histogram.hint() == ResetHint::NotReset;
    }

    fn remark(self, remarks: &mut Remarks) {
        if self.reset && self.not_reset {
            remarks.add(Remark::HintsCollide(Operation::Aggregation));
        }
        if self.reconciled {
            remarks.add(Remark::Reconciled(Operation::Aggregation));
        }
    }
}

/// A sum of at least one histogram.
#[derive(Debug, Clone)]
pub(crate) struct HistogramSum {
    sum: Histogram<Sum>,
    seen: Seen,
}

/// A mean of at least one histogram: the sum over the count, or a running mean once the sum would overflow.
#[derive(Debug, Clone)]
pub(crate) struct HistogramMean {
    sum: Histogram<Sum>,
    count: f64,
    running: bool,
    seen: Seen,
}

/// Takes one histogram after the other.
pub(crate) trait HistogramAccumulator: Sized {
    /// Begins with one.
    fn first(histogram: &Histogram) -> Self;

    /// Adds another one.
    fn add(&mut self, histogram: &Histogram) -> Result<(), MixedSchemas>;

    /// What all came to, and what is to be said of it.
    fn result(&self, remarks: &mut Remarks) -> Histogram;
}

impl HistogramAccumulator for HistogramSum {
    fn first(histogram: &Histogram) -> Self {
        let mut seen = Seen::default();
        seen.note(histogram);
        Self { sum: histogram.convert(Sum::of), seen }
    }

    fn add(&mut self, histogram: &Histogram) -> Result<(), MixedSchemas> {
        self.seen.note(histogram);
        let combined = self.sum.add(&histogram.convert(Sum::of))?;
        self.seen.reconciled |= combined.bounds_differ;
        Ok(())
    }

    fn result(&self, remarks: &mut Remarks) -> Histogram {
        self.seen.remark(remarks);
        self.sum.convert(Sum::total)
    }
}

impl HistogramAccumulator for HistogramMean {
    fn first(histogram: &Histogram) -> Self {
        let HistogramSum { sum, seen } = HistogramSum::first(histogram);
        Self { sum, count: 1.0, running: false, seen }
    }

    fn add(&mut self, histogram: &Histogram) -> Result<(), MixedSchemas> {
        self.seen.note(histogram);
        self.count += 1.0;
        if !self.running {
            let mut sum = self.sum.clone();
            let combined = sum.add(&histogram.convert(Sum::of))?;
            self.seen.reconciled |= combined.bounds_differ;
            if !sum.any(|count| count.value.is_infinite()) {
                self.sum = sum;
                return Ok(());
            }
            self.running = true;
            self.rescale(|sum, count| sum.over(count - 1.0));
        }
        self.rescale(|sum, count| sum.times((count - 1.0) / count));
        let count = self.count;
        let combined = self.sum.add(&histogram.convert(|value| Sum::of(value / count)))?;
        self.seen.reconciled |= combined.bounds_differ;
        Ok(())
    }

    fn result(&self, remarks: &mut Remarks) -> Histogram {
        self.seen.remark(remarks);
        if self.running {
            self.sum.convert(Sum::total)
        } else {
            self.sum.convert(|sum| sum.over(self.count).total())
        }
    }
}

impl HistogramMean {
    fn rescale(&mut self, change: impl Fn(Sum, f64) -> Sum) {
        let count = self.count;
        self.sum = std::mem::take(&mut self.sum).scaled(|sum| change(sum, count));
    }
}

/// The result over all of them; none if they have nothing in common.
pub(crate) fn accumulate<'a, A: HistogramAccumulator>(
    mut histograms: impl Iterator<Item = &'a Histogram>,
    remarks: &mut Remarks,
) -> Option<Histogram> {
    let mut all = A::first(histograms.next()?);
    for histogram in histograms {
        if all.add(histogram).is_err() {
            remarks.only(Remark::MixedSchemas);
            return None;
        }
    }
    Some(all.result(remarks))
}

#[cfg(test)]
mod tests {
    use tributary_model::histogram::{Buckets, Parts};

    use super::*;

    fn histogram(counts: &[(i32, f64)], sum: f64) -> Histogram {
        let positive: Buckets = counts.iter().copied().collect();
        let count = positive.counts().iter().sum();
        Histogram::new(Parts { count, sum, positive, ..Parts::default() }).unwrap()
    }

    #[test]
    fn small_parts_survive_large_ones() {
        let all = [
            histogram(&[(0, 1.0)], 1.0),
            histogram(&[(0, 1e100)], 1e100),
            histogram(&[(0, 1.0), (1, 2.0)], 1.0),
            histogram(&[(0, -1e100)], -1e100),
        ];
        let mut remarks = Remarks::default();
        let sum = accumulate::<HistogramSum>(all.iter(), &mut remarks).unwrap();
        assert_eq!((sum.sum(), sum.positive().counts()), (2.0, &[2.0, 2.0][..]));
        let mean = accumulate::<HistogramMean>(all.iter(), &mut remarks).unwrap();
        assert_eq!((mean.sum(), mean.positive().counts()), (0.5, &[0.5, 0.5][..]));
    }

    #[test]
    fn means_do_not_overflow() {
        let all = [histogram(&[(0, f64::MAX)], f64::MAX), histogram(&[(0, f64::MAX)], f64::MAX)];
        let mean = accumulate::<HistogramMean>(all.iter(), &mut Remarks::default()).unwrap();
        assert!((mean.sum() / f64::MAX - 1.0).abs() < 1e-12);
    }
}
