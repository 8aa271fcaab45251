//! The way to the collector: dials, speaks one session after another, and waits longer the longer it is in vain.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt as _, TryStreamExt as _};
use hyper_util::rt::TokioIo;
use rand::Rng as _;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tributary_certs::tls::{ClientTls, Expect, PeerStream};
use tributary_model::sample::Timestamp;
use tributary_proto::limits;
use tributary_proto::v1::ingest_client::IngestClient;

use crate::metrics::{LinkMetrics, Reached, Stage};
use crate::session::{End, Session, SessionError};

/// Waits between attempts: doubled from the first to the last, with jitter.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LAST_WAIT: Duration = Duration::from_secs(30);
const LAST_WAIT_DRAINING: Duration = Duration::from_secs(1);
/// A session that lasted so long was good: the next wait is the first one again.
const GOOD_SESSION: Duration = Duration::from_secs(60);
/// How long TCP may take; TLS has its own time-out.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 asks a silent peer after this time, and gives up after the other.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Messages between session and gRPC; the window of frames is the session's.
const QUEUE_MESSAGES: usize = 4;

/// How the link is, for people.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkState {
    /// Whether a session is up.
    pub(crate) connected: bool,
    /// Since when it is as it is.
    pub(crate) since: Timestamp,
    /// Why the last attempt or session ended badly.
    pub(crate) error: Option<String>,
}

/// Dials the collector.
pub(crate) struct Link {
    address: String,
    tls: Arc<ClientTls>,
    session: Session,
    notices: Notices,
}

impl Link {
    /// A link to `address`, `host:port`.
    pub(crate) fn new(
        address: String,
        tls: Arc<ClientTls>,
        session: Session,
        metrics: LinkMetrics,
    ) -> Self {
        let notices = Notices::new(address.clone(), metrics);
        Self { address, tls, session, notices }
    }

    /// Follows the link's state.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.notices.watch()
    }

    /// Runs until `drain` and the last acknowledgement after it.
    pub(crate) async fn run(self, drain: CancellationToken) {
        let mut wait = Wait::default();
        loop {
            let began = tokio::time::Instant::now();
            let mut welcomed = false;
            let before = self.session.acked();
            let end = self.attempt(&drain, &mut welcomed).await;
            if self.session.acked() > before || began.elapsed() > GOOD_SESSION && welcomed {
                wait = Wait::default();
            }
            match end {
                Ok(End::Drained) => {
                    tracing::info!("everything is acknowledged");
                    return;
                }
                Ok(End::PeerDrained) => self.notices.down(None, welcomed),
                Err(error) => self.notices.down(Some(chain(&error)), welcomed),
            }
            if drain.is_cancelled() && self.session.is_done() {
                return;
            }
            let wait = wait.next();
            // Somebody waits for the end: shorter, and at once when told.
            let wait = if drain.is_cancelled() { wait.min(LAST_WAIT_DRAINING) } else { wait };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = drain.cancelled(), if !drain.is_cancelled() => {}
            }
        }
    }

    async fn attempt(
        &self,
        drain: &CancellationToken,
        welcomed: &mut bool,
    ) -> Result<End, SessionError> {
        let channel = self.endpoint();
        let mut client = IngestClient::new(channel)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let (outgoing, messages) = mpsc::channel(QUEUE_MESSAGES);
        // The collector answers only after our hello, so the call must not be waited for before it is sent.
        let call = async move { client.session(ReceiverStream::new(messages)).await };
        let incoming = futures_util::stream::once(call)
            .map_ok(tonic::Response::into_inner)
            .try_flatten()
            .inspect(|message| {
                if message.is_ok() {
                    self.notices.up();
                }
            });
        self.session.run(incoming, outgoing, drain.clone(), welcomed).await
    }

    /// Dials on first use, with the certificates that are current then.
    fn endpoint(&self) -> Channel {
        // The scheme is http because gRPC must not look for TLS of its own below the stream, which is TLS already.
        let origin = http::Uri::from_static("https://collector.tributary.internal");
        let (address, tls) = (self.address.clone(), Arc::clone(&self.tls));
        Endpoint::from_static("http://collector.tributary.internal")
            .origin(origin)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
                let (address, tls) = (address.clone(), Arc::clone(&tls));
                async move { dial(&address, &tls).await.map(TokioIo::new) }
            }))
    }
}

/// Tells people and metrics how the link is.
pub(crate) struct Notices {
    /// How the collector is called.
    collector: String,
    metrics: LinkMetrics,
    state: watch::Sender<LinkState>,
}

impl Notices {
    /// Nothing to tell yet.
    pub(crate) fn new(collector: String, metrics: LinkMetrics) -> Self {
        let state = LinkState { since: now(), ..LinkState::default() };
        Self { collector, metrics, state: watch::Sender::new(state) }
    }

    /// Follows the link's state.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// A session is up.
    pub(crate) fn up(&self) {
        self.state.send_if_modified(|state| {
            let changed = !state.connected;
            if changed {
                tracing::info!(collector = self.collector, "connected");
                *state = LinkState { connected: true, since: now(), error: None };
            }
            changed
        });
    }

    /// A session ended, or none began: says once why, as long as it stays the same.
    pub(crate) fn down(&self, error: Option<String>, welcomed: bool) {
        let stage = if welcomed { Reached::session } else { Reached::connect };
        if error.is_some() {
            self.metrics.failures.get_or_create(&Stage { stage }).inc();
        }
        self.state.send_if_modified(|state| {
            let news = state.connected || state.error != error;
            if news {
                let why = error.as_deref().unwrap_or("the collector is going away");
                tracing::warn!(collector = self.collector, error = why, "no session; trying again");
                *state = LinkState { connected: false, since: now(), error };
            }
            news
        });
    }
}

async fn dial(address: &str, tls: &ClientTls) -> io::Result<PeerStream> {
    let tcp = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let tcp = tcp.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connecting took too long"));
    let tcp = tcp.flatten().map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}")))?;
    tcp.set_nodelay(true)?;
    tls.connect(tcp, Expect::Collector).await.map_err(io::Error::other)
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

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests;
