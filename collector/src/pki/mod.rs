//! Certificates as the collector handles them: its own, those it issues to agents, and rotations.

pub(crate) mod command;
pub(crate) mod credentials;
pub(crate) mod driver;
pub(crate) mod expiry;
pub(crate) mod metrics;
pub(crate) mod signer;

#[cfg(test)]
pub(crate) mod testing;
