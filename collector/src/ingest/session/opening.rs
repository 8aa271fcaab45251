//! The first words of a session: whose stream it is, and the agent's hello.

use tonic::Status;
use tributary_certs::identity::Identity;
use tributary_certs::tls::Peer;
use tributary_model::cluster::InvalidClusterName;
use tributary_proto::convert::{Hello, MessageError, ToCollector};
use tributary_proto::v1;
use tributary_store::StreamKey;

use super::end::End;

/// The stream's identity, from the certificate and nothing else.
pub(super) fn stream_key(peer: &Peer) -> Result<StreamKey, End> {
    let Identity::Agent { cluster, instance, .. } = &peer.identity else {
        return Err(End::Identity(format!("{} is not an agent", peer.identity.describe())));
    };
    let cluster =
        cluster.parse().map_err(|error: InvalidClusterName| End::Identity(error.to_string()))?;
    Ok(StreamKey { cluster, instance: instance.clone() })
}

/// The agent's first message; it must agree with its certificate.
pub(super) fn check_hello(
    first: Option<Result<v1::ToCollector, Status>>,
    key: &StreamKey,
) -> Result<Hello, End> {
    let message = first.ok_or(End::Closed)?.map_err(|status| End::broken(&status))?;
    let hello = match message.kind {
        Some(ToCollector::Hello(hello)) => Hello::try_from(hello)?,
        other => {
            return Err(MessageError::Unexpected {
                expected: "Hello",
                found: name(other.as_ref()),
            }
            .into());
        }
    };
    if hello.cluster != key.cluster || hello.instance != key.instance {
        return Err(End::Identity(format!(
            "the agent says it is \"{}\" of cluster \"{}\", its certificate says \"{}\" of cluster \"{}\": \
             correct `cluster` and `instance` in agent.yml, or use the right certificate",
            hello.instance, hello.cluster, key.instance, key.cluster
        )));
    }
    Ok(hello)
}

fn name(message: Option<&ToCollector>) -> &'static str {
    match message {
        Some(ToCollector::Hello(_)) => "Hello",
        Some(ToCollector::Frame(_)) => "Frame",
        Some(ToCollector::Heartbeat(_)) => "Heartbeat",
        Some(ToCollector::Drain(_)) => "Drain",
        Some(ToCollector::Trust(_)) => "Trust",
        Some(ToCollector::CertificateRequest(_)) => "CertificateRequest",
        None => "a message of an unknown kind",
    }
}
