//! The agent dials the collector.

use tributary_certs::enrol;
use tributary_proto::v1;
use tributary_proto::v1::enrolment_client::EnrolmentClient;

use super::{ANSWER_TIMEOUT, JoinError, MAX_MESSAGE_BYTES, now_ms};
use crate::link;

/// Sends the request to whoever is at `address` and holds one of the authorities; its answer, and its authority.
pub(super) async fn enrol(
    address: &str,
    pins: &[[u8; 32]],
    request: v1::EnrolRequest,
) -> Result<(v1::EnrolResponse, [u8; 32]), JoinError> {
    let fail = |source| JoinError::Connect { address: address.to_owned(), source };
    let tcp = link::connect(address).await.map_err(fail)?;
    let stream = enrol::dial(tcp, pins).await?;
    let authority = stream.collector().map(|collector| collector.authority);
    let authority = authority.ok_or(JoinError::Answer("has no authority"))?;
    let mut client = EnrolmentClient::new(link::channel(stream))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let request = v1::EnrolRequest { now_ms: now_ms(), ..request };
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, client.enrol(request)).await;
    let answer = answer.map_err(|_| JoinError::Silent)?.map_err(Box::new)?;
    Ok((answer.into_inner(), authority))
}
