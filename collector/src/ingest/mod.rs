//! Takes frames from agents: identity, checks, journal, acknowledgement.

pub(crate) mod dial;
pub(crate) mod enrol;
pub(crate) mod gate;
pub(crate) mod link;
pub(crate) mod metrics;
pub(crate) mod policy;
pub(crate) mod registry;
pub(crate) mod replay;
pub(crate) mod session;
pub(crate) mod stream;
pub(crate) mod streams;
pub(crate) mod trust;
pub(crate) mod visits;

#[cfg(test)]
pub(crate) mod testing;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tributary_certs::tls::ServerTls;
use tributary_store::{Store, StreamKey};

use gate::EnrolConnection;
use metrics::IngestMetrics;
use policy::{Policies, Rates};
use registry::Registry;
use stream::StreamReader;
use streams::Streams;
use trust::Trust;

/// Connections of agents that want to enrol and wait for somebody to take them. Full: further ones are refused.
const ENROLMENTS: usize = 16;

/// What the ingest port needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The name of the label that the cluster is stamped into.
    pub(crate) cluster_label: String,
    /// What each cluster may send.
    pub(crate) policies: Policies,
    /// Most connections of agents. At the bound, new ones are refused and counted.
    pub(crate) max_connections: usize,
    /// Most connections of agents from one address: many may share one behind NAT.
    pub(crate) max_connections_per_address: usize,
    /// Most handshakes at a time. At the bound, the oldest unfinished one is dropped and counted, so that silent
    /// peers cannot keep an agent out.
    pub(crate) max_handshakes: usize,
    /// A connection that carries no session for so long is closed.
    pub(crate) max_idle: Duration,
}

impl Config {
    /// The given label and policies, and default bounds.
    pub(crate) fn new(cluster_label: String, policies: Policies) -> Self {
        Self {
            cluster_label,
            policies,
            max_connections: 1_024,
            max_connections_per_address: 256,
            max_handshakes: 512,
            max_idle: Duration::from_secs(15),
        }
    }
}

/// The ingest port.
pub(crate) struct Ingest {
    shared: Arc<Shared>,
    tls: Arc<ServerTls>,
    enrolments: Option<mpsc::Sender<EnrolConnection>>,
}

/// What all sessions share.
pub(crate) struct Shared {
    config: Config,
    store: Store,
    policies: Arc<ArcSwap<Policies>>,
    rates: Rates,
    streams: Arc<Streams>,
    registry: Registry,
    metrics: IngestMetrics,
    trust: Trust,
    /// An agent that waits to be dialled has just got its certificate.
    enrolled: Notify,
}

impl Ingest {
    /// An ingest port over `store`. `readers` are the streams that [`replay::Replayer`] found in the journal.
    pub(crate) fn new(
        config: Config,
        store: Store,
        (tls, trust): (Arc<ServerTls>, Trust),
        metrics: IngestMetrics,
        readers: HashMap<StreamKey, StreamReader>,
    ) -> Self {
        let shared = Arc::new(Shared::new(config, store, trust, metrics, readers));
        Self { shared, tls, enrolments: None }
    }

    /// Where connections of agents that have no certificate yet arrive, if `tls` lets them in. They count among the
    /// connections that may be open, and end like the others when nothing comes of them.
    pub(crate) fn enrolments(&mut self) -> mpsc::Receiver<EnrolConnection> {
        let (enrolments, arrive) = mpsc::channel(ENROLMENTS);
        self.enrolments = Some(enrolments);
        arrive
    }

    /// Who sends, for the API.
    pub(crate) fn registry(&self) -> Registry {
        self.shared.registry.clone()
    }

    /// The policies in force; what is stored here applies from the next frame on.
    pub(crate) fn policies(&self) -> Arc<ArcSwap<Policies>> {
        self.shared.policies.clone()
    }
}

impl Shared {
    fn new(
        config: Config,
        store: Store,
        trust: Trust,
        metrics: IngestMetrics,
        readers: HashMap<StreamKey, StreamReader>,
    ) -> Self {
        let registry = Registry::default();
        for key in readers.keys() {
            registry.known(key);
        }
        Self {
            policies: Arc::new(ArcSwap::from_pointee(config.policies.clone())),
            config,
            store,
            rates: Rates::default(),
            streams: Arc::new(Streams::new(readers, Instant::now())),
            registry,
            metrics,
            trust,
            enrolled: Notify::new(),
        }
    }
}
