//! `targets`, `scrape_pools` and `targets/metadata`: what the collector scrapes itself. Agents' targets are theirs.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use serde::{Serialize, Serializer};
use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;
use tributary_model::series::Metadata;

use super::envelope::{ApiError, success_value};
use super::params::{Params, integer};
use super::view::Target;
use super::{Api, Scope};
use crate::query::text::parse_selector;

/// `targets`: the targets, by state and job.
pub async fn targets(State(api): State<Api>, scope: Scope, params: Params) -> Response {
    let state = params.text("state").to_ascii_lowercase();
    let shown = |of: &str| matches!(state.as_str(), "" | "any") || state == of;
    let pool = params.text("scrapePool");
    let mut active = if shown("active") { visible(&api, &scope) } else { Vec::new() };
    active.retain(|target| pool.is_empty() || target.scrape_pool == pool);
    success_value(&Targets {
        active_targets: active,
        dropped_targets: Vec::new(),
        // Prometheus counts what it dropped only when that is asked for.
        dropped_target_counts: shown("dropped").then(|| {
            let pools = visible(&api, &scope).into_iter().map(|target| (target.scrape_pool, 0));
            pools.collect()
        }),
    })
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_field_names, reason = "the names of the API")]
struct Targets {
    active_targets: Vec<Target>,
    dropped_targets: Vec<()>,
    dropped_target_counts: Option<BTreeMap<String, u64>>,
}

/// `scrape_pools`: the jobs of `targets`.
pub async fn pools(State(api): State<Api>, scope: Scope) -> Response {
    let mut pools: Vec<String> =
        visible(&api, &scope).into_iter().map(|target| target.scrape_pool).collect();
    pools.sort();
    pools.dedup();
    success_value(&BTreeMap::from([("scrapePools", pools)]))
}

/// `targets/metadata`: type, help and unit of metrics, beside the targets whose cluster tells them.
pub async fn metadata(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = match params.text("limit") {
        "" => None,
        text => integer(text)
            .map(|n| usize::try_from(n).ok())
            .map_err(|_| ApiError::bad("limit must be a number"))?,
    };
    let matchers: Vec<Matcher> = match params.text("match_target") {
        "" => Vec::new(),
        text => parse_selector(text).map_err(|e| ApiError::bad(e.to_string()))?,
    };
    let wanted = params.text("metric");
    let mut targets = visible(&api, &scope);
    targets.retain(|target| Matcher::all_match(&matchers, &target.labels));
    let known: Vec<(String, Metadata)> = api
        .queries
        .metadata()
        .await?
        .into_iter()
        .filter(|(cluster, m)| {
            *cluster == *api.local_cluster && (wanted.is_empty() || m.metric == wanted)
        })
        .collect();
    let entries = targets.iter().flat_map(|target| {
        known.iter().map(|(_, metadata)| Entry {
            target: &target.labels,
            // Which metric it is follows from the question if that names one.
            metric: if wanted.is_empty() { &metadata.metric } else { "" },
            r#type: metadata.kind.as_str(),
            help: &metadata.help,
            unit: &metadata.unit,
        })
    });
    let entries: Vec<Entry<'_>> = entries.take(limit.unwrap_or(usize::MAX)).collect();
    Ok(success_value(&entries))
}

#[derive(Serialize)]
struct Entry<'a> {
    #[serde(serialize_with = "labels")]
    target: &'a Labels,
    #[serde(skip_serializing_if = "str::is_empty")]
    metric: &'a str,
    r#type: &'static str,
    help: &'a str,
    unit: &'a str,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn labels<S: Serializer>(labels: &&Labels, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(labels.iter().map(|label| (&*label.name, &*label.value)))
}

fn visible(api: &Api, scope: &Scope) -> Vec<Target> {
    if !scope.is(&api.local_cluster) {
        return Vec::new();
    }
    api.facts.targets()
}
