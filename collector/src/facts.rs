//! What the API shows of the collector's parts: snapshots, brought into the API's shapes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;
use tributary_store::{ClusterSummary, Store};

use crate::api::view::{self, Facts};
use crate::host::Host;
use crate::ingest::registry::{AgentStatus, Registry};
use crate::ingest::trust::{KeyHash, Trust};
use crate::rules::alerting::State;
use crate::rules::engine::Engine;
use crate::rules::status::{AlertStatus, GroupStatus, Health, RuleStatus};
use crate::scrape::Shown;

/// Looks things up in the parts.
pub struct AppFacts {
    /// Agents that are or were connected.
    pub registry: Registry,
    /// What agents should trust.
    pub trust: Trust,
    /// Series and counters of clusters.
    pub store: Store,
    /// Rule groups.
    pub rules: Engine<Host>,
    /// Own targets.
    pub scraper: Shown,
    /// The process.
    pub runtime: Arc<Mutex<view::Runtime>>,
    /// The configuration in force, without secrets.
    pub config: String,
    /// Each cluster's newest sample, when that was last asked.
    pub newest: Newest,
}

/// Each cluster's newest sample: every query asks, and counting takes time.
#[derive(Debug, Default)]
pub struct Newest(Mutex<Option<(Instant, NewestByCluster)>>);

type NewestByCluster = Vec<(String, Timestamp)>;

/// For so long, what was found is found again.
const NEWEST_STAYS: Duration = Duration::from_secs(1);

impl Newest {
    fn of(&self, store: &Store, now: Instant) -> NewestByCluster {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, newest)) = &*known
            && now.saturating_duration_since(*at) < NEWEST_STAYS
        {
            return newest.clone();
        }
        let clusters = store.clusters().into_iter();
        let newest: NewestByCluster = clusters
            .filter_map(|summary| Some((summary.cluster.to_string(), summary.newest?)))
            .collect();
        *known = Some((now, newest.clone()));
        newest
    }
}

impl Facts for AppFacts {
    fn rule_groups(&self) -> Vec<view::RuleGroup> {
        self.rules.snapshot().into_iter().map(group).collect()
    }

    fn clusters(&self) -> Vec<view::Cluster> {
        let mut agents: BTreeMap<String, Vec<AgentStatus>> = BTreeMap::new();
        for agent in self.registry.snapshot(Instant::now()) {
            agents.entry(agent.cluster.to_string()).or_default().push(agent);
        }
        let stored = self.store.clusters();
        let terms = self.trust.terms();
        let bundle = terms.desired.as_ref().map(|desired| desired.bundle.digest());
        let mut clusters: Vec<view::Cluster> = stored
            .into_iter()
            .map(|summary| {
                let agents = agents.remove(summary.cluster.as_str()).unwrap_or_default();
                cluster(summary.cluster.as_str(), Some(&summary), &agents, bundle)
            })
            .collect();
        clusters.extend(agents.iter().map(|(name, agents)| cluster(name, None, agents, bundle)));
        clusters.sort_by(|a, b| a.name.cmp(&b.name));
        clusters
    }

    fn newest(&self) -> Vec<(String, Timestamp)> {
        self.newest.of(&self.store, Instant::now())
    }

    fn targets(&self) -> Vec<view::Target> {
        self.scraper.targets()
    }

    fn runtime(&self) -> view::Runtime {
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn config(&self) -> String {
        self.config.clone()
    }
}

fn cluster(
    name: &str,
    summary: Option<&ClusterSummary>,
    agents: &[AgentStatus],
    bundle: Option<KeyHash>,
) -> view::Cluster {
    let mut refused = BTreeMap::new();
    let streams = summary.map(|s| s.streams.as_slice()).unwrap_or_default();
    for (reason, count) in streams.iter().flat_map(|stream| stream.refused) {
        *refused.entry(reason.as_str().to_owned()).or_insert(0) += count;
    }
    for (reason, count) in agents.iter().flat_map(|agent| &agent.rejected) {
        refused.entry((*reason).to_owned()).or_insert(*count);
    }
    refused.retain(|_, count| *count > 0);
    view::Cluster {
        name: name.to_owned(),
        series: summary.map_or(0, |s| s.active_series),
        last_sample: summary.and_then(|s| s.newest),
        samples: streams.iter().map(|stream| stream.stored).sum(),
        samples_per_second: agents.iter().map(|agent| agent.samples_per_second).sum(),
        refused,
        agents: agents.iter().map(|status| agent(status, bundle)).collect(),
    }
}

/// `bundle` names the authorities that it should trust.
fn agent(status: &AgentStatus, bundle: Option<KeyHash>) -> view::Agent {
    let connection = status.connection.as_ref();
    let trust = status.trust.as_ref();
    view::Agent {
        instance: status.instance.clone(),
        connected: connection.is_some(),
        address: status.address.map(|address| address.to_string()).unwrap_or_default(),
        version: status.version.clone(),
        since: connection.map(|c| c.since),
        last_sequence: status.durable_seq,
        complete_until: status.complete_until,
        last_frame: status.last_frame,
        last_sample: status.last_sample,
        samples: status.stored,
        clock_skew_ms: status.clock_skew_ms,
        spool_bytes: status.spooled.1,
        certificate_serial: connection.map(|c| c.serial.clone()).unwrap_or_default(),
        certificate_issuer: connection.map(|c| c.issuer.clone()).unwrap_or_default(),
        certificate_until: connection.map(|c| Timestamp::from(c.not_after)),
        bundle: match trust.map(|trust| trust.bundle_sha256).zip(bundle) {
            Some((has, should)) if has == should => view::BundleState::Current,
            Some(_) => view::BundleState::Other,
            None => view::BundleState::Unknown,
        },
        renewable: trust.map(|trust| trust.renewable),
        trust_error: trust.map(|trust| trust.error.clone()).unwrap_or_default(),
        last_seen: status.last_seen.map(Timestamp::from),
        reason: status.ended.clone().unwrap_or_default(),
    }
}

fn group(status: GroupStatus) -> view::RuleGroup {
    view::RuleGroup {
        name: status.name,
        file: status.file,
        rules: status.rules.into_iter().map(rule).collect(),
        interval: status.interval,
        limit: status.limit,
        evaluation_time: status.evaluation_time,
        last_evaluation: status.last_evaluation,
    }
}

fn rule(status: RuleStatus) -> view::Rule {
    let evaluation = view::Evaluation {
        health: match status.health {
            Health::Unknown => view::Health::Unknown,
            Health::Ok => view::Health::Ok,
            Health::Err => view::Health::Err,
        },
        last_error: status.last_error,
        evaluation_time: status.evaluation_time,
        last_evaluation: status.last_evaluation,
    };
    // Rule files cannot repeat a label, so this always succeeds.
    let labels = Labels::from_pairs(status.labels).unwrap_or_default();
    match status.alerting {
        None => view::Rule::Recording(view::RecordingRule {
            name: status.name,
            query: status.query,
            labels,
            evaluation,
            kind: view::RuleType::Recording,
        }),
        Some(alerting) => view::Rule::Alerting(view::AlertingRule {
            state: state(alerting.state),
            name: status.name,
            query: status.query,
            duration: alerting.duration,
            keep_firing_for: alerting.keep_firing_for,
            labels,
            annotations: alerting.annotations,
            alerts: Some(alerting.alerts.into_iter().map(alert).collect()),
            evaluation,
            kind: view::RuleType::Alerting,
        }),
    }
}

fn alert(status: AlertStatus) -> view::Alert {
    view::Alert {
        labels: status.labels,
        annotations: status.annotations,
        state: state(status.state),
        active_at: Some(status.active_at),
        keep_firing_since: status.keep_firing_since,
        value: status.value,
    }
}

fn state(state: State) -> view::AlertState {
    match state {
        State::Inactive => view::AlertState::Inactive,
        State::Pending => view::AlertState::Pending,
        State::Firing => view::AlertState::Firing,
    }
}
