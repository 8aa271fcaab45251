//! Prometheus' remote protocols: `write` for local pushers, `read` for a Prometheus that looks further back.

pub mod chunk;
pub mod histogram_chunk;
pub mod read;
pub mod write;

/// Longest message once decompressed; one that says it is longer is refused before memory is taken for it.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
