//! Commands that ask a running collector for its clusters: `clusters list`, `clusters show`.

use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::client::ClientError;
use super::command::{Common, Output, Rows, csv, pretty, print, table};

/// `tributary-collector clusters list`
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    common: Common,
    /// Show the list anew every two seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// `tributary-collector clusters show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The cluster
    name: String,
    #[command(flatten)]
    common: Common,
}

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);
const PATH: &str = "/api/v1/tributary/clusters";

/// Asks and prints.
pub async fn list(args: ListArgs) -> Result<(), ClientError> {
    let client = args.common.server.client()?;
    loop {
        let answer = client.data(PATH, &[]).await?;
        let text = written(args.common.output, &answer.data, cluster_rows);
        if args.watch && std::io::stdout().is_terminal() {
            // Home, and clear what the last list left.
            print(&format!("\x1b[H\x1b[2J{text}"));
        } else {
            print(&text);
        }
        if !args.watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Asks and prints what one cluster's agents hold.
pub async fn show(args: ShowArgs) -> anyhow::Result<()> {
    let answer = args.common.server.client()?.data(PATH, &[]).await?;
    let clusters = answer.data.as_array().into_iter().flatten();
    let found = clusters.into_iter().find(|cluster| text(cluster, "cluster") == args.name);
    let cluster = found.with_context(|| {
        format!(
            "no cluster \"{}\" has sent anything\n  = help: see the others with clusters list",
            args.name
        )
    })?;
    print(&written(args.common.output, cluster, agent_rows));
    Ok(())
}

fn written(output: Output, data: &Value, rows: impl FnOnce(&Value) -> Rows) -> String {
    match output {
        Output::Json => pretty(data),
        Output::Table => table(&rows(data)),
        Output::Csv => csv(&rows(data)),
    }
}

fn cluster_rows(data: &Value) -> Rows {
    let header = ["CLUSTER", "AGENT", "STATE", "LAST SAMPLE", "SERIES", "SAMPLES/S", "SPOOL"];
    let mut rows: Rows = vec![header.map(str::to_owned).to_vec()];
    for cluster in data.as_array().into_iter().flatten() {
        let agents = cluster.get("agents").and_then(Value::as_array).cloned().unwrap_or_default();
        let none = [Value::Null];
        for agent in if agents.is_empty() { &none[..] } else { &agents[..] } {
            let state = state(agent);
            let rate =
                cluster.get("samples_per_second").and_then(Value::as_f64).unwrap_or_default();
            rows.push(vec![
                text(cluster, "cluster"),
                text(agent, "instance"),
                state,
                text(cluster, "last_sample"),
                text(cluster, "series"),
                format!("{rate:.1}"),
                text(agent, "spool_bytes"),
            ]);
        }
    }
    rows
}

/// What an agent of the cluster trusts and holds; the serial and the authority are those of its connection.
fn agent_rows(cluster: &Value) -> Rows {
    let header =
        ["AGENT", "STATE", "CERTIFICATE UNTIL", "SERIAL", "ISSUER", "BUNDLE", "CLOCK", "VERSION"];
    let mut rows: Rows = vec![header.map(str::to_owned).to_vec()];
    for agent in cluster.get("agents").and_then(Value::as_array).into_iter().flatten() {
        rows.push(vec![
            text(agent, "instance"),
            state(agent),
            text(agent, "certificate_until"),
            text(agent, "certificate_serial"),
            text(agent, "certificate_issuer"),
            text(agent, "bundle"),
            format!("{} ms", text(agent, "clock_skew_ms")),
            text(agent, "version"),
        ]);
    }
    rows
}

fn state(agent: &Value) -> String {
    match agent.get("connected").and_then(Value::as_bool) {
        Some(true) => "connected".to_owned(),
        Some(false) => match agent.get("reason").and_then(Value::as_str) {
            None | Some("") => "not connected".to_owned(),
            Some(reason) => reason.to_owned(),
        },
        None => "-".to_owned(),
    }
}

/// A field as text; `-` for what is not there.
fn text(from: &Value, key: &str) -> String {
    match from.get(key) {
        Some(Value::String(text)) if !text.is_empty() => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_without_agents_have_a_line_too() {
        let data = serde_json::json!([
            { "cluster": "eu-1", "series": 3, "samples_per_second": 1.25, "last_sample": "t",
              "agents": [{ "instance": "a", "connected": false, "reason": "", "spool_bytes": 7 }] },
            { "cluster": "old", "series": 0, "samples_per_second": 0.0, "agents": [] },
        ]);
        let text = csv(&cluster_rows(&data));
        assert!(text.contains("eu-1,a,not connected,t,3,1.2,7\n"), "{text}");
        assert!(text.contains("old,-,-,-,0,0.0,-\n"), "{text}");
    }
}
