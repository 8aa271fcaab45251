//! A session after its welcome.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tributary_proto::convert::{ToAgent, ToCollector, Welcome};
use tributary_proto::v1;

use super::care::Care;
use super::clock::Clock;
use super::flight::Flight;
use super::{
    End, HEARTBEAT, LINGER, Line, SILENCE, Session, SessionError, blocking, now, send, unexpected,
};
use crate::handover::Turn;
use crate::metrics::LinkMetrics;
use crate::spool::{FrameReader, Outgoing, Seen, SharedSpool};

/// Frames, or bytes of frames, that are read from the spool at once.
const READ_FRAMES: usize = 32;
const READ_BYTES: usize = 512 << 10;

/// How far the talk is. Only while it is open is anything said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Both sides talk.
    Open,
    /// The collector takes nothing more, and has not said why yet.
    Closed,
    /// The collector has said that it goes away.
    Draining,
    /// A later session has taken over.
    Over,
}

/// A session after its welcome.
pub(super) struct Live<'a> {
    spool: Arc<SharedSpool>,
    metrics: LinkMetrics,
    turn: &'a Turn,
    care: Care,
    clock: Clock,
    flight: Flight,
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
    stage: Stage,
    window_was_full: bool,
    /// When the collector counts as gone unless it says something.
    patience: Instant,
}

impl<'a> Live<'a> {
    /// Goes on where the collector says it is.
    pub(super) async fn resume(
        session: &Session,
        welcome: Welcome,
        (care, clock): (Care, Clock),
        turn: &'a Turn,
    ) -> Result<Self, SessionError> {
        let after = welcome.resume_after;
        let seen = session.spool.watch();
        let generation = seen.borrow().generation;
        let reader = blocking(&session.spool, move |spool| {
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
        Ok(Self {
            spool: session.spool.clone(),
            metrics: session.metrics.clone(),
            turn,
            care,
            clock,
            flight: Flight::new(session.metrics.ack_seconds.clone()),
            reader: Some(reader.await?),
            seen,
            generation,
            queue: VecDeque::new(),
            acked: after,
            sent: after,
            window: welcome.max_frames_in_flight.into(),
            stage: Stage::Open,
            window_was_full: false,
            patience: Instant::now() + SILENCE,
        })
    }

    /// Sends and hears until the end.
    pub(super) async fn run<S>(
        &mut self,
        line: &mut Line<S>,
        drain: &CancellationToken,
    ) -> Result<End, SessionError>
    where
        S: Stream<Item = Result<v1::ToAgent, tonic::Status>> + Unpin,
    {
        let outgoing = line.outgoing.clone();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let turn = self.turn;
        let mut over = std::pin::pin!(turn.over());
        let mut stale = true;
        loop {
            if stale && self.queue.is_empty() && self.stage == Stage::Open {
                stale = self.read().await?;
            }
            if drain.is_cancelled() && self.is_done() && self.stage != Stage::Over {
                send(&outgoing, ToCollector::Drain(v1::Drain { reason: "stopping".into() }))
                    .await?;
                return Ok(End::Drained);
            }
            let can_send = self.can_send();
            tokio::select! {
                message = line.incoming.next() => match message {
                    None if matches!(self.stage, Stage::Draining | Stage::Over) => return Ok(End::PeerDrained),
                    None => return Err(SessionError::Closed),
                    Some(message) => self.hear(message?).await?,
                },
                place = outgoing.reserve(), if can_send => match (place, self.queue.pop_front()) {
                    (Ok(place), Some(frame)) => place.send(self.frame(frame)),
                    (Ok(_), None) => {}
                    (Err(_), _) => self.not_heard(),
                },
                changed = self.seen.changed(), if !stale => {
                    changed.map_err(|_| SessionError::Reopened)?;
                    stale = true;
                }
                said = self.care.next(), if self.stage == Stage::Open => self.say(&outgoing, said?).await?,
                _ = heartbeat.tick(), if self.stage == Stage::Open => {
                    let heartbeat = self.heartbeat();
                    self.say(&outgoing, heartbeat).await?;
                }
                () = drain.cancelled(), if !drain.is_cancelled() => {}
                () = &mut over, if self.stage != Stage::Over => {
                    self.stage = Stage::Over;
                    self.patience = Instant::now() + LINGER;
                }
                () = tokio::time::sleep_until(self.patience) => return Err(SessionError::Silent),
            }
        }
    }

    async fn say(
        &mut self,
        outgoing: &mpsc::Sender<v1::ToCollector>,
        message: ToCollector,
    ) -> Result<(), SessionError> {
        match send(outgoing, message).await {
            Err(SessionError::Closed) => self.not_heard(),
            other => other?,
        }
        Ok(())
    }

    /// The collector has ended its side: its last acknowledgements, and its reason, are still to be heard.
    fn not_heard(&mut self) {
        if self.stage == Stage::Open {
            self.stage = Stage::Closed;
        }
        self.patience = self.patience.min(Instant::now() + LINGER);
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
        !full && !self.queue.is_empty() && self.stage == Stage::Open
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
        self.flight.sent(frame.seq, Instant::now());
        self.metrics.frames_sent.inc();
        self.metrics.frame_bytes_sent.inc_by(frame.bytes.len() as u64);
        self.show();
        ToCollector::Frame(v1::Frame { data: frame.bytes.into() }).into()
    }

    async fn hear(&mut self, message: v1::ToAgent) -> Result<(), SessionError> {
        if self.stage == Stage::Open {
            self.patience = Instant::now() + SILENCE;
        }
        match message.kind {
            Some(ToAgent::Ack(v1::Ack { durable_seq })) => self.acknowledged(durable_seq).await?,
            Some(other @ ToAgent::Welcome(_)) => {
                return Err(unexpected("an acknowledgement", &other));
            }
            Some(ToAgent::Drain(v1::Drain { reason })) => {
                tracing::info!(reason, "the collector ends the stream");
                if self.stage != Stage::Over {
                    self.stage = Stage::Draining;
                }
            }
            // The next session hears again what else there is.
            Some(_) if self.stage != Stage::Open => {}
            Some(ToAgent::Heartbeat(v1::Heartbeat { now_ms, .. })) => {
                self.clock.compare(now_ms, SystemTime::now());
            }
            Some(ToAgent::Reconnect(v1::Reconnect { within_ms, reason })) => {
                tracing::info!(reason, "the collector asks for a new connection");
                self.turn.reconnect(Duration::from_millis(within_ms.into()));
            }
            Some(ToAgent::Bundle(bundle)) => self.care.bundle(bundle).await,
            Some(ToAgent::Renew(v1::Renew { reason })) => self.care.renew(&reason),
            Some(ToAgent::Certificate(answer)) => self.care.certificate(answer).await,
            // A later version may have more to say.
            None => {}
        }
        Ok(())
    }

    async fn acknowledged(&mut self, seq: u64) -> Result<(), SessionError> {
        if seq > self.sent {
            return Err(SessionError::Ack { acked: seq, sent: self.sent });
        }
        if seq > self.acked {
            self.acked = seq;
            self.flight.acknowledged(seq, Instant::now());
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
        if self.stage == Stage::Over {
            return;
        }
        let in_flight = self.sent.saturating_sub(self.acked);
        self.metrics.in_flight.set(i64::try_from(in_flight).unwrap_or(i64::MAX));
    }
}
