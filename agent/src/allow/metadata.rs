//! Types, helps and units: which metrics' go along, and which series count upwards.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tributary_model::sample::Timestamp;
use tributary_model::series::{Metadata, MetricType};
use tributary_proto::limits::MAX_METADATA_TEXT_BYTES;

/// Most metrics whose metadata is remembered; that of further ones is dropped and counted.
pub(crate) const MAX_METRICS: usize = 20_000;
/// Unchanged metadata is sent again after this time, for a spool that lost it.
pub(crate) const REPEAT: Duration = Duration::from_secs(3600);

/// What the sources said of metrics.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    known: HashMap<String, Known>,
    /// Names of metrics that leave.
    kept: HashSet<Arc<str>>,
    /// Metrics to look at: their metadata or whether they leave has changed.
    fresh: bool,
    looked: Option<Timestamp>,
}

#[derive(Debug)]
struct Known {
    metadata: Metadata,
    sent: Option<Timestamp>,
}

impl Catalogue {
    /// Takes note of metadata; says whether a type has changed, and how many entries did not fit.
    pub(crate) fn note(&mut self, metadata: Vec<Metadata>) -> (bool, u64) {
        let (mut retyped, mut dropped) = (false, 0);
        for metadata in metadata {
            let full = self.known.len() >= MAX_METRICS;
            let texts = [&metadata.metric, &metadata.help, &metadata.unit];
            if texts.iter().any(|text| text.len() > MAX_METADATA_TEXT_BYTES) {
                dropped += 1;
                continue;
            }
            match self.known.get_mut(&metadata.metric) {
                Some(known) if known.metadata == metadata => {}
                Some(known) => {
                    retyped |= known.metadata.kind != metadata.kind;
                    *known = Known { metadata, sent: None };
                    self.fresh = true;
                }
                None if full => dropped += 1,
                None => {
                    retyped = true;
                    self.fresh = true;
                    self.known.insert(metadata.metric.clone(), Known { metadata, sent: None });
                }
            }
        }
        (retyped, dropped)
    }

    /// Sends everything again: nobody knows what of it arrived.
    pub(crate) fn repeat(&mut self) {
        self.known.values_mut().for_each(|known| known.sent = None);
        self.fresh = true;
    }

    /// Takes note that a metric leaves.
    pub(crate) fn keep(&mut self, name: &Arc<str>) {
        if !self.kept.contains(name) {
            self.kept.insert(name.clone());
            self.fresh = true;
        }
    }

    /// Metrics that leave, anew.
    pub(crate) fn keep_only<'a>(&mut self, names: impl Iterator<Item = &'a Arc<str>>) {
        self.kept = names.cloned().collect();
    }

    /// The metadata that is to go along now.
    pub(crate) fn due(&mut self, now: Timestamp) -> Vec<Metadata> {
        let repeat = self.looked.is_none_or(|at| now >= at.plus(REPEAT / 10) || now < at);
        if !self.fresh && !repeat {
            return Vec::new();
        }
        self.fresh = false;
        self.looked = Some(now);
        let mut due = Vec::new();
        for known in self.known.values_mut() {
            let recent = known.sent.is_some_and(|at| now < at.plus(REPEAT) && now >= at);
            if !recent && leaves(&self.kept, &known.metadata.metric) {
                known.sent = Some(now);
                due.push(known.metadata.clone());
            }
        }
        due
    }

    /// Whether a metric's series are counters, by their declared type or, where there is none, by their name.
    pub(crate) fn rises(&self, name: &str) -> bool {
        let kind = |metric: &str| {
            self.known.get(metric).map(|k| k.metadata.kind).filter(|k| *k != MetricType::Unknown)
        };
        if let Some(kind) = kind(name) {
            return kind == MetricType::Counter;
        }
        for suffix in ["_bucket", "_count", "_sum", "_total", "_created"] {
            let Some(family) = name.strip_suffix(suffix) else { continue };
            return match kind(family) {
                Some(MetricType::Counter) => suffix == "_total",
                Some(MetricType::GaugeHistogram) => false,
                _ => suffix != "_created",
            };
        }
        false
    }
}

/// Whether a series of the metric (or metric family) leaves.
fn leaves(kept: &HashSet<Arc<str>>, metric: &str) -> bool {
    const SUFFIXES: [&str; 8] =
        ["_bucket", "_count", "_sum", "_total", "_created", "_info", "_gcount", "_gsum"];
    if kept.contains(metric) {
        return true;
    }
    let mut name = metric.to_owned();
    SUFFIXES.iter().any(|suffix| {
        name.truncate(metric.len());
        name.push_str(suffix);
        kept.contains(name.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(metric: &str, kind: MetricType) -> Metadata {
        Metadata { metric: metric.into(), kind, ..Metadata::default() }
    }

    #[test]
    fn counters_are_known_by_type_or_name() {
        let mut catalogue = Catalogue::default();
        catalogue.note(vec![
            metadata("hist", MetricType::Histogram),
            metadata("people_count", MetricType::Gauge),
            metadata("odd", MetricType::Counter),
            metadata("open", MetricType::Counter),
            metadata("vague_total", MetricType::Unknown),
            metadata("gh", MetricType::GaugeHistogram),
        ]);
        for (name, rises) in [
            ("hist_bucket", true),
            ("hist_sum", true),
            ("hist", false),
            ("hist_created", false),
            ("people_count", false),
            ("odd", true),
            ("open_total", true),
            ("vague_total", true),
            ("gh_bucket", false),
            ("unheard_of_total", true),
            ("unheard_of", false),
        ] {
            assert_eq!(catalogue.rises(name), rises, "{name}");
        }
    }

    #[test]
    fn metadata_follows_its_series() {
        let at = Timestamp::from_millis;
        let mut catalogue = Catalogue::default();
        catalogue
            .note(vec![metadata("a", MetricType::Histogram), metadata("b", MetricType::Gauge)]);
        assert!(catalogue.due(at(0)).is_empty());
        catalogue.keep(&"a_bucket".into());
        assert_eq!(catalogue.due(at(1)), [metadata("a", MetricType::Histogram)]);
        assert!(catalogue.due(at(2)).is_empty());
        catalogue.note(vec![metadata("a", MetricType::Summary)]);
        assert_eq!(catalogue.due(at(3)), [metadata("a", MetricType::Summary)]);
        assert_eq!(catalogue.due(at(3 + 3_600_000)), [metadata("a", MetricType::Summary)]);
    }
}
