//! The agent's own metrics: one registry, filled by the parts, written by `/metrics`.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime};

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tributary_model::sample::Timestamp;

use crate::spool::Status;

/// A gauge of seconds since the Unix epoch, or of other things that are not whole.
pub(crate) type Seconds = Gauge<f64, AtomicU64>;

/// The registry in `OpenMetrics` text.
pub(crate) fn text(registry: &Registry) -> String {
    let mut out = String::new();
    // Writing into a String cannot fail.
    let _ = encode(&mut out, registry);
    out
}

/// What the process as a whole reports.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProcessMetrics {
    /// 1 if the last reload took, 0 if the old files stayed in force.
    pub(crate) reload_successful: Gauge,
    /// When the last reload took.
    pub(crate) reload_success_time: Seconds,
    /// Reloads that were refused.
    pub(crate) reloads_refused: Counter,
}

impl ProcessMetrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.reload_successful.set(1);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("tributary_agent_build", "The version that runs", build);
        registry.register(
            "tributary_agent_config_last_reload_successful",
            "Whether the last reload of allowlist and certificates took",
            metrics.reload_successful.clone(),
        );
        registry.register(
            "tributary_agent_config_last_reload_success_timestamp_seconds",
            "When the last reload took",
            metrics.reload_success_time.clone(),
        );
        registry.register(
            "tributary_agent_config_reloads_refused",
            "Reloads refused",
            metrics.reloads_refused.clone(),
        );
        metrics
    }
}

/// The certificate in use.
#[derive(Debug, Clone, Default)]
pub(crate) struct CertificateMetrics {
    /// Changed files that were refused.
    pub(crate) reloads_refused: Counter,
    not_after: Seconds,
    left: Seconds,
    renewals: Family<Renewal, Counter>,
}

/// How a renewal ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Renewal {
    result: Outcome,
}

/// How a renewal ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "written as label values")]
pub(crate) enum Outcome {
    /// A new certificate is in force.
    renewed,
    /// The old one stays.
    failed,
}

impl CertificateMetrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "tributary_agent_certificate_not_after_timestamp_seconds",
            "When the certificate in use expires",
            m.not_after.clone(),
        );
        registry.register(
            "tributary_agent_certificate_seconds_left",
            "Until the certificate in use expires",
            m.left.clone(),
        );
        registry.register(
            "tributary_agent_certificate_reloads_refused",
            "Changed certificate files that were refused; the old ones stayed in force",
            m.reloads_refused.clone(),
        );
        registry.register(
            "tributary_agent_certificate_renewals",
            "Renewals of the certificate by the collector",
            m.renewals.clone(),
        );
        for result in [Outcome::renewed, Outcome::failed] {
            drop(m.renewals.get_or_create(&Renewal { result }));
        }
        m
    }

    /// Shows when the certificate expires.
    pub(crate) fn show(&self, not_after: SystemTime, now: SystemTime) {
        let (end, now) = (Timestamp::from(not_after), Timestamp::from(now));
        self.not_after.set(end.as_secs_f64());
        self.left.set(end.as_secs_f64() - now.as_secs_f64());
    }

    /// Counts a renewal.
    pub(crate) fn renewed(&self, result: Outcome) {
        self.renewals.get_or_create(&Renewal { result }).inc();
    }

    /// How many renewals ended like this.
    #[cfg(test)]
    pub(crate) fn renewals(&self, result: Outcome) -> u64 {
        self.renewals.get_or_create(&Renewal { result }).get()
    }
}

/// Counters between the sources and the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpoolMetrics {
    /// Arrivals that were answered with a refusal.
    pub(crate) refused: Counter,
    /// Samples on the spool's disk.
    pub(crate) spooled: Counter,
    /// How often a broken spool was opened again.
    pub(crate) reopened: Counter,
    bytes: Gauge,
    max_bytes: Gauge,
    frames: Gauge,
    next_seq: Gauge,
    acked_seq: Gauge,
    dropped_segments: Counter,
    dropped_samples: Counter,
}

impl SpoolMetrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry, max_bytes: u64) -> Self {
        let m = Self::default();
        m.max_bytes.set(whole(max_bytes));
        registry.register(
            "tributary_agent_arrivals_refused",
            "Arrivals refused",
            m.refused.clone(),
        );
        registry.register(
            "tributary_agent_samples_spooled",
            "Samples on the spool's disk",
            m.spooled.clone(),
        );
        registry.register(
            "tributary_agent_spool_reopened",
            "How often a broken spool was opened again",
            m.reopened.clone(),
        );
        let bytes = |registry: &mut Registry, name: &str, help: &str, gauge: &Gauge| {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        };
        bytes(registry, "tributary_agent_spool_size", "Bytes of the spool on disk", &m.bytes);
        bytes(
            registry,
            "tributary_agent_spool_max_size",
            "Where the oldest data is dropped",
            &m.max_bytes,
        );
        registry.register(
            "tributary_agent_spool_frames_waiting",
            "Frames not acknowledged",
            m.frames.clone(),
        );
        registry.register(
            "tributary_agent_spool_next_seq",
            "The next frame's number",
            m.next_seq.clone(),
        );
        registry.register(
            "tributary_agent_spool_acked_seq",
            "The last acknowledged frame",
            m.acked_seq.clone(),
        );
        registry.register(
            "tributary_agent_spool_dropped_segments",
            "Segments dropped because the spool was full",
            m.dropped_segments.clone(),
        );
        registry.register(
            "tributary_agent_spool_dropped_samples",
            "Samples dropped because the spool was full",
            m.dropped_samples.clone(),
        );
        m
    }

    /// Shows how full the spool is.
    pub(crate) fn show(&self, status: &Status) {
        self.bytes.set(whole(status.bytes));
        self.frames.set(whole(status.waiting()));
        self.next_seq.set(whole(status.next_seq));
        self.acked_seq.set(whole(status.acked));
        let rise = |counter: &Counter, to: u64| {
            counter.inc_by(to.saturating_sub(counter.get()));
        };
        rise(&self.dropped_segments, status.dropped_segments);
        rise(&self.dropped_samples, status.dropped_samples);
    }
}

/// Counters of the link to the collector.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkMetrics {
    /// 1 while a session is up.
    pub(crate) connected: Gauge,
    /// Sessions that were welcomed.
    pub(crate) sessions: Counter,
    /// Sessions that took over from one that was up.
    pub(crate) handovers: Counter,
    /// Attempts and sessions that ended badly.
    pub(crate) failures: Family<Stage, Counter>,
    /// Frames sent, repeated ones included.
    pub(crate) frames_sent: Counter,
    /// Their bytes, without what gRPC and TLS add.
    pub(crate) frame_bytes_sent: Counter,
    /// How far the collector's clock is ahead of ours.
    pub(crate) clock_ahead: Seconds,
    /// When the last acknowledgement came.
    pub(crate) last_ack_time: Seconds,
    /// How long it took from sending a frame to its acknowledgement.
    pub(crate) ack_seconds: AckSeconds,
    /// Frames sent and not acknowledged.
    pub(crate) in_flight: Gauge,
    /// How often the session waited because too many frames were in flight.
    pub(crate) window_full: Counter,
}

/// How long acknowledgements take.
#[derive(Debug, Clone)]
pub(crate) struct AckSeconds(Histogram);

/// From a local collector's disk to one behind a slow link.
const ACK_BUCKETS: [f64; 15] =
    [0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0];

impl Default for AckSeconds {
    fn default() -> Self {
        Self(Histogram::new(ACK_BUCKETS))
    }
}

impl AckSeconds {
    /// One acknowledgement.
    pub(crate) fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// How far an attempt came.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Stage {
    /// How far.
    pub(crate) stage: Reached,
}

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "written as label values")]
pub(crate) enum Reached {
    /// The collector did not welcome us.
    connect,
    /// A session broke off.
    session,
}

impl LinkMetrics {
    /// Registers them.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "tributary_agent_session_connected",
            "1 while a session is up",
            m.connected.clone(),
        );
        registry.register(
            "tributary_agent_sessions",
            "Sessions that were welcomed",
            m.sessions.clone(),
        );
        registry.register(
            "tributary_agent_session_handovers",
            "Sessions that took over from one that was up",
            m.handovers.clone(),
        );
        registry.register(
            "tributary_agent_session_failures",
            "Attempts and sessions that ended badly",
            m.failures.clone(),
        );
        registry.register(
            "tributary_agent_frames_sent",
            "Frames sent, repeated ones included",
            m.frames_sent.clone(),
        );
        registry.register_with_unit(
            "tributary_agent_frames_sent",
            "Bytes of frames sent",
            Unit::Bytes,
            m.frame_bytes_sent.clone(),
        );
        registry.register(
            "tributary_agent_collector_clock_ahead_seconds",
            "How far the collector's clock is ahead of ours",
            m.clock_ahead.clone(),
        );
        registry.register(
            "tributary_agent_last_ack_timestamp_seconds",
            "When the last acknowledgement came",
            m.last_ack_time.clone(),
        );
        registry.register(
            "tributary_agent_ack_seconds",
            "Time from sending a frame to its acknowledgement",
            m.ack_seconds.0.clone(),
        );
        registry.register(
            "tributary_agent_frames_in_flight",
            "Frames not acknowledged",
            m.in_flight.clone(),
        );
        registry.register(
            "tributary_agent_window_full",
            "How often the session waited for acknowledgements",
            m.window_full.clone(),
        );
        m
    }
}

/// A count as a gauge shows it.
fn whole(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
