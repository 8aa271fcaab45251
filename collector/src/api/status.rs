//! What the collector says of itself: build, run time, flags, configuration, clusters, gaps, the front page.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tributary_model::duration;
use tributary_promql::feature::Features;

use super::envelope::{ApiError, ErrorType, Notes, plain, success, success_value};
use super::view::rfc3339;
use super::{Api, Scope};
use crate::query::Gap;

/// The version of Prometheus' API that is served: clients choose their requests by it.
pub const API_VERSION: &str = "3.5.0";

/// `status/buildinfo`. It names no features: Grafana takes a server with features for another product.
pub async fn build_info() -> Response {
    success_value(&BuildInfo::ours())
}

/// `/version`: the same without an envelope.
pub async fn version() -> Response {
    match serde_json::to_vec(&BuildInfo::ours()) {
        Ok(body) => plain(StatusCode::OK, body),
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildInfo {
    version: &'static str,
    revision: &'static str,
    branch: &'static str,
    build_user: &'static str,
    build_date: &'static str,
    go_version: &'static str,
}

impl BuildInfo {
    fn ours() -> Self {
        Self {
            version: API_VERSION,
            revision: concat!("tributary-collector ", env!("CARGO_PKG_VERSION")),
            branch: "",
            build_user: "",
            build_date: "",
            go_version: "",
        }
    }
}

/// `status/runtimeinfo`: what of it applies.
pub async fn runtime_info(State(api): State<Api>) -> Response {
    let runtime = api.facts.runtime();
    success_value(&RuntimeInfo {
        start_time: rfc3339(runtime.started),
        cwd: std::env::current_dir().map(|p| p.display().to_string()).unwrap_or_default(),
        hostname: std::fs::read_to_string("/proc/sys/kernel/hostname")
            .map(|name| name.trim().to_owned())
            .unwrap_or_default(),
        server_time: rfc3339(api.now()),
        reload_config_success: runtime.reload_ok,
        last_config_time: rfc3339(runtime.config_read),
        corruption_count: runtime.corruptions,
        goroutine_count: 0,
        gomaxprocs: std::thread::available_parallelism().map_or(1, usize::from),
        gomemlimit: 0,
        gogc: "",
        godebug: "",
        storage_retention: duration::format(runtime.retention),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RuntimeInfo {
    start_time: String,
    #[serde(rename = "CWD")]
    cwd: String,
    hostname: String,
    server_time: String,
    reload_config_success: bool,
    last_config_time: String,
    corruption_count: u64,
    goroutine_count: usize,
    #[serde(rename = "GOMAXPROCS")]
    gomaxprocs: usize,
    #[serde(rename = "GOMEMLIMIT")]
    gomemlimit: u64,
    #[serde(rename = "GOGC")]
    gogc: &'static str,
    #[serde(rename = "GODEBUG")]
    godebug: &'static str,
    storage_retention: String,
}

/// `status/flags`: those of Prometheus' flags that have a meaning here.
pub async fn flags(State(api): State<Api>) -> Response {
    let bounds = api.queries.bounds();
    success_value(&BTreeMap::from([
        ("agent", "false".to_owned()),
        ("enable-feature", enabled(bounds.features)),
        ("query.lookback-delta", duration::format(bounds.lookback)),
        ("query.max-concurrency", bounds.max_concurrency.to_string()),
        ("query.max-samples", bounds.max_samples.to_string()),
        ("query.timeout", duration::format(bounds.timeout)),
        ("storage.tsdb.retention.time", duration::format(api.facts.runtime().retention)),
        ("web.cors.origin", ".*".to_owned()),
        ("web.enable-admin-api", "false".to_owned()),
        ("web.enable-lifecycle", "true".to_owned()),
        ("web.enable-remote-write-receiver", api.push.is_some().to_string()),
    ]))
}

/// The names of the features that are on.
fn enabled(features: Features) -> String {
    let on = |name: &&str| {
        let mut with = features;
        with.enable(name) && with == features
    };
    Features::NAMES.into_iter().filter(on).collect::<Vec<_>>().join(",")
}

/// `status/config`: the configuration in force.
pub async fn config(State(api): State<Api>) -> Response {
    success_value(&BTreeMap::from([("yaml", api.facts.config())]))
}

/// `notifications`: none; they are messages of Prometheus' own pages.
pub async fn notifications() -> Response {
    success(&Notes::default(), |json| {
        json.raw("[]");
    })
}

/// `alertmanagers`: none; notifications are sent from here.
pub async fn alertmanagers() -> Response {
    success(&Notes::default(), |json| {
        json.raw(r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#);
    })
}

/// `status/walreplay`: the journal was read back before this port was opened.
pub async fn wal_replay() -> Response {
    success(&Notes::default(), |json| {
        json.raw(r#"{"min":0,"max":0,"current":0}"#);
    })
}

/// `status/tsdb/blocks`: none; samples are kept in another form.
pub async fn blocks() -> Response {
    success(&Notes::default(), |json| {
        json.raw(r#"{"blocks":[]}"#);
    })
}

/// `admin/tsdb/…`: nothing that was accepted can be deleted, and there are no blocks to copy.
pub async fn admin_disabled() -> ApiError {
    ApiError { kind: ErrorType::Unavailable, text: "admin APIs disabled".to_owned() }
}

/// `tributary/clusters`: who sends, since when, how much, and how far behind.
pub async fn clusters(State(api): State<Api>, scope: Scope) -> Response {
    let mut clusters = api.facts.clusters();
    clusters.retain(|cluster| scope.is(&cluster.name));
    success_value(&clusters)
}

/// `tributary/gaps`: the intervals that are known to be missing, by cluster and time.
pub async fn gaps(State(api): State<Api>, scope: Scope) -> Result<Response, ApiError> {
    let mut gaps = api.queries.gaps().await?;
    gaps.retain(|gap| scope.is(&gap.cluster));
    gaps.sort_by(|a, b| (&a.cluster, a.from, &a.instance).cmp(&(&b.cluster, b.from, &b.instance)));
    let shown: Vec<ShownGap<'_>> = gaps.iter().map(ShownGap::from).collect();
    Ok(success_value(&shown))
}

#[derive(Serialize)]
struct ShownGap<'a> {
    cluster: &'a str,
    instance: &'a str,
    from: String,
    to: String,
    cause: &'a str,
    samples: u64,
}

impl<'a> From<&'a Gap> for ShownGap<'a> {
    fn from(gap: &'a Gap) -> Self {
        Self {
            cluster: &gap.cluster,
            instance: &gap.instance,
            from: rfc3339(gap.from),
            to: rfc3339(gap.to),
            cause: &gap.cause,
            samples: gap.samples,
        }
    }
}

/// `/`: where to go from here.
pub async fn front_page() -> Response {
    let page = concat!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Tributary</title>",
        "<h1>Tributary collector ",
        env!("CARGO_PKG_VERSION"),
        "</h1><ul>",
        "<li><a href=\"/api/v1/tributary/clusters\">clusters</a>",
        "<li><a href=\"/api/v1/tributary/gaps\">gaps</a>",
        "<li><a href=\"/api/v1/rules\">rules</a>",
        "<li><a href=\"/api/v1/alerts\">alerts</a>",
        "<li><a href=\"/api/v1/query?query=up\">query: up</a>",
        "<li><a href=\"/metrics\">metrics</a>",
        "</ul>\n",
    );
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'self'")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    (headers, page).into_response()
}
