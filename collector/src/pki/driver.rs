//! Carries out what the PKI folder's state says: rotations step by step, revocations, and the renewal of the
//! collector's own certificate.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rand::Rng;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tributary_certs::authority::CLOCK_SKEW;
use tributary_certs::bundle::Folder;
use tributary_certs::certificate::{Certificate, utc};
use tributary_certs::rotate::{self, Fleet, Past, Policy, Seen};
use tributary_certs::state::{How, Stamp, State};

use super::credentials::Credentials;
use super::metrics::{Laggard, PkiMetrics};
use super::signer::Turn;

/// How often the state is looked at. A revocation holds after this.
const LOOK: Duration = Duration::from_millis(200);
/// The folder and the collector's own files are looked at after this long even if the state did not change.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After a renewal of the collector's own certificate failed.
const RETRY: Duration = Duration::from_secs(60);

/// Works on the folder as its state asks. `F` says how the agents are.
pub(crate) struct Driver<F> {
    dir: PathBuf,
    policy: Policy,
    credentials: Arc<Credentials>,
    agents: F,
    metrics: PkiMetrics,
    turn: Turn,
    /// The state as it was carried out to the end, and until when that is believed.
    settled: Option<(Option<Stamp>, SystemTime)>,
    /// The last rotation that ended, as of the last look.
    counted: Option<Past>,
    /// The agents that are shown as those whom a rotation waits for.
    laggards: HashSet<Laggard>,
    /// The serial number of the collector's own certificate, and when it is renewed.
    renewal: Option<(String, SystemTime)>,
    /// What was last said to be wrong, so that it is said once.
    fault: String,
}

impl<F: Fn() -> Vec<Seen> + Send + 'static> Driver<F> {
    /// Works on `dir`, for these agents.
    pub(crate) fn new(
        dir: PathBuf,
        leaf_lifetime: Duration,
        credentials: Arc<Credentials>,
        agents: F,
        (metrics, turn): (PkiMetrics, Turn),
    ) -> Self {
        let counted = State::read(&dir).ok().and_then(|state| state.history.last().cloned());
        Self {
            dir,
            policy: Policy { leaf_lifetime },
            credentials,
            agents,
            metrics,
            turn,
            settled: None,
            counted,
            laggards: HashSet::new(),
            renewal: None,
            fault: String::new(),
        }
    }

    /// Works until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let worked = tokio::task::spawn_blocking(move || {
                self.work(SystemTime::now());
                self
            });
            match worked.await {
                Ok(driver) => self = driver,
                Err(error) => {
                    tracing::error!(%error, "the work on the PKI folder ended");
                    return;
                }
            }
        }
    }

    /// Does what there is to do; what is wrong with the folder is said once and tried again. Blocks.
    pub(crate) fn work(&mut self, now: SystemTime) {
        let fault = match self.advance(now).and_then(|()| self.renew(now)) {
            Ok(()) => String::new(),
            Err(error) => {
                // Whatever the state is like, the collector's own files are followed.
                self.credentials.look();
                format!("{error:#}")
            }
        };
        if fault != self.fault && !fault.is_empty() {
            tracing::error!(error = fault, dir = %self.dir.display(), "working on the PKI folder failed");
        }
        self.fault = fault;
    }

    /// One look at the state, and at most one transition of a rotation.
    fn advance(&mut self, now: SystemTime) -> anyhow::Result<()> {
        // Read before the state: what changes from here on is seen the next time.
        let stamp = State::stamp(&self.dir);
        if self.settled.is_some_and(|(then, until)| then == stamp && now < until) {
            return Ok(());
        }
        self.settled = None;
        let state = self.carry_on(now)?;
        self.count(&state);
        self.metrics.waits_for(state.rotation.as_ref(), &mut self.laggards);
        if state.rotation.is_none() {
            self.settled = Some((stamp, now + LOOK_AGAIN));
        }
        Ok(())
    }

    /// Brings folder, credentials and live streams in line; returns the state as it is then.
    fn carry_on(&self, now: SystemTime) -> anyhow::Result<State> {
        let _turn = self.turn.take();
        let fleet =
            Fleet { agents: (self.agents)(), collector_authority: self.credentials.authority() };
        let advanced = rotate::advance(&self.dir, &fleet, &self.policy, now);
        // Whatever keeps a rotation from going on, who is denied is denied.
        let state = State::read(&self.dir)?;
        let desired = advanced.as_ref().ok().map(|advanced| advanced.desired.clone());
        self.credentials.govern(state.denied_keys(), desired)?;
        let advanced = advanced?;
        let step = advanced.step.map_or("none", rotate::Step::as_str);
        for note in &advanced.note {
            tracing::info!(step, "{note}");
        }
        Ok(state)
    }

    /// Counts the rotations that ended since the last look.
    fn count(&mut self, state: &State) {
        let new =
            state.history.iter().rev().take_while(|past| Some(*past) != self.counted.as_ref());
        new.for_each(|past| self.metrics.rotated(past));
        self.counted = state.history.last().cloned();
    }

    /// Renews the collector's own certificate around half of its life.
    fn renew(&mut self, now: SystemTime) -> anyhow::Result<()> {
        let certificate = self.credentials.certificate();
        let at = match &self.renewal {
            Some((serial, at)) if *serial == certificate.serial => *at,
            _ => half_life(&certificate, rand::rng().random_range(0.9..1.1)),
        };
        let due = now >= at;
        self.renewal = Some((certificate.serial, if due { now + RETRY } else { at }));
        if !due {
            return Ok(());
        }
        let _turn = self.turn.take();
        let folder = Folder::open(&self.dir)?;
        let written = folder.renew_collector(now, self.policy.leaf_lifetime)?;
        self.metrics.issued(How::Renewal);
        tracing::info!(
            until = utc(written.certificate.not_after),
            "the collector's own certificate was renewed"
        );
        self.credentials.look();
        Ok(())
    }
}

/// The middle of a certificate's life, times `jitter`. It was made some minutes after it became valid.
fn half_life(certificate: &Certificate, jitter: f64) -> SystemTime {
    let made = certificate.not_before + CLOCK_SKEW;
    let life = certificate.not_after.duration_since(made).unwrap_or_default();
    made + (life / 2).mul_f64(jitter)
}

#[cfg(test)]
mod tests;
