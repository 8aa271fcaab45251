//! What the collector says of itself: build, run time, flags, configuration, targets, clusters, gaps, the front page.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use tributary_model::duration;

use super::envelope::{ApiError, Notes, plain, success, success_value};
use super::params::Params;
use super::view::{Target, rfc3339};
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
        ("query.lookback-delta", duration::format(bounds.lookback)),
        ("query.max-concurrency", bounds.max_concurrency.to_string()),
        ("query.max-samples", bounds.max_samples.to_string()),
        ("query.timeout", duration::format(bounds.timeout)),
        ("storage.tsdb.retention.time", duration::format(api.facts.runtime().retention)),
    ]))
}

/// `status/config`: the configuration in force.
pub async fn config(State(api): State<Api>) -> Response {
    success_value(&BTreeMap::from([("yaml", api.facts.config())]))
}

/// `targets`: what the collector scrapes itself. Agents' targets are theirs.
pub async fn targets(State(api): State<Api>, scope: Scope, params: Params) -> Response {
    let active = !params.text("state").eq_ignore_ascii_case("dropped");
    let pool = params.text("scrapePool");
    let mut targets = if active { api.facts.targets() } else { Vec::new() };
    targets.retain(|target| pool.is_empty() || target.scrape_pool == pool);
    targets.retain(|target| scope.sees(&target.labels));
    success_value(&Targets {
        active_targets: targets,
        dropped_targets: Vec::new(),
        dropped_target_counts: BTreeMap::new(),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
struct Targets {
    active_targets: Vec<Target>,
    dropped_targets: Vec<()>,
    dropped_target_counts: BTreeMap<String, u64>,
}

/// `scrape_pools`: the jobs of `targets`.
pub async fn scrape_pools(State(api): State<Api>) -> Response {
    let mut pools: Vec<String> = api.facts.targets().into_iter().map(|t| t.scrape_pool).collect();
    pools.sort();
    pools.dedup();
    success_value(&BTreeMap::from([("scrapePools", pools)]))
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
