//! What Grafana's Prometheus data source does with a server: health, variables, panels, exemplars.

pub mod dashboard;
mod interpolate;
mod request;

use std::collections::BTreeMap;

use anyhow::{Context as _, bail, ensure};
use http::Method;
use serde_json::Value;

use dashboard::{Dashboard, Panel, Target, Variable};
use interpolate::{Values, interpolated};
use request::Requests;

/// Points that a panel asks for: its width in pixels.
const MAX_DATA_POINTS: i64 = 1_000;

/// Names that are asked for at most, as in Grafana.
const LIMIT: &str = "40000";

/// Shortest step of a panel that does not say, in seconds.
const MIN_STEP: i64 = 15;

/// A data source.
pub struct DataSource {
    requests: Requests,
    /// The times on the clock of the dashboard, in seconds.
    from: i64,
    to: i64,
}

/// One series of a panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its points: seconds and value.
    pub points: Vec<(f64, f64)>,
}

/// What a panel shows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Shown {
    /// Its series.
    pub frames: Vec<Frame>,
    /// Warnings and notices.
    pub notices: Vec<String>,
}

impl DataSource {
    /// A data source that asks `url` with this method, about the time from `from` to `to` (seconds since the epoch).
    pub fn new(url: &str, method: Method, (from, to): (i64, i64)) -> Self {
        Self { requests: Requests::new(url, method), from, to }
    }

    /// "Save & test".
    pub async fn save_and_test(&self) -> anyhow::Result<()> {
        let fields = [("query", "1+1"), ("time", "4")];
        let answer = self.requests.once(Method::POST, "/api/v1/query", &fields).await?;
        ensure!(answer.status == 200, "health: status {} instead of 200", answer.status);
        let data = &answer.json()["data"];
        let right = data["resultType"] == "scalar" && data["result"] == serde_json::json!([4, "2"]);
        ensure!(right, "health: {data}");
        let build = self.requests.once(Method::GET, "/api/v1/status/buildinfo", &[]).await?.json();
        ensure!(build["data"]["version"].is_string(), "buildinfo has no version: {build}");
        let features = build["data"]["features"].as_object();
        ensure!(
            features.is_none_or(|f| f.is_empty()),
            "with features it counts as another product"
        );
        Ok(())
    }

    /// What is asked when a page is loaded: exemplars at a time in milliseconds, rules, metadata, names.
    pub async fn load_page(&self) -> anyhow::Result<()> {
        let (start, end) = ((self.from * 1000).to_string(), (self.to * 1000).to_string());
        let fields = [("query", "test"), ("start", &*start), ("end", &*end)];
        let exemplars = self.requests.ask("/api/v1/query_exemplars", &fields).await?;
        ensure!(exemplars == serde_json::json!([]), "exemplars: {exemplars}");
        let rules = self.requests.get("/api/v1/rules", &[]).await?;
        for rule in rules["groups"].as_array().context("no groups")?.iter().flat_map(rules_of) {
            let all = ["type", "name", "query"].iter().all(|key| rule[*key].is_string());
            ensure!(all, "a rule lacks something: {rule}");
        }
        let limit = [("limit", LIMIT)];
        ensure!(self.requests.get("/api/v1/metadata", &limit).await?.is_object(), "metadata");
        let names = self.values("__name__", None).await?;
        ensure!(!names.is_empty(), "there are no metrics");
        Ok(())
    }

    /// The values of every variable of a dashboard; later ones may refer to earlier ones.
    pub async fn variables(&self, dashboard: &Dashboard) -> anyhow::Result<Values> {
        let mut values = Values::new();
        for variable in &dashboard.variables {
            let options = self
                .options(variable, &values)
                .await
                .with_context(|| format!("variable {} ({})", variable.name, variable.query))?;
            ensure!(!options.is_empty(), "variable {} has no values", variable.name);
            let chosen =
                if variable.multi { options } else { options.into_iter().take(1).collect() };
            values.insert(variable.name.clone(), chosen);
        }
        Ok(values)
    }

    /// What every target of a panel shows.
    pub async fn panel(&self, panel: &Panel, values: &Values) -> anyhow::Result<Shown> {
        let mut shown = Shown::default();
        for target in &panel.targets {
            let more = self.target(target, values).await;
            let more = more.with_context(|| format!("panel {}: {}", panel.title, target.expr))?;
            shown.frames.extend(more.frames);
            shown.notices.extend(more.notices);
        }
        Ok(shown)
    }

    async fn options(&self, variable: &Variable, values: &Values) -> anyhow::Result<Vec<String>> {
        let query = interpolated(&variable.query, values, self.step(None), self.to - self.from);
        let inside = |name: &str| {
            query.strip_prefix(name)?.strip_prefix('(')?.trim_end().strip_suffix(')').map(str::trim)
        };
        if let Some(arguments) = inside("label_values") {
            return match arguments.rsplit_once(',') {
                Some((selector, label)) => self.values(label.trim(), Some(selector.trim())).await,
                None => self.values(arguments, None).await,
            };
        }
        if let Some(pattern) = inside("metrics") {
            let selector = format!("{{__name__=~\"{pattern}\"}}");
            return self.values("__name__", Some(&selector)).await;
        }
        if let Some(expression) = inside("query_result") {
            let fields = [("query", expression), ("time", &*self.to.to_string())];
            let data = self.requests.ask("/api/v1/query", &fields).await?;
            let result = data["result"].as_array().context("no result")?;
            return Ok(result
                .iter()
                .map(|s| format!("{} {}", s["metric"], s["value"][1]))
                .collect());
        }
        let (start, end) = (self.from.to_string(), self.to.to_string());
        let fields = [("match[]", &*query), ("start", &*start), ("end", &*end), ("limit", LIMIT)];
        let series = self.requests.ask("/api/v1/series", &fields).await?;
        Ok(series.as_array().context("no series")?.iter().map(Value::to_string).collect())
    }

    async fn values(&self, label: &str, selector: Option<&str>) -> anyhow::Result<Vec<String>> {
        let (start, end) = (self.from.to_string(), self.to.to_string());
        let mut fields = vec![("start", &*start), ("end", &*end), ("limit", LIMIT)];
        fields.extend(selector.map(|selector| ("match[]", selector)));
        // There is no POST for the values of a label.
        let data = self.requests.get(&format!("/api/v1/label/{label}/values"), &fields).await?;
        let values = data.as_array().context("no list")?;
        Ok(values.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    async fn target(&self, target: &Target, values: &Values) -> anyhow::Result<Shown> {
        let step = self.step(target.interval);
        let expression = interpolated(&target.expr, values, step, self.to - self.from);
        if target.instant {
            let fields = [("query", &*expression), ("time", &*self.to.to_string())];
            return frames(&self.requests.whole("/api/v1/query", &fields).await?, None);
        }
        // Both ends lie on the grid of the step.
        let (start, end) = (self.from.div_euclid(step) * step, self.to.div_euclid(step) * step);
        let (from, to, by) = (start.to_string(), end.to_string(), step.to_string());
        let fields = [("query", &*expression), ("start", &*from), ("end", &*to), ("step", &*by)];
        let answer = self.requests.whole("/api/v1/query_range", &fields).await?;
        frames(&answer, Some((start, end, step)))
    }

    fn step(&self, interval: Option<i64>) -> i64 {
        let wanted = (self.to - self.from) / MAX_DATA_POINTS;
        wanted.max(interval.unwrap_or(MIN_STEP)).max(1)
    }
}

fn rules_of(group: &Value) -> impl Iterator<Item = &Value> {
    group["rules"].as_array().into_iter().flatten()
}

/// The series of an answer. Of a range every point must lie on the grid.
fn frames(answer: &Value, grid: Option<(i64, i64, i64)>) -> anyhow::Result<Shown> {
    let data = &answer["data"];
    let mut shown = Shown::default();
    for key in ["warnings", "infos"] {
        let notices = answer[key].as_array().into_iter().flatten();
        shown.notices.extend(notices.filter_map(Value::as_str).map(str::to_owned));
    }
    if matches!(data["resultType"].as_str(), Some("scalar" | "string")) {
        let points = vec![point(&data["result"])?];
        shown.frames.push(Frame { labels: BTreeMap::new(), points });
        return Ok(shown);
    }
    for series in data["result"].as_array().context("no result")? {
        let labels = series["metric"].as_object().context("no metric")?;
        let labels =
            labels.iter().map(|(n, v)| (n.clone(), v.as_str().unwrap_or_default().to_owned()));
        let points: Vec<(f64, f64)> = match series["values"].as_array() {
            Some(values) => values.iter().map(point).collect::<Result<_, _>>()?,
            None => vec![point(&series["value"])?],
        };
        if let Some((start, end, step)) = grid {
            let on_grid = |at: f64| {
                let (start, end, step) = (start as f64, end as f64, step as f64);
                (start..=end).contains(&at) && (at - start) % step == 0.0
            };
            ensure!(
                points.iter().all(|(at, _)| on_grid(*at)),
                "points beside the grid: {points:?}"
            );
        }
        shown.frames.push(Frame { labels: labels.collect(), points });
    }
    Ok(shown)
}

/// Times are numbers, values are texts.
fn point(pair: &Value) -> anyhow::Result<(f64, f64)> {
    let (Some(at), Some(value)) = (pair[0].as_f64(), pair[1].as_str()) else {
        bail!("{pair} is not a point");
    };
    let value = tributary_model::number::parse_float(value).context("not a number")?;
    Ok((at, value))
}
