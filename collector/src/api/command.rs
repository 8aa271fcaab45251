//! Commands that ask a running collector over its HTTP API: `query`, `clusters`, `healthcheck`.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::Value;

use super::client::{Client, ClientError};

/// Where the collector is and who asks.
#[derive(Debug, Args)]
pub struct Server {
    /// Address of the collector's HTTP port
    #[arg(long, default_value = "http://127.0.0.1:9390")]
    url: String,
    /// User for basic authentication
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    /// File that holds the user's password
    #[arg(long, requires = "user")]
    password_file: Option<PathBuf>,
    /// Longest wait for an answer, in seconds
    #[arg(long, default_value_t = 130)]
    wait: u64,
}

impl Server {
    fn client(&self) -> Result<Client, ClientError> {
        let login = self.user.as_deref().zip(self.password_file.as_deref());
        Client::new(&self.url, login, Duration::from_secs(self.wait))
    }
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people
    Table,
    /// The API's data as JSON
    Json,
    /// Comma-separated values with a header
    Csv,
}

/// `tributary-collector query`
#[derive(Debug, Args)]
pub struct QueryArgs {
    #[command(subcommand)]
    what: QueryWhat,
}

#[derive(Debug, Subcommand)]
enum QueryWhat {
    /// The value of an expression at one time
    #[command(after_help = "Example:\n  tributary-collector query instant 'sum by (cluster) (up)'")]
    Instant {
        /// PromQL
        expression: String,
        /// Unix seconds or RFC 3339; default: now
        #[arg(long)]
        time: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// The values of an expression over time
    #[command(
        after_help = "Example:\n  tributary-collector query range up --start 2026-11-21T00:00:00Z --end 2026-11-21T01:00:00Z --step 1m"
    )]
    Range {
        /// PromQL
        expression: String,
        /// Unix seconds or RFC 3339
        #[arg(long)]
        start: String,
        /// Unix seconds or RFC 3339
        #[arg(long)]
        end: String,
        /// A duration such as 30s or 5m
        #[arg(long, default_value = "1m")]
        step: String,
        #[command(flatten)]
        common: Common,
    },
    /// The label sets that a selector selects
    Series {
        /// A selector such as 'up{job="node"}'
        #[arg(required = true)]
        selectors: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// The names of labels, or the values of one
    Labels {
        /// The label whose values are wanted
        name: Option<String>,
        /// Only of series that this selector selects
        #[arg(long = "match")]
        selectors: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    server: Server,
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// `tributary-collector clusters`
#[derive(Debug, Args)]
pub struct ClustersArgs {
    #[command(subcommand)]
    what: ClustersWhat,
}

#[derive(Debug, Subcommand)]
enum ClustersWhat {
    /// Who sends, how much, and how far behind
    List {
        #[command(flatten)]
        common: Common,
        /// Show the list anew every two seconds, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
}

/// `tributary-collector healthcheck`
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    #[command(flatten)]
    server: Server,
    /// Ask whether it is ready rather than whether it lives
    #[arg(long)]
    ready: bool,
}

/// How often `--watch` asks.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// Asks and prints.
pub async fn query(args: QueryArgs) -> Result<(), ClientError> {
    let (common, path, fields): (_, String, Vec<(&str, String)>) = match args.what {
        QueryWhat::Instant { expression, time, common } => {
            let mut fields = vec![("query", expression)];
            fields.extend(time.map(|time| ("time", time)));
            (common, "/api/v1/query".to_owned(), fields)
        }
        QueryWhat::Range { expression, start, end, step, common } => {
            let fields =
                vec![("query", expression), ("start", start), ("end", end), ("step", step)];
            (common, "/api/v1/query_range".to_owned(), fields)
        }
        QueryWhat::Series { selectors, common } => {
            (common, "/api/v1/series".to_owned(), matching(selectors))
        }
        QueryWhat::Labels { name: None, selectors, common } => {
            (common, "/api/v1/labels".to_owned(), matching(selectors))
        }
        QueryWhat::Labels { name: Some(name), selectors, common } => {
            (common, format!("/api/v1/label/{}/values", escaped(&name)), matching(selectors))
        }
    };
    let answer = common.server.client()?.data(&path, &fields).await?;
    for note in answer.notes {
        // Standard output is for the result.
        let _ = writeln!(std::io::stderr(), "{note}");
    }
    print(&match common.output {
        Output::Json => pretty(&answer.data),
        Output::Table => table(&rows(&answer.data)),
        Output::Csv => csv(&rows(&answer.data)),
    });
    Ok(())
}

/// Asks and prints.
pub async fn clusters(args: ClustersArgs) -> Result<(), ClientError> {
    let ClustersWhat::List { common, watch } = args.what;
    let client = common.server.client()?;
    loop {
        let answer = client.data("/api/v1/tributary/clusters", &[]).await?;
        let rows = cluster_rows(&answer.data);
        let text = match common.output {
            Output::Json => pretty(&answer.data),
            Output::Table => table(&rows),
            Output::Csv => csv(&rows),
        };
        if watch && std::io::stdout().is_terminal() {
            // Home, and clear what the last list left.
            print(&format!("\x1b[H\x1b[2J{text}"));
        } else {
            print(&text);
        }
        if !watch {
            return Ok(());
        }
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Succeeds if the collector lives, or with `--ready` is ready.
pub async fn healthcheck(args: HealthcheckArgs) -> Result<(), ClientError> {
    let path = if args.ready { "/-/ready" } else { "/-/healthy" };
    args.server.client()?.check(path).await
}

fn matching(selectors: Vec<String>) -> Vec<(&'static str, String)> {
    selectors.into_iter().map(|selector| ("match[]", selector)).collect()
}

/// A label name as a path can hold it.
fn escaped(name: &str) -> String {
    if tributary_model::label::is_legacy_label_name(name) {
        return name.to_owned();
    }
    let escape = |c: char| match c {
        '_' => "__".to_owned(),
        c if c.is_ascii_alphanumeric() => c.to_string(),
        c => format!("_{:X}_", u32::from(c)),
    };
    format!("U__{}", name.chars().map(escape).collect::<String>())
}

/// The first row is the header.
type Rows = Vec<Vec<String>>;

/// What the API answered, as rows.
fn rows(data: &Value) -> Rows {
    let header = |names: &[&str]| vec![names.iter().map(|n| (*n).to_owned()).collect()];
    if let Some(list) = data.as_array() {
        let labels = list.iter().any(Value::is_object);
        let mut rows: Rows = header(&[if labels { "SERIES" } else { "NAME" }]);
        rows.extend(
            list.iter().map(|item| vec![item.as_str().map_or_else(|| series(item), str::to_owned)]),
        );
        return rows;
    }
    let result = data.get("result").unwrap_or(&Value::Null);
    let point = |pair: &Value| {
        let at = pair.get(0).and_then(Value::as_f64).unwrap_or_default();
        let millis = tributary_model::number::format_plain((at * 1000.0).round());
        let at = millis.parse().map(tributary_model::sample::Timestamp::from_millis);
        let value = pair.get(1).and_then(Value::as_str).unwrap_or_default();
        (at.map(super::view::rfc3339).unwrap_or_default(), value.to_owned())
    };
    if matches!(data.get("resultType").and_then(Value::as_str), Some("scalar" | "string")) {
        let mut rows = header(&["TIME", "VALUE"]);
        let (at, value) = point(result);
        rows.push(vec![at, value]);
        return rows;
    }
    let mut rows = header(&["SERIES", "TIME", "VALUE"]);
    for item in result.as_array().into_iter().flatten() {
        let name = series(item.get("metric").unwrap_or(&Value::Null));
        let points = item.get("values").and_then(Value::as_array).cloned();
        for pair in points.unwrap_or_else(|| item.get("value").cloned().into_iter().collect()) {
            let (at, value) = point(&pair);
            rows.push(vec![name.clone(), at, value]);
        }
    }
    rows
}

/// A label set in Prometheus' text form.
fn series(metric: &Value) -> String {
    let pairs = metric.as_object().into_iter().flatten();
    let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_str().unwrap_or_default()));
    tributary_model::label::Labels::from_pairs(pairs).unwrap_or_default().to_string()
}

fn cluster_rows(data: &Value) -> Rows {
    let header = ["CLUSTER", "AGENT", "STATE", "LAST SAMPLE", "SERIES", "SAMPLES/S", "SPOOL"];
    let mut rows: Rows = vec![header.iter().map(|h| (*h).to_owned()).collect()];
    for cluster in data.as_array().into_iter().flatten() {
        let text = |from: &Value, key: &str| match from.get(key) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            _ => "-".to_owned(),
        };
        let agents = cluster.get("agents").and_then(Value::as_array).cloned().unwrap_or_default();
        let none = [Value::Null];
        for agent in if agents.is_empty() { &none[..] } else { &agents[..] } {
            let state = match agent.get("connected").and_then(Value::as_bool) {
                Some(true) => "connected".to_owned(),
                Some(false) => Some(text(agent, "reason"))
                    .filter(|reason| !reason.is_empty() && reason != "-")
                    .unwrap_or_else(|| "not connected".to_owned()),
                None => "-".to_owned(),
            };
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

fn table(rows: &Rows) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut rows = rows.iter();
    if let Some(header) = rows.next() {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row);
    }
    let text = table.to_string();
    text.lines().fold(String::new(), |mut out, line| {
        let _ = writeln!(out, "{}", line.trim_end());
        out
    })
}

/// RFC 4180, with line feeds.
fn csv(rows: &Rows) -> String {
    let cell = |text: &String| {
        if text.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.clone()
        }
    };
    let line = |row: &Vec<String>| row.iter().map(cell).collect::<Vec<_>>().join(",") + "\n";
    let Some((header, rest)) = rows.split_first() else { return String::new() };
    let header: Vec<String> = header.iter().map(|h| h.to_ascii_lowercase()).collect();
    std::iter::once(&header).chain(rest).map(line).collect()
}

fn pretty(data: &Value) -> String {
    serde_json::to_string_pretty(data).unwrap_or_default() + "\n"
}

/// A reader that has gone away ends the output, not the program.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_as_tables_and_csv() {
        for (data, expected) in [
            (
                r#"{"resultType":"scalar","result":[1.5,"2"]}"#,
                "time,value\n1970-01-01T00:00:01.5Z,2\n",
            ),
            (
                r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","a":"b,c"},"value":[1,"NaN"]}]}"#,
                "series,time,value\n\"up{a=\"\"b,c\"\"}\",1970-01-01T00:00:01Z,NaN\n",
            ),
            (
                r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1,"1"],[2,"2"]]}]}"#,
                "series,time,value\n{},1970-01-01T00:00:01Z,1\n{},1970-01-01T00:00:02Z,2\n",
            ),
            (r#"["a","b"]"#, "name\na\nb\n"),
            (r#"[{"__name__":"up"}]"#, "series\nup\n"),
        ] {
            let data: Value = serde_json::from_str(data).unwrap();
            assert_eq!(csv(&rows(&data)), expected);
        }
        let rows: Rows = vec![vec!["A".into(), "B".into()], vec!["1".into(), "22".into()]];
        assert_eq!(table(&rows), " A  B\n 1  22\n");
    }

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

    #[test]
    fn label_names_in_paths() {
        for (name, path) in [("job", "job"), ("a.b", "U__a_2E_b"), ("a.b_c", "U__a_2E_b__c")] {
            assert_eq!(escaped(name), path);
        }
    }
}
