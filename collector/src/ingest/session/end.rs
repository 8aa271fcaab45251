//! Why a session ends: for the log, for the metrics, and for the agent.

use std::net::SocketAddr;

use tonic::{Code, Status};
use tributary_proto::convert::MessageError;
use tributary_proto::frame::FrameError;
use tributary_proto::limits;

use super::SILENCE;
use crate::ingest::streams::Held;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The agent closed the stream.
    #[error("the agent closed the stream")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// The collector stops.
    #[error("the collector is stopping")]
    Stopping,
    /// The same agent has connected again.
    #[error("the same agent has connected again")]
    Replaced,
    /// Another process with the same identity has connected.
    #[error(
        "another agent uses this identity now, from {address}: stop one of them, or restart this one"
    )]
    Fenced {
        /// Where the other one is.
        address: SocketAddr,
        /// Whether this one was heard of a moment ago: then there are two of them.
        alive: bool,
    },
    /// The peer's certificate has come to its end.
    #[error("the certificate has expired")]
    Expired,
    /// The peer's certificate was revoked.
    #[error("the certificate is revoked")]
    Revoked,
    /// An authority behind this connection was retired.
    #[error("{0} is not trusted any more")]
    Retired(String),
    /// Nothing was heard.
    #[error("nothing was heard for {SILENCE:?}")]
    Silent,
    /// The certificate is not an agent's, or the agent says it is somebody else.
    #[error("{0}")]
    Identity(String),
    /// The identity is in use.
    #[error(transparent)]
    Held(#[from] Held),
    /// A message is not what it must be.
    #[error(transparent)]
    Message(#[from] MessageError),
    /// A frame cannot be read.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A message is longer than any may be.
    #[error("a message is longer than {} bytes", limits::MAX_MESSAGE_BYTES)]
    Oversized,
    /// A frame is not the one that is due.
    #[error("{0}")]
    Sequence(String),
    /// The store does not take the frame.
    #[error("the store failed: {0}")]
    Store(String),
    /// Something that must not happen.
    #[error("internal error: {0}")]
    Internal(&'static str),
}

impl End {
    /// The reason as it stands in metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Broken(_) => "broken",
            Self::Stopping => "stopping",
            Self::Replaced => "replaced",
            Self::Fenced { .. } => "fenced",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Retired(_) => "retired",
            Self::Silent => "silent",
            Self::Identity(_) => "identity",
            Self::Held(_) => "held",
            Self::Message(_) => "message",
            Self::Frame(_) => "frame",
            Self::Oversized => "oversized",
            Self::Sequence(_) => "sequence",
            Self::Store(_) => "store",
            Self::Internal(_) => "internal",
        }
    }

    /// Whether two processes use one identity at the same time.
    pub(super) fn is_clash(&self) -> bool {
        matches!(self, Self::Fenced { alive: true, .. } | Self::Held(Held::Fenced { .. }))
    }

    pub(super) fn is_violation(&self) -> bool {
        matches!(
            self,
            Self::Identity(_)
                | Self::Message(_)
                | Self::Frame(_)
                | Self::Oversized
                | Self::Sequence(_)
        )
    }

    /// The status the agent sees; nothing where the stream ends well or nobody listens.
    pub(super) fn status(&self) -> Option<Status> {
        let code = match self {
            Self::Closed
            | Self::Broken(_)
            | Self::Stopping
            | Self::Replaced
            | Self::Fenced { .. } => return None,
            Self::Expired | Self::Retired(_) => Code::Unauthenticated,
            Self::Silent => Code::DeadlineExceeded,
            Self::Identity(_) | Self::Revoked => Code::PermissionDenied,
            Self::Held(_) => Code::AlreadyExists,
            Self::Message(_) | Self::Frame(_) | Self::Oversized => Code::InvalidArgument,
            Self::Sequence(_) => Code::FailedPrecondition,
            Self::Store(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        };
        Some(Status::new(code, self.to_string()))
    }

    /// A message over its size shows as a status of the stream, and is the agent's fault; the rest is the network's.
    pub(super) fn broken(status: &Status) -> Self {
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted => Self::Oversized,
            _ => Self::Broken(status.message().escape_debug().to_string()),
        }
    }
}
