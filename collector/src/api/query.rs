//! `query`, `query_range`, `query_exemplars` and `format_query`.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use tributary_model::sample::Timestamp;

use super::envelope::{ApiError, Notes, TRUNCATED, success, success_stream};
use super::json::Json;
use super::params::Params;
use super::{Api, Scope, behind};
use crate::query::text::format;
use crate::query::{Answer, Call, Cost, Point, Row, Value, When};

/// Most points per series in a range query, as in Prometheus.
pub const MAX_POINTS: i64 = 11_000;

/// `query`: an expression at one time.
pub async fn instant(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let at = params.time_or("time", api.now())?;
    let call = call(&scope, &params)?;
    let text = params.text("query");
    let mut answer = api.queries.instant(text, at, call).await?;
    warn(&mut answer, behind::warnings(&api, &scope, text, at).await?);
    Ok(written(answer, limit, !params.text("stats").is_empty()))
}

/// `query_range`: an expression at many times.
pub async fn range(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let limit = params.limit()?;
    let when = times(&params)?;
    let call = call(&scope, &params)?;
    let text = params.text("query");
    let mut answer = api.queries.range(text, when, call).await?;
    if let When::Range { end, .. } = when {
        warn(&mut answer, behind::warnings(&api, &scope, text, end).await?);
    }
    Ok(written(answer, limit, !params.text("stats").is_empty()))
}

/// `query_exemplars`: none are kept. The parameters are checked all the same.
pub async fn exemplars(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    let start = params.time_or("start", Timestamp::MIN)?;
    let end = params.time_or("end", Timestamp::MAX)?;
    if end < start {
        return Err(ApiError::bad("end timestamp must not be before start timestamp"));
    }
    format(params.text("query"), api.queries.bounds().features)
        .map_err(|why| ApiError::bad(why.to_string()))?;
    Ok(success(&Notes::default(), |json| {
        json.raw("[]");
    }))
}

/// `format_query`: the expression as the printer writes it.
pub async fn formatted(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    let text = format(params.text("query"), api.queries.bounds().features)?;
    Ok(success(&Notes::default(), |json| {
        json.text(&text);
    }))
}

/// These come first: what comes last may be cut off.
fn warn(answer: &mut Answer, mut warnings: Vec<String>) {
    warnings.append(&mut answer.warnings);
    answer.warnings = warnings;
}

fn times(params: &Params) -> Result<When, ApiError> {
    let start = params.time("start")?;
    let end = params.time("end")?;
    if end < start {
        return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
    }
    let nanos = params.nanos("step")?;
    // Below a millisecond there is no next time.
    let step = Duration::from_millis(u64::try_from(nanos / 1_000_000).unwrap_or(0));
    if step.is_zero() {
        return Err(ApiError::parameter(
            "step",
            "zero or negative query resolution step widths are not accepted. Try a positive integer",
        ));
    }
    let span = i128::from(end.as_millis()) - i128::from(start.as_millis());
    if span * 1_000_000 / i128::from(nanos) > i128::from(MAX_POINTS) {
        return Err(ApiError::bad(
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ));
    }
    Ok(When::Range { start, end, step })
}

fn call(scope: &Scope, params: &Params) -> Result<Call, ApiError> {
    Ok(Call {
        timeout: params.duration("timeout")?,
        lookback: params.lookback()?,
        enforced: scope.enforced(),
    })
}

/// What a sample mostly takes: a time in whole seconds, and a number of some digits.
const SAMPLE_BYTES: usize = 28;

fn written(answer: Answer, limit: Option<usize>, stats: bool) -> Response {
    let mut notes = Notes { warnings: answer.warnings, infos: answer.infos }.capped();
    let mut tail = String::new();
    if stats {
        tail = written_cost(answer.cost);
    }
    tail.push('}');
    match answer.value {
        Value::Scalar(sample) => success(&notes, |json| {
            json.raw(r#"{"resultType":"scalar","result":"#).scalar(sample).raw(&tail);
        }),
        Value::Text(at, text) => success(&notes, |json| {
            json.raw(r#"{"resultType":"string","result":["#).seconds(at).raw(",").text(&text);
            json.raw("]").raw(&tail);
        }),
        Value::Vector(mut series) => {
            cut(&mut series, limit, &mut notes);
            let head = r#"{"resultType":"vector","result":["#;
            let write = |json: &mut Json, (labels, point): &(_, Point)| {
                json.raw("{\"metric\":").labels(labels);
                match point {
                    Point::Number(sample) => json.raw(",\"value\":").sample(*sample),
                    Point::Histogram(sample) => json.raw(",\"histogram\":").histogram(sample),
                };
                json.raw("}");
            };
            success_stream(head, series, write, format!("]{tail}"), notes)
        }
        Value::Matrix(mut series) => {
            cut(&mut series, limit, &mut notes);
            let head = r#"{"resultType":"matrix","result":["#;
            let write = |json: &mut Json, row: &Row| {
                json.raw("{\"metric\":").labels(&row.labels);
                if !row.samples.is_empty() {
                    json.reserve(row.samples.len(), SAMPLE_BYTES);
                    json.raw(",\"values\":").list(&row.samples, |json, sample| {
                        json.sample(*sample);
                    });
                }
                if !row.histograms.is_empty() {
                    json.raw(",\"histograms\":").list(&row.histograms, |json, sample| {
                        json.histogram(sample);
                    });
                }
                json.raw("}");
            };
            success_stream(head, series, write, format!("]{tail}"), notes)
        }
    }
}

fn cut<T>(series: &mut Vec<T>, limit: Option<usize>, notes: &mut Notes) {
    if let Some(limit) = limit.filter(|limit| series.len() > *limit) {
        series.truncate(limit);
        notes.warnings.push(TRUNCATED.to_owned());
    }
}

/// The `stats` of an answer. The steps that we do not take apart count as evaluation.
fn written_cost(cost: Cost) -> String {
    let evaluation = cost.evaluation.as_secs_f64();
    let queue = cost.queue.as_secs_f64();
    format!(
        concat!(
            r#","stats":{{"timings":{{"evalTotalTime":{},"resultSortTime":0,"queryPreparationTime":0,"#,
            r#""innerEvalTime":{},"execQueueTime":{},"execTotalTime":{}}},"#,
            r#""samples":{{"totalQueryableSamples":{},"peakSamples":{}}}}}"#
        ),
        evaluation,
        evaluation,
        queue,
        queue + evaluation,
        cost.samples_read,
        cost.samples_peak,
    )
}
