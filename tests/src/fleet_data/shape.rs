//! Which metrics a fleet has: their names, labels, and how they move.

use clap::ValueEnum;

use super::motion::Motion;
use crate::random::Random;

/// What kind of metrics a fleet has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shape {
    /// As clusters have them: 60 % integer counters (a quarter of them histogram buckets), 30 % gauges, 10 % float counters.
    Fleet,
    /// Integer counters only.
    Counters,
    /// Gauges that move only.
    Gauges,
    /// Counters of fractions of seconds only.
    Floats,
    /// Histograms with 12 buckets only.
    Histograms,
    /// The fleet, but every pod is replaced once an hour.
    Churn,
    /// Values that never change.
    Constant,
}

/// One metric.
#[derive(Debug)]
pub(super) struct Family {
    /// How many of the shape's series are of it, in parts.
    parts: usize,
    name: &'static str,
    source: Source,
    labels: &'static [Extra],
    kind: Kind,
}

/// Who exposes a metric; decides its common labels and its scrape target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    /// The program in a pod.
    App,
    /// The node exporter of a node.
    Node,
    /// The kubelet of a node, about a pod.
    Kubelet,
    /// The only kube-state-metrics, about a pod.
    State,
}

/// A label beyond the common ones.
#[derive(Debug)]
enum Extra {
    /// One series for each value.
    Each(&'static str, &'static [&'static str]),
    /// The same value everywhere.
    Fixed(&'static str, &'static str),
    /// A prefix and a number that only this series has.
    Own(&'static str, &'static str),
    /// A prefix and the round in which the nodes are gone through.
    Round(&'static str, &'static str),
}

/// How a metric's values move; details differ from series to series.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Requests,
    Buckets,
    Bytes,
    Restarts,
    Memory,
    Disk,
    Flag,
    Request,
    Ticks,
    Micros,
}

use Extra::{Each, Fixed, Own, Round};

const METHODS: &[&str] = &["GET", "POST", "PUT"];
const CODES: &[&str] = &["200", "304", "404", "500"];
const BOUNDS: &[&str] =
    &["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"];
const SHARES: [f64; 12] = [0.11, 0.23, 0.4, 0.57, 0.71, 0.84, 0.91, 0.95, 0.976, 0.991, 0.998, 1.0];
const DEVICES: &[&str] = &["eth0", "eth1", "cni0", "lo"];
const PHASES: &[&str] = &["Running", "Pending", "Failed", "Succeeded", "Unknown"];
const RESOURCES: &[&str] = &["cpu", "memory"];
const MODES: &[&str] = &["idle", "iowait", "system", "user"];
const POD_ID: &str = "/kubepods/burstable/pod";

const REQUESTS: Family = Family {
    parts: 3,
    name: "http_requests_total",
    source: Source::App,
    labels: &[Each("method", METHODS), Each("code", CODES)],
    kind: Kind::Requests,
};
const DURATIONS: Family = Family {
    parts: 3,
    name: "http_request_duration_seconds_bucket",
    source: Source::App,
    labels: &[Each("le", BOUNDS)],
    kind: Kind::Buckets,
};
const RECEIVED: Family = Family {
    parts: 2,
    name: "node_network_receive_bytes_total",
    source: Source::Node,
    labels: &[Each("device", DEVICES), Round("if_index", "")],
    kind: Kind::Bytes,
};
const PACKETS: Family = Family {
    parts: 2,
    name: "container_network_transmit_packets_total",
    source: Source::Kubelet,
    labels: &[Fixed("interface", "eth0"), Own("id", POD_ID)],
    kind: Kind::Requests,
};
const RESTARTS: Family = Family {
    parts: 2,
    name: "kube_pod_container_status_restarts_total",
    source: Source::State,
    labels: &[Own("uid", "")],
    kind: Kind::Restarts,
};
const MEMORY: Family = Family {
    parts: 2,
    name: "container_memory_working_set_bytes",
    source: Source::Kubelet,
    labels: &[Own("id", POD_ID)],
    kind: Kind::Memory,
};
const PHASE: Family = Family {
    parts: 2,
    name: "kube_pod_status_phase",
    source: Source::State,
    labels: &[Each("phase", PHASES)],
    kind: Kind::Flag,
};
const WISHES: Family = Family {
    parts: 1,
    name: "kube_pod_container_resource_requests",
    source: Source::State,
    labels: &[Each("resource", RESOURCES), Own("uid", "")],
    kind: Kind::Request,
};
const FILESYSTEMS: Family = Family {
    parts: 1,
    name: "node_filesystem_avail_bytes",
    source: Source::Node,
    labels: &[
        Fixed("device", "/dev/nvme0n1p1"),
        Fixed("fstype", "ext4"),
        Round("mountpoint", "/var/lib/volume-"),
    ],
    kind: Kind::Disk,
};
const CPU: Family = Family {
    parts: 1,
    name: "node_cpu_seconds_total",
    source: Source::Node,
    labels: &[Each("mode", MODES), Round("cpu", "")],
    kind: Kind::Ticks,
};
const USAGE: Family = Family {
    parts: 1,
    name: "container_cpu_usage_seconds_total",
    source: Source::Kubelet,
    labels: &[Own("id", POD_ID)],
    kind: Kind::Micros,
};

impl Shape {
    pub(super) fn families(self) -> &'static [Family] {
        match self {
            Self::Fleet | Self::Churn => &[
                REQUESTS,
                DURATIONS,
                RECEIVED,
                PACKETS,
                RESTARTS,
                MEMORY,
                PHASE,
                WISHES,
                FILESYSTEMS,
                CPU,
                USAGE,
            ],
            Self::Counters => &[REQUESTS, RECEIVED, PACKETS, RESTARTS],
            Self::Gauges => &[MEMORY, FILESYSTEMS],
            Self::Floats => &[CPU, USAGE],
            Self::Histograms => &[DURATIONS],
            Self::Constant => &[PHASE, WISHES],
        }
    }
}

/// The metric of a series, and which of the metric's series it is.
pub(super) fn pick(families: &'static [Family], series: usize) -> (&'static Family, usize) {
    let all: usize = families.iter().map(|family| family.parts).sum();
    let mut part = series % all;
    for family in families {
        if part < family.parts {
            return (family, series / all * family.parts + part);
        }
        part -= family.parts;
    }
    unreachable!("a remainder is smaller than what it was divided by")
}

const APPS: [&str; 10] = [
    "checkout",
    "gateway",
    "catalogue",
    "sessions",
    "mailer",
    "search-indexer",
    "image-resizer",
    "recommendations",
    "ledger",
    "notebook-hub",
];
const NAMESPACES: [&str; 6] =
    ["shop-production", "shop-staging", "platform", "data-science", "kube-system", "ingress"];
/// Series of a cluster for each of its nodes.
const NODE_SERIES: usize = 400;
const FEWEST_NODES: usize = 5;

/// Names and addresses of one cluster.
#[derive(Debug, Clone)]
pub(super) struct Place {
    key: u64,
    number: usize,
    nodes: usize,
    label: Option<String>,
}

impl Family {
    /// Its series end with their pods.
    pub(super) fn is_about_a_pod(&self) -> bool {
        self.source != Source::Node
    }

    /// How many series of the family are alike but for the labels that name them one by one.
    fn together(&self) -> usize {
        let each = |extra: &Extra| if let Each(_, values) = extra { values.len() } else { 1 };
        self.labels.iter().map(each).product()
    }
}

impl Place {
    pub(super) fn new(key: u64, number: usize, series: usize, label: Option<String>) -> Self {
        Self { key, number, nodes: FEWEST_NODES.max(series / NODE_SERIES), label }
    }

    /// Identifies the scrape target of a series.
    pub(super) fn target(&self, family: &Family, number: usize) -> u64 {
        let owner = number / family.together();
        let which = match family.source {
            Source::App => owner,
            Source::Node | Source::Kubelet => owner % self.nodes,
            Source::State => 0,
        };
        Random::of(&[self.key, 1, family.source as u64, which as u64]).bits()
    }

    /// In which step of its life the pod of a series is at the beginning.
    pub(super) fn age(&self, family: &Family, number: usize) -> u64 {
        Random::of(&[self.key, 2, (number / family.together()) as u64]).bits()
    }

    /// Sorted labels.
    pub(super) fn labels(
        &self,
        family: &Family,
        number: usize,
        generation: u64,
    ) -> Vec<(String, String)> {
        let owner = number / family.together();
        let mut labels = match family.source {
            Source::App => self.pod(owner, generation, "apps"),
            Source::Kubelet => self.pod(owner, generation, "kubelet"),
            Source::State => self.pod(owner, generation, "kube-state-metrics"),
            Source::Node => self.node_exporter(owner % self.nodes),
        };
        labels.push(("__name__", family.name.to_owned()));
        labels.extend(self.label.clone().map(|name| ("cluster", name)));
        let mut rest = number;
        for extra in family.labels {
            labels.push(match extra {
                Each(name, values) => {
                    let value = values[rest % values.len()];
                    rest /= values.len();
                    (name, value.to_owned())
                }
                Fixed(name, value) => (name, (*value).to_owned()),
                Own(name, prefix) => {
                    let key = self.series_key(family, number, generation);
                    (name, format!("{prefix}{key:016x}"))
                }
                Round(name, prefix) => (name, format!("{prefix}{}", owner / self.nodes)),
            });
        }
        let mut labels: Vec<_> = labels.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        labels.sort();
        labels
    }

    /// How a series moves, from a random beginning for what is there from the start.
    pub(super) fn motion(&self, family: &Family, number: usize, generation: u64) -> Motion {
        let mut random = Random::new(self.series_key(family, number, generation));
        // What is new counts from zero.
        let past = if generation == 0 { random.unit() } else { 0.0 };
        let level = random.unit();
        match family.kind {
            Kind::Requests => {
                let mean = [0.0, 0.04, 2.5, 40.0, 800.0][random.below(5)];
                Motion::Count { total: (past * 1e6).floor(), mean, random }
            }
            Kind::Bytes => {
                let mean = if random.one_in(4) { 0.0 } else { 2e4 + level * level * 4e6 };
                Motion::Count { total: (past * 1e12).floor(), mean, random }
            }
            Kind::Restarts => {
                let mean = if random.one_in(30) { 0.01 } else { 0.0 };
                Motion::Count { total: (past * 4.0).floor(), mean, random }
            }
            Kind::Buckets => {
                let (pod, bound) = (number / BOUNDS.len(), number % BOUNDS.len());
                let mut of_all = Random::of(&[self.key, 3, pod as u64, generation]);
                let mean = [2.0, 20.0, 200.0][of_all.below(3)];
                let before = if generation == 0 { of_all.unit() * 1e5 } else { 0.0 };
                let key = of_all.bits();
                Motion::Bucket { key, mean, share: SHARES[bound], observed: before.floor() }
            }
            Kind::Memory => {
                let chance = if random.one_in(3) { 0.02 } else { 0.7 };
                let at = 1.0 + (level * 4e5).floor();
                Motion::Walk { random, chance, quantum: 4096.0, reach: 1200.0, at }
            }
            Kind::Disk => {
                let at = 1e4 + (level * 4e7).floor();
                Motion::Walk { random, chance: 0.4, quantum: 4096.0, reach: 80.0, at }
            }
            Kind::Flag => Motion::Still(f64::from(number.is_multiple_of(PHASES.len()))),
            Kind::Request if number.is_multiple_of(RESOURCES.len()) => {
                Motion::Still([0.1, 0.25, 0.5, 1.0, 2.0][random.below(5)])
            }
            Kind::Request => Motion::Still((1_u64 << (26 + random.below(6))) as f64),
            Kind::Ticks => {
                let total = (past * 1e9).floor();
                Motion::Seconds { random, parts: 100.0, most: 30.0 * level, total }
            }
            Kind::Micros => {
                let total = (past * 1e10).floor();
                Motion::Seconds { random, parts: 1e6, most: 6.0 * level, total }
            }
        }
    }

    fn series_key(&self, family: &Family, number: usize, generation: u64) -> u64 {
        let name = family.name.bytes().fold(0, |key, byte| Random::of(&[key, byte.into()]).bits());
        Random::of(&[self.key, name, number as u64, generation]).bits()
    }

    fn pod(&self, pod: usize, generation: u64, job: &str) -> Vec<(&'static str, String)> {
        let app = APPS[pod % APPS.len()];
        let mut random = Random::of(&[self.key, 4, pod as u64, generation]);
        let (set, suffix) = (random.bits() >> 28, random.bits() >> 44);
        let net = self.number % 250;
        vec![
            ("namespace", NAMESPACES[pod / 2 % NAMESPACES.len()].to_owned()),
            ("pod", format!("{app}-{set:09x}-{suffix:05x}")),
            ("container", app.to_owned()),
            ("node", self.node(pod % self.nodes)),
            ("job", job.to_owned()),
            ("instance", format!("10.{net}.{}.{}:8080", pod / 250 % 250, pod % 250)),
            ("service", format!("{app}-metrics")),
            ("endpoint", "http-metrics".to_owned()),
        ]
    }

    fn node_exporter(&self, node: usize) -> Vec<(&'static str, String)> {
        let suffix = Random::of(&[self.key, 5, node as u64]).bits() >> 44;
        vec![
            ("namespace", "monitoring".to_owned()),
            ("pod", format!("node-exporter-{suffix:05x}")),
            ("container", "node-exporter".to_owned()),
            ("node", self.node(node)),
            ("job", "node-exporter".to_owned()),
            ("instance", format!("10.{}.250.{node}:9100", self.number % 250)),
            ("service", "node-exporter".to_owned()),
            ("endpoint", "metrics".to_owned()),
        ]
    }

    fn node(&self, node: usize) -> String {
        let host = Random::of(&[self.key, 6, node as u64]).bits() >> 48;
        format!("ip-10-{}-{}-{}.compute.internal", self.number % 250, host >> 8, node)
    }
}
