//! Scrapes static targets as Prometheus does: the same labels, timestamps, staleness markers and `up`.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_model::exposition::Format;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::sample::{Sample, Timestamp, is_stale};

use super::http::{Fetched, Fetcher, MAX_ANSWER_BYTES, Page, chain, url};
use super::metrics::{Ignored, Name};
use super::track::{Batch, Reading, Track};
use super::{Arrival, Sender, SourceMetrics};
use crate::allow::Screen;
use crate::config;

/// What is asked for: OpenMetrics rather than the text format.
const ACCEPT: &str =
    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
/// A scrape that begins this close to its time is given exactly that time, so timestamps compress well.
const TOLERANCE: Duration = Duration::from_millis(2);

/// Scrapes all targets.
#[derive(Debug)]
pub(crate) struct Scraper {
    targets: Vec<Target>,
}

impl Scraper {
    /// A scraper of the targets of all jobs.
    pub(crate) fn new(jobs: &[config::ScrapeJob], parts: &Parts) -> Result<Self, InvalidTarget> {
        let mut targets = Vec::new();
        for job in jobs {
            for target in &job.targets {
                targets.push(Target::new(job, target, parts.clone())?);
            }
        }
        Ok(Self { targets })
    }

    /// Scrapes until `stop`. As with Prometheus, series are not marked as stale when that is the end.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut loops = JoinSet::new();
        for target in self.targets {
            loops.spawn(stop.clone().run_until_cancelled_owned(target.run()));
        }
        while loops.join_next().await.is_some() {}
    }
}

/// What sources work with. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// Where arrivals go.
    pub(crate) sender: Sender,
    /// What is listed.
    pub(crate) screen: Screen,
    /// Counters.
    pub(crate) metrics: SourceMetrics,
    /// The HTTP client.
    pub(crate) fetcher: Arc<Fetcher>,
}

/// A target whose address makes no URL.
#[derive(Debug, thiserror::Error)]
#[error("target \"{address}\" of scrape job \"{job}\" does not make a URL")]
pub(crate) struct InvalidTarget {
    job: String,
    address: String,
    source: http::uri::InvalidUri,
}

/// One target and what is known of it.
#[derive(Debug)]
struct Target {
    page: Page,
    interval: Duration,
    schedule: Schedule,
    reading: Reading,
    report: Report,
    track: Track,
    parts: Parts,
    failing: bool,
}

/// The labels of the series that tell of the scrape itself.
#[derive(Debug)]
struct Report {
    up: Labels,
    duration: Labels,
    scraped: Labels,
    relabeled: Labels,
    added: Labels,
}

impl Target {
    fn new(
        job: &config::ScrapeJob,
        target: &config::Target,
        parts: Parts,
    ) -> Result<Self, InvalidTarget> {
        let base = format!("{}://{}", job.scheme, target.address);
        let params = job.params.iter().map(|(name, value)| (name, value));
        let url = url(&base, &job.metrics_path, params).map_err(|source| InvalidTarget {
            job: job.job_name.clone(),
            address: target.address.clone(),
            source,
        })?;
        let mut labels = BTreeMap::from([
            ("job".to_owned(), job.job_name.clone()),
            ("instance".to_owned(), target.address.clone()),
        ]);
        labels.extend(target.labels.clone());
        labels.retain(|name, value| !name.is_empty() && !value.is_empty());
        Ok(Self {
            schedule: Schedule::new(job.interval, (url.to_string(), &labels)),
            report: Report::new(&labels),
            page: Page {
                url,
                accept: ACCEPT,
                tell_timeout: true,
                credentials: job.credentials.clone(),
                timeout: job.timeout,
                max_bytes: job.body_size_limit.map_or(MAX_ANSWER_BYTES, |limit| {
                    usize::try_from(limit).unwrap_or(MAX_ANSWER_BYTES).min(MAX_ANSWER_BYTES)
                }),
            },
            interval: job.interval,
            reading: Reading {
                labels,
                honor_labels: job.honor_labels,
                honor_timestamps: job.honor_timestamps,
                track_timestamps: false,
                sample_limit: job.sample_limit,
            },
            track: Track::new(),
            parts,
            failing: false,
        })
    }

    async fn run(mut self) {
        loop {
            let due = self.schedule.wait().await;
            let began = wall_clock();
            let at = if began.abs_diff(due) <= TOLERANCE { due } else { began };
            let at = Timestamp::from(SystemTime::UNIX_EPOCH + at);
            let started = Instant::now();
            let fetched = self.parts.fetcher.fetch(&self.page).await;
            let fetched = fetched.map_err(|e| chain(&e));
            self.deliver(fetched, at, started.elapsed()).await;
        }
    }

    async fn deliver(&mut self, fetched: Result<Fetched, String>, at: Timestamp, took: Duration) {
        let mut batch = self.digest(fetched, at, took);
        let count = batch.samples.iter().filter(|(_, sample)| !is_stale(sample.value)).count();
        let unlisted = usize::try_from(batch.unlisted).unwrap_or(0);
        self.parts.metrics.received(Name::scrape, count + unlisted, 0);
        self.parts.screen.left_out(batch.unlisted);
        self.parts.metrics.ignore(Ignored::duplicate, batch.duplicates);
        let arrival = Arrival {
            samples: std::mem::take(&mut batch.samples),
            metadata: std::mem::take(&mut batch.metadata),
            ..Arrival::default()
        };
        let sent = tokio::time::timeout(self.interval, self.parts.sender.send(arrival)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.parts.metrics.refuse(Name::scrape);
        }
    }

    /// The samples of one scrape, failed or not, with those that tell of it.
    fn digest(&mut self, fetched: Result<Fetched, String>, at: Timestamp, took: Duration) -> Batch {
        let view = self.parts.screen.view();
        self.track.follow(view.generation);
        let taken = fetched.and_then(|fetched| {
            self.parts.metrics.received(Name::scrape, 0, fetched.travelled);
            let format = Format::from_content_type(&fetched.content_type);
            self.track
                .take(&fetched.text, format, at, &self.reading, &view.rules)
                .map_err(|e| e.to_string())
        });
        let up = taken.is_ok();
        self.tell(taken.as_ref().err());
        let mut batch = taken.unwrap_or_else(|_| self.track.lose(at));
        let report = &self.report;
        for (labels, value) in [
            (&report.up, f64::from(u8::from(up))),
            (&report.duration, took.as_secs_f64()),
            (&report.scraped, batch.scraped as f64),
            (&report.relabeled, batch.scraped as f64),
            (&report.added, batch.added as f64),
        ] {
            batch.samples.push((labels.clone(), Sample { at, value }));
        }
        batch
    }

    /// Says once that a target fails, and once that it does not any more.
    fn tell(&mut self, failure: Option<&String>) {
        let url = &self.page.url;
        match failure {
            Some(reason) => {
                self.parts.metrics.failed(Name::scrape);
                if !self.failing {
                    tracing::warn!(%url, reason, "a scrape failed");
                }
            }
            None if self.failing => tracing::info!(%url, "scrapes succeed again"),
            None => {}
        }
        self.failing = failure.is_some();
    }
}

impl Report {
    fn new(labels: &BTreeMap<String, String>) -> Self {
        let named = |name: &str| {
            let name = (METRIC_NAME.to_owned(), name.to_owned());
            let pairs = labels.clone().into_iter().filter(|(n, _)| n != METRIC_NAME);
            Labels::from_pairs(pairs.chain([name])).unwrap_or_default()
        };
        Self {
            up: named("up"),
            duration: named("scrape_duration_seconds"),
            scraped: named("scrape_samples_scraped"),
            relabeled: named("scrape_samples_post_metric_relabeling"),
            added: named("scrape_series_added"),
        }
    }
}

/// Time since 1970.
pub(super) fn wall_clock() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

/// When a source is read: at a fixed place in every interval, the same from start to start and spread over all sources.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    interval: Duration,
    offset: Duration,
    last: Duration,
}

impl Schedule {
    /// The schedule of what `identity` identifies.
    pub(super) fn new(interval: Duration, identity: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let offset = Duration::from_millis(hasher.finish() % millis);
        Self { interval, offset, last: Duration::ZERO }
    }

    /// Waits for the next moment, and returns it as time since 1970. What was missed is left out.
    pub(super) async fn wait(&mut self) -> Duration {
        let now = wall_clock();
        let due = self.due(now);
        tokio::time::sleep(due.saturating_sub(now)).await;
        due
    }

    fn due(&mut self, now: Duration) -> Duration {
        // A timer that fired early must not make the same moment due again; a clock that was set back may.
        let ahead = self.last.saturating_sub(now);
        let early = !ahead.is_zero() && ahead <= self.interval;
        self.last = next(if early { self.last } else { now }, self.interval, self.offset);
        self.last
    }
}

/// The next moment after `now` that lies `offset` after a multiple of `interval`.
fn next(now: Duration, interval: Duration, offset: Duration) -> Duration {
    let period = interval.as_nanos().max(1);
    let since = now.as_nanos() + period - offset.as_nanos() % period;
    let wait = period - since % period;
    now + Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allow::rules::Rules;
    use crate::allow::{AllowMetrics, Allowlist};
    use tokio::sync::mpsc;

    fn target() -> (Target, mpsc::Receiver<Arrival>) {
        let rules = Rules::parse("rules: [{match: '{__name__=~\".+\"}'}]", "a.yml").unwrap();
        let screen = Allowlist::new(rules, AllowMetrics::default()).screen();
        let (sender, receiver) = mpsc::channel(8);
        let parts = Parts {
            sender,
            screen,
            metrics: SourceMetrics::default(),
            fetcher: Arc::new(Fetcher::new()),
        };
        let job = config::ScrapeJob {
            job_name: "node".into(),
            interval: Duration::from_secs(15),
            timeout: Duration::from_secs(10),
            scheme: "http".into(),
            metrics_path: "/metrics".into(),
            params: vec![("collect[]".into(), "cpu".into())],
            honor_labels: false,
            honor_timestamps: true,
            credentials: None,
            sample_limit: 0,
            body_size_limit: None,
            targets: vec![],
        };
        let labels = BTreeMap::from([("rack".to_owned(), "7".to_owned())]);
        let target = config::Target { address: "h:9100".into(), labels };
        (Target::new(&job, &target, parts).unwrap(), receiver)
    }

    fn fetched(text: &str) -> Fetched {
        Fetched { content_type: "text/plain".into(), text: text.into(), travelled: text.len() }
    }

    #[test]
    fn a_scrape_tells_of_itself_and_of_what_vanished() {
        let (mut target, _receiver) = target();
        assert_eq!(target.page.url, "http://h:9100/metrics?collect%5B%5D=cpu");
        let mut step = |second: i64, text: Result<Fetched, String>| {
            let at = Timestamp::from_millis(second * 1000);
            let batch = target.digest(text, at, Duration::from_millis(500));
            let rack = "{instance=\"h:9100\", job=\"node\", rack=\"7\"}";
            assert!(batch.samples.iter().all(|(_, sample)| sample.at == at));
            let shown = |(labels, sample): &(Labels, Sample)| {
                let value =
                    if is_stale(sample.value) { "stale".into() } else { sample.value.to_string() };
                format!("{} {value}", labels.to_string().replace(rack, ""))
            };
            batch.samples.iter().map(shown).collect::<Vec<_>>().join(", ")
        };
        let report = |up, scraped, added| {
            format!(
                "up {up}, scrape_duration_seconds 0.5, scrape_samples_scraped {scraped}, \
                 scrape_samples_post_metric_relabeling {scraped}, scrape_series_added {added}"
            )
        };
        assert_eq!(step(1, Ok(fetched("a 1\nb 2\n"))), format!("a 1, b 2, {}", report(1, 2, 2)));
        assert_eq!(step(2, Ok(fetched("a 3\n"))), format!("a 3, b stale, {}", report(1, 1, 0)));
        assert_eq!(step(3, Err("x".into())), format!("a stale, {}", report(0, 0, 0)));
        assert_eq!(step(4, Ok(fetched("a ?\n"))), report(0, 0, 0));
        assert_eq!(step(5, Ok(fetched("a 4\n"))), format!("a 4, {}", report(1, 1, 1)));
    }

    #[test]
    fn scrapes_are_aligned() {
        let seconds = Duration::from_secs;
        for (now, interval, offset, due) in [
            (100, 15, 0, 105),
            (105, 15, 0, 120),
            (100, 15, 11, 101),
            (101, 15, 11, 116),
            (3, 15, 11, 11),
        ] {
            assert_eq!(next(seconds(now), seconds(interval), seconds(offset)), seconds(due));
        }
        let place = |identity| Schedule::new(seconds(15), identity).offset;
        assert_eq!(place("a"), place("a"));
        assert_ne!(place("a"), place("b"));
        assert!(place("a") < seconds(15));
    }

    #[test]
    fn no_moment_is_due_twice() {
        let millis = Duration::from_millis;
        let mut schedule =
            Schedule { interval: millis(1000), offset: Duration::ZERO, last: Duration::ZERO };
        for (now, due) in [(5500, 6000), (5999, 7000), (7001, 8000), (12_300, 13_000), (2500, 3000)]
        {
            assert_eq!(schedule.due(millis(now)), millis(due), "{now}");
        }
    }

    #[tokio::test]
    async fn what_was_scraped_reaches_the_pipeline() {
        let (mut target, mut receiver) = target();
        target
            .deliver(Ok(fetched("# TYPE a counter\na 1\n")), Timestamp::default(), seconds())
            .await;
        let arrival = receiver.recv().await.unwrap();
        assert_eq!((arrival.samples.len(), arrival.metadata.len()), (6, 1));
        assert!(arrival.done.is_none());
    }

    fn seconds() -> Duration {
        Duration::from_secs(1)
    }
}
