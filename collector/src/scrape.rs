//! Scrapes the collector's own local targets: static Prometheus scrape configurations, stamped with the local cluster.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_model::duration;
use tributary_model::exposition::{self, Format};
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_model::series::Metadata;

use crate::api::http_client::Http;
use crate::api::view;

/// Largest exposition, in bytes. A larger one fails the scrape.
pub const MAX_BODY_BYTES: usize = 64 << 20;

/// What we can read, and what we like best.
const ACCEPT: &str =
    "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

/// One entry of `scrape:`, as Prometheus' `scrape_configs` writes it; other keys of Prometheus are refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawJob {
    /// The `job` label.
    pub job_name: String,
    /// How often; a Prometheus duration.
    #[serde(default = "default_interval")]
    pub scrape_interval: String,
    /// How long one scrape may take; at most the interval, which is also the default up to 10 s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scrape_timeout: Option<String>,
    /// The path on the target.
    #[serde(default = "default_path")]
    pub metrics_path: String,
    /// `http` or `https`.
    #[serde(default = "default_scheme")]
    pub scheme: String,
    /// Whether labels of the target win over ours; otherwise they are kept as `exported_<name>`.
    #[serde(default)]
    pub honor_labels: bool,
    /// Whether times in the exposition are taken.
    #[serde(default = "default_true")]
    pub honor_timestamps: bool,
    /// The targets.
    #[serde(default)]
    pub static_configs: Vec<RawTargets>,
}

/// One entry of `static_configs:`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTargets {
    /// `host:port`
    pub targets: Vec<String>,
    /// Labels of all series of these targets.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

fn default_interval() -> String {
    "15s".to_owned()
}

fn default_path() -> String {
    "/metrics".to_owned()
}

fn default_scheme() -> String {
    "http".to_owned()
}

fn default_true() -> bool {
    true
}

/// Takes what a scrape found.
pub trait Sink: Clone + Send + Sync + 'static {
    /// Stamps the series with the local cluster and stores the samples.
    fn write(
        &self,
        samples: Vec<(Labels, Sample)>,
        metadata: Vec<Metadata>,
    ) -> impl Future<Output = Result<(), String>> + Send;
}

/// A job with its values read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    name: String,
    interval: Duration,
    timeout: Duration,
    honor_labels: bool,
    honor_timestamps: bool,
    targets: Vec<(Uri, Labels)>,
}

/// Why a job cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("scrape job \"{job}\": {key}: {why}")]
pub struct JobError {
    job: String,
    key: &'static str,
    why: String,
}

impl Job {
    /// Checks and reads a job.
    pub fn new(raw: &RawJob) -> Result<Self, JobError> {
        let fail = |key, why: String| JobError { job: raw.job_name.clone(), key, why };
        if raw.job_name.is_empty() {
            return Err(fail("job_name", "is empty".to_owned()));
        }
        let interval = duration::parse(&raw.scrape_interval)
            .map_err(|e| fail("scrape_interval", e.to_string()))?;
        if interval.is_zero() {
            return Err(fail("scrape_interval", "must not be 0".to_owned()));
        }
        let timeout = match &raw.scrape_timeout {
            Some(text) => {
                duration::parse(text).map_err(|e| fail("scrape_timeout", e.to_string()))?
            }
            None => interval.min(Duration::from_secs(10)),
        };
        if timeout.is_zero() || timeout > interval {
            let why = "must not be 0, nor longer than scrape_interval";
            return Err(fail("scrape_timeout", why.to_owned()));
        }
        if !matches!(raw.scheme.as_str(), "http" | "https") {
            return Err(fail("scheme", format!("\"{}\" is neither http nor https", raw.scheme)));
        }
        let mut targets = Vec::new();
        for group in &raw.static_configs {
            for address in &group.targets {
                let target = target(raw, address, &group.labels);
                targets.push(target.map_err(|why| fail("static_configs", why))?);
            }
        }
        Ok(Self {
            name: raw.job_name.clone(),
            interval,
            timeout,
            honor_labels: raw.honor_labels,
            honor_timestamps: raw.honor_timestamps,
            targets,
        })
    }
}

fn target(
    raw: &RawJob,
    address: &str,
    labels: &BTreeMap<String, String>,
) -> Result<(Uri, Labels), String> {
    let bad = || format!("\"{address}\" is not a target: write host:port, like 127.0.0.1:9100");
    let authority: http::uri::Authority = address.parse().map_err(|_| bad())?;
    if authority.port().is_none() || address.contains(['@', '/']) {
        return Err(bad());
    }
    let uri = Uri::builder()
        .scheme(raw.scheme.as_str())
        .authority(authority)
        .path_and_query(raw.metrics_path.as_str())
        .build()
        .map_err(|e| format!("metrics_path \"{}\": {e}", raw.metrics_path))?;
    let mut pairs = labels.clone();
    pairs.entry("job".to_owned()).or_insert_with(|| raw.job_name.clone());
    pairs.entry("instance".to_owned()).or_insert_with(|| address.to_owned());
    let labels = Labels::from_pairs(pairs).map_err(|e| e.to_string())?;
    Ok((uri, labels))
}

/// Scrapes every target of every job.
pub struct Scraper<S> {
    targets: Vec<Target>,
    sink: S,
    shown: Shown,
}

/// The targets as the API shows them. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shown(Arc<Mutex<Vec<view::Target>>>);

impl Shown {
    /// The targets as of now.
    pub fn targets(&self) -> Vec<view::Target> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<S: Sink> Scraper<S> {
    /// A scraper of these jobs.
    pub fn new(jobs: &[Job], sink: S) -> Self {
        let targets: Vec<Target> = jobs.iter().flat_map(Target::of).collect();
        let shown = targets.iter().map(Target::shown).collect();
        Self { targets, sink, shown: Shown(Arc::new(Mutex::new(shown))) }
    }

    /// The targets as the API shows them.
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// Scrapes until `stop`, each target at its own time within the interval.
    pub async fn run(self, stop: CancellationToken) {
        let client = Http::new();
        let mut running = JoinSet::new();
        for (index, target) in self.targets.into_iter().enumerate() {
            let (sink, shown, client) = (self.sink.clone(), self.shown.clone(), client.clone());
            let stop = stop.clone();
            running.spawn(async move {
                stop.run_until_cancelled_owned(target.repeat(index, client, sink, shown)).await
            });
        }
        while running.join_next().await.is_some() {}
    }
}

/// One target and what it delivered last.
#[derive(Debug)]
struct Target {
    job: Job,
    uri: Uri,
    labels: Labels,
    /// The series of the last scrape without a time of their own: they become stale when they vanish.
    seen: HashSet<Labels>,
}

impl Target {
    fn of(job: &Job) -> Vec<Self> {
        let new = |(uri, labels): &(Uri, Labels)| Self {
            job: Job { targets: Vec::new(), ..job.clone() },
            uri: uri.clone(),
            labels: labels.clone(),
            seen: HashSet::new(),
        };
        job.targets.iter().map(new).collect()
    }

    fn shown(&self) -> view::Target {
        view::Target {
            discovered_labels: Labels::from_pairs([
                ("__address__", self.uri.authority().map_or("", |a| a.as_str())),
                ("__metrics_path__", self.uri.path()),
                ("__scheme__", self.uri.scheme_str().unwrap_or("http")),
                ("__scrape_interval__", &duration::format(self.job.interval)),
                ("__scrape_timeout__", &duration::format(self.job.timeout)),
                ("job", self.job.name.as_str()),
            ])
            .unwrap_or_default(),
            labels: self.labels.clone(),
            scrape_pool: self.job.name.clone(),
            scrape_url: self.uri.to_string(),
            global_url: self.uri.to_string(),
            last_error: String::new(),
            last_scrape: None,
            last_scrape_duration: Duration::ZERO,
            health: view::TargetHealth::Unknown,
            scrape_interval: self.job.interval,
            scrape_timeout: self.job.timeout,
        }
    }

    async fn repeat(mut self, index: usize, client: Http, sink: impl Sink, shown: Shown) {
        let mut ticks = tokio::time::interval_at(
            tokio::time::Instant::now() + self.offset(SystemTime::now().into()),
            self.job.interval,
        );
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let at = Timestamp::from(SystemTime::now());
            let started = Instant::now();
            let found = match tokio::time::timeout(self.job.timeout, self.fetch(&client)).await {
                Ok(found) => found,
                Err(_) => Err("context deadline exceeded".to_owned()),
            };
            let taken = started.elapsed();
            let (samples, metadata, error) = self.took(at, taken, found);
            if let Some(target) =
                shown.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index)
            {
                target.last_scrape = Some(at);
                target.last_scrape_duration = taken;
                target.health = match error {
                    None => view::TargetHealth::Up,
                    Some(_) => view::TargetHealth::Down,
                };
                target.last_error = error.unwrap_or_default();
            }
            if let Err(error) = sink.write(samples, metadata).await {
                tracing::warn!(target = %self.uri, error, "storing a scrape failed");
            }
        }
    }

    /// The time to the next scrape: each target has its own place in the interval, the same after a restart.
    fn offset(&self, now: Timestamp) -> Duration {
        let mut hasher = DefaultHasher::new();
        self.uri.to_string().hash(&mut hasher);
        let interval = u64::try_from(self.job.interval.as_millis()).unwrap_or(u64::MAX).max(1);
        let place = hasher.finish() % interval;
        let here = now.as_millis().unsigned_abs() % interval;
        Duration::from_millis((place + interval - here) % interval)
    }

    async fn fetch(&self, client: &Http) -> Result<(String, Format), String> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, concat!("tributary-collector/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|e| e.to_string())?;
        let response = client.send(request).await?;
        // A redirect is not followed: the configuration says what is scraped.
        if response.status() != StatusCode::OK {
            return Err(format!("server returned HTTP status {}", response.status()));
        }
        let format = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map_or(Format::Text, Format::from_content_type);
        let body = Limited::new(response.into_body(), MAX_BODY_BYTES);
        let bytes = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        let text = String::from_utf8(bytes.into()).map_err(|e| e.to_string())?;
        Ok((text, format))
    }

    /// The samples of a scrape: the target's own, staleness markers for those that vanished, and `up` and its like.
    fn took(
        &mut self,
        at: Timestamp,
        taken: Duration,
        found: Result<(String, Format), String>,
    ) -> (Vec<(Labels, Sample)>, Vec<Metadata>, Option<String>) {
        let read = found
            .and_then(|(text, format)| exposition::read(&text, format).map_err(|e| e.to_string()));
        let (exposition, error) = match read {
            Ok(exposition) => (exposition, None),
            Err(error) => (exposition::Exposition::default(), Some(error)),
        };
        let scraped = exposition.rows.len();
        let mut before = std::mem::take(&mut self.seen);
        let mut samples = Vec::with_capacity(scraped + 5);
        let mut added = 0_usize;
        for (labels, value, own) in exposition.rows {
            let labels = merged(&labels, &self.labels, self.job.honor_labels);
            let own = own.filter(|_| self.job.honor_timestamps);
            if own.is_none() {
                added += usize::from(!before.remove(&labels));
                self.seen.insert(labels.clone());
            } else {
                added += 1;
            }
            samples.push((labels, Sample { at: own.unwrap_or(at), value }));
        }
        let stale = Sample { at, value: stale_nan() };
        samples.extend(before.into_iter().map(|labels| (labels, stale)));
        for (name, value) in [
            ("up", f64::from(u8::from(error.is_none()))),
            ("scrape_duration_seconds", taken.as_secs_f64()),
            ("scrape_samples_scraped", scraped as f64),
            ("scrape_samples_post_metric_relabeling", scraped as f64),
            ("scrape_series_added", added as f64),
        ] {
            samples.push((self.labels.with(METRIC_NAME, name), Sample { at, value }));
        }
        (samples, exposition.metadata, error)
    }
}

/// The labels of a series with those of its target; where both have one, `honor` says whether the series' own stays,
/// otherwise it is kept as `exported_<name>`.
pub(crate) fn merged(labels: &Labels, target: &Labels, honor: bool) -> Labels {
    let mut merged = labels.clone();
    for label in target {
        match labels.get(&label.name) {
            None => merged = merged.with(&label.name, &label.value),
            Some(_) if honor => {}
            Some(own) => {
                let mut kept = format!("exported_{}", label.name);
                while labels.get(&kept).is_some() || target.get(&kept).is_some() {
                    kept.insert_str(0, "exported_");
                }
                merged = merged.with(&kept, own).with(&label.name, &label.value);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_model::yaml;

    fn job(text: &str) -> Result<Job, String> {
        let raw: RawJob = yaml::parse(text, "job.yml").map_err(|e| e.to_string())?;
        Job::new(&raw).map_err(|e| e.to_string())
    }

    const JOB: &str = "job_name: node\nstatic_configs: [ { targets: [a:1], labels: { x: y } } ]\n";

    fn shown(samples: &[(Labels, Sample)]) -> Vec<String> {
        let mut lines: Vec<String> = samples
            .iter()
            .filter(|(labels, _)| !labels.metric_name().starts_with("scrape_duration"))
            .map(|(labels, sample)| {
                let stale = tributary_model::sample::is_stale(sample.value);
                let value = if stale { "stale".to_owned() } else { sample.value.to_string() };
                format!("{labels} {value} {}", sample.at)
            })
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn vanished_series_become_stale_and_failures_make_all_stale() {
        let mut target = Target::of(&job(JOB).unwrap()).remove(0);
        let at = Timestamp::from_millis;
        let text = |text: &str| Ok((text.to_owned(), Format::Text));
        let taken = Duration::from_millis(1);
        let first = target.took(at(1000), taken, text("a{job=\"own\"} 1\nb 2 500\nc 3\n"));
        assert_eq!(
            shown(&first.0),
            [
                r#"a{exported_job="own", instance="a:1", job="node", x="y"} 1 1000"#,
                r#"b{instance="a:1", job="node", x="y"} 2 500"#,
                r#"c{instance="a:1", job="node", x="y"} 3 1000"#,
                r#"scrape_samples_post_metric_relabeling{instance="a:1", job="node", x="y"} 3 1000"#,
                r#"scrape_samples_scraped{instance="a:1", job="node", x="y"} 3 1000"#,
                r#"scrape_series_added{instance="a:1", job="node", x="y"} 3 1000"#,
                r#"up{instance="a:1", job="node", x="y"} 1 1000"#,
            ]
        );
        let second = shown(&target.took(at(2000), taken, text("c 4\n")).0);
        assert!(second.iter().any(|l| l.starts_with("a{") && l.ends_with("stale 2000")));
        assert!(!second.iter().any(|l| l.starts_with("b{")), "a time of its own: never stale");
        let third = target.took(at(3000), taken, Err("refused".into()));
        assert_eq!(third.2.as_deref(), Some("refused"));
        let third = shown(&third.0);
        assert!(third.iter().any(|l| l.starts_with("c{") && l.ends_with("stale 3000")));
        assert!(third.iter().any(|l| l.starts_with("up{") && l.ends_with(" 0 3000")));
    }

    #[test]
    fn faults_name_the_job_and_the_key() {
        for (text, expected) in [
            ("job_name: ''", "scrape job \"\": job_name: is empty"),
            ("job_name: a\nscrape_interval: 0s", "scrape_interval: must not be 0"),
            ("job_name: a\nscrape_timeout: 1h", "scrape_timeout: must not be 0, nor longer"),
            ("job_name: a\nscheme: ftp", "scheme: \"ftp\" is neither"),
            ("job_name: a\nstatic_configs: [{targets: [nohost]}]", "\"nohost\" is not a target"),
            ("job_name: a\nstatic_configs: [{targets: ['a:1/x']}]", "is not a target"),
            ("job_name: a\nrelabel_configs: []", "unknown key \"relabel_configs\""),
        ] {
            let error = job(text).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn the_place_in_the_interval_does_not_move() {
        let target = Target::of(&job(JOB).unwrap()).remove(0);
        let next = |now: i64| {
            let now = Timestamp::from_millis(now);
            now.plus(target.offset(now)).as_millis() % 15_000
        };
        assert_eq!(next(1_000_000_000_123), next(1_700_000_000_456));
    }
}
