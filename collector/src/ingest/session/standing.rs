//! How an agent stands with the terms in force: whether its stream may go on, and what it is asked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};
use tributary_certs::rotate::Desired;
use tributary_certs::tls::Peer;
use tributary_proto::convert::{ToAgent, Trust};
use tributary_proto::v1;
use tributary_store::StreamKey;

use super::Caller;
use super::end::End;
use crate::ingest::Shared;
use crate::ingest::metrics::of;
use crate::ingest::trust::{KeyHash, Terms};

/// An agent that was asked for something is left alone for this long, then asked again if it still lacks it.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Certificates are signed for one stream this far apart at least; who asks sooner is refused.
const SIGN_AGAIN: Duration = Duration::from_secs(1);
/// How long agents may wait before they open a new connection: in a rotation, and otherwise.
const RECONNECT_WITHIN: Duration = Duration::from_secs(1);
const RECONNECT_AT_LEISURE: Duration = Duration::from_secs(30);

/// One agent's certificates, and what it was asked for. It never waits: what there is to say lies in [`Standing::next`],
/// at most one request and one answer, the newest of each.
pub(super) struct Standing {
    shared: Arc<Shared>,
    key: StreamKey,
    caller: Caller,
    terms: watch::Receiver<Arc<Terms>>,
    /// What the agent says that it trusts and holds.
    trust: Option<Trust>,
    asked: Option<(Lack, Instant)>,
    request: Option<ToAgent>,
    signing: Option<JoinHandle<Result<String, String>>>,
    signed_at: Option<Instant>,
    answer: Option<v1::Certificate>,
    taint_counted: bool,
}

/// What an agent lacks. The next is looked for only when it has this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The bundle of this digest.
    Bundle(KeyHash),
    /// A new certificate.
    Certificate,
    /// A connection with the certificates that are current now; it may wait so long.
    Connection(Duration),
}

impl Lack {
    fn what(self) -> &'static str {
        match self {
            Self::Bundle(_) => "to trust another bundle",
            Self::Certificate => "to renew its certificate",
            Self::Connection(_) => "for a new connection",
        }
    }
}

impl Standing {
    pub(super) fn new(shared: Arc<Shared>, key: StreamKey, caller: Caller) -> Self {
        Self {
            terms: shared.trust.subscribe(),
            shared,
            key,
            caller,
            trust: None,
            asked: None,
            request: None,
            signing: None,
            signed_at: None,
            answer: None,
            taint_counted: false,
        }
    }

    pub(super) fn peer(&self) -> &Peer {
        &self.caller.peer
    }

    /// Resolves when the terms have changed, or a certificate that was being signed is ready; a review is due then.
    pub(super) async fn stirred(&mut self) {
        let signed = tokio::select! {
            // The terms live as long as what the sessions share.
            _ = self.terms.changed() => return,
            signed = done(&mut self.signing) => signed,
        };
        self.signing = None;
        self.answered(signed);
    }

    /// The agent says what it trusts and holds.
    pub(super) fn note(&mut self, trust: Trust) {
        let told = self.trust.as_ref().is_some_and(|before| before.error == trust.error);
        if !trust.error.is_empty() && !told {
            warn!(
                cluster = %self.key.cluster, instance = %self.key.instance, error = ?trust.error,
                "the agent could not put its new certificate or bundle in force"
            );
        }
        self.shared.registry.trusts(&self.key, &trust);
        self.trust = Some(trust);
    }

    /// Whether the stream may go on; if so, asks the agent for what it lacks.
    pub(super) fn review(&mut self) -> Result<(), End> {
        let terms = self.terms.borrow_and_update().clone();
        check(&terms, &self.caller.peer)?;
        if let Some(desired) = &terms.desired {
            self.count_taint(desired);
        }
        let lack = lack(&terms, &self.caller, self.trust.as_ref());
        let Some(lack) = lack else {
            self.asked = None;
            return Ok(());
        };
        let due = |(asked, at): (Lack, Instant)| asked != lack || at.elapsed() >= ASK_AGAIN;
        if self.asked.is_none_or(due) {
            self.ask(lack, &terms);
        }
        Ok(())
    }

    fn ask(&mut self, lack: Lack, terms: &Terms) {
        let what = lack.what();
        info!(cluster = %self.key.cluster, instance = %self.key.instance, what, "asking the agent");
        self.asked = Some((lack, Instant::now()));
        let request = match lack {
            Lack::Bundle(_) => {
                let pem = terms.desired.as_ref().map(|desired| desired.bundle.pem());
                ToAgent::Bundle(v1::Bundle { ca_pem: pem.unwrap_or_default().into() })
            }
            Lack::Certificate => {
                let reason = "the collector wants another certificate".to_owned();
                ToAgent::Renew(v1::Renew { reason })
            }
            Lack::Connection(within) => {
                if let Some(redial) = &self.caller.redial {
                    redial.notify_one();
                    return;
                }
                let within_ms = u32::try_from(within.as_millis()).unwrap_or(u32::MAX);
                let reason = "the collector has another certificate".to_owned();
                ToAgent::Reconnect(v1::Reconnect { within_ms, reason })
            }
        };
        self.request = Some(request);
    }

    fn count_taint(&mut self, desired: &Desired) {
        let peer = &self.caller.peer;
        if self.taint_counted || !desired.tainted.contains(&peer.authority) {
            return;
        }
        self.taint_counted = true;
        self.shared.metrics.tainted_uses.get_or_create(&of(&self.key.cluster)).inc();
        warn!(
            cluster = %self.key.cluster, instance = %self.key.instance, authority = peer.authority_name,
            "a stream uses an authority that is about to be retired"
        );
    }

    /// The agent wants a certificate for a new key. While one is being signed, further requests are ignored.
    pub(super) fn sign(&mut self, csr: Bytes) {
        if self.signing.is_some() || self.answer.is_some() {
            return;
        }
        let refused = match self.shared.trust.issuer() {
            None => "this collector signs no certificates: it has no `pki.dir`",
            Some(_) if self.signed_at.is_some_and(|at| at.elapsed() < SIGN_AGAIN) => {
                "the last certificate was asked for a moment ago"
            }
            Some(issuer) => {
                self.signed_at = Some(Instant::now());
                let peer = self.caller.peer.clone();
                let work = move || issuer.renew(&peer, &csr);
                self.signing = Some(tokio::task::spawn_blocking(work));
                return;
            }
        };
        self.answered(Err(refused.to_owned()));
    }

    fn answered(&mut self, signed: Result<String, String>) {
        self.answer = Some(match signed {
            Ok(chain) => v1::Certificate { chain_pem: chain.into(), refused: String::new() },
            Err(refused) => {
                self.shared.metrics.renewals_refused.get_or_create(&of(&self.key.cluster)).inc();
                v1::Certificate { refused, ..v1::Certificate::default() }
            }
        });
    }

    pub(super) fn has_next(&self) -> bool {
        self.answer.is_some() || self.request.is_some()
    }

    /// What there is to say to the agent.
    pub(super) fn next(&mut self) -> Option<ToAgent> {
        self.answer.take().map(ToAgent::Certificate).or_else(|| self.request.take())
    }
}

async fn done(signing: &mut Option<JoinHandle<Result<String, String>>>) -> Result<String, String> {
    match signing {
        None => std::future::pending().await,
        Some(signing) => {
            signing.await.unwrap_or_else(|_| Err("internal error: signing panicked".to_owned()))
        }
    }
}

/// Whether a stream of this peer may be.
fn check(terms: &Terms, peer: &Peer) -> Result<(), End> {
    let mut keys = peer.intermediates.iter().chain([&peer.spki_sha256]);
    if keys.any(|key| terms.denied.contains(key)) {
        return Err(End::Revoked);
    }
    if !terms.trusted.contains(&peer.authority) {
        return Err(End::Retired(format!("its authority, \"{}\",", peer.authority_name)));
    }
    if !terms.trusted.contains(&peer.local_authority) {
        return Err(End::Retired("the authority of our certificate in this connection".to_owned()));
    }
    Ok(())
}

/// What the agent lacks first. What it cannot put in force by itself it is not asked for: then a person must.
pub(super) fn lack(terms: &Terms, caller: &Caller, trust: Option<&Trust>) -> Option<Lack> {
    let peer = &caller.peer;
    let has_new_leaf = trust.is_some_and(|trust| trust.leaf_spki_sha256 != peer.spki_sha256);
    if let Some(desired) = &terms.desired
        && let Some(trust) = trust.filter(|trust| trust.renewable)
    {
        let digest = desired.bundle.digest();
        if trust.bundle_sha256 != digest {
            return Some(Lack::Bundle(digest));
        }
        let old = desired.renew_authorities.contains(&peer.authority)
            || desired.renew_keys.contains(&peer.spki_sha256);
        if old && !has_new_leaf {
            return Some(Lack::Certificate);
        }
    }
    // An agent that dials and has a new certificate opens a new connection unasked.
    if has_new_leaf && caller.redial.is_some() {
        return Some(Lack::Connection(RECONNECT_WITHIN));
    }
    if peer.local_sha256 == terms.leaf {
        return None;
    }
    let hurry = terms.desired.as_ref().is_some_and(|desired| desired.reconnect);
    Some(Lack::Connection(if hurry { RECONNECT_WITHIN } else { RECONNECT_AT_LEISURE }))
}
