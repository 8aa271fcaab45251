//! The agent: lets listed series through and streams them to the collector.

mod admin;
mod allow;
mod app;
mod config;
mod link;
mod log;
mod metrics;
mod pipeline;
mod session;
mod source;
mod spool;

fn main() {}
