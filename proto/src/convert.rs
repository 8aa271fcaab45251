//! Session messages into domain types: everything is checked here, once.

use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;

use crate::{limits, v1};

/// The agent's first message, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// Highest session protocol the agent speaks.
    pub protocol: u32,
    /// The agent's version, for people.
    pub agent_version: String,
    /// What the agent believes; only the certificate decides.
    pub cluster: ClusterName,
    /// What the agent believes; only the certificate decides.
    pub instance: String,
    /// Identifies the agent's spool.
    pub epoch: u64,
    /// The oldest frame in the spool; `next_seq` if there is none.
    pub first_seq: u64,
    /// The number of the next new frame.
    pub next_seq: u64,
    /// The agent's clock.
    pub now: Timestamp,
    /// A random number of the agent's process; 0 if it does not say.
    pub run: u64,
    /// What the agent trusts and holds, if it says.
    pub trust: Option<Trust>,
}

/// What an agent trusts and holds, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// The digest of its bundle of authorities.
    pub bundle_sha256: [u8; 32],
    /// The hash of the public key it will use for its next connection.
    pub leaf_spki_sha256: [u8; 32],
    /// Whether it can renew its certificate and keep a new bundle.
    pub renewable: bool,
    /// Why the last bundle or certificate could not be put in force; empty if it was.
    pub error: String,
}

/// The collector's first message, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The last frame of this epoch that is durable at the collector; 0 if none.
    pub resume_after: u64,
    /// Whether the collector can decode what follows it.
    pub has_state: bool,
    /// Longest frame the collector takes.
    pub max_frame_bytes: usize,
    /// Frames that may wait for their acknowledgement.
    pub max_frames_in_flight: u32,
}

/// Longest agent version and instance name, in bytes.
const MAX_TEXT_BYTES: usize = 253;
/// Longest error text that is kept of an agent's.
const MAX_ERROR_CHARS: usize = 500;

/// Why a message is not what its sender may say.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The message is not the one that is due.
    #[error("expected {expected}, received {found}")]
    Unexpected {
        /// What is due.
        expected: &'static str,
        /// What came.
        found: &'static str,
    },
    /// No common protocol version.
    #[error("the peer speaks session protocol {0}, this version speaks {ours}", ours = limits::PROTOCOL)]
    Protocol(u32),
    /// A field's value is not allowed.
    #[error("the message's {field} is not valid: {why}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What is wrong.
        why: String,
    },
}

fn field(field: &'static str, why: impl Into<String>) -> MessageError {
    MessageError::Field { field, why: why.into() }
}

impl TryFrom<v1::Hello> for Hello {
    type Error = MessageError;

    fn try_from(raw: v1::Hello) -> Result<Self, MessageError> {
        if raw.protocol < limits::PROTOCOL {
            return Err(MessageError::Protocol(raw.protocol));
        }
        let cluster = raw.cluster.parse::<ClusterName>();
        let cluster = cluster.map_err(|error| field("cluster", error.to_string()))?;
        let printable =
            |text: &str| text.len() <= MAX_TEXT_BYTES && !text.contains(char::is_control);
        if !printable(&raw.agent_version) {
            return Err(field("agent version", "too long, or not printable"));
        }
        if raw.instance.is_empty() || !printable(&raw.instance) {
            return Err(field("instance", "empty, too long, or not printable"));
        }
        if raw.first_seq == 0 || raw.first_seq > raw.next_seq {
            return Err(field("first sequence number", "zero, or after the next one"));
        }
        Ok(Self {
            protocol: raw.protocol,
            agent_version: raw.agent_version,
            cluster,
            instance: raw.instance,
            epoch: raw.epoch,
            first_seq: raw.first_seq,
            next_seq: raw.next_seq,
            now: Timestamp::from_millis(raw.now_ms),
            run: raw.run,
            trust: raw.trust.map(Trust::try_from).transpose()?,
        })
    }
}

impl TryFrom<v1::Trust> for Trust {
    type Error = MessageError;

    fn try_from(raw: v1::Trust) -> Result<Self, MessageError> {
        let hash = |bytes: &[u8], name| {
            <[u8; 32]>::try_from(bytes).map_err(|_| field(name, "not a SHA-256 of 32 bytes"))
        };
        let error = raw.error.chars().filter(|c| !c.is_control()).take(MAX_ERROR_CHARS).collect();
        Ok(Self {
            bundle_sha256: hash(&raw.bundle_sha256, "digest of the bundle")?,
            leaf_spki_sha256: hash(&raw.leaf_spki_sha256, "hash of the key")?,
            renewable: raw.renewable,
            error,
        })
    }
}

impl TryFrom<v1::Welcome> for Welcome {
    type Error = MessageError;

    fn try_from(raw: v1::Welcome) -> Result<Self, MessageError> {
        if raw.protocol != limits::PROTOCOL {
            return Err(MessageError::Protocol(raw.protocol));
        }
        let limits = raw.limits.unwrap_or_default();
        let bytes = usize::try_from(limits.max_frame_bytes).unwrap_or(usize::MAX);
        Ok(Self {
            resume_after: raw.resume_after_seq,
            has_state: raw.has_state,
            // Zero means that the field is not set.
            max_frame_bytes: if bytes == 0 { limits::MAX_FRAME_BYTES } else { bytes },
            max_frames_in_flight: match limits.max_frames_in_flight {
                0 => limits::MAX_FRAMES_IN_FLIGHT,
                frames => frames.min(limits::MAX_FRAMES_IN_FLIGHT),
            },
        })
    }
}

/// A message to the agent, by kind.
pub use crate::v1::to_agent::Kind as ToAgent;
/// A message to the collector, by kind.
pub use crate::v1::to_collector::Kind as ToCollector;

impl From<ToAgent> for v1::ToAgent {
    fn from(kind: ToAgent) -> Self {
        Self { kind: Some(kind) }
    }
}

impl From<ToCollector> for v1::ToCollector {
    fn from(kind: ToCollector) -> Self {
        Self { kind: Some(kind) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            protocol: 1,
            agent_version: "0.1.0".into(),
            cluster: "eu-1".into(),
            instance: "prometheus-0".into(),
            epoch: 7,
            first_seq: 3,
            next_seq: 5,
            now_ms: 1,
            run: 9,
            trust: Some(v1::Trust {
                bundle_sha256: vec![1; 32].into(),
                leaf_spki_sha256: vec![2; 32].into(),
                renewable: true,
                error: String::new(),
            }),
        }
    }

    #[test]
    fn a_hello_is_checked_field_by_field() {
        assert_eq!(Hello::try_from(hello()).unwrap().next_seq, 5);
        let spoil: [fn(&mut v1::Hello); 8] = [
            |h| h.protocol = 0,
            |h| h.cluster = "../x".into(),
            |h| h.instance = String::new(),
            |h| h.instance = "a\nb".into(),
            |h| h.agent_version = "v".repeat(1000),
            |h| h.first_seq = 0,
            |h| h.first_seq = 6,
            |h| h.trust.as_mut().unwrap().bundle_sha256 = vec![1; 31].into(),
        ];
        for spoil in spoil {
            let mut raw = hello();
            spoil(&mut raw);
            assert!(Hello::try_from(raw.clone()).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn a_welcome_without_limits_has_the_defaults() {
        let raw = v1::Welcome {
            protocol: 1,
            resume_after_seq: 4,
            has_state: true,
            limits: None,
            now_ms: 1,
        };
        let welcome = Welcome::try_from(raw).unwrap();
        assert_eq!(welcome.max_frames_in_flight, limits::MAX_FRAMES_IN_FLIGHT);
        assert_eq!(welcome.max_frame_bytes, limits::MAX_FRAME_BYTES);
        assert!(Welcome::try_from(v1::Welcome { protocol: 2, ..raw }).is_err());
    }
}
