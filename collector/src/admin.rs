//! The pages for whoever runs the collector: health, readiness, reload, its own metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{StatusCode, header};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};

use crate::metrics;

/// `OpenMetrics` text, which is what the registry writes.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where a reload was asked for; answered once it took or was refused.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// What the pages need. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    /// Everything that `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Set once everything runs, cleared when the stop begins.
    pub ready: Arc<AtomicBool>,
    /// Takes wishes to reload.
    pub reload: mpsc::Sender<ReloadRequest>,
}

/// The pages.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/-/healthy", get(async || "Tributary collector is healthy.\n"))
        .route("/-/ready", get(ready))
        .route("/-/reload", post(reload).put(reload).fallback(only_post))
        .route("/-/quit", post(never_quit).put(never_quit).fallback(only_post))
        .route("/metrics", get(own_metrics))
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> Response {
    if admin.ready.load(Ordering::Relaxed) {
        "Tributary collector is ready.\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Tributary collector is starting or stopping.\n")
            .into_response()
    }
}

async fn reload(State(admin): State<Admin>) -> Response {
    let (answer, answered) = oneshot::channel();
    let stopping =
        (StatusCode::SERVICE_UNAVAILABLE, "Tributary collector is stopping.\n".to_owned());
    if admin.reload.send(answer).await.is_err() {
        return stopping.into_response();
    }
    match answered.await {
        Ok(Ok(())) => StatusCode::OK.into_response(),
        Ok(Err(why)) => {
            let text =
                format!("the reload was refused, the old configuration stays in force: {why}\n");
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
        Err(_) => stopping.into_response(),
    }
}

/// A collector ends by a signal only.
async fn never_quit() -> Response {
    (StatusCode::FORBIDDEN, "Tributary collector does not end over HTTP.\n").into_response()
}

/// Prometheus' words.
async fn only_post() -> Response {
    (StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed").into_response()
}

async fn own_metrics(State(admin): State<Admin>) -> Response {
    ([(header::CONTENT_TYPE, OPEN_METRICS)], metrics::text(&admin.registry)).into_response()
}
