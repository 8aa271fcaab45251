//! Enrols agents that must not dial out: while a token for a target's cluster is open, the collector calls on it.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tributary_certs::state::{State, StateError};
use tributary_certs::tls::{ClientTls, HandshakeError};
use tributary_proto::v1::enrollee_client::EnrolleeClient;

use super::dial::{Target, channel};
use super::enrol::{Desk, LONGEST, MAX_MESSAGE_BYTES};
use super::registry::AgentStatus;
use super::{Ingest, Shared};

/// How often targets are called on while a token for their cluster is open.
const EVERY: Duration = Duration::from_secs(2);

/// Calls on targets that have no certificate yet. One that has refuses the call, and nothing is lost.
pub(crate) struct Visitor {
    shared: Arc<Shared>,
    desk: Desk,
    tls: Arc<ClientTls>,
    targets: Vec<Target>,
    dir: PathBuf,
}

impl Ingest {
    /// Calls on `targets` for which the PKI folder `dir` has a token; `desk` answers them.
    pub(crate) fn visitor(
        &self,
        desk: Desk,
        tls: Arc<ClientTls>,
        targets: Vec<Target>,
        dir: PathBuf,
    ) -> Visitor {
        Visitor { shared: self.shared.clone(), desk, tls, targets, dir }
    }
}

impl Visitor {
    /// Calls until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let visitor = Arc::new(self);
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let expected = match visitor.expected(SystemTime::now()).await {
                Ok(expected) => expected,
                Err(error) => {
                    tracing::debug!(%error, "the open tokens are not known");
                    continue;
                }
            };
            let mut visits = JoinSet::new();
            for target in visitor.lonely(&expected) {
                visits.spawn(visitor.clone().visit(target));
            }
            stop.run_until_cancelled(visits.join_all()).await;
        }
    }

    /// The clusters that a token is open for.
    async fn expected(&self, now: SystemTime) -> Result<HashSet<String>, VisitError> {
        let dir = self.dir.clone();
        let state = tokio::task::spawn_blocking(move || State::read(&dir));
        let state = state.await.map_err(io::Error::from)??;
        let open = state.tokens.into_iter().filter(|t| t.spent_at.is_none() && t.expires_at > now);
        Ok(open.map(|token| token.cluster).collect())
    }

    /// The targets of these clusters, but for clusters whose agents are all here.
    fn lonely(&self, clusters: &HashSet<String>) -> Vec<Target> {
        let agents = self.shared.registry.snapshot(Instant::now());
        let lonely = |target: &&Target| {
            let connected = |agent: &&AgentStatus| {
                agent.cluster == target.cluster && agent.connection.is_some()
            };
            let targets = self.targets.iter().filter(|other| other.cluster == target.cluster);
            clusters.contains(target.cluster.as_str())
                && agents.iter().filter(connected).count() < targets.count()
        };
        self.targets.iter().filter(lonely).cloned().collect()
    }

    async fn visit(self: Arc<Self>, target: Target) {
        let visited = timeout(LONGEST, self.try_visit(&target)).await;
        let error = match visited {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {LONGEST:?}"),
        };
        // A target that is not there yet, or has its certificate already, is no fault.
        tracing::debug!(cluster = %target.cluster, address = target.address, error, "an agent was not enrolled");
    }

    async fn try_visit(&self, target: &Target) -> Result<(), VisitError> {
        let tcp = TcpStream::connect(&target.address).await?;
        let stream = self.tls.enrol(tcp).await?;
        let address = stream.address();
        let mut client = EnrolleeClient::new(channel(stream).await?)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let (answer, answers) = mpsc::channel(1);
        let called = client.enrol(ReceiverStream::new(answers)).await;
        let mut requests = called.map_err(Box::new)?.into_inner();
        let Some(mut request) = requests.message().await.map_err(Box::new)? else { return Ok(()) };
        if request.cluster.is_empty() {
            request.cluster = target.cluster.to_string();
        }
        let response = self.desk.answer(request, address).await;
        let enrolled = response.refused.is_empty();
        // The agent may have gone; then there is nobody to tell.
        let _ = answer.send(response).await;
        drop(answer);
        // Letting go at once would take the answer back; the agent closes when it has read it.
        while requests.message().await.map_err(Box::new)?.is_some() {}
        if enrolled {
            self.shared.enrolled.notify_waiters();
        }
        Ok(())
    }
}

/// Why an agent was not enrolled on a visit.
#[derive(Debug, thiserror::Error)]
enum VisitError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("connecting: {0}")]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("opening HTTP/2: {0}")]
    Http(#[from] tonic::transport::Error),
    #[error("talking to the agent: {}", .0.message().escape_debug())]
    Call(#[from] Box<Status>),
}
