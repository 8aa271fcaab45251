//! The Prometheus HTTP API.

pub mod auth;
pub mod behind;
pub mod client;
pub mod clusters;
pub mod command;
pub mod cors;
pub mod envelope;
pub mod federate;
pub mod http_client;
pub mod json;
pub mod params;
pub mod query;
pub mod remote;
pub mod rules;
pub mod series;
pub mod serve;
pub mod status;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod tsdb;
pub mod view;
pub mod web_file;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequestParts};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use http::{HeaderValue, StatusCode, header};
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::sample::Timestamp;

use envelope::{ApiError, ErrorType, plain};
use params::PathParams;
use remote::write::Push;
use view::{Facts, Rule};

use crate::query::Queries;

/// Largest form body, in bytes; a larger one is refused with 413.
pub const MAX_BODY_BYTES: usize = 4 << 20;

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    /// The door to series.
    pub queries: Queries,
    /// Everything that is not series.
    pub facts: Arc<dyn Facts>,
    /// The label that names the cluster.
    pub cluster_label: Arc<str>,
    /// The collector's own name in it.
    pub local_cluster: Arc<str>,
    /// Where pushed samples go; nothing if none are taken.
    pub push: Option<Push>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
}

impl Api {
    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

/// Every page of the API. Health, reload and metrics are the caller's to add.
pub fn router(api: Api) -> Router {
    let paths = Router::new()
        .nest("/api/v1", v1().route("/write", only_post(remote::write::write)))
        .nest("/cluster/{cluster}/api/v1", v1())
        .route("/federate", only_get(federate::federate))
        .layer(middleware::from_fn(cors::cors));
    Router::new()
        .route("/", get(status::front_page))
        .route("/version", get(status::version))
        .merge(paths)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        // Fast rather than small: most clients are near.
        .layer(CompressionLayer::new().quality(CompressionLevel::Fastest))
        .with_state(api)
}

fn v1() -> Router<Api> {
    Router::new()
        .route("/query", both(query::instant))
        .route("/query_range", both(query::range))
        .route("/query_exemplars", both(query::exemplars))
        .route("/format_query", both(query::formatted))
        .route("/parse_query", both(tree::parsed))
        .route("/labels", both(series::names))
        .route("/label/{name}/values", only_get(series::values))
        .route("/series", both(series::series))
        .route("/metadata", both(series::metadata))
        .route("/read", only_post(remote::read::read))
        .route("/rules", both(rules::rules))
        .route("/alerts", both(rules::alerts))
        .route("/targets", both(targets::targets))
        .route("/scrape_pools", both(targets::pools))
        .route("/targets/metadata", both(targets::metadata))
        .route("/alertmanagers", both(status::alertmanagers))
        .route("/notifications", both(status::notifications))
        .route("/status/buildinfo", both(status::build_info))
        .route("/status/runtimeinfo", both(status::runtime_info))
        .route("/status/flags", both(status::flags))
        .route("/status/config", both(status::config))
        .route("/status/tsdb", both(tsdb::status))
        .route("/status/tsdb/blocks", both(status::blocks))
        .route("/status/walreplay", both(status::wal_replay))
        .route("/admin/tsdb/delete_series", post_or_put(status::admin_disabled))
        .route("/admin/tsdb/clean_tombstones", post_or_put(status::admin_disabled))
        .route("/admin/tsdb/snapshot", post_or_put(status::admin_disabled))
        .route("/tributary/clusters", both(status::clusters))
        .route("/tributary/gaps", both(status::gaps))
}

/// GET and POST: clients that are set to POST send everything so.
fn both<H, T>(handler: H) -> MethodRouter<Api>
where
    H: axum::handler::Handler<T, Api>,
    T: 'static,
{
    get(handler.clone()).post(handler).fallback(async || not_allowed("GET, OPTIONS, POST"))
}

/// GET alone: Prometheus has no POST here, and clients know.
fn only_get<H, T>(handler: H) -> MethodRouter<Api>
where
    H: axum::handler::Handler<T, Api>,
    T: 'static,
{
    get(handler).fallback(async || not_allowed("GET, OPTIONS"))
}

/// For messages.
fn only_post<H, T>(handler: H) -> MethodRouter<Api>
where
    H: axum::handler::Handler<T, Api>,
    T: 'static,
{
    post(handler).fallback(async || not_allowed("OPTIONS, POST"))
}

/// For what changes something.
fn post_or_put<H, T>(handler: H) -> MethodRouter<Api>
where
    H: axum::handler::Handler<T, Api>,
    T: 'static,
{
    post(handler.clone()).put(handler).fallback(async || not_allowed("OPTIONS, POST, PUT"))
}

/// A 405 with the methods that there are, as Prometheus writes them.
fn not_allowed(methods: &'static str) -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

async fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

async fn method_not_allowed() -> Response {
    plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
}

/// What a request may see: everything, or one cluster under `/cluster/<name>/`.
#[derive(Debug, Clone, Default)]
pub struct Scope(Option<Matcher>);

impl Scope {
    /// Matchers for every selector.
    pub fn enforced(&self) -> Vec<Matcher> {
        self.0.iter().cloned().collect()
    }

    /// Whether a cluster is in it.
    pub fn is(&self, cluster: &str) -> bool {
        self.0.as_ref().is_none_or(|matcher| matcher.matches(cluster))
    }

    /// Whether a label set is in it.
    pub fn sees(&self, labels: &Labels) -> bool {
        self.0.as_ref().is_none_or(|matcher| matcher.matches(labels.value(matcher.name())))
    }

    /// Whether a rule is in it: one that is stamped with another cluster is not.
    pub fn sees_rule(&self, rule: &Rule) -> bool {
        let labels = match rule {
            Rule::Alerting(rule) => &rule.labels,
            Rule::Recording(rule) => &rule.labels,
        };
        let Some(matcher) = &self.0 else { return true };
        labels.get(matcher.name()).is_none_or(|cluster| matcher.matches(cluster))
    }
}

impl FromRequestParts<Api> for Scope {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        api: &Api,
    ) -> Result<Self, Response> {
        let path = PathParams::from_request_parts(parts, api).await?;
        let Some(name) = path.get("cluster") else { return Ok(Self(None)) };
        match name.parse::<ClusterName>() {
            Ok(name) => Ok(Self(Some(Matcher::equal(&*api.cluster_label, name.as_str())))),
            Err(e) => {
                Err(ApiError { kind: ErrorType::NotFound, text: e.to_string() }.into_response())
            }
        }
    }
}
