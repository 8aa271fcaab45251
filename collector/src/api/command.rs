//! Commands that ask a running collector over its HTTP API: `query`, `healthcheck`, and what `clusters list` shares with them.

use std::fmt::Write as _;
use std::io::Write as _;
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
    pub(super) fn client(&self) -> Result<Client, ClientError> {
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
pub(super) struct Common {
    #[command(flatten)]
    pub(super) server: Server,
    /// How to write the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
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
pub(super) type Rows = Vec<Vec<String>>;

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
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let value = match pair.get(1) {
            // A native histogram.
            Some(Value::Object(histogram)) => {
                format!(
                    "count {}, sum {}",
                    text(histogram.get("count")),
                    text(histogram.get("sum"))
                )
            }
            value => text(value),
        };
        (at.map(super::view::rfc3339).unwrap_or_default(), value)
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
        let many = ["values", "histograms"].map(|key| item.get(key).and_then(Value::as_array));
        let one = ["value", "histogram"].map(|key| item.get(key));
        for pair in many.into_iter().flatten().flatten().chain(one.into_iter().flatten()) {
            let (at, value) = point(pair);
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

pub(super) fn table(rows: &Rows) -> String {
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
pub(super) fn csv(rows: &Rows) -> String {
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

pub(super) fn pretty(data: &Value) -> String {
    serde_json::to_string_pretty(data).unwrap_or_default() + "\n"
}

/// A reader that has gone away ends the output, not the program.
pub(super) fn print(text: &str) {
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
    fn label_names_in_paths() {
        for (name, path) in [("job", "job"), ("a.b", "U__a_2E_b"), ("a.b_c", "U__a_2E_b__c")] {
            assert_eq!(escaped(name), path);
        }
    }
}
