//! The Prometheus HTTP API.

pub mod auth;
pub mod envelope;
pub mod federate;
pub mod query;
pub mod rules;
pub mod series;
pub mod status;
