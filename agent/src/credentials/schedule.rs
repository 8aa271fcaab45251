//! When a certificate is renewed: at half of its life, and after failures again and again.

use std::time::{Duration, SystemTime};

use rand::Rng as _;

/// The wait after the first failure; each further one is twice as long.
const FIRST_WAIT: Duration = Duration::from_secs(15);
const LAST_WAIT: Duration = Duration::from_secs(3600);

/// When a certificate is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Schedule {
    /// Nothing where somebody else renews.
    due: Option<SystemTime>,
    not_after: SystemTime,
    failures: u32,
}

impl Schedule {
    /// Half life, give or take a tenth of it: agents that were enrolled together do not all come at once.
    pub(super) fn new(not_before: SystemTime, not_after: SystemTime, renewable: bool) -> Self {
        let life = not_after.duration_since(not_before).unwrap_or_default();
        let part = rand::rng().random_range(0.45..=0.55);
        let due = not_before.checked_add(life.mul_f64(part)).filter(|_| renewable);
        Self { due, not_after, failures: 0 }
    }

    /// When it is due, if ever.
    pub(crate) fn due(&self) -> Option<SystemTime> {
        self.due
    }

    /// When the certificate expires.
    pub(crate) fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Due now, where it is due at all; after a failure not before the first wait, however often somebody asks.
    pub(super) fn at_once(&mut self, now: SystemTime) {
        let wait = if self.failures == 0 { Duration::ZERO } else { FIRST_WAIT };
        let soon = now.checked_add(wait);
        self.due = self.due.and_then(|due| soon.map(|soon| due.min(soon)));
    }

    /// Due again after a wait.
    pub(super) fn failed(&mut self, now: SystemTime) -> Duration {
        let full = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LAST_WAIT);
        let wait = full.mul_f64(rand::rng().random_range(0.5..=1.0));
        self.failures = self.failures.saturating_add(1);
        self.due = self.due.and_then(|_| now.checked_add(wait));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn half_life_then_growing_waits() {
        let from = SystemTime::UNIX_EPOCH + DAY * 1000;
        for _ in 0..100 {
            let due = Schedule::new(from, from + DAY * 30, true).due().unwrap();
            assert!(due >= from + DAY * 13 && due <= from + DAY * 17);
        }
        let mut schedule = Schedule::new(from, from + DAY * 30, true);
        schedule.at_once(from);
        assert_eq!(schedule.due(), Some(from));
        let waits: Vec<Duration> = (0..20).map(|_| schedule.failed(from)).collect();
        assert!(waits[0] >= FIRST_WAIT / 2 && waits[0] <= FIRST_WAIT);
        assert!(waits[19] >= LAST_WAIT / 2 && waits[19] <= LAST_WAIT);
        assert_eq!(schedule.due(), Some(from + waits[19]));
        schedule.at_once(from);
        assert_eq!(schedule.due(), Some(from + FIRST_WAIT));
    }

    #[test]
    fn what_somebody_else_renews_is_never_due() {
        let from = SystemTime::UNIX_EPOCH;
        let mut schedule = Schedule::new(from, from + DAY, false);
        schedule.at_once(from);
        schedule.failed(from);
        assert_eq!(schedule.due(), None);
    }
}
