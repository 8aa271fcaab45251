//! Recording and alerting rules, each in its scope.

pub mod alerting;
mod builtin;
pub mod command;
pub mod engine;
#[cfg(test)]
mod fake;
pub mod file;
pub mod group;
pub mod metrics;
mod place;
pub mod status;
pub mod template;
pub mod unit;

use std::future::Future;
use std::time::Duration;

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::Timestamp;
use tributary_promql::ast::Expr;
use tributary_promql::feature::Features;

use crate::config::Scope;
use crate::notify::Alert;
use crate::query::{Answer, Point, QueryError};

/// How often a group is evaluated that does not say.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// How often a firing alert is sent again, and a resolved one while it is kept.
pub const RESEND_DELAY: Duration = Duration::from_secs(60);

/// What rules need from the rest of the collector.
pub trait Host: Send + Sync + 'static {
    /// The value of an expression, of series that satisfy the enforced matchers only.
    fn evaluate(
        &self,
        expr: &Expr,
        at: Timestamp,
        enforced: &[Matcher],
    ) -> impl Future<Output = Result<Answer, QueryError>> + Send;

    /// Stores what rules computed; returns when later queries see it.
    fn write(
        &self,
        samples: Vec<(Labels, Point)>,
    ) -> impl Future<Output = Result<(), HostError>> + Send;

    /// The clusters that rules of the scope `each` are evaluated for.
    fn clusters(&self) -> Vec<ClusterName>;

    /// Hands alerts over; waits while the notifier is busy.
    fn notify(&self, alerts: Vec<Alert>) -> impl Future<Output = ()> + Send;

    /// Durable state under a prefix.
    fn load(
        &self,
        prefix: &str,
    ) -> impl Future<Output = Result<Vec<(String, Vec<u8>)>, HostError>> + Send;

    /// Makes changes of the state durable, all or none; nothing as a value removes a key.
    fn put(
        &self,
        changes: Vec<(String, Option<Vec<u8>>)>,
    ) -> impl Future<Output = Result<(), HostError>> + Send;
}

/// The store did not do what rules asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HostError(pub String);

/// What rules need to know of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The label that holds a series' cluster.
    pub cluster_label: String,
    /// The collector's own name in that label.
    pub local_cluster: ClusterName,
    /// The collector's address in links and templates.
    pub external_url: String,
    /// What templates know as `$externalLabels`.
    pub external_labels: Labels,
    /// What expressions may use beyond the stable language.
    pub features: Features,
    /// Whether the built-in alerts are evaluated, too.
    pub builtin: bool,
}

impl Settings {
    /// How rules of a scope are read under this configuration.
    fn scoping(&self, scope: Scope) -> file::Scoping {
        file::Scoping {
            scope,
            label: self.cluster_label.clone(),
            local: self.local_cluster.to_string(),
            features: self.features,
        }
    }
}
