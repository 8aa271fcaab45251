//! One session with the collector: hello, welcome, frames one way, acknowledgements the other. Knows streams of messages
//! only, so that it does not matter who dialled.

use std::collections::VecDeque;
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;
use tributary_proto::convert::{MessageError, ToAgent, ToCollector, Welcome};
use tributary_proto::{limits, v1};

use crate::link::chain;
use crate::metrics::LinkMetrics;
use crate::spool::{FrameReader, Outgoing, Seen, SharedSpool, SpoolError};

/// How long the collector has for its welcome, connecting and TLS included.
pub(crate) const WELCOME_TIMEOUT: Duration = Duration::from_secs(15);
/// How often each side says that it is there.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A peer that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(35);
/// How long the reason for a closed stream may take.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);
/// Frames, or bytes of frames, that are read from the spool at once.
const READ_FRAMES: usize = 32;
const READ_BYTES: usize = 512 << 10;

/// Who speaks.
#[derive(Debug, Clone)]
pub(crate) struct Speaker {
    /// The cluster in the certificate.
    pub(crate) cluster: ClusterName,
    /// The instance in the certificate.
    pub(crate) instance: String,
}

/// How a session ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// We were asked to stop, and everything is acknowledged.
    Drained,
    /// The collector is going away.
    PeerDrained,
}

/// How a session ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// gRPC or what is below it.
    #[error("{}", words(.0))]
    Stream(Box<tonic::Status>),
    /// No more messages.
    #[error("the collector closed the stream")]
    Closed,
    /// No welcome in time.
    #[error("the collector did not answer within {WELCOME_TIMEOUT:?}")]
    NoWelcome,
    /// Nothing in time.
    #[error("the collector has not been heard of for {SILENCE:?}")]
    Silent,
    /// A message that the collector may not send.
    #[error("the collector broke the protocol")]
    Message(#[from] MessageError),
    /// An acknowledgement of what was never sent.
    #[error("the collector acknowledged frame {acked}, but {sent} is the last that was sent")]
    Ack {
        /// What it acknowledged.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// The spool failed.
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// The spool was opened again; another session reads it from now on.
    #[error("the spool was opened again")]
    Reopened,
}

/// A status in words: what the collector says, or what is wrong below gRPC.
fn words(status: &tonic::Status) -> String {
    use tonic::Code;
    let below = status.source().map(chain);
    match (status.code(), below) {
        (Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal, Some(below)) => {
            // What transports say of themselves comes first, the cause last.
            below.trim_start_matches("transport error: ").to_owned()
        }
        (Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal, None) => {
            format!("the stream broke: {}", status.message())
        }
        (_, _) => format!("the collector refuses: {}", status.message()),
    }
}

/// What every session needs.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    spool: Arc<SharedSpool>,
    speaker: Speaker,
    metrics: LinkMetrics,
}

impl Session {
    /// Sessions that send from `spool`.
    pub(crate) fn new(spool: Arc<SharedSpool>, speaker: Speaker, metrics: LinkMetrics) -> Self {
        Self { spool, speaker, metrics }
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

    /// Speaks until the stream ends, or until `drain` and the last acknowledgement. `progress` is set once the collector
    /// welcomed us.
    pub(crate) async fn run<S>(
        &self,
        incoming: S,
        outgoing: mpsc::Sender<v1::ToCollector>,
        drain: CancellationToken,
        progress: &mut bool,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Send,
    {
        let mut incoming = std::pin::pin!(incoming);
        match self.talk(&mut incoming, &outgoing, &drain, progress).await {
            // The stream's status says why our side of it was closed.
            Err(SessionError::Closed) => {
                match tokio::time::timeout(STATUS_TIMEOUT, incoming.next()).await {
                    Ok(Some(Err(status))) => Err(SessionError::Stream(Box::new(status))),
                    _ => Err(SessionError::Closed),
                }
            }
            other => other,
        }
    }

    async fn talk<S>(
        &self,
        incoming: &mut S,
        outgoing: &mpsc::Sender<v1::ToCollector>,
        drain: &CancellationToken,
        progress: &mut bool,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
    {
        let seen = self.spool.watch();
        let hello = self.hello(&seen.borrow());
        send(outgoing, ToCollector::Hello(hello)).await?;
        let first = tokio::time::timeout(WELCOME_TIMEOUT, next(incoming)).await;
        let welcome: Welcome = match first.map_err(|_| SessionError::NoWelcome)?? {
            ToAgent::Welcome(welcome) => welcome.try_into()?,
            other => return Err(unexpected("a welcome", &other)),
        };
        *progress = true;
        self.metrics.sessions.inc();
        self.metrics.connected.set(1);
        let connected = Connected(self.metrics.clone());
        let mut live = self.resume(welcome, seen).await?;
        let end = live.run(incoming, outgoing, drain).await;
        drop(connected);
        end
    }

    fn hello(&self, seen: &Seen) -> v1::Hello {
        v1::Hello {
            protocol: limits::PROTOCOL,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.speaker.cluster.to_string(),
            instance: self.speaker.instance.clone(),
            epoch: seen.status.epoch,
            first_seq: seen.status.first_seq,
            next_seq: seen.status.next_seq,
            now_ms: now().as_millis(),
            run: 0,
            trust: None,
        }
    }

    /// Where to go on, by what the collector has.
    async fn resume(
        &self,
        welcome: Welcome,
        seen: watch::Receiver<Seen>,
    ) -> Result<Live, SessionError> {
        let after = welcome.resume_after;
        let generation = seen.borrow().generation;
        let reader = blocking(&self.spool, move |spool| {
            spool.with(|spool| {
                let next = spool.status().next_seq;
                if after >= next {
                    tracing::warn!(
                        collector = after,
                        spool = next.saturating_sub(1),
                        "the collector has frames that this spool never sent: the folder is an old copy; \
                         numbers go on behind the collector's"
                    );
                    spool.renumber(after)
                } else {
                    spool.ack(after)
                }
            })?;
            spool.reader(after, !welcome.has_state)
        });
        Ok(Live {
            spool: self.spool.clone(),
            metrics: self.metrics.clone(),
            reader: Some(reader.await?),
            seen,
            generation,
            queue: VecDeque::new(),
            acked: after,
            sent: after,
            window: welcome.max_frames_in_flight.into(),
            peer_drains: false,
            window_was_full: false,
        })
    }
}

/// Shows that a session is up as long as it lives.
struct Connected(LinkMetrics);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connected.set(0);
        self.0.in_flight.set(0);
    }
}

/// A session after its welcome.
struct Live {
    spool: Arc<SharedSpool>,
    metrics: LinkMetrics,
    /// Not here while it reads.
    reader: Option<FrameReader>,
    seen: watch::Receiver<Seen>,
    generation: u64,
    /// Frames read and not sent yet.
    queue: VecDeque<Outgoing>,
    acked: u64,
    /// The highest frame that was sent.
    sent: u64,
    window: u64,
    /// The collector goes away: it takes no more frames.
    peer_drains: bool,
    window_was_full: bool,
}

impl Live {
    async fn run<S>(
        &mut self,
        incoming: &mut S,
        outgoing: &mpsc::Sender<v1::ToCollector>,
        drain: &CancellationToken,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
    {
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut stale = true;
        loop {
            if stale && self.queue.is_empty() && !self.peer_drains {
                stale = self.read().await?;
            }
            if drain.is_cancelled() && self.is_done() {
                send(outgoing, ToCollector::Drain(v1::Drain { reason: "stopping".into() })).await?;
                return Ok(End::Drained);
            }
            let can_send = self.can_send();
            tokio::select! {
                message = incoming.next() => match message {
                    None if self.peer_drains => return Ok(End::PeerDrained),
                    None => return Err(SessionError::Closed),
                    Some(message) => {
                        heard = Instant::now();
                        self.hear(message.map_err(|s| SessionError::Stream(Box::new(s)))?).await?;
                    }
                },
                place = outgoing.reserve(), if can_send => {
                    let place = place.map_err(|_| SessionError::Closed)?;
                    if let Some(frame) = self.queue.pop_front() {
                        place.send(self.frame(frame));
                    }
                }
                changed = self.seen.changed(), if !stale => {
                    changed.map_err(|_| SessionError::Reopened)?;
                    stale = true;
                }
                _ = heartbeat.tick() => send(outgoing, self.heartbeat()).await?,
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                () = tokio::time::sleep_until(heard + SILENCE) => return Err(SessionError::Silent),
            }
        }
    }

    /// Everything in the spool is acknowledged.
    fn is_done(&self) -> bool {
        let status = self.seen.borrow().status;
        self.acked.saturating_add(1) >= status.next_seq
    }

    fn can_send(&mut self) -> bool {
        let in_flight = self.sent.saturating_sub(self.acked);
        let full = in_flight >= self.window;
        if full && !self.window_was_full && !self.queue.is_empty() {
            self.metrics.window_full.inc();
        }
        self.window_was_full = full;
        !full && !self.queue.is_empty() && !self.peer_drains
    }

    /// Reads frames ahead; whether there may be more.
    async fn read(&mut self) -> Result<bool, SessionError> {
        // Marked as seen before the disk is looked at: what comes later wakes us again.
        let generation = self.seen.borrow_and_update().generation;
        if generation != self.generation {
            return Err(SessionError::Reopened);
        }
        let Some(mut reader) = self.reader.take() else { return Err(SessionError::Reopened) };
        let read = blocking(&self.spool, move |_| {
            let (mut frames, mut bytes) = (VecDeque::new(), 0);
            while frames.len() < READ_FRAMES
                && bytes < READ_BYTES
                && let Some(frame) = reader.next()?
            {
                bytes += frame.bytes.len();
                frames.push_back(frame);
            }
            Ok((reader, frames))
        });
        let (reader, frames) = read.await?;
        self.reader = Some(reader);
        self.queue = frames;
        Ok(!self.queue.is_empty())
    }

    fn frame(&mut self, frame: Outgoing) -> v1::ToCollector {
        self.sent = self.sent.max(frame.seq);
        self.metrics.frames_sent.inc();
        self.metrics.frame_bytes_sent.inc_by(frame.bytes.len() as u64);
        self.show();
        ToCollector::Frame(v1::Frame { data: frame.bytes.into() }).into()
    }

    async fn hear(&mut self, message: v1::ToAgent) -> Result<(), SessionError> {
        match message.kind {
            Some(ToAgent::Ack(v1::Ack { durable_seq })) => self.acknowledged(durable_seq).await,
            Some(ToAgent::Drain(v1::Drain { reason })) => {
                tracing::info!(reason, "the collector is going away");
                self.peer_drains = true;
                Ok(())
            }
            // A later version may have more to say.
            Some(
                ToAgent::Heartbeat(_)
                | ToAgent::Bundle(_)
                | ToAgent::Certificate(_)
                | ToAgent::Renew(_)
                | ToAgent::Reconnect(_),
            )
            | None => Ok(()),
            Some(other) => Err(unexpected("an acknowledgement", &other)),
        }
    }

    async fn acknowledged(&mut self, seq: u64) -> Result<(), SessionError> {
        if seq > self.sent {
            return Err(SessionError::Ack { acked: seq, sent: self.sent });
        }
        if seq > self.acked {
            self.acked = seq;
            self.metrics.last_ack_time.set(now().as_secs_f64());
            self.show();
            blocking(&self.spool, move |spool| spool.with(|spool| spool.ack(seq))).await?;
        }
        Ok(())
    }

    fn heartbeat(&self) -> ToCollector {
        let status = self.seen.borrow().status;
        ToCollector::Heartbeat(v1::Heartbeat {
            now_ms: now().as_millis(),
            spooled_frames: status.waiting(),
            spooled_bytes: status.bytes,
        })
    }

    fn show(&self) {
        let in_flight = self.sent.saturating_sub(self.acked);
        self.metrics.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }
}

async fn next<S>(incoming: &mut S) -> Result<ToAgent, SessionError>
where
    S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
{
    let message = incoming.next().await.ok_or(SessionError::Closed)?;
    let message = message.map_err(|status| SessionError::Stream(Box::new(status)))?;
    message.kind.ok_or_else(|| {
        MessageError::Unexpected { expected: "a welcome", found: "an unknown message" }.into()
    })
}

fn unexpected(expected: &'static str, found: &ToAgent) -> SessionError {
    let found = match found {
        ToAgent::Welcome(_) => "a second welcome",
        ToAgent::Ack(_) => "an acknowledgement",
        ToAgent::Heartbeat(_) => "a heartbeat",
        ToAgent::Drain(_) => "a drain",
        ToAgent::Bundle(_) => "a bundle of authorities",
        ToAgent::Certificate(_) => "a certificate",
        ToAgent::Renew(_) => "a wish for a renewal",
        ToAgent::Reconnect(_) => "a wish for a new connection",
    };
    MessageError::Unexpected { expected, found }.into()
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
mod tests;
