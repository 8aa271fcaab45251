//! How a session ends badly, in words.

use std::error::Error as _;

use tributary_certs::tls::HandshakeError;
use tributary_proto::convert::{MessageError, ToAgent};

use super::{SILENCE, WELCOME_TIMEOUT};
use crate::link::chain;
use crate::spool::SpoolError;

/// How a session ended badly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// TCP did not come up.
    #[error("{address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// TLS did not come up.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// gRPC or what is below it.
    #[error("{}", words(.0))]
    Stream(Box<tonic::Status>),
    /// No more messages.
    #[error("the collector closed the stream")]
    Closed,
    /// No welcome in time.
    #[error("the collector did not answer within {WELCOME_TIMEOUT:?}")]
    NoWelcome,
    /// Nothing in time.
    #[error("the collector has not been heard of for {SILENCE:?}")]
    Silent,
    /// The collector's certificate came to its end.
    #[error("the collector's certificate has expired: it must renew it")]
    Expired,
    /// The collector's authority is not trusted any longer.
    #[error("the authority of the collector's certificate is not trusted any longer")]
    Untrusted,
    /// A message that the collector may not send.
    #[error("the collector broke the protocol")]
    Message(#[from] MessageError),
    /// An acknowledgement of what was never sent.
    #[error("the collector acknowledged frame {acked}, but {sent} is the last that was sent")]
    Ack {
        /// What it acknowledged.
        acked: u64,
        /// What was sent.
        sent: u64,
    },
    /// The spool failed.
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// The spool was opened again; another session reads it from now on.
    #[error("the spool was opened again")]
    Reopened,
}

impl From<tonic::Status> for SessionError {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

/// A status in words: what the collector says, or what is wrong below gRPC.
fn words(status: &tonic::Status) -> String {
    use tonic::Code;
    let below = status.source().map(chain);
    match (status.code(), below) {
        (Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal, Some(below)) => {
            // What transports say of themselves comes first, the cause last.
            below.trim_start_matches("transport error: ").to_owned()
        }
        (Code::Unknown | Code::Unavailable | Code::Cancelled | Code::Internal, None) => {
            format!("the stream broke: {}", status.message())
        }
        (_, _) => format!("the collector refuses: {}", status.message()),
    }
}

/// The message is not the one that is due.
pub(super) fn unexpected(expected: &'static str, found: &ToAgent) -> SessionError {
    let found = match found {
        ToAgent::Welcome(_) => "a second welcome",
        ToAgent::Ack(_) => "an acknowledgement",
        ToAgent::Heartbeat(_) => "a heartbeat",
        ToAgent::Drain(_) => "a drain",
        ToAgent::Bundle(_) => "a bundle of authorities",
        ToAgent::Certificate(_) => "a certificate",
        ToAgent::Renew(_) => "a wish for a renewal",
        ToAgent::Reconnect(_) => "a wish for a new connection",
    };
    MessageError::Unexpected { expected, found }.into()
}
