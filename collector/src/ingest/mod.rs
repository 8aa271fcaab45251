//! Takes frames from agents: identity, checks, journal, acknowledgement.

pub mod link;
pub mod policy;
pub mod replay;
pub mod session;
