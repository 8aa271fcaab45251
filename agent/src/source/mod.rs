//! Sources: where samples enter the agent.

pub mod exposition;
pub mod federate;
pub mod remote_write;
pub mod scrape;
