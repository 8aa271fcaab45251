//! The store against a naive model, through restarts, crashes, failing disks and concurrent readers.

mod fuzz;
mod golden;
mod model;
mod rules;
mod world;
