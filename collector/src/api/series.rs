//! `labels`, `label/…/values`, `series` and `metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use tributary_model::quote::quote;
use tributary_model::sample::Timestamp;
use tributary_model::series::Metadata;

use super::envelope::{ApiError, Notes, success, success_stream, success_value};
use super::params::{Params, PathParams, integer};
use super::{Api, Scope};
use crate::query::Look;

/// `labels`: the names of labels.
pub async fn names(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let found = api.queries.label_names(look(&scope, &params)?).await?;
    Ok(list(found, limit))
}

/// `label/{name}/values`: the values of one label.
pub async fn values(
    State(api): State<Api>,
    scope: Scope,
    path: PathParams,
    params: Params,
) -> Result<Response, ApiError> {
    let name = unescaped(path.get("name").unwrap_or(""));
    let limit = params.limit()?;
    if name.is_empty() {
        return Err(ApiError::bad(format!("invalid label name: {}", quote(&name))));
    }
    let found = api.queries.label_values(name, look(&scope, &params)?).await?;
    Ok(list(found, limit))
}

/// `series`: label sets.
pub async fn series(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::bad("no match[] parameter provided"));
    }
    let limit = params.limit()?;
    let mut found = api.queries.series(look(&scope, &params)?).await?;
    let cut = limit.is_some_and(|limit| found.len() > limit);
    found.truncate(limit.unwrap_or(usize::MAX));
    let write = |json: &mut super::json::Json, labels: &_| {
        json.labels(labels);
    };
    Ok(success_stream("[", found, write, "]".to_owned(), Notes::truncated(cut)))
}

/// `metadata`: type, help and unit of metrics.
pub async fn metadata(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let bound = |name: &str| match params.text(name) {
        "" => Ok(None),
        // Zero is a bound here, and a negative one is none, as in Prometheus.
        text => integer(text)
            .map(|n| usize::try_from(n).ok())
            .map_err(|_| ApiError::bad(format!("{name} must be a number"))),
    };
    let limit = bound("limit")?.unwrap_or(usize::MAX);
    let limit_per_metric = bound("limit_per_metric")?.unwrap_or(usize::MAX);
    let wanted = params.text("metric");
    let mut found: BTreeMap<&str, BTreeSet<Entry<'_>>> = BTreeMap::new();
    let all = api.queries.metadata().await?;
    let seen = all.iter().filter(|(cluster, _)| scope.is(cluster)).map(|(_, metadata)| metadata);
    for metadata in seen.filter(|m| wanted.is_empty() || m.metric == wanted) {
        found.entry(&metadata.metric).or_default().insert(Entry::from(metadata));
    }
    let found: BTreeMap<&str, Vec<Entry<'_>>> = found
        .into_iter()
        .take(limit)
        .map(|(metric, entries)| (metric, entries.into_iter().take(limit_per_metric).collect()))
        .collect();
    Ok(success_value(&found))
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<'a> {
    r#type: &'static str,
    unit: &'a str,
    help: &'a str,
}

impl<'a> From<&'a Metadata> for Entry<'a> {
    fn from(metadata: &'a Metadata) -> Self {
        Self { r#type: metadata.kind.as_str(), unit: &metadata.unit, help: &metadata.help }
    }
}

fn look(scope: &Scope, params: &Params) -> Result<Look, ApiError> {
    Ok(Look {
        from: params.time_or("start", Timestamp::MIN)?,
        to: params.time_or("end", Timestamp::MAX)?,
        any_of: params.selectors()?,
        enforced: scope.enforced(),
    })
}

/// What a label's name or value mostly takes.
const TEXT_BYTES: usize = 28;

fn list(mut found: Vec<Arc<str>>, limit: Option<usize>) -> Response {
    let cut = limit.is_some_and(|limit| found.len() > limit);
    found.truncate(limit.unwrap_or(usize::MAX));
    success(&Notes::truncated(cut), |json| {
        json.reserve(found.len(), TEXT_BYTES);
        json.texts(found.iter().map(|text| &**text));
    })
}

/// A label name as clients write names that are not legacy ones into paths: `U__a_2e_b` is `a.b`.
/// Anything that is not properly escaped is taken as it is.
fn unescaped(name: &str) -> String {
    name.strip_prefix("U__").and_then(unescape).unwrap_or_else(|| name.to_owned())
}

fn unescape(escaped: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = escaped;
    while let Some(at) = rest.find('_') {
        out.push_str(rest.get(..at)?);
        rest = rest.get(at + 1..)?;
        let end = rest.find('_')?;
        match rest.get(..end)? {
            "" => out.push('_'),
            hex => out.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?),
        }
        rest = rest.get(end + 1..)?;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names() {
        for (escaped, name) in [
            ("job", "job"),
            ("U__job", "job"),
            ("U__a_2e_b", "a.b"),
            ("U__a__b", "a_b"),
            ("U__a_1F600_", "a😀"),
            ("U__a_zz_", "U__a_zz_"),
            ("U__a_b", "U__a_b"),
        ] {
            assert_eq!(unescaped(escaped), name);
        }
    }
}
