//! Ours: one collector, an agent for each cluster, everything over mTLS through a wire that counts.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tributary_tests::eventually;
use tributary_tests::fleet_data::Plan;
use tributary_tests::http;
use tributary_tests::link::Link;
use tributary_tests::world::{Agent, Collector, EVERYTHING, World};

use crate::feed::{Fed, Feed};
use crate::meter::{self, AT_REST, QUIET, Usage, ready};
use crate::queries::{self, Answers, Asked};
use crate::report::Better::Neither;
use crate::report::{Measure, Report, System};
use crate::{Arguments, measures, peers, say};

/// No bound of a cluster's policy is in the way of what is measured.
const POLICY: &str =
    "clusters: { '*': { max_series: 10000000, max_samples_per_second: 100000000 } }\n";
/// The histogram of an agent that says how long acknowledgements take.
const ACK: &str = "tributary_agent_ack_seconds";

/// A collector and its agents.
pub struct Ours {
    world: World,
    /// The collector.
    pub collector: Collector,
    /// The agents.
    pub agents: Vec<Agent>,
    /// Between them.
    pub wire: Link,
}

/// Measures all of it.
pub async fn measure(
    arguments: &Arguments,
    plan: &Plan,
    answers: &mut Answers,
    report: &mut Report,
) -> anyhow::Result<()> {
    say("ours: starting");
    let mut ours = Ours::start(plan).await;
    let disk = meter::sync_times(&ours.world.path("."))?;
    let mut feed = Feed::new(plan, false);
    say("ours: ingesting");
    ours.ingest(&mut feed, plan.steps - arguments.paced, report).await?;
    if arguments.paced > 0 {
        say("ours: ingesting at a pace");
        ours.paced(&mut feed, arguments.paced, report).await?;
        report.set(&measures::SYNC_P50, System::Ours, disk.quantile_ms(0.5));
        report.set(&measures::SYNC_P99, System::Ours, disk.quantile_ms(0.99));
    }
    ours.count(plan, report).await?;
    say("ours: killing and starting again");
    ours.recover(report).await?;
    if arguments.queries {
        let asked = Asked {
            system: System::Ours,
            url: &ours.collector.url,
            process: ours.collector.process.id(),
        };
        queries::measure(asked, plan, answers, report).await?;
    }
    say("ours: looking at the disk");
    ours.disk(plan, report).await
}

impl Ours {
    /// Starts all of it, and waits until they are connected.
    pub async fn start(plan: &Plan) -> Self {
        let world = World::new();
        let collector = world.collector(POLICY).await;
        let wire = Link::to(collector.ingest).await;
        let mut agents = Vec::new();
        for number in 0..plan.clusters {
            let cluster = plan.cluster(number);
            agents.push(world.agent(&cluster, wire.address(), EVERYTHING, "").await);
        }
        for agent in &agents {
            collector.connected(&agent.cluster, true).await;
        }
        Self { world, collector, agents, wire }
    }

    /// Sends scrapes as fast as they are taken, until the last one is acknowledged.
    async fn ingest(
        &mut self,
        feed: &mut Feed,
        steps: u64,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let before = self.usage()?;
        let wire = self.wire.carried_bytes();
        let fed = self.send(feed, steps, None).await?;
        let durable = self.usage()?.since(&before);
        let wire = self.wire.carried_bytes() - wire;
        let disk = meter::settled(&self.world.path("data"), QUIET, AT_REST).await;
        let rest = self.usage()?.since(&before);
        let samples = fed.samples as f64;
        let mut set = |measure, value| report.set(measure, System::Ours, value);
        set(&measures::WIRE, wire as f64 / samples);
        set(&measures::BODIES, fed.bytes as f64 / samples);
        set(&measures::AGENT_SPEED, samples / durable.agents.cpu.as_secs_f64());
        set(&measures::SERVER_SPEED, samples / durable.collector.cpu.as_secs_f64());
        set(&measures::SPEED, samples / fed.took.as_secs_f64());
        set(&measures::SERVER_WRITTEN, rest.collector.written as f64 / samples);
        set(&measures::AGENT_WRITTEN, rest.agents.written as f64 / samples);
        set(&measures::SERVER_MEMORY, rest.collector.peak_bytes as f64 / 1e6);
        let each = rest.agents.peak_bytes as f64 / 1e6 / self.agents.len() as f64;
        set(&measures::AGENT_MEMORY, each);
        set(&measures::INGESTED, disk as f64 / samples);
        Ok(())
    }

    /// Sends scrapes at a pace, to see how fast they are acknowledged.
    async fn paced(
        &mut self,
        feed: &mut Feed,
        steps: u64,
        report: &mut Report,
    ) -> anyhow::Result<()> {
        let before = self.acknowledgements().await;
        let fed = self.send(feed, steps, Some(Arguments::pace())).await?;
        let after = self.acknowledgements().await;
        let acks = Histogram(
            after.0.iter().zip(&before.0).map(|((le, n), (_, m))| (*le, n - m)).collect(),
        );
        let mut set = |measure, value| report.set(measure, System::Ours, value);
        set(&measures::PACE, fed.samples as f64 / fed.took.as_secs_f64());
        set(&measures::ACK_P50, acks.quantile(0.5) * 1e3);
        set(&measures::ACK_P99, acks.quantile(0.99) * 1e3);
        set(&measures::ANSWER_P50, fed.answers.quantile_ms(0.5));
        set(&measures::ANSWER_P99, fed.answers.quantile_ms(0.99));
        Ok(())
    }

    /// Sends scrapes, and waits until everything is acknowledged.
    async fn send(
        &self,
        feed: &mut Feed,
        steps: u64,
        pace: Option<Duration>,
    ) -> anyhow::Result<Fed> {
        let urls: Vec<String> = self.agents.iter().map(Agent::write_url).collect();
        let start = Instant::now();
        let mut fed = feed.send(&urls, steps, pace).await?;
        eventually("everything is acknowledged", async || {
            self.is_acknowledged().await.then_some(())
        })
        .await;
        fed.took = start.elapsed();
        Ok(fed)
    }

    /// Asks how many samples are there, against how many were sent.
    async fn count(&self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let rejected =
            self.collector.metric("tributary_collector_ingest_samples_rejected_total", &[]).await;
        ensure!(rejected == 0.0, "the collector refused {rejected} samples");
        let part = self.stored(plan).await? / plan.samples() as f64;
        report.set(&measures::STORED, System::Ours, part);
        Ok(())
    }

    /// How many samples of the plan the collector has.
    pub async fn stored(&self, plan: &Plan) -> anyhow::Result<f64> {
        peers::stored(&self.collector.url, plan).await
    }

    /// Whether every frame is acknowledged.
    pub async fn is_acknowledged(&self) -> bool {
        for agent in &self.agents {
            if agent.metric("tributary_agent_spool_frames_waiting", &[]).await != 0.0 {
                return false;
            }
        }
        true
    }

    /// Kills the collector, and waits until it is ready again.
    async fn recover(&mut self, report: &mut Report) -> anyhow::Result<()> {
        self.collector.process.kill();
        self.collector.process.restart();
        let took = ready(&self.collector.url, &mut self.collector.process).await?;
        let ms = took.as_secs_f64() * 1e3;
        report.set(&measures::READY, System::Ours, ms);
        Ok(())
    }

    /// Looks at the data folder after an ordered end.
    async fn disk(&mut self, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
        let samples = plan.samples() as f64;
        let process = &mut self.collector.process;
        let ended = process.terminate().await;
        ensure!(ended.success(), "the collector ended with {ended}:\n{}", process.log());
        let config = format!("--config.file={}", self.world.path("collector.yml").display());
        self.world.succeed("tributary-collector", &["storage", "compact", &config]);
        let stats = self.world.succeed("tributary-collector", &["storage", "stats", &config]);
        let bytes = meter::disk_bytes(&self.world.path("data")) as f64;
        report.set(&measures::COMPACTED, System::Ours, bytes / samples);
        for line in stats.lines() {
            let (name, number) = line.trim().rsplit_once(' ').unwrap_or_default();
            if let (true, Ok(bytes)) = (name.contains("bytes"), number.parse::<f64>()) {
                let name = format!("ours: {}", name.trim());
                let measure = Measure::named(measures::DISK, name, Neither);
                report.set(&measure, System::Ours, bytes / samples);
            }
        }
        Ok(())
    }

    fn usage(&self) -> anyhow::Result<Used> {
        let agents = Usage::of_all(self.agents.iter().map(|agent| agent.process.id()))?;
        Ok(Used { agents, collector: Usage::of(self.collector.process.id())? })
    }

    /// The agents' histograms of acknowledgement times, added up; empty if they have none.
    async fn acknowledgements(&self) -> Histogram {
        let mut sum = Histogram::default();
        for agent in &self.agents {
            if let Ok(answer) = http::get(&format!("{}/metrics", agent.url)).await {
                sum.add(&answer.text(), ACK);
            }
        }
        sum
    }
}

/// What both sides used.
struct Used {
    agents: Usage,
    collector: Usage,
}

impl Used {
    fn since(&self, before: &Self) -> Self {
        let agents = self.agents.since(before.agents);
        Self { agents, collector: self.collector.since(before.collector) }
    }
}

/// Cumulative buckets: upper bound and count.
#[derive(Debug, Default)]
struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// Adds the buckets of one exposition.
    fn add(&mut self, text: &str, name: &str) {
        let prefix = format!("{name}_bucket{{le=\"");
        let found = text.lines().filter_map(|line| {
            let (bound, count) = line.strip_prefix(&prefix)?.split_once("\"} ")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            Some((bound, count.split(' ').next()?.parse::<f64>().ok()?))
        });
        for (place, (bound, count)) in found.enumerate() {
            match self.0.get_mut(place) {
                Some(known) => known.1 += count,
                None => self.0.push((bound, count)),
            }
        }
    }

    /// A quantile, straight between the bounds of its bucket.
    fn quantile(&self, q: f64) -> f64 {
        let rank = q * self.0.last().map_or(f64::NAN, |(_, count)| *count);
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            if *count >= rank && *count > below {
                let high = if bound.is_finite() { *bound } else { low };
                return low + (high - low) * (rank - below) / (count - below);
            }
            (low, below) = (*bound, *count);
        }
        f64::NAN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_buckets() {
        let mut histogram = Histogram::default();
        let text = "x_bucket{le=\"0.1\"} 5\nx_bucket{le=\"0.2\"} 10\nx_bucket{le=\"+Inf\"} 10\n";
        histogram.add(text, "x");
        histogram.add(text, "x");
        assert_eq!(
            [0.25, 0.5, 0.75, 1.0].map(|q| histogram.quantile(q)),
            [0.05, 0.1, 0.15000000000000002, 0.2]
        );
        assert!(Histogram::default().quantile(0.5).is_nan());
    }
}
