//! The collector's own certificate and the authorities it trusts: in force for new connections, for live streams, and
//! followed on disk.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tributary_certs::certificate::{Certificate, utc};
use tributary_certs::digest::sha256;
use tributary_certs::rotate::Desired;
use tributary_certs::tls::{ClientTls, Files, Material, ServerTls, TlsError};

use super::metrics::PkiMetrics;
use crate::ingest::trust::{KeyHash, Terms, Trust};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the collector shows and whom it believes. All changes pass here, one at a time, so that new connections and
/// live streams are always judged alike.
pub(crate) struct Credentials {
    server: Arc<ServerTls>,
    client: Arc<ClientTls>,
    trust: Trust,
    metrics: PkiMetrics,
    state: Mutex<State>,
}

/// Material, and where it came from.
pub(crate) struct Loaded {
    files: Files,
    /// What was in the files; they are read after this is taken, so a change in between is seen later.
    contents: Contents,
    material: Material,
}

/// The hashes of the three files.
type Contents = [KeyHash; 3];

impl Loaded {
    /// Reads and checks the files.
    pub(crate) fn read(files: &Files) -> Result<Self, TlsError> {
        let contents = contents(files);
        Ok(Self { contents, material: Material::load(files)?, files: files.clone() })
    }
}

struct State {
    in_force: Loaded,
    denied: Arc<HashSet<KeyHash>>,
    desired: Option<Desired>,
    /// Contents that were refused, and why, so that it is said once.
    refused: Option<(Contents, String)>,
}

impl Credentials {
    /// Puts what was read in force. Nobody is denied yet.
    pub(crate) fn new(loaded: Loaded, enrol: bool, metrics: PkiMetrics) -> Result<Self, TlsError> {
        let server = Arc::new(ServerTls::new(&loaded.material)?.with_enrolment(enrol));
        let client = Arc::new(ClientTls::new(&loaded.material)?);
        let denied = Arc::default();
        let trust = Trust::new(terms(&loaded.material, &denied, None));
        let state = State { in_force: loaded, denied, desired: None, refused: None };
        Ok(Self { server, client, trust, metrics, state: Mutex::new(state) })
    }

    /// For the ingest port.
    pub(crate) fn server(&self) -> Arc<ServerTls> {
        self.server.clone()
    }

    /// For agents that wait to be dialled.
    pub(crate) fn client(&self) -> Arc<ClientTls> {
        self.client.clone()
    }

    /// What holds for live streams.
    pub(crate) fn trust(&self) -> Trust {
        self.trust.clone()
    }

    /// What the certificate in force says.
    pub(crate) fn certificate(&self) -> Certificate {
        self.lock().in_force.material.certificate().clone()
    }

    /// The authority that the certificate in force chains to.
    pub(crate) fn authority(&self) -> KeyHash {
        self.lock().in_force.material.authority()
    }

    /// Puts other files in force.
    pub(crate) fn replace(&self, loaded: Loaded) -> Result<(), TlsError> {
        self.put(&mut self.lock(), loaded)
    }

    /// Denies these keys, and wants this of the agents (or what was wanted before), from now on; changed files are put in
    /// force with it, so that no stream sees one without the other.
    pub(crate) fn govern(
        &self,
        denied: HashSet<KeyHash>,
        desired: Option<Desired>,
    ) -> Result<(), TlsError> {
        let mut state = self.lock();
        state.denied = Arc::new(denied);
        state.desired = desired.or(state.desired.take());
        let terms = self.trust.terms();
        let same = terms.denied == state.denied && terms.desired == state.desired;
        if self.refresh(&mut state) || same {
            return Ok(());
        }
        self.publish(&state, &state.in_force.material)
    }

    /// Follows the files until `stop`.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let own = self.clone();
            if let Err(error) = tokio::task::spawn_blocking(move || own.look()).await {
                tracing::error!(%error, "looking at the certificate files failed");
            }
        }
    }

    /// Puts changed files in force. A half-written or wrong set is refused and looked at again; what is in force stays.
    pub(crate) fn look(&self) {
        self.refresh(&mut self.lock());
    }

    /// Whether other files are in force now.
    fn refresh(&self, state: &mut State) -> bool {
        let found = contents(&state.in_force.files);
        if found == state.in_force.contents {
            state.refused = None;
            return false;
        }
        let loaded = Loaded::read(&state.in_force.files);
        match loaded.and_then(|loaded| self.put(state, loaded)) {
            Ok(()) => {
                let certificate = state.in_force.material.certificate();
                tracing::info!(
                    serial = certificate.serial,
                    issuer = certificate.issuer,
                    until = utc(certificate.not_after),
                    "the collector's certificate files changed and are in force"
                );
                true
            }
            Err(error) => {
                let refused = Some((found, error.to_string()));
                if state.refused != refused {
                    self.metrics.reloads_refused.inc();
                    tracing::error!(%error, "changed certificate files were refused; those in force stay");
                    state.refused = refused;
                }
                false
            }
        }
    }

    fn put(&self, state: &mut State, loaded: Loaded) -> Result<(), TlsError> {
        self.publish(state, &loaded.material)?;
        state.in_force = loaded;
        state.refused = None;
        Ok(())
    }

    /// TLS first: nobody who is sent away by the new terms may come back in between.
    fn publish(&self, state: &State, material: &Material) -> Result<(), TlsError> {
        let material = material.clone().with_denied(state.denied.clone());
        self.server.replace(&material)?;
        self.client.replace(&material)?;
        self.trust.publish(terms(&material, &state.denied, state.desired.clone()));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn terms(material: &Material, denied: &Arc<HashSet<KeyHash>>, desired: Option<Desired>) -> Terms {
    Terms {
        trusted: material.bundle().clone(),
        denied: denied.clone(),
        leaf: material.certificate().sha256,
        desired,
    }
}

/// Tells whether a file changed, whatever its times say; a file that cannot be read counts as empty.
fn contents(files: &Files) -> Contents {
    let hash = |path: &Path| sha256(&fs::read(path).unwrap_or_default());
    [hash(&files.cert_file), hash(&files.key_file), hash(&files.ca_file)]
}

#[cfg(test)]
mod tests;
