//! The collector: keeps what agents send, answers PromQL, runs rules and sends alerts.

mod admin;
mod api;
mod app;
mod config;
mod demo;
mod ingest;
mod local;
mod log;
mod metrics;
mod notify;
mod query;
mod rules;
mod scrape;

fn main() {}
