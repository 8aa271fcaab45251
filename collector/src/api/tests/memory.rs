//! An engine over a few series in memory.

use std::sync::Arc;
use std::time::Duration;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, Sample, Timestamp};
use tributary_model::series::{Metadata, MetricType};
use tributary_promql::source::{SampleReader, Select, Series, Source, SourceError};

use super::NOW;
use crate::query::{Answer, Engine, Gap, Job, Look, Point, QueryError, Take, Watch, engine};

/// Series in memory.
pub struct Memory(Vec<(Labels, Vec<Sample>)>);

impl Memory {
    pub fn new() -> Self {
        let series = |pairs: &[(&str, &str)], value: f64| {
            let samples = [85_719, 90_719, 95_731]
                .map(|millis| Sample::new(1_795_224_600_000 + millis, value));
            (Labels::from_pairs(pairs.iter().copied()).unwrap(), samples.to_vec())
        };
        let own = [("__name__", "up"), ("cluster", "eu-1"), ("job", "prometheus")];
        let other = [("__name__", "up"), ("cluster", "us-1"), ("job", "prometheus")];
        let third = [("__name__", "go_goroutines"), ("cluster", "eu-1"), ("job", "prometheus")];
        let late = [("__name__", "late"), ("cluster", "us-2"), ("job", "prometheus")];
        let late = Labels::from_pairs(late).unwrap();
        let before = NOW.minus(Duration::from_secs(14 * 60));
        let late = (late, vec![Sample { at: before, value: 1.0 }]);
        Self(vec![series(&own, 1.0), series(&other, 0.0), series(&third, 32.0), late])
    }

    fn found(&self, look: &Look) -> impl Iterator<Item = &(Labels, Vec<Sample>)> {
        let sets = look.sets();
        self.0.iter().filter(move |(labels, samples)| {
            sets.iter().any(|set| Matcher::all_match(set, labels))
                && samples.iter().any(|s| s.at >= look.from && s.at <= look.to)
        })
    }
}

struct Reader(Vec<Sample>);

impl SampleReader for Reader {
    fn read(
        &self,
        from: Timestamp,
        to: Timestamp,
        numbers: &mut Numbers,
        _: &mut Vec<HistogramSample>,
    ) -> Result<(), SourceError> {
        numbers.extend(self.0.iter().copied().filter(|s| s.at >= from && s.at <= to));
        Ok(())
    }
}

impl Source for Memory {
    fn select(&self, request: &Select<'_>) -> Result<Vec<Series>, SourceError> {
        let matching = self.0.iter().filter(|(l, _)| Matcher::all_match(request.matchers, l));
        Ok(matching
            .map(|(labels, samples)| Series {
                labels: labels.clone(),
                samples: Box::new(Reader(samples.clone())),
            })
            .collect())
    }
}

impl Engine for Memory {
    fn evaluate(&self, job: &Job, watch: &Watch) -> Result<Answer, QueryError> {
        engine::evaluate(job, self, watch)
    }

    fn series(&self, look: &Look) -> Result<Vec<Labels>, QueryError> {
        let mut found: Vec<Labels> = self.found(look).map(|(labels, _)| labels.clone()).collect();
        found.sort();
        Ok(found)
    }

    fn label_names(&self, look: &Look) -> Result<Vec<Arc<str>>, QueryError> {
        let mut found: Vec<Arc<str>> =
            self.found(look).flat_map(|(l, _)| l.iter().map(|l| l.name.clone())).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn label_values(&self, name: &str, look: &Look) -> Result<Vec<Arc<str>>, QueryError> {
        let mut found: Vec<Arc<str>> =
            self.found(look).filter_map(|(l, _)| l.get(name).map(Arc::from)).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    fn latest(&self, look: &Look) -> Result<Vec<(Labels, Point)>, QueryError> {
        let last = |samples: &[Sample]| Point::Number(*samples.last().unwrap());
        Ok(self.found(look).map(|(l, s)| (l.clone(), last(s))).collect())
    }

    fn samples(&self, look: &Look, take: Take<'_>, _: &Watch) -> Result<(), QueryError> {
        for (labels, samples) in self.found(look) {
            let inside = |sample: &&Sample| sample.at >= look.from && sample.at <= look.to;
            let samples: Vec<Sample> = samples.iter().filter(inside).copied().collect();
            if !samples.is_empty() && !take(labels, &samples, &[]) {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Result<Vec<(String, Metadata)>, QueryError> {
        let metadata = |cluster: &str, metric: &str, kind, help: &str| {
            let (metric, help) = (metric.to_owned(), help.to_owned());
            (cluster.to_owned(), Metadata { metric, kind, help, unit: String::new() })
        };
        let help = "Number of goroutines that currently exist.";
        Ok(vec![
            metadata("eu-1", "go_goroutines", MetricType::Gauge, help),
            metadata("us-1", "go_goroutines", MetricType::Gauge, help),
            metadata("us-1", "a_total", MetricType::Counter, "a < b"),
        ])
    }

    fn gaps(&self) -> Result<Vec<Gap>, QueryError> {
        let gap = |cluster: &str| Gap {
            cluster: cluster.to_owned(),
            instance: "agent".to_owned(),
            from: NOW.minus(Duration::from_secs(60)),
            to: NOW,
            cause: "spool_full".to_owned(),
            samples: 7,
        };
        Ok(vec![gap("us-1"), gap("eu-1")])
    }
}
