//! The demonstration: three clusters on one machine, on real input.

pub mod mailbox;
pub mod table;
