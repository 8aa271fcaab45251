//! The way to the collector: dials, speaks one session after another, and waits longer the longer it is in vain.

use std::error::Error;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tributary_certs::tls::{ClientTls, Expect, PeerStream};
use tributary_proto::limits;
use tributary_proto::v1::ingest_client::IngestClient;

use crate::handover::{Handover, Turn, Wishes};
use crate::session::{End, Line, Session, SessionError};

/// Sessions at once: one that serves, one that takes over, one that ends. More: the next one waits.
const MAX_SESSIONS: usize = 3;
/// Waits between attempts: doubled from the first to the last, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(30);
const LAST_WAIT_DRAINING: Duration = Duration::from_secs(1);
/// A session that lasted so long was good: the next wait is the first one again.
const GOOD_SESSION: Duration = Duration::from_secs(60);
/// How long TCP may take; TLS has its own time-out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long we wait for the collector's first bytes before we send ours.
const FIRST_WORDS: Duration = Duration::from_secs(2);
/// HTTP/2 asks a silent peer after this time, and gives up after the other.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between session and gRPC; the window of frames is the session's.
const QUEUE_MESSAGES: usize = 4;

/// Dials the collector.
pub(crate) struct Link {
    address: String,
    tls: Arc<ClientTls>,
    session: Session,
    handover: Arc<Handover>,
}

impl Link {
    /// A link to `address`, `host:port`.
    pub(crate) fn new(
        address: String,
        tls: Arc<ClientTls>,
        session: Session,
        handover: Arc<Handover>,
    ) -> Self {
        Self { address, tls, session, handover }
    }

    /// Runs until `drain` and the last acknowledgement after it. A new session is made before the one that it replaces
    /// is let go, and only the collector's welcome makes it the one that serves.
    pub(crate) async fn run(self, drain: CancellationToken) {
        let link = Arc::new(self);
        let mut wishes = Wishes::new(&link.handover);
        let mut sessions = JoinSet::new();
        let mut wait = Wait::default();
        let mut due = Some(Instant::now());
        loop {
            if drain.is_cancelled() {
                if sessions.is_empty() && link.session.is_done() {
                    return;
                }
                // Somebody waits for the end.
                due = due.map(|at| at.min(Instant::now() + LAST_WAIT_DRAINING));
            }
            let begin = tokio::time::sleep_until(due.unwrap_or_else(Instant::now));
            tokio::select! {
                () = begin, if due.is_some() => {
                    due = None;
                    if sessions.len() < MAX_SESSIONS {
                        sessions.spawn(Arc::clone(&link).attempt(drain.clone()));
                    } else {
                        due = Some(Instant::now() + wait.next());
                    }
                }
                within = wishes.next() => {
                    let at = Instant::now() + within.mul_f64(rand::rng().random_range(0.0..=1.0));
                    due = Some(due.map_or(at, |due| due.min(at)));
                }
                Some(ended) = sessions.join_next() => {
                    // A session that panicked has been heard of.
                    let Ok(Attempt { end, welcomed, progress }) = ended else {
                        due = Some(Instant::now() + wait.next());
                        continue;
                    };
                    if end == Some(End::Drained) {
                        tracing::info!("everything is acknowledged");
                        return;
                    }
                    if progress {
                        wait = Wait::default();
                    }
                    if !welcomed || sessions.is_empty() {
                        let at = Instant::now() + wait.next();
                        due = Some(due.map_or(at, |due| due.min(at)));
                    }
                }
                () = drain.cancelled(), if !drain.is_cancelled() => {}
            }
        }
    }

    /// One session, from dialling to its end.
    async fn attempt(self: Arc<Self>, drain: CancellationToken) -> Attempt {
        let (began, before) = (Instant::now(), self.session.acked());
        let mut turn = self.handover.begin();
        let end = self.speak(&mut turn, drain).await;
        let welcomed = turn.is_welcomed();
        turn.end(&end);
        let progress =
            welcomed && (self.session.acked() > before || began.elapsed() > GOOD_SESSION);
        Attempt { end: end.ok(), welcomed, progress }
    }

    async fn speak(&self, turn: &mut Turn, drain: CancellationToken) -> Result<End, SessionError> {
        let tcp = connect(&self.address).await.map_err(|source| self.failed(source))?;
        let stream = self.tls.connect(tcp, Expect::Collector).await?;
        let peer = stream.peer().clone();
        let mut stream = BufReader::new(stream);
        first_words(&mut stream).await.map_err(|source| self.failed(source))?;
        let mut client = IngestClient::new(channel(stream))
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(QUEUE_MESSAGES);
        // The collector answers only after our hello, so the call must not be waited for before it is sent.
        let call = async move { client.session(ReceiverStream::new(messages)).await };
        let incoming =
            futures_util::stream::once(call).map_ok(tonic::Response::into_inner).try_flatten();
        self.session.run(Line { peer, incoming, outgoing }, turn, drain).await
    }

    fn failed(&self, source: io::Error) -> SessionError {
        SessionError::Connect { address: self.address.clone(), source }
    }
}

/// What became of an attempt at a session.
struct Attempt {
    /// Nothing if it ended badly.
    end: Option<End>,
    welcomed: bool,
    /// The next wait is the first one again.
    progress: bool,
}

/// HTTP/2 over a connection that is there already. It is given out once: when it breaks, the session ends.
pub(crate) fn channel<T>(stream: T) -> Channel
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    // The scheme is http because gRPC must not look for TLS of its own below the stream, which is TLS already.
    let origin = http::Uri::from_static("https://collector.tributary.internal");
    let stream = Arc::new(Mutex::new(Some(stream)));
    Endpoint::from_static("http://collector.tributary.internal")
        .origin(origin)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
            let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
            let stream = stream.map(TokioIo::new);
            async move { stream.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected)) }
        }))
}

/// A collector that refuses our certificate says so after the handshake, by an alert; one that takes it sends the first
/// bytes of HTTP/2 by itself. Whatever we sent before could cut the alert off.
async fn first_words(stream: &mut BufReader<PeerStream>) -> io::Result<()> {
    match tokio::time::timeout(FIRST_WORDS, stream.fill_buf()).await {
        Ok(Ok([])) => {
            let why = "the collector closed the connection after the handshake";
            Err(io::Error::new(io::ErrorKind::UnexpectedEof, why))
        }
        Ok(Err(error)) => Err(error),
        // One that waits for us to begin.
        Ok(Ok(_)) | Err(_) => Ok(()),
    }
}

/// TCP to `host:port`; small messages do not wait for more.
pub(crate) async fn connect(address: &str) -> io::Result<TcpStream> {
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let late = || io::Error::new(io::ErrorKind::TimedOut, "connecting took too long");
    let tcp = tcp.unwrap_or_else(|_| Err(late()))?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// The wait before the next attempt.
#[derive(Debug, Default)]
struct Wait {
    failures: u32,
}

impl Wait {
    /// Between half and all of the doubled time.
    fn next(&mut self) -> Duration {
        let full = FIRST_WAIT.saturating_mul(1 << self.failures.min(16)).min(LAST_WAIT);
        self.failures = self.failures.saturating_add(1);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// An error and all its sources in one line; what a source only repeats is left out.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
