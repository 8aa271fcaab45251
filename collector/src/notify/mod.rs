//! Notifications: route, group, send.

pub mod config;
pub mod email;
pub mod group;
pub mod message;
pub mod route;

use std::collections::BTreeMap;

use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

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
