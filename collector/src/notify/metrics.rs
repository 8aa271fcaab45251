//! What the notifier counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::email::LoggedIn;

/// The notifier's metrics. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Mails that the server took for at least one recipient.
    pub sent: Family<ByReceiver, Counter>,
    /// Attempts that failed, and recipients that were refused.
    pub failed: Family<ByReason, Counter>,
    /// Attempts after the first.
    pub retries: Family<ByReceiver, Counter>,
    /// Batches of alerts that wait to be taken.
    pub queue: Gauge,
    /// Alerts held in groups.
    pub alerts: Gauge,
    /// Notifications that have not ended.
    pub pending: Gauge,
    /// Alerts that found no room.
    pub dropped: Counter,
    /// Writes of the notification log that failed.
    pub log_failures: Counter,
    /// When a login last worked.
    pub login: Family<ByLogin, Gauge<f64, AtomicU64>>,
}

/// A receiver's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReceiver {
    /// The name.
    pub receiver: String,
}

/// A receiver's name and why something failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    /// The name.
    pub receiver: String,
    /// One of the reasons.
    pub reason: String,
}

/// A login, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByLogin {
    /// The user.
    pub username: String,
    /// The beginning of a hash over user and password, which tells an old password from a new one.
    pub credential: String,
}

impl Metrics {
    /// Metrics that `registry` shows; it adds the program's name to theirs.
    pub fn register(registry: &mut Registry) -> Self {
        let m = Self::default();
        let mut add = |name: &str, help: &str, metric: Kind| match metric {
            Kind::ByReceiver(family) => registry.register(name, help, family),
            Kind::ByReason(family) => registry.register(name, help, family),
            Kind::Gauge(gauge) => registry.register(name, help, gauge),
            Kind::Counter(counter) => registry.register(name, help, counter),
        };
        let dropped = Kind::Counter(m.dropped.clone());
        let log_failures = Kind::Counter(m.log_failures.clone());
        add("notifications", "Mails delivered", Kind::ByReceiver(m.sent.clone()));
        add("notifications_failed", "Deliveries that failed", Kind::ByReason(m.failed.clone()));
        add(
            "notification_retries",
            "Attempts after the first",
            Kind::ByReceiver(m.retries.clone()),
        );
        add("notification_queue_length", "Batches of alerts waiting", Kind::Gauge(m.queue.clone()));
        add("notification_alerts", "Alerts held in groups", Kind::Gauge(m.alerts.clone()));
        add("notifications_pending", "Mails not yet delivered", Kind::Gauge(m.pending.clone()));
        add("notification_alerts_dropped", "Alerts over the bound", dropped);
        add("notification_log_failures", "Failed writes of the notification log", log_failures);
        registry.register(
            "smtp_auth_success_timestamp_seconds",
            "When a login at a mail server last succeeded",
            m.login.clone(),
        );
        m
    }

    pub(super) fn failed(&self, receiver: &str, reason: &str) {
        let labels = ByReason { receiver: receiver.to_owned(), reason: reason.to_owned() };
        self.failed.get_or_create(&labels).inc();
    }

    pub(super) fn logged_in(&self, login: &LoggedIn, at: f64) {
        let credential = format!("sha256:{}", login.credential);
        let labels = ByLogin { username: login.username.clone(), credential };
        self.login.get_or_create(&labels).set(at);
    }
}

enum Kind {
    ByReceiver(Family<ByReceiver, Counter>),
    ByReason(Family<ByReason, Counter>),
    Gauge(Gauge),
    Counter(Counter),
}

pub(super) fn receiver(name: &str) -> ByReceiver {
    ByReceiver { receiver: name.to_owned() }
}
