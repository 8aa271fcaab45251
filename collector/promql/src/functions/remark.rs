//! What functions of native histograms remark; the evaluator adds metric names and places.

/// Something worth telling whoever asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remark {
    /// Numbers and histograms are in one window, and nothing comes of them.
    MixedSamples,
    /// Histograms with exponential and with custom buckets are in one window, and nothing comes of them.
    MixedSchemas,
    /// A function of counters was given gauge histograms.
    NotCounter,
    /// A function of gauges was given counter histograms.
    NotGauge,
    /// A function of numbers left histograms out.
    HistogramsIgnored,
    /// Custom bounds differed and were reduced to the common ones.
    Reconciled(Operation),
    /// Some histograms come after a reset, others say that there was none.
    HintsCollide(Operation),
    /// A sample counts since before the sample before it, but not since when that one does.
    StartsOverlap,
    /// The quantile is among observations that are not numbers.
    QuantileNan,
    /// Observations that are not numbers push the quantile up.
    QuantileSkewed,
    /// Observations that are not numbers are in no fraction.
    FractionNan,
    /// This is no quantile, given as the bits of a number.
    BadQuantile(u64),
}

/// What histograms were combined for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A sum of two.
    Addition,
    /// A difference.
    Subtraction,
    /// A sum or mean of many.
    Aggregation,
}

impl Operation {
    /// The name in remarks.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Addition => "addition",
            Self::Subtraction => "subtraction",
            Self::Aggregation => "aggregation",
        }
    }
}

/// The remarks of one or more calls: each once, with the number of calls.
#[derive(Debug, Default)]
pub(crate) struct Remarks(Vec<(Remark, usize)>);

impl Remarks {
    /// Adds a remark.
    pub(crate) fn add(&mut self, remark: Remark) {
        if !self.0.iter().any(|(known, _)| *known == remark) {
            self.0.push((remark, 1));
        }
    }

    /// Adds a remark in place of all others: nothing came of the call but this.
    pub(crate) fn only(&mut self, remark: Remark) {
        self.0.clear();
        self.add(remark);
    }

    /// Takes over the remarks of another call.
    pub(crate) fn absorb(&mut self, call: &mut Self) {
        for (remark, count) in call.0.drain(..) {
            match self.0.iter_mut().find(|(known, _)| *known == remark) {
                Some((_, all)) => *all += count,
                None => self.0.push((remark, count)),
            }
        }
    }

    /// Takes all remarks out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = (Remark, usize)> {
        self.0.drain(..)
    }
}
