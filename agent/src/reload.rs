//! Puts new certificates and a new allowlist in force while everything runs, or refuses them and keeps the old ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tributary_certs::identity::Identity;
use tributary_certs::tls::{ClientTls, Files, Material, ServerTls, TlsError};
use tributary_model::sample::Timestamp;

use crate::allow::rules::Rules;
use crate::link::chain;
use crate::metrics::ProcessMetrics;

/// How often certificate files are looked at: Kubernetes replaces them without telling.
const LOOK_AT_FILES: Duration = Duration::from_secs(30);

/// Puts new files in force, all or nothing.
pub(crate) struct Reloader {
    /// Our side of TLS.
    pub(crate) tls: Tls,
    /// Where certificate, key and authority are.
    pub(crate) files: Files,
    /// Whom the certificate must stay for.
    pub(crate) identity: Identity,
    /// The allowlist.
    pub(crate) allowlist: PathBuf,
    /// Takes new allowlists to the pipeline.
    pub(crate) rules: mpsc::Sender<Rules>,
    /// Whether reloads take.
    pub(crate) metrics: ProcessMetrics,
    /// When the certificate files were written that are in force.
    pub(crate) seen: Vec<Option<SystemTime>>,
}

impl Reloader {
    /// Reloads when asked, and when certificate files change, until `stop`.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
        stop: CancellationToken,
    ) {
        let mut look = tokio::time::interval(LOOK_AT_FILES);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(answer) = requests.recv() => {
                    let result = self.reload(true).await;
                    let _ = answer.send(result);
                }
                _ = look.tick() => {
                    let modified = modified(&self.files);
                    if modified != self.seen {
                        self.seen = modified;
                        let _ = self.reload(false).await;
                    }
                }
            }
        }
    }

    async fn reload(&mut self, allowlist: bool) -> Result<(), String> {
        let done = self.replace(allowlist).await;
        self.metrics.reload_successful.set(i64::from(done.is_ok()));
        match &done {
            Ok(()) => {
                let now = Timestamp::from(SystemTime::now());
                self.metrics.reload_success_time.set(now.as_secs_f64());
                tracing::info!("certificates and allowlist are read again");
            }
            Err(error) => {
                self.metrics.reloads_refused.inc();
                tracing::error!(error, "the new files are refused; the old ones stay in force");
            }
        }
        done
    }

    async fn replace(&mut self, allowlist: bool) -> Result<(), String> {
        let rules = if allowlist {
            Some(Rules::load(&self.allowlist).map_err(|error| chain(&error))?)
        } else {
            None
        };
        let material = Material::load(&self.files).map_err(|error| chain(&error))?;
        if *material.identity() != self.identity {
            let (new, old) = (material.identity().describe(), self.identity.describe());
            return Err(format!("the new certificate is for {new}; this is {old}"));
        }
        self.tls.replace(&material).map_err(|error| chain(&error))?;
        self.metrics.show_certificate(&material);
        if let Some(rules) = rules {
            self.rules.send(rules).await.map_err(|_| "the agent is stopping".to_owned())?;
        }
        Ok(())
    }
}

/// When the files were written.
pub(crate) fn modified(files: &Files) -> Vec<Option<SystemTime>> {
    [&files.cert_file, &files.key_file, &files.ca_file]
        .map(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok())
        .to_vec()
}

impl ProcessMetrics {
    /// Shows when the certificate expires.
    pub(crate) fn show_certificate(&self, material: &Material) {
        self.certificate_not_after.set(Timestamp::from(material.not_after()).as_secs_f64());
    }
}

/// Our side of TLS, replaceable.
pub(crate) enum Tls {
    /// We dial.
    Client(Arc<ClientTls>),
    /// We are dialled.
    Server(Arc<ServerTls>),
}

impl Tls {
    fn replace(&self, material: &Material) -> Result<(), TlsError> {
        match self {
            Self::Client(tls) => tls.replace(material),
            Self::Server(tls) => tls.replace(material),
        }
    }
}
