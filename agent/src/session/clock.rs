//! Compares our clock with the collector's: nobody else would notice that ours is wrong.

use std::time::{Duration, SystemTime};

use tributary_certs::certificate::utc;
use tributary_model::sample::Timestamp;

use crate::metrics::LinkMetrics;

/// A difference that is worth a warning: the collector refuses samples that are so far in its future.
const TOO_FAR: Duration = Duration::from_secs(120);

/// The collector's clock, as one session hears of it.
pub(super) struct Clock {
    metrics: LinkMetrics,
    warned: bool,
}

impl Clock {
    pub(super) fn new(metrics: LinkMetrics) -> Self {
        Self { metrics, warned: false }
    }

    /// The collector says that it is this time, in milliseconds since the Unix epoch; 0 if it does not say.
    pub(super) fn compare(&mut self, theirs: i64, ours: SystemTime) {
        if theirs == 0 {
            return;
        }
        let ahead = theirs.saturating_sub(Timestamp::from(ours).as_millis());
        let distance = Duration::from_millis(ahead.unsigned_abs());
        self.metrics.clock_ahead.set(distance.as_secs_f64() * if ahead < 0 { -1.0 } else { 1.0 });
        if distance > TOO_FAR && !self.warned {
            self.warned = true;
            let theirs =
                if ahead < 0 { ours.checked_sub(distance) } else { ours.checked_add(distance) };
            tracing::warn!(
                ours = utc(ours),
                collector = theirs.map(utc),
                "the collector's clock and ours are more than 2 minutes apart; is one of the clocks wrong?"
            );
        }
    }
}
