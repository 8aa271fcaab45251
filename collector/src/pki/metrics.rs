//! What the collector counts of certificates: those it issued, requests it refused, rotations, reloads.

use std::collections::HashSet;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tributary_certs::rotate::{self, Past};
use tributary_certs::state::How;

/// Metrics of certificates. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct PkiMetrics {
    /// Agents that got their first certificate with a token.
    pub(crate) enrolments: Counter,
    /// Requests for a first certificate that were refused, by reason.
    pub(crate) enrolments_refused: Family<Reason, Counter>,
    /// Certificates issued, by how they were asked for.
    pub(crate) certificates_issued: Family<Way, Counter>,
    /// Rotations that ended, by kind and result.
    pub(crate) rotations: Family<Rotation, Counter>,
    /// 1 for each agent that the rotation under way waits for.
    rotation_waits_for: Family<Laggard, Gauge>,
    /// Changed certificate files that were not put in force.
    pub(crate) reloads_refused: Counter,
}

/// An agent that a rotation waits for, and in which step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Laggard {
    kind: &'static str,
    step: &'static str,
    cluster: String,
    instance: String,
}

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Reason {
    reason: &'static str,
}

/// How a certificate was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Way {
    how: &'static str,
}

/// A rotation that ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Rotation {
    kind: &'static str,
    result: &'static str,
}

impl PkiMetrics {
    /// Registers them; the registry's prefix is the process' own.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "enrolments",
            "Agents that got their first certificate with a token",
            m.enrolments.clone(),
        );
        registry.register(
            "enrolments_refused",
            "Requests for a first certificate that were refused",
            m.enrolments_refused.clone(),
        );
        registry.register(
            "certificates_issued",
            "Certificates issued: at joining, for renewals, for the collector itself",
            m.certificates_issued.clone(),
        );
        registry.register("rotations", "Rotations that ended", m.rotations.clone());
        registry.register(
            "rotation_waits_for",
            "1 for each agent that the rotation under way waits for",
            m.rotation_waits_for.clone(),
        );
        registry.register(
            "certificate_reloads_refused",
            "Changed certificate files that were not put in force",
            m.reloads_refused.clone(),
        );
        m
    }

    /// Counts a request for a first certificate that was refused.
    pub(crate) fn enrolment_refused(&self, reason: &'static str) {
        self.enrolments_refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a certificate.
    pub(crate) fn issued(&self, how: How) {
        self.certificates_issued.get_or_create(&Way { how: how.as_str() }).inc();
    }

    /// Counts a rotation that ended.
    pub(crate) fn rotated(&self, past: &Past) {
        let (kind, result) = (past.kind.as_str(), past.result.as_str());
        self.rotations.get_or_create(&Rotation { kind, result }).inc();
    }

    /// Shows whom the rotation under way waits for, and forgets those of `before` who have caught up.
    pub(crate) fn waits_for(
        &self,
        rotation: Option<&rotate::Rotation>,
        before: &mut HashSet<Laggard>,
    ) {
        let laggard = |rotation: &rotate::Rotation, name: &str| {
            let (cluster, instance) = name.split_once('/').unwrap_or((name, ""));
            Laggard {
                kind: rotation.kind.as_str(),
                step: rotation.step.as_str(),
                cluster: cluster.to_owned(),
                instance: instance.to_owned(),
            }
        };
        let names = |rotation| rotate::Rotation::laggards(rotation).map(|(name, _)| name);
        let now: HashSet<Laggard> =
            rotation.iter().flat_map(|r| names(r).map(|name| laggard(r, name))).collect();
        for gone in before.difference(&now) {
            self.rotation_waits_for.remove(gone);
        }
        for here in &now {
            self.rotation_waits_for.get_or_create(here).set(1);
        }
        *before = now;
    }
}

#[cfg(test)]
impl PkiMetrics {
    /// Rotations like this one.
    pub(crate) fn rotations_of(&self, past: &Past) -> u64 {
        let (kind, result) = (past.kind.as_str(), past.result.as_str());
        self.rotations.get_or_create(&Rotation { kind, result }).get()
    }

    /// Requests for a first certificate that were refused for this reason.
    pub(crate) fn refused_for(&self, reason: &'static str) -> u64 {
        self.enrolments_refused.get_or_create(&Reason { reason }).get()
    }
}
