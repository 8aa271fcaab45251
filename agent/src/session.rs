//! One session with the collector: hello, welcome, frames one way, acknowledgements the other. Knows streams of messages
//! only, so that it does not matter who dialled.

mod care;
mod clock;
mod error;
mod flight;
mod live;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tributary_certs::tls::Peer;
use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;
use tributary_proto::convert::{MessageError, ToAgent, ToCollector, Welcome};
use tributary_proto::{limits, v1};

use crate::credentials::Credentials;
use crate::handover::Turn;
use crate::metrics::LinkMetrics;
use crate::spool::{Seen, SharedSpool, SpoolError};
use care::Care;
use clock::Clock;
pub(crate) use error::SessionError;
use error::unexpected;
use live::Live;

/// How long the collector has for its welcome, connecting and TLS included.
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// How often each side says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A peer that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(35);
/// How long the reason for a closed stream may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a session that was replaced waits for its last acknowledgements.
const LINGER: Duration = Duration::from_secs(10);

/// Who speaks.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    /// The cluster in the certificate.
    pub(crate) cluster: ClusterName,
    /// The instance in the certificate.
    pub(crate) instance: String,
    /// A random number of this process: tells a new connection from another agent with our certificate.
    pub(crate) run: u64,
}

/// How a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// We were asked to stop, and everything is acknowledged.
    Drained,
    /// The collector is going away.
    PeerDrained,
    /// A later session has taken over.
    Replaced,
}

/// A stream of messages each way, and who is at its other end.
pub(crate) struct Line<S> {
    /// The collector's certificate in short.
    pub(crate) peer: Peer,
    /// What it says.
    pub(crate) incoming: S,
    /// What it hears.
    pub(crate) outgoing: mpsc::Sender<v1::ToCollector>,
}

/// What every session needs.
#[derive(Clone)]
pub(crate) struct Session {
    spool: Arc<SharedSpool>,
    speaker: Speaker,
    credentials: Arc<Credentials>,
    metrics: LinkMetrics,
}

impl Session {
    /// Sessions that send from `spool`.
    pub(crate) fn new(
        spool: Arc<SharedSpool>,
        speaker: Speaker,
        credentials: Arc<Credentials>,
        metrics: LinkMetrics,
    ) -> Self {
        Self { spool, speaker, credentials, metrics }
    }

    /// The last acknowledged frame.
    pub(crate) fn acked(&self) -> u64 {
        self.spool.status().acked
    }

    /// Whether every frame is acknowledged.
    pub(crate) fn is_done(&self) -> bool {
        self.spool.status().waiting() == 0
    }

    /// Waits until every frame is acknowledged.
    pub(crate) async fn done(&self) {
        // The spool lives longer than its followers.
        let _ = self.spool.watch().wait_for(|seen| seen.status.waiting() == 0).await;
    }

    /// Speaks until the stream ends, until `drain` and the last acknowledgement, or until a later session has taken over
    /// and the acknowledgements of this one are here.
    pub(crate) async fn run<S>(
        &self,
        line: Line<S>,
        turn: &mut Turn,
        drain: CancellationToken,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Send,
    {
        let Line { peer, incoming, outgoing } = line;
        let mut line = Line { peer, incoming: std::pin::pin!(incoming), outgoing };
        let end = match self.talk(&mut line, turn, &drain).await {
            // The stream's status says why our side of it was closed.
            Err(SessionError::Closed) => {
                match tokio::time::timeout(STATUS_TIMEOUT, line.incoming.next()).await {
                    Ok(Some(Err(status))) => Err(status.into()),
                    _ => Err(SessionError::Closed),
                }
            }
            other => other,
        };
        // However the collector ends what it has let go of.
        if turn.is_over() { Ok(End::Replaced) } else { end }
    }

    async fn talk<S>(
        &self,
        line: &mut Line<S>,
        turn: &mut Turn,
        drain: &CancellationToken,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
    {
        let mut care = Care::new(self.credentials.clone(), line.peer.clone());
        let hello = self.hello(&self.spool.watch().borrow(), care.trust());
        send(&line.outgoing, ToCollector::Hello(hello)).await?;
        let first = tokio::time::timeout(WELCOME_TIMEOUT, next(&mut line.incoming)).await;
        let mut clock = Clock::new(self.metrics.clone());
        let welcome: Welcome = match first.map_err(|_| SessionError::NoWelcome)?? {
            ToAgent::Welcome(welcome) => {
                clock.compare(welcome.now_ms, SystemTime::now());
                welcome.try_into()?
            }
            other => return Err(unexpected("a welcome", &other)),
        };
        turn.take_over();
        let mut live = Live::resume(self, welcome, (care, clock), turn).await?;
        live.run(line, drain).await
    }

    fn hello(&self, seen: &Seen, trust: v1::Trust) -> v1::Hello {
        v1::Hello {
            protocol: limits::PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.speaker.cluster.to_string(),
            instance: self.speaker.instance.clone(),
            epoch: seen.status.epoch,
            first_seq: seen.status.first_seq,
            next_seq: seen.status.next_seq,
            now_ms: now().as_millis(),
            run: self.speaker.run,
            trust: Some(trust),
        }
    }
}

async fn next<S>(incoming: &mut S) -> Result<ToAgent, SessionError>
where
    S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
{
    let message = incoming.next().await.ok_or(SessionError::Closed)?;
    message?.kind.ok_or_else(|| {
        MessageError::Unexpected { expected: "a welcome", found: "an unknown message" }.into()
    })
}

async fn send(
    outgoing: &mpsc::Sender<v1::ToCollector>,
    message: ToCollector,
) -> Result<(), SessionError> {
    // A stream that takes nothing is as dead as one that says nothing.
    let sent = tokio::time::timeout(SILENCE, outgoing.send(message.into())).await;
    sent.map_err(|_| SessionError::Silent)?.map_err(|_| SessionError::Closed)
}

/// Works on the spool where the disk may be waited for.
async fn blocking<T: Send + 'static>(
    spool: &Arc<SharedSpool>,
    work: impl FnOnce(&SharedSpool) -> Result<T, SpoolError> + Send + 'static,
) -> Result<T, SessionError> {
    let spool = Arc::clone(spool);
    match tokio::task::spawn_blocking(move || work(&spool)).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(SessionError::Spool(SpoolError::Closed)),
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
pub(crate) mod tests;
