//! Polls a Prometheus' `/federate` for what the allowlist lists.
//!
//! Less exact than remote write: between two polls only the newest sample of a series is seen. Timestamps are those of
//! the federated server; a series that vanishes is marked as stale at the poll that misses it. Intervals whose poll failed
//! are reported as gaps.

use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tributary_model::exposition::Format;
use tributary_model::sample::Timestamp;
use tributary_proto::frame::{Gap, GapCause};

use super::Arrival;
use super::http::{Fetched, MAX_ANSWER_BYTES, Page, chain, url};
use super::metrics::{Ignored, Name};
use super::scrape::{Parts, Schedule, wall_clock};
use super::track::{Reading, Track};
use crate::config;

/// Polls one Prometheus.
#[derive(Debug)]
pub(crate) struct Federation {
    config: config::Federate,
    parts: Parts,
    reading: Reading,
    track: Track,
    /// The newest poll, or the start of the first interval.
    polled: Option<Timestamp>,
    failing: bool,
}

impl Federation {
    /// A federation that has not polled yet.
    pub(crate) fn new(config: config::Federate, parts: Parts) -> Self {
        let reading =
            Reading { honor_timestamps: true, track_timestamps: true, ..Reading::default() };
        Self { config, parts, reading, track: Track::new(), polled: None, failing: false }
    }

    /// Polls until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(self.poll_for_ever()).await;
    }

    async fn poll_for_ever(mut self) {
        let mut schedule = Schedule::new(self.config.interval, &self.config.url);
        loop {
            schedule.wait().await;
            let at = Timestamp::from(SystemTime::UNIX_EPOCH + wall_clock());
            let fetched = self.fetch().await;
            let arrival = self.digest(fetched, at);
            let sent = self.parts.sender.send(arrival);
            if !matches!(tokio::time::timeout(self.config.interval, sent).await, Ok(Ok(()))) {
                self.parts.metrics.refuse(Name::federate);
            }
        }
    }

    async fn fetch(&self) -> Result<Fetched, String> {
        let selectors = if self.config.matchers.is_empty() {
            self.parts.screen.selectors()
        } else {
            self.config.matchers.clone()
        };
        if selectors.is_empty() {
            // Prometheus would answer with nothing; so there is no need to ask.
            return Ok(Fetched { content_type: String::new(), text: String::new(), travelled: 0 });
        }
        let page = page(&self.config.url, &selectors, self.config.timeout)?;
        self.parts.fetcher.fetch(&page).await.map_err(|e| chain(&e))
    }

    fn digest(&mut self, fetched: Result<Fetched, String>, at: Timestamp) -> Arrival {
        let view = self.parts.screen.view();
        self.track.follow(view.generation);
        let from = self.polled.replace(at).unwrap_or_else(|| at.minus(self.config.interval));
        let taken = fetched.and_then(|fetched| {
            self.parts.metrics.received(Name::federate, 0, fetched.travelled);
            self.track
                .take(&fetched.text, Format::Text, at, &self.reading, &view.rules)
                .map_err(|e| e.to_string())
        });
        self.tell(taken.as_ref().err());
        let Ok(batch) = taken else {
            let gap = Gap { from, to: at, cause: GapCause::SourceFailed, samples: 0 };
            return Arrival { gaps: vec![gap], ..Arrival::default() };
        };
        self.parts.metrics.received(Name::federate, batch.scraped, 0);
        self.parts.screen.left_out(batch.unlisted);
        self.parts.metrics.ignore(Ignored::duplicate, batch.duplicates);
        // Federation declares every type as unknown: nothing to learn from that.
        Arrival { samples: batch.samples, ..Arrival::default() }
    }

    fn tell(&mut self, failure: Option<&String>) {
        let url = &self.config.url;
        match failure {
            Some(reason) => {
                self.parts.metrics.failed(Name::federate);
                if !self.failing {
                    tracing::warn!(url, reason, "a federation poll failed");
                }
            }
            None if self.failing => tracing::info!(url, "federation polls succeed again"),
            None => {}
        }
        self.failing = failure.is_some();
    }
}

/// The page that has the newest samples of what the selectors select.
pub(crate) fn page(base: &str, selectors: &[String], timeout: Duration) -> Result<Page, String> {
    let params = selectors.iter().map(|selector| ("match[]", selector));
    Ok(Page {
        url: url(base, "/federate", params).map_err(|e| format!("the URL {base}: {e}"))?,
        accept: "text/plain;version=0.0.4",
        tell_timeout: false,
        credentials: None,
        timeout,
        max_bytes: MAX_ANSWER_BYTES,
    })
}

#[cfg(test)]
mod tests {
    use super::super::SourceMetrics;
    use super::super::http::Fetcher;
    use super::*;
    use crate::allow::rules::Rules;
    use crate::allow::{AllowMetrics, Allowlist};
    use std::sync::Arc;
    use tributary_model::sample::is_stale;

    fn federation(matchers: &[&str]) -> Federation {
        let rules = Rules::parse("rules: [{match: ['a{b=\"c\"}', d]}]", "a.yml").unwrap();
        let parts = Parts {
            sender: tokio::sync::mpsc::channel(1).0,
            screen: Allowlist::new(rules, AllowMetrics::default()).screen(),
            metrics: SourceMetrics::default(),
            fetcher: Arc::new(Fetcher::new()),
        };
        let config = config::Federate {
            url: "http://127.0.0.1:9".into(),
            matchers: matchers.iter().map(ToString::to_string).collect(),
            interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        };
        Federation::new(config, parts)
    }

    #[test]
    fn polls_become_samples_markers_and_gaps() {
        let mut federation = federation(&[]);
        let mut step = |second: i64, text: Result<&str, &str>| {
            let fetched = text.map_err(str::to_owned).map(|text| Fetched {
                content_type: "text/plain".into(),
                text: text.into(),
                travelled: text.len(),
            });
            let arrival = federation.digest(fetched, Timestamp::from_millis(second * 1000));
            let samples = arrival.samples.iter().map(|(labels, sample)| {
                let value =
                    if is_stale(sample.value) { "stale".into() } else { sample.value.to_string() };
                format!("{labels} {value} @{}", sample.at)
            });
            let gaps = arrival.gaps.iter().map(|gap| format!("gap {}..{}", gap.from, gap.to));
            samples.chain(gaps).collect::<Vec<_>>()
        };
        let text = "# TYPE d untyped\nd{instance=\"x\"} 1 29000\n";
        assert_eq!(step(30, Ok(text)), ["d{instance=\"x\"} 1 @29000"]);
        assert!(step(60, Ok(text)).is_empty());
        assert_eq!(step(90, Err("refused")), ["gap 60000..90000"]);
        assert_eq!(step(120, Err("refused")), ["gap 90000..120000"]);
        assert_eq!(step(150, Ok("")), ["d{instance=\"x\"} stale @150000"]);
        assert!(step(180, Ok("")).is_empty());
    }

    #[test]
    fn the_allowlist_says_what_to_ask_for() {
        let federation = federation(&[]);
        let selectors = federation.parts.screen.selectors();
        assert_eq!(selectors, ["{__name__=\"a\",b=\"c\"}", "{__name__=\"d\"}"]);
        let page = page("http://h:9090/prom/", &selectors, Duration::from_secs(1)).unwrap();
        let url = page.url.to_string();
        assert!(url.starts_with("http://h:9090/prom/federate?match%5B%5D=%7B__name__%3D%22a%22"));
        assert_eq!(url.matches("match%5B%5D=").count(), 2);
    }
}
