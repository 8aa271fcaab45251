//! What ingest counts: connections, frames, samples, and everything it refuses, each with its reason.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tributary_certs::tls::Peer;
use tributary_model::cluster::ClusterName;

/// Metrics of the ingest port. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct IngestMetrics {
    /// Connections that are up.
    pub(crate) connections: Gauge,
    /// Connections that were refused, by reason.
    pub(crate) connections_refused: Family<ReasonLabel, Counter>,
    /// Streams that are up, by cluster.
    pub(crate) streams: Family<ClusterLabel, Gauge>,
    /// Streams that are up, by the authority of the agent's certificate.
    pub(crate) streams_by_issuer: Family<IssuerLabel, Gauge>,
    /// Streams that ended, by cluster and reason.
    pub(crate) streams_ended: Family<ClusterReason, Counter>,
    /// Frames made durable, by cluster.
    pub(crate) frames: Family<ClusterLabel, Counter>,
    /// Bytes of frames received, by cluster.
    pub(crate) frame_bytes: Family<ClusterLabel, Counter>,
    /// Frames read a second time, only for the decoder's state.
    pub(crate) frames_for_state: Family<ClusterLabel, Counter>,
    /// Samples stored, by cluster.
    pub(crate) samples: Family<ClusterLabel, Counter>,
    /// Samples not stored, by cluster and reason.
    pub(crate) samples_rejected: Family<ClusterReason, Counter>,
    /// Series refused by a cluster's policy, by reason.
    pub(crate) series_refused: Family<ClusterReason, Counter>,
    /// Streams closed because the agent broke the protocol, by cluster and kind.
    pub(crate) violations: Family<ClusterReason, Counter>,
    /// Times that two processes were found to use one identity, by cluster.
    pub(crate) agents_fenced: Family<ClusterLabel, Counter>,
    /// Streams that used an authority which is about to be retired, by cluster.
    pub(crate) tainted_uses: Family<ClusterLabel, Counter>,
    /// Certificates that were asked for over a stream and not given, by cluster.
    pub(crate) renewals_refused: Family<ClusterLabel, Counter>,
    /// Attempts to reach agents that wait to be dialled which failed, by cluster and reason.
    pub(crate) dials_failed: Family<ClusterReason, Counter>,
    /// Time that streams waited because their cluster sends more samples per second than it may.
    pub(crate) throttled_seconds: Family<ClusterLabel, Counter<f64, AtomicU64>>,
}

/// A cluster's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClusterLabel {
    cluster: String,
}

/// An authority's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct IssuerLabel {
    issuer: String,
}

/// A reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}

/// A cluster and a reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClusterReason {
    cluster: String,
    reason: &'static str,
}

impl IngestMetrics {
    /// Registers them; the registry's prefix is the process' own.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        let r = registry.sub_registry_with_prefix("ingest");
        r.register("connections", "Connections of agents that are up", m.connections.clone());
        r.register(
            "connections_refused",
            "Connections refused at the handshake or by a bound",
            m.connections_refused.clone(),
        );
        r.register("streams", "Streams of agents that are up", m.streams.clone());
        r.register(
            "streams_by_issuer",
            "Streams that are up, by the authority of the agent's certificate",
            m.streams_by_issuer.clone(),
        );
        r.register(
            "agents_fenced",
            "Times that two agents used one certificate",
            m.agents_fenced.clone(),
        );
        r.register(
            "tainted_uses",
            "Streams that used an authority which is about to be retired",
            m.tainted_uses.clone(),
        );
        r.register(
            "renewals_refused",
            "Certificates that agents asked for over their streams and did not get",
            m.renewals_refused.clone(),
        );
        r.register("streams_ended", "Streams that ended", m.streams_ended.clone());
        r.register("frames", "Frames made durable", m.frames.clone());
        r.register("frame_bytes", "Bytes of frames received", m.frame_bytes.clone());
        r.register(
            "frames_for_state",
            "Frames received again, only to rebuild the decoder's state",
            m.frames_for_state.clone(),
        );
        r.register("samples", "Samples stored", m.samples.clone());
        r.register("samples_rejected", "Samples not stored", m.samples_rejected.clone());
        r.register("series_refused", "Series refused by policy", m.series_refused.clone());
        r.register("violations", "Streams closed for breaking the protocol", m.violations.clone());
        r.register("dials_failed", "Attempts to dial agents that failed", m.dials_failed.clone());
        r.register(
            "throttled_seconds",
            "Time that streams waited for their cluster's rate limit",
            m.throttled_seconds.clone(),
        );
        m
    }

    /// Counts a stream of this peer as long as what it returns is kept.
    pub(super) fn stream(&self, cluster: &ClusterName, peer: &Peer) -> Up {
        let issuer = IssuerLabel { issuer: peer.authority_name.clone() };
        let gauges = [
            self.streams.get_or_create(&of(cluster)).clone(),
            self.streams_by_issuer.get_or_create(&issuer).clone(),
        ];
        for gauge in &gauges {
            gauge.inc();
        }
        Up(gauges)
    }
}

/// A stream that is counted.
pub(super) struct Up(pub(super) [Gauge; 2]);

impl Drop for Up {
    fn drop(&mut self) {
        for gauge in &self.0 {
            gauge.dec();
        }
    }
}

/// The label set of a cluster.
pub(super) fn of(cluster: &ClusterName) -> ClusterLabel {
    ClusterLabel { cluster: cluster.to_string() }
}

/// The label set of a cluster and a reason.
pub(super) fn because(cluster: &ClusterName, reason: &'static str) -> ClusterReason {
    ClusterReason { cluster: cluster.to_string(), reason }
}

/// The label set of a reason.
pub(super) fn reason(reason: &'static str) -> ReasonLabel {
    ReasonLabel { reason }
}
