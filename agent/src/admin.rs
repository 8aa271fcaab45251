//! The HTTP port: health, readiness, reload, metrics, state; remote write is merged in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::{StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tributary_model::sample::Timestamp;

use crate::credentials::InForce;
use crate::handover::LinkState;
use crate::metrics;
use crate::spool::SharedSpool;

/// Connections at once. Full: new ones wait in the kernel.
const MAX_CONNECTIONS: usize = 128;
/// How long a client has for the head of a request, and how long a connection may be idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 64 << 10;
/// Pause after an accept that failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Asks for a reload; the answer says what was wrong.
pub(crate) type Reload = mpsc::Sender<oneshot::Sender<Result<(), String>>>;

/// What the port shows.
pub(crate) struct Admin {
    /// Who the agent is.
    pub(crate) cluster: String,
    /// Which one of the cluster's.
    pub(crate) instance: String,
    /// Where it dials.
    pub(crate) collector: String,
    /// How full the spool is.
    pub(crate) spool: Arc<SharedSpool>,
    /// How the link is.
    pub(crate) link: watch::Receiver<LinkState>,
    /// The certificate.
    pub(crate) certificate: watch::Receiver<InForce>,
    /// Every metric.
    pub(crate) registry: Registry,
    /// Reloads.
    pub(crate) reload: Reload,
}

/// The agent's state, for `tributary-agent status`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) instance: String,
    pub(crate) collector: String,
    pub(crate) connected: bool,
    pub(crate) since_seconds: f64,
    pub(crate) error: Option<String>,
    pub(crate) spool_frames: u64,
    pub(crate) spool_bytes: u64,
    pub(crate) next_seq: u64,
    pub(crate) acked_seq: u64,
    pub(crate) dropped_samples: u64,
    pub(crate) certificate_not_after_seconds: f64,
    pub(crate) certificate_renewable: bool,
}

/// The port's routes.
pub(crate) fn router(admin: Admin) -> Router {
    Router::new()
        .route("/-/healthy", get(async || "Tributary agent is healthy.\n"))
        // Ready means that sources may come: the routes exist only once the spool is open.
        .route("/-/ready", get(async || "Tributary agent is ready.\n"))
        .route("/-/reload", post(reload).put(reload))
        .route("/metrics", get(scrape))
        .route("/api/v1/tributary/status", get(report))
        .with_state(Arc::new(admin))
}

async fn scrape(State(admin): State<Arc<Admin>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::text(&admin.registry)).into_response()
}

async fn report(State(admin): State<Arc<Admin>>) -> Json<Report> {
    let (status, link) = (admin.spool.status(), admin.link.borrow().clone());
    let (not_after, renewable) = {
        let certificate = admin.certificate.borrow();
        (certificate.schedule.not_after(), certificate.trust.renewable)
    };
    Json(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: admin.cluster.clone(),
        instance: admin.instance.clone(),
        collector: admin.collector.clone(),
        connected: link.connected,
        since_seconds: link.since.as_secs_f64(),
        error: link.error,
        spool_frames: status.waiting(),
        spool_bytes: status.bytes,
        next_seq: status.next_seq,
        acked_seq: status.acked,
        dropped_samples: status.dropped_samples,
        certificate_not_after_seconds: Timestamp::from(not_after).as_secs_f64(),
        certificate_renewable: renewable,
    })
}

async fn reload(State(admin): State<Arc<Admin>>) -> Response {
    let (answer, answered) = oneshot::channel();
    if admin.reload.send(answer).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response();
    }
    match answered.await {
        Ok(Ok(())) => "reloaded\n".into_response(),
        Ok(Err(why)) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
        Err(_) => (StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping\n").into_response(),
    }
}

/// Serves `router` until `stop`, then lets running requests end.
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            place = Arc::clone(&places).acquire_owned() => tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted.map(|accepted| (accepted, place)),
            },
        };
        match accepted {
            Ok(((tcp, peer), place)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(async move {
                    talk(tcp, peer, router, stop).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accepting an HTTP connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn talk(tcp: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    // Answers are written at once; nothing is gained by waiting for more.
    let _ = tcp.set_nodelay(true);
    let service = hyper::service::service_fn(move |request: http::Request<Incoming>| {
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(tcp), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection broke off");
    }
}
