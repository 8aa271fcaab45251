//! The store against a naive model, through restarts, crashes, failing disks and concurrent readers.

mod model;
mod rules;
mod world;
