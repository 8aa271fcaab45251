//! Notifications: route, group, send.

pub mod command;
pub mod config;
pub mod email;
pub mod group;
pub mod log;
pub mod message;
pub mod metrics;
pub mod route;

mod stream;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use lettre::Address;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use self::config::Config;
use self::email::{Delivery, Failure, Mailer, Reason};
use self::group::{Answer, Change, Ended, Fate, Groups, Job};
use self::log::{Intent, Key, Progress};
use self::message::Sender;
use self::metrics::{Metrics, receiver};

/// Batches of alerts that wait to be taken. Full: whoever sends waits.
pub const QUEUE: usize = 256;
/// Deliveries under way at once; the others wait for a free place.
const MAX_DELIVERIES: usize = 16;
/// The clock may be set while nothing is due: look again after so long.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// How long deliveries under way may take after the stop signal. Cut off, they are made again after the next start.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Where the collector's own random name is in the durable state.
const NAME_KEY: &str = "notify/collector";

/// An alert as the rules send it, firing or resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alert {
    /// What identifies the alert.
    pub labels: Labels,
    /// Texts for people; not part of the identity.
    pub annotations: BTreeMap<String, String>,
    /// When it began to fire.
    pub starts_at: Timestamp,
    /// When it was resolved, or until when it counts as firing unless it is sent again.
    pub ends_at: Timestamp,
    /// Where the expression can be looked at.
    pub generator_url: String,
}

/// A small durable key-value state.
pub trait StateStore: Send + Sync + 'static {
    /// Everything under a prefix.
    fn load(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Vec<(String, Vec<u8>)>, StateError>> + Send;

    /// Makes changes durable, all or none; returns once they are.
    fn put(&self, changes: Vec<Change>) -> impl Future<Output = Result<(), StateError>> + Send;
}

/// Why the durable state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the notification log: {0}")]
pub struct StateError(pub String);

/// Everything that the notifier is told by configuration; can be replaced while it runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Receivers and routes.
    pub config: Arc<Config>,
    /// What mails say about this collector.
    pub sender: Sender,
}

/// Takes alerts, and mails about them.
pub struct Notifier<S> {
    settings: watch::Receiver<Settings>,
    replace: Arc<watch::Sender<Settings>>,
    state: Arc<S>,
    metrics: Metrics,
    mailer: Arc<Mailer>,
    queue: mpsc::Sender<Vec<Alert>>,
    alerts: mpsc::Receiver<Vec<Alert>>,
}

/// What one delivery task brings back.
struct Done {
    job: Job,
    result: Result<Delivery, Failure>,
}

impl<S: StateStore> Notifier<S> {
    /// A notifier that keeps its log in `state`.
    pub fn new(settings: Settings, state: S, metrics: Metrics) -> Self {
        let (queue, alerts) = mpsc::channel(QUEUE);
        let (replace, settings) = watch::channel(settings);
        Self {
            settings,
            replace: Arc::new(replace),
            state: Arc::new(state),
            metrics,
            mailer: Arc::new(Mailer::default()),
            queue,
            alerts,
        }
    }

    /// Where alerts are handed in.
    pub fn sender(&self) -> mpsc::Sender<Vec<Alert>> {
        self.queue.clone()
    }

    /// Replaces the settings while the notifier runs: `send` or `send_replace` the new ones.
    pub fn settings(&self) -> Arc<watch::Sender<Settings>> {
        Arc::clone(&self.replace)
    }

    /// Works until `stop`; then lets deliveries under way end, for a while.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StateError> {
        let mut groups = self.restore().await?;
        let mut deliveries: JoinSet<Done> = JoinSet::new();
        let places = Arc::new(Semaphore::new(MAX_DELIVERIES));
        loop {
            let now = now();
            let due = groups.due(now);
            self.put(due.changes).await;
            for job in due.jobs {
                let sender = self.settings.borrow().sender.clone();
                let (state, mailer) = (Arc::clone(&self.state), Arc::clone(&self.mailer));
                deliveries.spawn(attempt(state, mailer, sender, Arc::clone(&places), job));
            }
            self.show(&groups);
            let wait = groups.next_at().map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
            tokio::select! {
                () = stop.cancelled() => break,
                Some(batch) = self.alerts.recv() => self.take(&mut groups, batch),
                Some(done) = deliveries.join_next() => self.finish(&mut groups, done).await,
                Ok(()) = self.settings.changed() => self.reconfigure(&mut groups).await,
                () = tokio::time::sleep(wait) => {}
            }
        }
        let ending = async {
            while let Some(done) = deliveries.join_next().await {
                self.finish(&mut groups, done).await;
            }
        };
        if tokio::time::timeout(STOP_GRACE, ending).await.is_err() {
            tracing::warn!(
                "mails under way were cut off; they are sent again after the next start"
            );
        }
        Ok(())
    }

    /// Takes up the log of the last run; a record that cannot be read is reported and left out.
    async fn restore(&mut self) -> Result<Groups, StateError> {
        let known = self.state.load(NAME_KEY).await?.into_iter().next();
        let name = if let Some((_, name)) = known {
            String::from_utf8_lossy(&name).into_owned()
        } else {
            let name = format!("{:032x}", rand::random::<u128>());
            let change = (NAME_KEY.to_owned(), Some(name.clone().into_bytes()));
            self.state.put(vec![change]).await?;
            name
        };
        let mut records = Vec::new();
        for (key, bytes) in self.state.load(log::PREFIX).await? {
            match log::decode(&bytes) {
                Ok(record) => records.push(record),
                Err(error) => tracing::error!(key, %error, "a notification record was left out"),
            }
        }
        let config = Arc::clone(&self.settings.borrow_and_update().config);
        let mut groups = Groups::new(config, name);
        let changes = groups.restore(records, now());
        self.put(changes).await;
        Ok(groups)
    }

    async fn reconfigure(&mut self, groups: &mut Groups) {
        let config = Arc::clone(&self.settings.borrow_and_update().config);
        let changes = groups.reconfigure(config, now());
        self.put(changes).await;
    }

    fn take(&self, groups: &mut Groups, batch: Vec<Alert>) {
        let dropped = groups.insert(batch, now());
        if dropped > 0 {
            tracing::error!(dropped, held = groups.alerts(), "too many alerts; some are not taken");
            self.metrics.dropped.inc_by(u64::try_from(dropped).unwrap_or(u64::MAX));
        }
    }

    async fn finish(&self, groups: &mut Groups, done: Result<Done, JoinError>) {
        let Done { job, result } = match done {
            Ok(done) => done,
            Err(error) => {
                // The intent stays marked as running and is made again after the next start.
                tracing::error!(%error, "a delivery task ended abnormally");
                return;
            }
        };
        let now = now();
        if job.intent.attempts > 0 {
            self.metrics.retries.get_or_create(&receiver(&job.key.receiver)).inc();
        }
        let ended = self.report(&job, &result, now);
        let (fate, changes) = groups.finished(&job.key, &ended, now);
        if fate == Fate::GivenUp {
            self.metrics.failed(&job.key.receiver, Reason::Expired.as_str());
            tracing::error!(
                receiver = job.key.receiver,
                group = job.key.group,
                "mail given up after a day of failed attempts"
            );
        }
        self.put(changes).await;
    }

    /// Counts and logs how an attempt ended.
    fn report(&self, job: &Job, result: &Result<Delivery, Failure>, now: Timestamp) -> Ended {
        let Key { receiver: name, group, .. } = &job.key;
        let id = &job.intent.message_id;
        match result {
            Ok(delivery) => {
                if let Some(login) = &delivery.login {
                    self.metrics.logged_in(login, now.as_secs_f64());
                }
                let mut accepted = 0;
                for reply in &delivery.replies {
                    let (to, text) = (&reply.address, &reply.text);
                    match reply.answer {
                        Answer::Accepted => accepted += 1,
                        Answer::Refused => {
                            self.metrics.failed(name, Reason::Refused.as_str());
                            tracing::error!(
                                receiver = name,
                                group,
                                to,
                                reply = text,
                                id,
                                "recipient refused"
                            );
                        }
                        Answer::Later => {
                            self.metrics.failed(name, Reason::Deferred.as_str());
                            tracing::warn!(
                                receiver = name,
                                group,
                                to,
                                reply = text,
                                id,
                                "recipient deferred"
                            );
                        }
                    }
                }
                if accepted > 0 {
                    self.metrics.sent.get_or_create(&receiver(name)).inc();
                    tracing::info!(receiver = name, group, recipients = accepted, id, "mail sent");
                }
                let answers = delivery.replies.iter().map(|r| (r.address.clone(), r.answer));
                Ended::Answered(answers.collect())
            }
            Err(Failure { reason: Reason::LoginPaused, .. }) => Ended::LoginRefused,
            Err(failure) => {
                self.metrics.failed(name, failure.reason.as_str());
                tracing::warn!(receiver = name, group, error = %failure, id, "mail not sent; it is tried again");
                if failure.reason == Reason::LoginRefused {
                    Ended::LoginRefused
                } else {
                    Ended::Failed
                }
            }
        }
    }

    async fn put(&self, changes: Vec<Change>) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.state.put(changes).await {
            self.metrics.log_failures.inc();
            tracing::error!(%error, "writing the notification log; after a kill a mail may come twice");
        }
    }

    fn show(&self, groups: &Groups) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.queue.set(number(self.alerts.len()));
        self.metrics.alerts.set(number(groups.alerts()));
        self.metrics.pending.set(number(groups.pending()));
    }
}

fn now() -> Timestamp {
    SystemTime::now().into()
}

/// One delivery: the intent is made durable, then the mail is handed to the server.
async fn attempt<S: StateStore>(
    state: Arc<S>,
    mailer: Arc<Mailer>,
    sender: Sender,
    places: Arc<Semaphore>,
    job: Job,
) -> Done {
    let _place = places.acquire().await;
    let failed = |reason, text| Failure { reason, step: "preparing", text };
    let work = async {
        state
            .put(vec![job.change.clone()])
            .await
            .map_err(|e| failed(Reason::File, e.to_string()))?;
        let mail = message::write(&sender, &job.key, &job.email, &job.intent)
            .map_err(|e| failed(Reason::Message, e.to_string()))?;
        mailer.deliver(&job.email, &waiting(&job.intent), &mail).await
    };
    let result = work.await;
    Done { job, result }
}

/// The recipients that do not have the mail yet.
fn waiting(intent: &Intent) -> Vec<Address> {
    let pending = intent.recipients.iter().filter(|r| r.state == Progress::Pending);
    // They were written from valid addresses.
    pending.filter_map(|r| r.address.parse().ok()).collect()
}

#[cfg(test)]
mod tests;
