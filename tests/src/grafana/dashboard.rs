//! The parts of a dashboard's JSON that decide what is asked.

use anyhow::Context as _;
use serde_json::Value;

/// A dashboard.
#[derive(Debug, Clone)]
pub struct Dashboard {
    /// Its title.
    pub title: String,
    /// Its variables, in their order.
    pub variables: Vec<Variable>,
    /// Its panels, those in rows too.
    pub panels: Vec<Panel>,
}

/// A variable whose values are asked for.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// `label_values(…)` and the like.
    pub query: String,
    /// Whether several values, here all of them, are chosen.
    pub multi: bool,
}

/// A panel.
#[derive(Debug, Clone)]
pub struct Panel {
    /// Its title.
    pub title: String,
    /// What it asks.
    pub targets: Vec<Target>,
}

/// One question of a panel.
#[derive(Debug, Clone)]
pub struct Target {
    /// The expression, with variables.
    pub expr: String,
    /// Whether only the newest value is wanted.
    pub instant: bool,
    /// The shortest step, in seconds.
    pub interval: Option<i64>,
}

impl Dashboard {
    /// Reads the JSON that Grafana exports.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let json: Value = serde_json::from_str(text).context("reading a dashboard")?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let asked = list(&json["templating"]["list"]).into_iter().filter(|v| v["type"] == "query");
        let variables = asked.map(|v| Variable {
            name: string(&v["name"]),
            query: v["query"].as_str().map_or_else(|| string(&v["query"]["query"]), str::to_owned),
            multi: v["multi"] == true || v["includeAll"] == true,
        });
        let all = list(&json["panels"]).into_iter().flat_map(|panel| {
            let inside = list(&panel["panels"]);
            std::iter::once(panel).chain(inside)
        });
        let panels = all.filter(|panel| panel["type"] != "row").map(|panel| Panel {
            title: string(&panel["title"]),
            targets: list(&panel["targets"]).iter().map(target).collect(),
        });
        let panels = panels.filter(|panel| !panel.targets.is_empty());
        Ok(Self {
            title: string(&json["title"]),
            variables: variables.collect(),
            panels: panels.collect(),
        })
    }
}

fn target(target: &Value) -> Target {
    let interval = target["interval"].as_str().and_then(|text| {
        let parsed = tributary_model::duration::parse(text).ok()?;
        i64::try_from(parsed.as_secs()).ok()
    });
    Target { expr: string(&target["expr"]), instant: target["instant"] == true, interval }
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
