//! Which session is the agent's: the newest that was welcomed. Earlier ones end, later ones are asked for here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tributary_model::sample::Timestamp;

use crate::link::chain;
use crate::metrics::{LinkMetrics, Reached, Stage};
use crate::session::{End, SessionError};

/// The longest that a collector may ask to wait before a new connection.
const MAX_WITHIN: Duration = Duration::from_secs(300);

/// How the link is, for people; and its sessions, by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct LinkState {
    /// Whether a session is up.
    pub(crate) connected: bool,
    /// Since when it is as it is.
    pub(crate) since: Timestamp,
    /// Why the last attempt or session ended badly.
    pub(crate) error: Option<String>,
    /// The number of the last session that was begun.
    begun: u64,
    /// The number of the newest session that was welcomed.
    newest: u64,
    /// Sessions that have begun and not ended.
    open: u32,
    /// There should be a session with this number or a higher one.
    wanted: u64,
    /// It may wait a random time up to this.
    within: Duration,
}

/// The sessions of one agent. At most a few overlap: one that serves, one that takes over, one that ends.
#[derive(Debug)]
pub(crate) struct Handover {
    /// How the collector is called.
    collector: String,
    metrics: LinkMetrics,
    state: watch::Sender<LinkState>,
}

impl Handover {
    /// No session yet.
    pub(crate) fn new(collector: String, metrics: LinkMetrics) -> Arc<Self> {
        let state = LinkState { since: now(), ..LinkState::default() };
        Arc::new(Self { collector, metrics, state: watch::Sender::new(state) })
    }

    /// Follows the link's state.
    pub(crate) fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Begins a session, or an attempt at one.
    pub(crate) fn begin(self: &Arc<Self>) -> Turn {
        let mut number = 0;
        self.state.send_modify(|state| {
            state.begun += 1;
            state.open += 1;
            number = state.begun;
        });
        Turn { handover: Arc::clone(self), number, welcomed: false, open: true }
    }

    /// Asks for a new session although there is one: our certificate has changed.
    pub(crate) fn renew(&self) {
        let begun = self.state.borrow().begun;
        self.want(begun.saturating_add(1), Duration::ZERO);
    }

    fn want(&self, number: u64, within: Duration) {
        self.state.send_if_modified(|state| {
            let within = within.min(MAX_WITHIN);
            let sooner = number == state.wanted && within < state.within;
            let news = number > state.wanted || sooner;
            if news {
                (state.wanted, state.within) = (number, within);
            }
            news
        });
    }

    /// One session less; whether another one is open.
    fn leave(&self) -> bool {
        let mut others = false;
        self.state.send_modify(|state| {
            state.open = state.open.saturating_sub(1);
            others = state.open > 0;
            if !others {
                if state.connected {
                    (state.connected, state.since) = (false, now());
                }
                self.metrics.connected.set(0);
                self.metrics.in_flight.set(0);
            }
        });
        others
    }

    /// Says why there is no session, or no new one; once, as long as it stays the same.
    fn complain(&self, error: Option<String>, others: bool) {
        let collector = &self.collector;
        let why = error.as_deref().unwrap_or("the collector is going away");
        if error.is_some() && self.state.borrow().error == error {
            return;
        }
        if others {
            tracing::warn!(
                collector,
                error = why,
                "no new session, the old one goes on; trying again"
            );
        } else {
            tracing::warn!(collector, error = why, "no session; trying again");
        }
        self.state.send_modify(|state| state.error = error);
    }
}

/// Follows the wishes for new sessions. Each is heard once, and again when it has become more urgent.
pub(crate) struct Wishes {
    state: watch::Receiver<LinkState>,
    heard: (u64, Duration),
}

impl Wishes {
    /// Those of `handover`, from now on.
    pub(crate) fn new(handover: &Handover) -> Self {
        Self { state: handover.watch(), heard: (0, Duration::ZERO) }
    }

    /// Waits for a wish that no session has fulfilled; how long its fulfilment may wait.
    pub(crate) async fn next(&mut self) -> Duration {
        let heard = self.heard;
        let wish = |state: &LinkState| (state.wanted, state.within);
        let news = |state: &LinkState| state.wanted > state.begun && wish(state) != heard;
        match self.state.wait_for(news).await.map(|state| wish(&state)) {
            Ok(wish) => {
                self.heard = wish;
                wish.1
            }
            // Without a handover there are no sessions either.
            Err(_) => std::future::pending().await,
        }
    }
}

/// One session's place among the others; given up when dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    handover: Arc<Handover>,
    number: u64,
    welcomed: bool,
    open: bool,
}

impl Turn {
    /// The collector has welcomed this session: it takes over from earlier ones.
    pub(crate) fn take_over(&mut self) {
        let (number, handover) = (self.number, &self.handover);
        self.welcomed = true;
        handover.state.send_modify(|state| {
            if !state.connected {
                tracing::info!(collector = handover.collector, "connected");
                (state.connected, state.since) = (true, now());
            } else if state.newest > 0 {
                handover.metrics.handovers.inc();
                tracing::info!(collector = handover.collector, "a new session has taken over");
            }
            state.error = None;
            state.newest = state.newest.max(number);
            handover.metrics.sessions.inc();
            handover.metrics.connected.set(1);
        });
    }

    /// Whether the collector has welcomed this session.
    pub(crate) fn is_welcomed(&self) -> bool {
        self.welcomed
    }

    /// Whether a later session has taken over from this one.
    pub(crate) fn is_over(&self) -> bool {
        self.handover.state.borrow().newest > self.number
    }

    /// Waits until a later session has taken over.
    pub(crate) async fn over(&self) {
        let mut state = self.handover.watch();
        if state.wait_for(|state| state.newest > self.number).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks for a later session within this time.
    pub(crate) fn reconnect(&self, within: Duration) {
        self.handover.want(self.number.saturating_add(1), within);
    }

    /// The session has ended, or never began.
    pub(crate) fn end(mut self, end: &Result<End, SessionError>) {
        let handover = Arc::clone(&self.handover);
        let error = end.as_ref().err().map(|error| chain(error));
        if error.is_some() {
            let stage = if self.welcomed { Reached::session } else { Reached::connect };
            handover.metrics.failures.get_or_create(&Stage { stage }).inc();
        }
        self.open = false;
        let others = handover.leave();
        // A session that has served makes room for another one: no news, whatever its end.
        let quiet = matches!(end, Ok(End::Drained | End::Replaced)) || (others && self.welcomed);
        if !quiet {
            handover.complain(error, others);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.open {
            self.handover.leave();
        }
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

#[cfg(test)]
mod tests;
