//! Whether a counter histogram started again from zero.

use super::arithmetic::common_bounds;
use super::{Buckets, Histogram, ResetHint, Schema};

impl Histogram {
    /// Whether it started again from zero after `previous`: its hint says so, or, if that says nothing, some count fell.
    /// The sum does not matter, as observations may be negative.
    pub fn is_reset_after(&self, previous: &Self) -> bool {
        match self.hint {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        match (&self.schema, &previous.schema) {
            (Schema::Custom(own), Schema::Custom(before)) if own != before => {
                let common = common_bounds(own, before);
                let (mut now, mut then) = (self.clone(), previous.clone());
                now.rebound(&common);
                then.rebound(&common);
                fell(&then.positive, &now.positive)
            }
            (Schema::Custom(_), Schema::Custom(_)) => fell(&previous.positive, &self.positive),
            // Resolution and zero bucket never become finer without a restart.
            (Schema::Exponential(own), Schema::Exponential(before)) => {
                own > before
                    || self.zero_threshold < previous.zero_threshold
                    || self.fell_from(previous, *own)
            }
            _ => true,
        }
    }

    /// The hint that a store hands out with a sample: that it is a gauge, as the sample itself says, or that there was no
    /// reset, if that follows from the sample before it. Of resets it says nothing, as samples may come in between later.
    /// `previous` is absent if the series began, was stale or held a number before.
    pub fn hint_after(&self, previous: Option<&Self>) -> ResetHint {
        match self.hint {
            ResetHint::Gauge => return ResetHint::Gauge,
            ResetHint::Reset => return ResetHint::Unknown,
            ResetHint::Unknown | ResetHint::NotReset => {}
        }
        let Some(previous) = previous.filter(|previous| previous.hint != ResetHint::Gauge) else {
            return ResetHint::Unknown;
        };
        let same_layout =
            self.schema == previous.schema && self.zero_threshold == previous.zero_threshold;
        let plain = self.clone().with_hint(ResetHint::Unknown);
        if same_layout && !plain.is_reset_after(previous) {
            ResetHint::NotReset
        } else {
            ResetHint::Unknown
        }
    }

    /// Only the number and the sum of all observations, with what is known of a reset.
    #[must_use]
    pub fn totals(&self) -> Self {
        let schema = match &self.schema {
            Schema::Custom(_) => Schema::Custom([].into()),
            exponential @ Schema::Exponential(_) => exponential.clone(),
        };
        Self { hint: self.hint, schema, count: self.count, sum: self.sum, ..Self::default() }
    }

    /// Whether any bucket has less than before, both in the schema and with the zero bucket of `self`.
    fn fell_from(&self, previous: &Self, schema: i8) -> bool {
        let same_layout = matches!(previous.schema, Schema::Exponential(other) if other == schema)
            && previous.zero_threshold == self.zero_threshold;
        if same_layout {
            return self.zero_count < previous.zero_count
                || fell(&previous.positive, &self.positive)
                || fell(&previous.negative, &self.negative);
        }
        let mut then = previous.clone();
        then.widen_zero(self.zero_threshold);
        if then.zero_threshold != self.zero_threshold {
            // The new threshold cuts a bucket with observations.
            return true;
        }
        then.coarsen(schema);
        self.zero_count < then.zero_count
            || fell(&then.positive, &self.positive)
            || fell(&then.negative, &self.negative)
    }
}

/// Whether a bucket has less than before, or is gone with what was in it.
fn fell(before: &Buckets, now: &Buckets) -> bool {
    if before.spans() == now.spans() {
        return before.counts().iter().zip(now.counts()).any(|(then, now)| now < then);
    }
    let mut now = now.iter().peekable();
    before.iter().any(|(index, then)| {
        while now.next_if(|(other, _)| *other < index).is_some() {}
        match now.peek() {
            Some((other, count)) if *other == index => *count < then,
            _ => then != 0.0,
        }
    })
}
