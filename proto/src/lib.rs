//! Frames and their codec, the session's gRPC messages, and remote-write messages. PROTOCOL.md is the specification.

pub mod convert;
pub mod frame;
pub mod limits;
pub mod remote;

/// The session's messages and service stubs, generated from `tributary/v1/tributary.proto`.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("tributary.v1");
}

/// Remote-write 1.0 messages, generated from `prometheus/remote.proto`. Texts are unchecked bytes.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod prometheus {
    tonic::include_proto!("prometheus");
}
