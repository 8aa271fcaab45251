//! The agent waits until the collector dials.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};
use tributary_certs::enrol;
use tributary_certs::tls::HandshakeError;
use tributary_proto::v1;
use tributary_proto::v1::enrollee_server::{Enrollee, EnrolleeServer};

use super::{ANSWER_TIMEOUT, JoinError, MAX_MESSAGE_BYTES, note, now_ms};
use crate::connection::Connection;
use crate::link::chain;

/// Connections at once. More: they wait in the kernel.
const MAX_CONNECTIONS: usize = 16;
/// How long the collector has to close the connection after its answer.
const CLOSE: Duration = Duration::from_secs(2);
/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Gives the request to whoever dials `address` and holds one of the authorities; its answer, and its authority.
pub(super) async fn enrol(
    address: SocketAddr,
    pins: &[[u8; 32]],
    request: v1::EnrolRequest,
) -> Result<(v1::EnrolResponse, [u8; 32]), JoinError> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| JoinError::Listen { address, source })?;
    note(format_args!("waiting for the collector on {address}"));
    accept(listener, pins, request).await
}

pub(super) async fn accept(
    listener: TcpListener,
    pins: &[[u8; 32]],
    request: v1::EnrolRequest,
) -> Result<(v1::EnrolResponse, [u8; 32]), JoinError> {
    let pins: Arc<[[u8; 32]]> = pins.into();
    let mut visits = JoinSet::new();
    let mut complaint = String::new();
    loop {
        tokio::select! {
            Some(visit) = visits.join_next() => match visit {
                Ok(Ok(answered)) => return Ok(answered),
                Ok(Err(error)) if !wants_session(&error) => {
                    // Somebody who is not the collector must not end the wait. Collectors come again and again.
                    let news = chain(&error);
                    if news != complaint {
                        note(format_args!("still waiting; {news}"));
                        complaint = news;
                    }
                }
                // A visit that panicked has been heard of.
                Ok(Err(_)) | Err(_) => {}
            },
            accepted = listener.accept(), if visits.len() < MAX_CONNECTIONS => match accepted {
                Ok((tcp, _)) => {
                    visits.spawn(visit(tcp, pins.clone(), request.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
}

/// The collector dials its agents for sessions, too.
fn wants_session(error: &JoinError) -> bool {
    matches!(error, JoinError::Handshake(HandshakeError::NoEnrolment { .. }))
}

/// One connection.
async fn visit(
    tcp: TcpStream,
    pins: Arc<[[u8; 32]]>,
    request: v1::EnrolRequest,
) -> Result<(v1::EnrolResponse, [u8; 32]), JoinError> {
    let stream = enrol::wait(tcp, &pins).await?;
    let authority = stream.collector().map(|collector| collector.authority);
    let authority = authority.ok_or(JoinError::Answer("has no authority"))?;
    let (answer, mut answers) = mpsc::channel(1);
    let service = EnrolleeServer::new(Guest { request, answer })
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let connection = stream::iter([Ok::<_, io::Error>(Connection(stream))]);
    let done = CancellationToken::new();
    let server = Server::builder()
        .add_service(service)
        .serve_with_incoming_shutdown(connection.chain(stream::pending()), done.cancelled());
    let mut server = std::pin::pin!(server);
    let answered = tokio::select! {
        answered = answers.recv() => answered,
        _ = &mut server => None,
        () = tokio::time::sleep(ANSWER_TIMEOUT) => None,
    };
    // Whoever answered is told that it was heard.
    done.cancel();
    let _ = tokio::time::timeout(CLOSE, server).await;
    Ok((answered.ok_or(JoinError::Silent)?, authority))
}

/// The service on one connection.
struct Guest {
    request: v1::EnrolRequest,
    answer: mpsc::Sender<v1::EnrolResponse>,
}

#[tonic::async_trait]
impl Enrollee for Guest {
    type EnrolStream = Pin<Box<dyn Stream<Item = Result<v1::EnrolRequest, Status>> + Send>>;

    /// One request, then the collector's answer, then the end.
    async fn enrol(
        &self,
        call: Request<Streaming<v1::EnrolResponse>>,
    ) -> Result<Response<Self::EnrolStream>, Status> {
        let request = v1::EnrolRequest { now_ms: now_ms(), ..self.request.clone() };
        let (mut answers, heard) = (call.into_inner(), self.answer.clone());
        let end = stream::once(async move {
            if let Ok(Some(answer)) = answers.message().await {
                // One answer is enough.
                let _ = heard.try_send(answer);
            }
            None
        });
        let messages = stream::iter([Some(Ok(request))]).chain(end);
        Ok(Response::new(Box::pin(messages.filter_map(std::future::ready))))
    }
}
