//! What the sources count.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Counters of all sources. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct SourceMetrics {
    /// Samples that arrived, before the allowlist.
    pub(crate) samples: Family<From, Counter>,
    /// Bytes that arrived, as they travelled.
    pub(crate) bytes: Family<From, Counter>,
    /// Remote-write requests by the answer they got.
    pub(crate) requests: Family<Answer, Counter>,
    /// Things in arrivals that the agent does not take.
    pub(crate) ignored: Family<Kind, Counter>,
    /// Scrapes and polls that failed.
    pub(crate) failures: Family<From, Counter>,
    /// Scrapes and polls whose samples the pipeline did not take in time.
    pub(crate) refused: Family<From, Counter>,
}

/// Which source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct From {
    source: Name,
}

/// The sources' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "written as label values")]
pub(crate) enum Name {
    /// Prometheus remote write.
    remote_write,
    /// Polls of `/federate`.
    federate,
    /// Scrapes of targets.
    scrape,
}

/// An HTTP status.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Answer {
    code: u16,
}

/// What is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: Ignored,
}

/// What is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "written as label values")]
pub(crate) enum Ignored {
    /// Native histograms that are not valid.
    invalid_histogram,
    /// Exemplars.
    exemplar,
    /// Samples whose labels are not valid.
    invalid_labels,
    /// Metadata that is not valid.
    invalid_metadata,
    /// A second sample of a series in one scrape.
    duplicate,
}

impl SourceMetrics {
    /// Registers the counters.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "tributary_agent_samples_received",
            "Samples that arrived, before the allowlist",
            m.samples.clone(),
        );
        registry.register(
            "tributary_agent_source_bytes",
            "Bytes that arrived, as they travelled",
            m.bytes.clone(),
        );
        registry.register(
            "tributary_agent_remote_write_requests",
            "Remote-write requests by the status they were answered with",
            m.requests.clone(),
        );
        registry.register(
            "tributary_agent_source_ignored",
            "Things in arrivals that the agent does not take, by kind",
            m.ignored.clone(),
        );
        registry.register(
            "tributary_agent_source_failures",
            "Scrapes and polls that failed",
            m.failures.clone(),
        );
        registry.register(
            "tributary_agent_source_refused",
            "Scrapes and polls whose samples the pipeline did not take in time",
            m.refused.clone(),
        );
        m
    }

    /// Counts what arrived.
    pub(crate) fn received(&self, source: Name, samples: usize, bytes: usize) {
        self.samples.get_or_create(&From { source }).inc_by(samples as u64);
        self.bytes.get_or_create(&From { source }).inc_by(bytes as u64);
    }

    /// Counts what was not taken.
    pub(crate) fn ignore(&self, kind: Ignored, count: u64) {
        if count > 0 {
            self.ignored.get_or_create(&Kind { kind }).inc_by(count);
        }
    }

    /// Counts a remote-write request.
    pub(crate) fn answered(&self, code: u16) {
        self.requests.get_or_create(&Answer { code }).inc();
    }

    /// Counts a scrape or poll that failed.
    pub(crate) fn failed(&self, source: Name) {
        self.failures.get_or_create(&From { source }).inc();
    }

    /// Counts a scrape or poll that the pipeline did not take.
    pub(crate) fn refuse(&self, source: Name) {
        self.refused.get_or_create(&From { source }).inc();
    }
}
