//! Puts new certificates and a new allowlist in force while everything runs, or refuses them and keeps the old ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tributary_model::sample::Timestamp;

use crate::allow::rules::Rules;
use crate::credentials::Credentials;
use crate::link::chain;
use crate::metrics::ProcessMetrics;

/// How often certificate files are looked at: Kubernetes replaces them without telling.
const LOOK_AT_FILES: Duration = Duration::from_secs(1);

/// Reads the allowlist and the certificates again, all or nothing.
pub(crate) struct Reloader {
    /// Certificate, key and authorities.
    pub(crate) credentials: Arc<Credentials>,
    /// The allowlist.
    pub(crate) allowlist: PathBuf,
    /// Takes new allowlists to the pipeline.
    pub(crate) rules: mpsc::Sender<Rules>,
    /// Whether reloads take.
    pub(crate) metrics: ProcessMetrics,
}

impl Reloader {
    /// Reloads when asked, and certificate files also when they change, until `stop`.
    pub(crate) async fn run(
        self,
        mut requests: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
        stop: CancellationToken,
    ) {
        let mut look = tokio::time::interval(LOOK_AT_FILES);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(answer) = requests.recv() => {
                    let result = self.reload().await;
                    let _ = answer.send(result);
                }
                _ = look.tick() => {
                    let credentials = self.credentials.clone();
                    // A look that panicked has been heard of.
                    let _ = tokio::task::spawn_blocking(move || credentials.look()).await;
                }
            }
        }
    }

    async fn reload(&self) -> Result<(), String> {
        let done = self.replace().await;
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

    async fn replace(&self) -> Result<(), String> {
        let rules = Rules::load(&self.allowlist).map_err(|error| chain(&error))?;
        let credentials = self.credentials.clone();
        let reload = tokio::task::spawn_blocking(move || credentials.reload());
        reload.await.map_err(|error| error.to_string())??;
        self.rules.send(rules).await.map_err(|_| "the agent is stopping".to_owned())
    }
}
