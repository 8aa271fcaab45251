//! Frames on their way: when each was sent, and how long its acknowledgement took.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::metrics::AckSeconds;

/// Frames that were sent and are not acknowledged; the collector's window bounds how many.
pub(super) struct Flight {
    sent: VecDeque<(u64, Instant)>,
    seconds: AckSeconds,
}

impl Flight {
    pub(super) fn new(seconds: AckSeconds) -> Self {
        Self { sent: VecDeque::new(), seconds }
    }

    /// A frame goes out; numbers rise.
    pub(super) fn sent(&mut self, seq: u64, now: Instant) {
        self.sent.push_back((seq, now));
    }

    /// Everything up to this frame is durable.
    pub(super) fn acknowledged(&mut self, seq: u64, now: Instant) {
        while let Some((_, at)) = self.sent.front().filter(|(sent, _)| *sent <= seq) {
            self.seconds.observe(now.saturating_duration_since(*at));
            self.sent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::registry::Registry;

    use super::*;
    use crate::metrics::{self, LinkMetrics};

    #[test]
    fn one_acknowledgement_ends_the_flight_of_every_frame_before_it() {
        let mut registry = Registry::default();
        let mut flight = Flight::new(LinkMetrics::new(&mut registry).ack_seconds);
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        flight.sent(1, after(0));
        flight.sent(2, after(7));
        flight.sent(3, after(8));
        flight.acknowledged(2, after(9));
        flight.acknowledged(2, after(500));
        let text = metrics::text(&registry);
        for line in [
            "tributary_agent_ack_seconds_count 2",
            "tributary_agent_ack_seconds_sum 0.011",
            "tributary_agent_ack_seconds_bucket{le=\"0.002\"} 1",
            "tributary_agent_ack_seconds_bucket{le=\"0.01\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
        }
    }
}
