//! Every kind of peer at every door: who comes in, who is refused, and in which words.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod bench;
mod enrol;
mod files;
mod peers;
mod trust;
mod web;
