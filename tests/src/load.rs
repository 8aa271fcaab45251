//! Load with a memory: remote-write bodies to many agents at a given rate, and what the collector must have of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::http::Connection;
use crate::prometheus::{HEADERS, body};
use crate::world::{Agent, Collector};
use crate::{eventually, now_ms, patiently};

/// The metric of all load.
const METRIC: &str = "load";

/// How many requests an agent has at the same time at most; each has a series of its own, as Prometheus' shards do.
const SHARDS: u32 = 4;

/// How long a body that was not taken waits before it is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// Running load.
#[derive(Debug)]
pub struct Load {
    shards: Vec<JoinHandle<Series>>,
    per_second: u64,
    accepted: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// What was sent and taken: a sample every `period`, whose value is its number.
#[derive(Debug, Clone)]
struct Series {
    cluster: String,
    shard: u32,
    start_ms: i64,
    period: Duration,
    count: u64,
}

/// Everything that was sent and taken.
#[derive(Debug)]
pub struct Sent(Vec<Series>);

impl Load {
    /// Posts `rate` bodies a second to each of these agents, one sample a body.
    pub fn start<'a>(agents: impl IntoIterator<Item = &'a Agent>, rate: u32) -> Self {
        let (accepted, stop) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let period = Duration::from_secs(1) * SHARDS / rate;
        assert!(period >= Duration::from_millis(1), "times of samples are milliseconds");
        let (mut shards, mut per_second) = (Vec::new(), 0);
        for agent in agents {
            per_second += u64::from(rate);
            for shard in 0..SHARDS {
                let cluster = agent.cluster.clone();
                let series = Series { cluster, shard, start_ms: now_ms(), period, count: 0 };
                let (accepted, stop) = (Arc::clone(&accepted), stop.clone());
                shards.push(tokio::spawn(post(series, agent.write_url(), accepted, stop)));
            }
        }
        Self { shards, per_second, accepted, stop }
    }

    /// Waits until as many more bodies were taken as should be in so many seconds.
    pub async fn goes_on(&self, seconds: u64) {
        let enough = self.accepted.load(Ordering::Relaxed) + seconds * self.per_second;
        eventually("the load goes on", async || {
            (self.accepted.load(Ordering::Relaxed) >= enough).then_some(())
        })
        .await;
    }

    /// Ends it; what is on its way is sent until it is taken.
    pub async fn stop(self) -> Sent {
        self.stop.cancel();
        let mut sent = Vec::new();
        for shard in self.shards {
            sent.push(shard.await.unwrap());
        }
        Sent(sent)
    }
}

/// Sends one series until `stop`. A body that may have been taken is sent again until an answer says that it was.
async fn post(
    mut series: Series,
    url: String,
    accepted: Arc<AtomicU64>,
    stop: CancellationToken,
) -> Series {
    let connection = Connection::new();
    let shard = series.shard.to_string();
    let labels = [("__name__", METRIC), ("shard", &*shard)];
    // A tick that comes late is made up for.
    let mut ticks = tokio::time::interval(series.period);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let sample = series.sample(series.count);
        let body = Bytes::from(body(&[(&labels, vec![sample])]));
        loop {
            match connection.send(Method::POST, &url, &HEADERS, body.clone()).await {
                Ok(answer) if answer.status.is_success() => break,
                Ok(answer) if answer.status.is_client_error() => {
                    panic!("{}: {}", answer.status, answer.text())
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
        series.count += 1;
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    series
}

impl Sent {
    /// How many samples.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|series| series.count).sum()
    }

    /// Waits until the collector has all of it, and fails if it has anything else.
    pub async fn is_stored(&self, collector: &Collector) {
        for series in &self.0 {
            let (cluster, shard) = (&series.cluster, series.shard);
            let selector = format!("{METRIC}{{cluster=\"{cluster}\", shard=\"{shard}\"}}");
            let minutes = u32::try_from((now_ms() - series.start_ms) / 60_000).unwrap() + 2;
            let expected: Vec<_> = (0..series.count).map(|i| series.stored(i)).collect();
            let stored = async || {
                let matrix = collector.samples(&selector, minutes).await?;
                Some(matrix.into_values().flatten().collect::<Vec<_>>())
            };
            // Whatever is there when all should be there is what is compared.
            patiently(async || (stored().await?.len() >= expected.len()).then_some(())).await;
            let found = stored().await.unwrap_or_default();
            assert!(found == expected, "{selector}: {}", difference(&expected, &found));
        }
    }
}

type Stored = (i64, String);

/// How what is stored differs from what was sent.
fn difference(expected: &[Stored], found: &[Stored]) -> String {
    let lost: Vec<_> = expected.iter().filter(|sample| !found.contains(sample)).collect();
    let wrong: Vec<_> = found.iter().filter(|sample| !expected.contains(sample)).collect();
    format!(
        "{} sent, {} stored; {} lost, from {:?} on; {} never sent: {:?}",
        expected.len(),
        found.len(),
        lost.len(),
        lost.first(),
        wrong.len(),
        wrong.first()
    )
}

impl Series {
    /// The time and value of a sample.
    fn sample(&self, number: u64) -> (i64, f64) {
        let after = self.period.as_micros() * u128::from(number) / 1000;
        (self.start_ms + i64::try_from(after).unwrap(), number as f64)
    }

    /// The same as the API shows it.
    fn stored(&self, number: u64) -> Stored {
        let (at, value) = self.sample(number);
        (at, value.to_string())
    }
}
