//! Sends a fleet to remote-write receivers, as fast as they answer or at a pace.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::Method;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tributary_tests::fleet_data::{Cluster, Plan};
use tributary_tests::http::Connection;
use tributary_tests::prometheus::HEADERS;

use crate::meter::Times;

/// No cluster is ahead of another by more scrapes: receivers refuse what is too far behind.
const TOGETHER: u64 = 20;
/// How long a receiver that is busy is left alone, and how often.
const AGAIN: Duration = Duration::from_millis(100);
const ATTEMPTS: usize = 600;

/// A fleet on its way.
#[derive(Debug)]
pub struct Feed {
    clusters: Vec<(Cluster, Connection)>,
    series: u64,
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Fed {
    /// How many samples.
    pub samples: u64,
    /// Bytes of the bodies.
    pub bytes: u64,
    /// From the first body to the last answer.
    pub took: Duration,
    /// How long each answer took.
    pub answers: Times,
}

impl Feed {
    /// A fleet before its first scrape; with `label`, its series say which cluster they are of.
    pub fn new(plan: &Plan, label: bool) -> Self {
        let clusters = (0..plan.clusters)
            .map(|number| (Cluster::new(plan, number, label), Connection::new()))
            .collect();
        Self { clusters, series: plan.series as u64 }
    }

    /// Sends so many scrapes of every cluster to its URL, one after the other; with `pace`, one in that time.
    pub async fn send(
        &mut self,
        urls: &[String],
        steps: u64,
        pace: Option<Duration>,
    ) -> anyhow::Result<Fed> {
        let start = Instant::now();
        let count = self.clusters.len();
        let barrier = Arc::new(Barrier::new(count));
        let mut senders = JoinSet::new();
        for (number, (cluster, connection)) in self.clusters.drain(..).enumerate() {
            let url = urls[number % urls.len()].clone();
            // Clusters are not scraped at the same time.
            let pace = pace.map(|pace| (pace, pace * number as u32 / count as u32));
            let sender = Sender { number, cluster, connection, url };
            senders.spawn(sender.send(steps, pace, Arc::clone(&barrier)));
        }
        let mut all = Fed { samples: steps * self.series * count as u64, ..Fed::default() };
        let mut back = Vec::new();
        while let Some(done) = senders.join_next().await {
            let (sender, fed) = done.context("a sender panicked")??;
            all.bytes += fed.bytes;
            all.answers.extend(fed.answers);
            back.push(sender);
        }
        back.sort_by_key(|sender| sender.number);
        self.clusters = back.into_iter().map(|s| (s.cluster, s.connection)).collect();
        all.took = start.elapsed();
        Ok(all)
    }
}

struct Sender {
    number: usize,
    cluster: Cluster,
    connection: Connection,
    url: String,
}

impl Sender {
    async fn send(
        mut self,
        steps: u64,
        pace: Option<(Duration, Duration)>,
        barrier: Arc<Barrier>,
    ) -> anyhow::Result<(Self, Fed)> {
        let mut fed = Fed::default();
        let mut ticks = pace.map(|(period, offset)| {
            tokio::time::interval_at(tokio::time::Instant::now() + offset, period)
        });
        for step in 0..steps {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            } else if step % TOGETHER == 0 {
                barrier.wait().await;
            }
            for body in self.cluster.scrape() {
                fed.bytes += body.len() as u64;
                let start = Instant::now();
                self.deliver(body).await?;
                fed.answers.push(start.elapsed());
            }
        }
        Ok((self, fed))
    }

    /// Sends one body until it is taken.
    async fn deliver(&self, body: bytes::Bytes) -> anyhow::Result<()> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            let sent = self.connection.send(Method::POST, &self.url, &HEADERS, body.clone()).await;
            match sent {
                Ok(answer) if answer.status.is_success() => return Ok(()),
                Ok(answer) if answer.status.is_client_error() && answer.status != 429 => {
                    bail!("{} refused a body: {} {}", self.url, answer.status, answer.text())
                }
                Ok(answer) => last = format!("{} {}", answer.status, answer.text()),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(AGAIN).await;
        }
        bail!("{} never took a body; at last: {last}", self.url)
    }
}
