//! Warns where an answer lacks the newest samples of a cluster, because that cluster is behind.

use std::fmt::Write as _;
use std::time::Duration;

use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::Timestamp;
use tributary_promql::ast::Expr;

use super::{Api, Scope};
use crate::query::text::parse;
use crate::query::{Look, QueryError};

/// A cluster whose newest sample is older counts as behind: with the usual look-back its series have vanished.
pub const BEHIND: Duration = Duration::from_secs(5 * 60);

/// A cluster whose newest sample is older is not expected to come back, and nobody is warned of it.
pub const GONE: Duration = Duration::from_secs(24 * 3600);

/// How long before its newest sample a cluster's series are looked for.
const RECENT: Duration = Duration::from_secs(3600);

/// One sentence for each cluster that the expression reads from and that is behind at `until`.
pub async fn warnings(
    api: &Api,
    scope: &Scope,
    expression: &str,
    until: Timestamp,
) -> Result<Vec<String>, QueryError> {
    let until = until.min(api.now());
    let mut late = api.facts.newest();
    late.retain(|(name, newest)| {
        let lag = until.since(*newest);
        lag >= BEHIND && lag < GONE && **name != *api.local_cluster && scope.is(name)
    });
    let Some(oldest) = late.iter().map(|(_, newest)| *newest).min() else { return Ok(Vec::new()) };
    let expression = parse(expression, api.queries.bounds().features)?;
    let mut any_of = Vec::new();
    selectors(&expression, &mut any_of);
    if any_of.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = late.iter().map(|(name, _)| name.as_str()).collect();
    let mut enforced = scope.enforced();
    // Names of clusters have no character that means something in a pattern, except for the dot.
    let pattern = names.join("|").replace('.', "\\.");
    let only = Matcher::new(&*api.cluster_label, MatchOp::Match, pattern);
    enforced.push(only.map_err(|e| QueryError::Internal(e.to_string()))?);
    let look = Look { any_of, enforced, from: oldest.minus(RECENT), to: until };
    let read = api.queries.label_values(api.cluster_label.to_string(), look).await?;
    late.retain(|(name, _)| read.iter().any(|read| **read == **name));
    Ok(late.iter().map(|(name, newest)| sentence(name, until.since(*newest))).collect())
}

/// The matchers of every selector of an expression.
fn selectors(expr: &Expr, out: &mut Vec<Vec<Matcher>>) {
    match expr {
        Expr::Vector(selector) => out.push(selector.matchers.clone()),
        Expr::Matrix(matrix) => out.push(matrix.selector.matchers.clone()),
        _ => expr.children().into_iter().for_each(|child| selectors(child, out)),
    }
}

fn sentence(cluster: &str, lag: Duration) -> String {
    let minutes = (lag.as_secs() + 30) / 60;
    let mut out = format!("cluster {cluster} is ");
    let _ = match (minutes / 60, minutes % 60) {
        (0, minutes) => write!(out, "{minutes} min behind"),
        (hours, 0) => write!(out, "{hours} h behind"),
        (hours, minutes) => write!(out, "{hours} h {minutes} min behind"),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences() {
        for (minutes, text) in [
            (14, "cluster eu-1 is 14 min behind"),
            (120, "cluster eu-1 is 2 h behind"),
            (61, "cluster eu-1 is 1 h 1 min behind"),
        ] {
            assert_eq!(sentence("eu-1", Duration::from_secs(minutes * 60 - 20)), text);
        }
    }
}
