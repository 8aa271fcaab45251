//! Enrolment: agents that have no certificate yet ask for one with a token, over connections that serve nothing else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected as _;
use tonic::{Request, Response, Status};
use tributary_model::duration;
use tributary_proto::v1;
use tributary_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};

use super::gate::EnrolConnection;
use crate::pki::metrics::PkiMetrics;
use crate::pki::signer::{Signer, millis};

/// Connections that ask for a certificate at a time. At the bound, a new one is closed and counted.
const MAX_CONNECTIONS: usize = 16;
/// How long one of them may last. Then it is cut and counted.
pub(super) const LONGEST: Duration = Duration::from_secs(15);
/// Longest message: a token, a signing request, some names.
pub(super) const MAX_MESSAGE_BYTES: usize = 32 << 10;
/// Longest header list of a request.
const MAX_HEADER_BYTES: u32 = 8 << 10;
/// Refusals of one address before it has to wait; agents behind one router share an address.
const FREE_REFUSALS: u32 = 10;
/// The first wait; each further refusal doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// An address that was not refused for this long starts anew.
const FORGET: Duration = Duration::from_secs(600);
/// Addresses that are remembered. At the bound, the one that was refused longest ago is forgotten.
const MAX_ADDRESSES: usize = 1_024;

/// Gives first certificates to whoever has a token, in both directions of dialling. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Desk {
    signer: Arc<Signer>,
    metrics: PkiMetrics,
    refusals: Arc<Refusals>,
}

impl Desk {
    /// A desk whose certificates `signer` signs.
    pub(crate) fn new(signer: Arc<Signer>, metrics: PkiMetrics) -> Self {
        Self { signer, metrics, refusals: Arc::default() }
    }

    /// Serves the connections that the ingest port hands over, until `stop`.
    pub(crate) async fn serve(
        self,
        mut connections: mpsc::Receiver<EnrolConnection>,
        stop: CancellationToken,
    ) {
        let mut open = JoinSet::new();
        loop {
            let connection = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = open.join_next() => continue,
                Some(connection) = connections.recv() => connection,
                else => return,
            };
            if open.len() >= MAX_CONNECTIONS {
                self.refused("busy", connection.connect_info());
                continue;
            }
            open.spawn(self.clone().one(connection));
        }
    }

    async fn one(self, stream: EnrolConnection) {
        let address = stream.connect_info();
        let guest = Guest { desk: self.clone(), address };
        let service = EnrolmentServer::new(guest)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        let connection = http2::Builder::new(TokioExecutor::new())
            .max_concurrent_streams(1)
            .max_header_list_size(MAX_HEADER_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        match timeout(LONGEST, connection).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "a connection of an agent that enrols broke");
            }
            Err(_) => self.refused("timeout", address),
        }
    }

    /// Answers a request that came from `address`.
    pub(super) async fn answer(
        &self,
        request: v1::EnrolRequest,
        address: SocketAddr,
    ) -> v1::EnrolResponse {
        let now = SystemTime::now();
        if let Some(wait) = self.refusals.wait(address.ip(), Instant::now()) {
            self.refused("too_many_refusals", address);
            let wait = duration::format(Duration::from_secs(wait.as_secs() + 1));
            return refusal(
                format!("too many requests from this address were refused: wait {wait}"),
                now,
            );
        }
        let signer = self.signer.clone();
        let answered = tokio::task::spawn_blocking(move || signer.enrol(&request, now)).await;
        match answered {
            Ok(Ok(response)) => {
                self.metrics.enrolments.inc();
                self.refusals.forgive(address.ip());
                response
            }
            Ok(Err(error)) => {
                self.metrics.enrolment_refused(error.reason());
                self.refusals.count(address.ip(), Instant::now());
                tracing::warn!(%address, reason = error.reason(), %error, "an enrolment was refused");
                refusal(error.to_string(), now)
            }
            Err(error) => {
                self.metrics.enrolment_refused("internal");
                tracing::error!(%address, %error, "an enrolment failed");
                refusal("the collector failed; its log says why".to_owned(), now)
            }
        }
    }

    fn refused(&self, reason: &'static str, address: SocketAddr) {
        self.metrics.enrolment_refused(reason);
        tracing::warn!(%address, reason, "an enrolment was refused");
    }
}

fn refusal(why: String, now: SystemTime) -> v1::EnrolResponse {
    v1::EnrolResponse { refused: why, now_ms: millis(now), ..v1::EnrolResponse::default() }
}

/// The service on one connection.
struct Guest {
    desk: Desk,
    address: SocketAddr,
}

#[tonic::async_trait]
impl Enrolment for Guest {
    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        Ok(Response::new(self.desk.answer(request.into_inner(), self.address).await))
    }
}

/// Who was refused how often: somebody who tries tokens is slowed down.
#[derive(Default)]
struct Refusals(Mutex<HashMap<IpAddr, Refused>>);

struct Refused {
    times: u32,
    last: Instant,
}

impl Refusals {
    /// How long the address has to wait yet.
    fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = all.get(&address)?;
        let over = refused.times.checked_sub(FREE_REFUSALS)?;
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(over)).min(LONGEST_PAUSE);
        pause
            .checked_sub(now.saturating_duration_since(refused.last))
            .filter(|left| !left.is_zero())
    }

    fn count(&self, address: IpAddr, now: Instant) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, refused| now.saturating_duration_since(refused.last) < FORGET);
        if all.len() >= MAX_ADDRESSES
            && let Some(oldest) =
                all.iter().min_by_key(|(_, r)| r.last).map(|(address, _)| *address)
        {
            all.remove(&oldest);
        }
        let refused = all.entry(address).or_insert(Refused { times: 0, last: now });
        refused.times = refused.times.saturating_add(1);
        refused.last = now;
    }

    fn forgive(&self, address: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
    }
}

#[cfg(test)]
mod tests;
