//! What a session says and hears about certificates: what we trust, new bundles, renewals, and when to end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tributary_certs::request::Pending;
use tributary_certs::tls::Peer;
use tributary_proto::convert::ToCollector;
use tributary_proto::v1;

use super::SessionError;
use crate::credentials::{Credentials, InForce};
use crate::link::chain;

/// How long the collector has to sign a certificate.
const SIGN_TIMEOUT: Duration = Duration::from_secs(30);

/// The certificates of one session.
pub(super) struct Care {
    credentials: Arc<Credentials>,
    in_force: watch::Receiver<InForce>,
    /// The collector's.
    peer: Peer,
    expires: Instant,
    /// What the collector was told last.
    told: Option<v1::Trust>,
    /// The key that waits for its certificate, and for how long.
    pending: Option<(Instant, Pending)>,
}

impl Care {
    pub(super) fn new(credentials: Arc<Credentials>, peer: Peer) -> Self {
        Self {
            in_force: credentials.watch(),
            credentials,
            expires: deadline(peer.not_after),
            peer,
            told: None,
            pending: None,
        }
    }

    /// What we trust and hold.
    pub(super) fn trust(&mut self) -> v1::Trust {
        let trust = self.in_force.borrow_and_update().trust.clone();
        self.told = Some(trust.clone());
        trust
    }

    /// Waits for something that must be said, or for the reason to end. Nothing is lost if it is not waited for.
    pub(super) async fn next(&mut self) -> Result<ToCollector, SessionError> {
        loop {
            if !self.in_force.borrow().bundle.contains(&self.peer.authority) {
                return Err(SessionError::Untrusted);
            }
            if self.told.as_ref() != Some(&self.in_force.borrow().trust) {
                return Ok(ToCollector::Trust(self.trust()));
            }
            let waits = self.pending.as_ref().map(|(until, _)| *until);
            let due = waits.or_else(|| self.in_force.borrow().schedule.due().map(deadline));
            tokio::select! {
                // What is in force lives longer than its followers.
                _ = self.in_force.changed() => {}
                () = tokio::time::sleep_until(self.expires) => return Err(SessionError::Expired),
                () = tokio::time::sleep_until(due.unwrap_or(self.expires)), if due.is_some() => {
                    if self.pending.take().is_some() {
                        self.credentials.renewal_failed("the collector did not answer");
                    } else if let Some(request) = self.request() {
                        return Ok(request);
                    }
                }
            }
        }
    }

    fn request(&mut self) -> Option<ToCollector> {
        match Pending::new() {
            Ok(pending) => {
                let csr_der = pending.csr_der.clone().into();
                self.pending = Some((Instant::now() + SIGN_TIMEOUT, pending));
                Some(ToCollector::CertificateRequest(v1::CertificateRequest { csr_der }))
            }
            Err(error) => {
                self.credentials.renewal_failed(&chain(&error));
                None
            }
        }
    }

    /// The collector wants our certificate renewed.
    pub(super) fn renew(&self, reason: &str) {
        tracing::info!(reason, "the collector asks for the renewal of the certificate");
        self.credentials.wish_renewal();
    }

    /// The collector's answer to our request.
    pub(super) async fn certificate(&mut self, answer: v1::Certificate) {
        let Some((_, pending)) = self.pending.take() else { return };
        if !answer.refused.is_empty() {
            let why = answer.refused.replace(char::is_control, " ");
            return self.credentials.renewal_failed(&format!("the collector refuses: {why}"));
        }
        self.on_disk(move |credentials| credentials.renewed(&pending, &answer.chain_pem)).await;
    }

    /// The collector's new bundle. It hears what became of it, even if nothing did.
    pub(super) async fn bundle(&mut self, bundle: v1::Bundle) {
        self.told = None;
        let authority = self.peer.authority;
        self.on_disk(move |credentials| credentials.replace_bundle(&bundle.ca_pem, &authority))
            .await;
    }

    async fn on_disk(&self, work: impl FnOnce(&Credentials) + Send + 'static) {
        let credentials = Arc::clone(&self.credentials);
        // Work that panicked has been heard of.
        let _ = tokio::task::spawn_blocking(move || work(&credentials)).await;
    }
}

/// The moment of the monotonic clock at which the wall clock will show `at`.
fn deadline(at: SystemTime) -> Instant {
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    let now = Instant::now();
    now.checked_add(left).unwrap_or(now)
}
