//! Certificates as the collector handles them: its own, those it issues to agents, and rotations.

pub(crate) mod command;
