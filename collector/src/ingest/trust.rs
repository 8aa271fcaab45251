//! What holds for every connection: whom the collector trusts, whom it denies, and what each agent should have.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tributary_certs::rotate::Desired;
use tributary_certs::tls::Peer;
use tributary_certs::trust::Bundle;

/// The SHA-256 of a public key: how an authority, and the holder of a certificate, is named.
pub(crate) type KeyHash = [u8; 32];

/// What is in force. Sessions compare their agent with it whenever it changes, and do what lacks.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// Streams of other authorities are closed at once.
    pub(crate) trusted: Bundle,
    /// Streams of these keys, and of whatever they have signed, are closed at once.
    pub(crate) denied: Arc<HashSet<KeyHash>>,
    /// The SHA-256 of the collector's own certificate. Streams that were opened with another one are moved to new
    /// connections before that one ends.
    pub(crate) leaf: [u8; 32],
    /// What agents should have; nothing without a PKI folder, as their certificates are somebody else's affair.
    pub(crate) desired: Option<Desired>,
}

/// The terms in force, and who signs certificates. Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Trust(Arc<Inner>);

struct Inner {
    terms: watch::Sender<Arc<Terms>>,
    issuer: OnceLock<Arc<dyn Issuer>>,
}

/// Signs what agents ask for over their streams.
pub(crate) trait Issuer: Send + Sync {
    /// A certificate for the key in `csr` (PKCS#10, DER) and for the identity of `peer`: the chain in PEM, or why
    /// there is none. Called on a thread that may block.
    fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<String, String>;
}

impl Trust {
    /// The terms at the start. Nobody signs certificates yet.
    pub(crate) fn new(terms: Terms) -> Self {
        let terms = watch::Sender::new(Arc::new(terms));
        Self(Arc::new(Inner { terms, issuer: OnceLock::new() }))
    }

    /// Puts `terms` in force for all streams. TLS must have been given the same before, so that nobody who is sent
    /// away comes back in between.
    pub(crate) fn publish(&self, terms: Terms) {
        self.0.terms.send_replace(Arc::new(terms));
    }

    /// The terms in force.
    pub(crate) fn terms(&self) -> Arc<Terms> {
        self.0.terms.borrow().clone()
    }

    /// Follows the terms.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Terms>> {
        self.0.terms.subscribe()
    }

    /// Agents may renew their certificates from now on. Only the first call counts.
    pub(crate) fn issue_by(&self, issuer: Arc<dyn Issuer>) {
        let _ = self.0.issuer.set(issuer);
    }

    /// Who signs certificates, if anybody does.
    pub(super) fn issuer(&self) -> Option<Arc<dyn Issuer>> {
        self.0.issuer.get().cloned()
    }
}
