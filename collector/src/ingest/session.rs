//! The collector's half of a session: hello, welcome, frames in, acknowledgements out.

mod arrival;
mod end;
mod opening;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::{Notify, OwnedMutexGuard, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{error, info, warn};
use tributary_certs::tls::Peer;
use tributary_model::sample::Timestamp;
use tributary_proto::convert::{MessageError, ToAgent, ToCollector, Trust};
use tributary_proto::frame::{self, Header};
use tributary_proto::{limits, v1};
use tributary_store::StreamKey;

use super::Shared;
use super::metrics::{because, of};
use super::stream::StreamReader;
use super::streams::{Claim, Newcomer, Successor};
use arrival::{Arrival, Progress};
use end::End;
use opening::{check_hello, stream_key};
use standing::Standing;

/// How long an agent has for its hello, and a replaced connection for its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often each side says that it is alive.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A stream on which nothing was heard for this long is closed.
const SILENCE: Duration = Duration::from_secs(45);
/// How long frames that were handed to the store may take when the stream ends.
const SETTLE: Duration = Duration::from_secs(15);
/// A stream that was heard of so recently lives; another process that takes it over is a second one, not a restart.
const ALIVE: Duration = Duration::from_secs(15);
/// An agent's clock that is off by more is worth a warning: its newest samples will be refused.
const CLOCK_SKEW: Duration = Duration::from_secs(120);

/// What a session writes to; an error is the stream's last word.
pub(crate) type Outbound = mpsc::Sender<Result<v1::ToAgent, Status>>;

/// The other end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Who it is.
    pub(crate) peer: Peer,
    /// Told when a newer connection is wanted, if it is we who dial.
    pub(crate) redial: Option<Arc<Notify>>,
}

/// Runs one session to its end. Every exit is logged and counted once.
pub(crate) async fn run(
    shared: Arc<Shared>,
    caller: Caller,
    inbound: impl Stream<Item = Result<v1::ToCollector, Status>> + Unpin,
    outbound: Outbound,
    stop: CancellationToken,
) {
    let peer = caller.peer.clone();
    let key = match stream_key(&peer) {
        Ok(key) => key,
        Err(end) => return refuse(&peer, &end, &outbound).await,
    };
    let standing = Standing::new(shared.clone(), key.clone(), caller);
    let end = match begin((&shared, &key), standing, inbound, &outbound, &stop).await {
        Ok(mut session) => {
            let up = shared.metrics.stream(&key.cluster, &peer);
            let end = session.run(&stop).await;
            session.close(&end).await;
            drop(up);
            shared.registry.disconnected(&key, end.to_string());
            end
        }
        Err(end) => end,
    };
    let label = because(&key.cluster, end.reason());
    shared.metrics.streams_ended.get_or_create(&label).inc();
    if end.is_violation() {
        shared.metrics.violations.get_or_create(&label).inc();
    }
    if end.is_clash() {
        shared.metrics.agents_fenced.get_or_create(&of(&key.cluster)).inc();
    }
    refuse(&peer, &end, &outbound).await;
}

/// One log line, and the status for the agent.
async fn refuse(peer: &Peer, end: &End, outbound: &Outbound) {
    let (agent, address) = (peer.identity.describe(), peer.address);
    let status = end.status();
    if end.is_clash() {
        error!(agent, peer = %address, reason = %end, "two agents use one certificate");
    } else if status.is_some() {
        warn!(agent, peer = %address, reason = %end, "stream closed");
    } else {
        info!(agent, peer = %address, reason = %end, "stream ended");
    }
    if let Some(status) = status {
        // An agent that does not read its last word has its reasons.
        let _ = timeout(PATIENCE, outbound.send(Err(status))).await;
    }
}

/// Reads the hello, takes the stream over, and welcomes the agent.
async fn begin<S: Stream<Item = Result<v1::ToCollector, Status>> + Unpin>(
    (shared, key): (&Arc<Shared>, &StreamKey),
    mut standing: Standing,
    mut inbound: S,
    outbound: &Outbound,
    stop: &CancellationToken,
) -> Result<Session<S>, End> {
    standing.review()?;
    let hello = tokio::select! {
        () = stop.cancelled() => return Err(End::Stopping),
        first = timeout(PATIENCE, inbound.next()) => first.map_err(|_| End::Silent)?,
    };
    let hello = check_hello(hello, key)?;
    let newcomer = Newcomer::new(standing.peer(), hello.run, SystemTime::now());
    let claim = shared.streams.claim(key, newcomer, std::time::Instant::now())?;
    // The connection before this one lets go of the reader when its frames are on disk.
    let reader = timeout(SETTLE + PATIENCE, claim.reader.clone().lock_owned());
    let reader = reader.await.map_err(|_| End::Internal("the stream before does not end"))?;

    let durable = shared.store.stream(key).filter(|state| state.epoch == hello.epoch);
    let resume_after = durable.map_or(0, |state| state.last_seq);
    // A process that goes on elsewhere may have sent more on its old connection since it said hello.
    if claim.is_new_run && hello.next_seq <= resume_after {
        warn!(
            cluster = %key.cluster, instance = %key.instance, stored = resume_after, next = hello.next_seq,
            "the agent's spool is an old copy: frames that it has not made yet are stored already"
        );
    }
    let has_state = resume_after > 0
        && reader.is_after(hello.epoch, resume_after)
        && shared.store.knows_segment(key);
    let welcome = v1::Welcome {
        protocol: limits::PROTOCOL,
        resume_after_seq: resume_after,
        has_state,
        limits: Some(v1::Limits {
            max_frame_bytes: u32::try_from(limits::MAX_FRAME_BYTES).unwrap_or(u32::MAX),
            max_frames_in_flight: limits::MAX_FRAMES_IN_FLIGHT,
        }),
        now_ms: Timestamp::from(SystemTime::now()).as_millis(),
    };
    let sent = timeout(PATIENCE, outbound.send(Ok(ToAgent::Welcome(welcome).into()))).await;
    if !matches!(sent, Ok(Ok(()))) {
        return Err(End::Closed);
    }
    let peer = standing.peer();
    let now = Timestamp::from(SystemTime::now());
    shared.registry.connected(key, peer, &hello.agent_version, now);
    info!(
        cluster = %key.cluster, instance = %key.instance, peer = %peer.address,
        version = %hello.agent_version, resume_after, has_state, "stream opened"
    );
    let mut session = Session {
        shared: shared.clone(),
        key: key.clone(),
        epoch: hello.epoch,
        resume_after,
        last: has_state.then_some(resume_after),
        inbound,
        outbound: outbound.clone(),
        reader: Some(reader),
        claim,
        expires: deadline(peer.not_after),
        standing,
        handed: 0,
        progress: watch::Sender::new(Progress { durable_seq: resume_after, ..Progress::default() }),
        acknowledged: resume_after,
        heartbeat_due: false,
        held_back: None,
        heard: Instant::now(),
        skew_warned: false,
    };
    session.note_clock(hello.now, (0, 0));
    if let Some(trust) = hello.trust {
        session.standing.note(trust);
    }
    Ok(session)
}

struct Session<S> {
    shared: Arc<Shared>,
    key: StreamKey,
    epoch: u64,
    /// Frames up to this one are on disk from earlier; they come again only for the decoder's state.
    resume_after: u64,
    /// The last frame that was read; nothing until a segment has started.
    last: Option<u64>,
    inbound: S,
    outbound: Outbound,
    /// Away only while a frame is being read on another thread.
    reader: Option<OwnedMutexGuard<StreamReader>>,
    claim: Claim,
    expires: Instant,
    standing: Standing,
    /// Frames handed to the store.
    handed: u64,
    progress: watch::Sender<Progress>,
    /// The last acknowledgement that was sent.
    acknowledged: u64,
    heartbeat_due: bool,
    /// A frame that waits for its cluster's rate, and until when.
    held_back: Option<(Instant, Bytes)>,
    heard: Instant,
    skew_warned: bool,
}

impl<S: Stream<Item = Result<v1::ToCollector, Status>> + Unpin> Session<S> {
    async fn run(&mut self, stop: &CancellationToken) -> End {
        if let Err(end) = self.standing.review() {
            return end;
        }
        let outbound = self.outbound.clone();
        let mut progress = self.progress.subscribe();
        let mut beat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let readable =
                self.held_back.is_none() && self.in_flight() < limits::MAX_FRAMES_IN_FLIGHT.into();
            let held_until = self.held_back.as_ref().map_or(self.expires, |(until, _)| *until);
            let step = tokio::select! {
                () = stop.cancelled() => Err(End::Stopping),
                Ok(successor) = &mut self.claim.replaced => Err(self.replaced_by(successor)),
                () = sleep_until(self.expires) => Err(End::Expired),
                () = self.standing.stirred() => self.standing.review(),
                // The sender lives as long as the session.
                _ = progress.changed() => self.note_progress(),
                permit = outbound.reserve(), if self.message_due() => match permit {
                    Ok(permit) => { permit.send(Ok(self.next_message())); Ok(()) }
                    Err(_) => Err(End::Closed),
                },
                _ = beat.tick() => self.beat(readable),
                () = sleep_until(held_until), if self.held_back.is_some() => self.release_held().await,
                message = self.inbound.next(), if readable => self.hear(message).await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn replaced_by(&mut self, successor: Successor) -> End {
        match successor {
            Successor::Same => End::Replaced,
            Successor::Other(address) => {
                let alive = self.heard.elapsed() < ALIVE && self.is_open();
                End::Fenced { address, alive }
            }
        }
    }

    /// Whether the agent is still there: behind what it said last, its end may lie unread.
    fn is_open(&mut self) -> bool {
        for _ in 0..limits::MAX_FRAMES_IN_FLIGHT {
            match self.inbound.next().now_or_never() {
                Some(Some(Ok(_))) => {}
                other => return other.is_none(),
            }
        }
        true
    }

    fn in_flight(&self) -> u64 {
        self.handed.saturating_sub(self.progress.borrow().answered)
    }

    fn note_progress(&self) -> Result<(), End> {
        match &self.progress.borrow().failed {
            Some(why) => Err(End::Store(why.clone())),
            None => Ok(()),
        }
    }

    fn message_due(&self) -> bool {
        self.heartbeat_due
            || self.standing.has_next()
            || self.progress.borrow().durable_seq > self.acknowledged
    }

    /// An acknowledgement first, a heartbeat last; one acknowledgement for all frames since the last.
    fn next_message(&mut self) -> v1::ToAgent {
        let durable_seq = self.progress.borrow().durable_seq;
        if durable_seq > self.acknowledged {
            self.acknowledged = durable_seq;
            return ToAgent::Ack(v1::Ack { durable_seq }).into();
        }
        if let Some(message) = self.standing.next() {
            return message.into();
        }
        self.heartbeat_due = false;
        let now_ms = Timestamp::from(SystemTime::now()).as_millis();
        ToAgent::Heartbeat(v1::Heartbeat { now_ms, spooled_frames: 0, spooled_bytes: 0 }).into()
    }

    fn beat(&mut self, readable: bool) -> Result<(), End> {
        self.heartbeat_due = true;
        if !readable {
            // We are not listening.
            self.heard = Instant::now();
        }
        if self.heard.elapsed() > SILENCE { Err(End::Silent) } else { self.standing.review() }
    }

    async fn hear(&mut self, message: Option<Result<v1::ToCollector, Status>>) -> Result<(), End> {
        self.heard = Instant::now();
        let message = message.ok_or(End::Closed)?.map_err(|status| End::broken(&status))?;
        match message.kind {
            Some(ToCollector::Frame(frame)) => self.weigh(frame.data).await,
            Some(ToCollector::Heartbeat(beat)) => {
                let spooled = (beat.spooled_frames, beat.spooled_bytes);
                self.note_clock(Timestamp::from_millis(beat.now_ms), spooled);
                Ok(())
            }
            Some(ToCollector::Drain(drain)) => {
                let reason = drain.reason.escape_debug().to_string();
                info!(cluster = %self.key.cluster, instance = %self.key.instance, reason, "agent drains");
                Ok(())
            }
            Some(ToCollector::Hello(_)) => Err(MessageError::Unexpected {
                expected: "anything but another Hello",
                found: "Hello",
            }
            .into()),
            Some(ToCollector::Trust(trust)) => {
                self.standing.note(Trust::try_from(trust)?);
                self.standing.review()
            }
            Some(ToCollector::CertificateRequest(request)) => {
                self.standing.sign(request.csr_der);
                Ok(())
            }
            // What a newer agent may say.
            None => Ok(()),
        }
    }

    /// Reads the frame now, or holds it back while its cluster is over its rate.
    async fn weigh(&mut self, data: Bytes) -> Result<(), End> {
        let header = self.check(&data)?;
        let cluster = &self.key.cluster;
        self.shared
            .metrics
            .frame_bytes
            .get_or_create(&of(cluster))
            .inc_by(u64::try_from(data.len()).unwrap_or(u64::MAX));
        let rate = self.shared.policies.load().of(cluster).max_samples_per_second;
        let now = Instant::now();
        let samples = if self.is_for_state(&header) { 0 } else { header.samples };
        let wait = self.shared.rates.take(cluster, rate, samples, now.into_std());
        if wait.is_zero() {
            return self.take(data).await;
        }
        let throttled = self.shared.metrics.throttled_seconds.get_or_create(&of(cluster)).clone();
        throttled.inc_by(wait.as_secs_f64());
        self.held_back = Some((now + wait, data));
        Ok(())
    }

    async fn release_held(&mut self) -> Result<(), End> {
        match self.held_back.take() {
            Some((_, data)) => self.take(data).await,
            None => Ok(()),
        }
    }

    /// The frame must be whole, of this spool, and the one that is due. Only the start of a segment may jump ahead:
    /// the agent has dropped what was before.
    fn check(&mut self, data: &[u8]) -> Result<Header, End> {
        let header = frame::header(data)?;
        if header.epoch != self.epoch {
            return Err(End::Sequence(format!(
                "frame {} is of another spool than the hello",
                header.seq
            )));
        }
        let due = match self.last {
            None => header.starts_segment && header.seq > 0,
            Some(last) => {
                Some(header.seq) == last.checked_add(1)
                    || (header.starts_segment && header.seq > last)
            }
        };
        if due {
            return Ok(header);
        }
        Err(End::Sequence(match self.last {
            None => {
                format!("frame {} does not start a segment, as the first frame must", header.seq)
            }
            Some(last) => format!("frame {} came after frame {last}", header.seq),
        }))
    }

    fn is_for_state(&self, header: &Header) -> bool {
        header.seq <= self.resume_after
    }

    /// Decodes the frame and hands it to the store, on a thread that may block: the store makes callers wait when it
    /// has enough to do.
    async fn take(&mut self, data: Bytes) -> Result<(), End> {
        let header = frame::header(&data)?;
        let arrival = Arrival {
            shared: self.shared.clone(),
            key: self.key.clone(),
            header,
            received_at: Timestamp::from(SystemTime::now()),
            for_state: self.is_for_state(&header),
            progress: self.progress.clone(),
        };
        let mut reader = self.reader.take().ok_or(End::Internal("the reader is away"))?;
        let work = tokio::task::spawn_blocking(move || {
            let handed = arrival.hand_over(&data, &mut reader);
            (reader, handed)
        });
        let (reader, handed) = work.await.map_err(|_| End::Internal("reading a frame panicked"))?;
        self.reader = Some(reader);
        handed?;
        self.last = Some(header.seq);
        self.handed += 1;
        Ok(())
    }

    fn note_clock(&mut self, theirs: Timestamp, spooled: (u64, u64)) {
        let now = SystemTime::now();
        let skew = theirs.as_millis().saturating_sub(Timestamp::from(now).as_millis());
        self.shared.registry.heartbeat(&self.key, spooled, skew, now);
        if u128::from(skew.unsigned_abs()) > CLOCK_SKEW.as_millis() && !self.skew_warned {
            self.skew_warned = true;
            warn!(
                cluster = %self.key.cluster, instance = %self.key.instance, skew_ms = skew,
                "the agent's clock is more than 2 minutes off; samples from the future are refused"
            );
        }
    }

    /// Says why, waits until what was handed to the store is on disk, and acknowledges it.
    async fn close(&mut self, end: &End) {
        let polite =
            matches!(end, End::Stopping | End::Replaced | End::Fenced { .. } | End::Expired);
        if polite {
            let drain = ToAgent::Drain(v1::Drain { reason: end.to_string() }).into();
            let _ = timeout(PATIENCE, self.outbound.send(Ok(drain))).await;
        }
        let mut progress = self.progress.subscribe();
        let handed = self.handed;
        let settled = progress.wait_for(|progress| progress.answered >= handed);
        if timeout(SETTLE, settled).await.is_err() {
            warn!(cluster = %self.key.cluster, instance = %self.key.instance, "the store is slow to answer");
        }
        if self.progress.borrow().durable_seq > self.acknowledged && !self.outbound.is_closed() {
            let ack = self.next_message();
            let _ = timeout(PATIENCE, self.outbound.send(Ok(ack))).await;
        }
    }
}

/// The moment of the monotonic clock at which the wall clock will show `at`.
fn deadline(at: SystemTime) -> Instant {
    let left = at.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}

#[cfg(test)]
mod tests;
