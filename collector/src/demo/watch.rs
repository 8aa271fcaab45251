//! Watches the demo as anybody can: through the collector's HTTP API.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tributary_model::sample::Timestamp;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer read.
const MAX_ANSWER: usize = 8 << 20;

/// A client of the collector.
pub struct Watch {
    client: Client<HttpConnector, Full<Bytes>>,
    collector: SocketAddr,
}

/// What is known of one cluster.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cluster {
    /// Whether its agent is connected.
    pub connected: bool,
    /// The newest sample's age.
    pub age: Option<Duration>,
    /// Live series.
    pub series: u64,
    /// Samples accepted so far.
    pub samples: u64,
    /// Samples accepted per second.
    pub rate: f64,
    /// Bytes that wait in its spool.
    pub spool: u64,
}

impl Watch {
    /// A client of the collector at `collector`.
    pub fn new(collector: SocketAddr) -> Self {
        let client = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { client, collector }
    }

    /// Whether the collector is ready.
    pub async fn ready(&self) -> bool {
        self.get("/-/ready").await.is_some_and(|(status, _)| status == StatusCode::OK)
    }

    /// The clusters, by name.
    pub async fn clusters(&self, now: Timestamp) -> BTreeMap<String, Cluster> {
        let list = self.json("/api/v1/tributary/clusters").await;
        let list = list.as_ref().and_then(|data| data.as_array());
        let entries = list.into_iter().flatten().filter_map(|entry| {
            let name = entry.get("cluster")?.as_str()?.to_owned();
            Some((name, cluster(entry, now)))
        });
        entries.collect()
    }

    /// The values of an instant query, with their cluster.
    pub async fn query(&self, expression: &str) -> Vec<(String, String)> {
        let form = format!("query={}", percent(expression));
        let data = self.send("/api/v1/query", Some(form)).await;
        let data = data.and_then(|(_, body)| data_of(&body));
        let result = data.as_ref().and_then(|data| data.get("result")?.as_array());
        let values = result.into_iter().flatten().filter_map(|series| {
            let cluster = series.get("metric")?.get("cluster").and_then(Value::as_str);
            let value = series.get("value")?.get(1)?.as_str()?;
            Some((cluster.unwrap_or("").to_owned(), value.to_owned()))
        });
        values.collect()
    }

    async fn json(&self, path: &str) -> Option<Value> {
        let (_, body) = self.get(path).await?;
        data_of(&body)
    }

    async fn get(&self, path: &str) -> Option<(StatusCode, Bytes)> {
        self.send(path, None).await
    }

    async fn send(&self, path: &str, form: Option<String>) -> Option<(StatusCode, Bytes)> {
        let builder = Request::builder().uri(format!("http://{}{path}", self.collector));
        let request = match form {
            Some(form) => builder
                .method("POST")
                .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Full::new(Bytes::from(form))),
            None => builder.body(Full::default()),
        };
        let request = request.ok()?;
        let work = async {
            let response = self.client.request(request).await.ok()?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.ok()?;
            Some((status, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, work).await.ok()?
    }
}

fn data_of(body: &[u8]) -> Option<Value> {
    let mut answer: Value = serde_json::from_slice(body).ok()?;
    Some(answer.get_mut("data")?.take())
}

fn cluster(entry: &Value, now: Timestamp) -> Cluster {
    let number = |value: &Value, key: &str| value.get(key).and_then(Value::as_u64).unwrap_or(0);
    let agents = entry.get("agents").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let connected = |agent: &Value| agent.get("connected").and_then(Value::as_bool) == Some(true);
    Cluster {
        connected: agents.iter().any(connected),
        age: entry.get("last_sample").and_then(|at| Some(now.since(time(at)?))),
        series: number(entry, "series"),
        samples: number(entry, "samples"),
        rate: entry.get("samples_per_second").and_then(Value::as_f64).unwrap_or(0.0),
        spool: agents.iter().map(|agent| number(agent, "spool_bytes")).sum(),
    }
}

/// RFC 3339.
fn time(value: &Value) -> Option<Timestamp> {
    let at: jiff::Timestamp = value.as_str()?.parse().ok()?;
    Some(Timestamp::from_millis(at.as_millisecond()))
}

/// Percent-encodes everything but letters and digits.
pub fn percent(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_cluster() {
        let entry = serde_json::json!({
            "cluster": "eu-1", "series": 7, "samples": 9, "samples_per_second": 1.5,
            "last_sample": "1970-01-01T00:00:01Z",
            "agents": [{"connected": false, "spool_bytes": 3}, {"connected": true, "spool_bytes": 4}],
        });
        let read = cluster(&entry, Timestamp::from_millis(3000));
        let age = Some(Duration::from_secs(2));
        let expected = Cluster { connected: true, age, series: 7, samples: 9, rate: 1.5, spool: 7 };
        assert_eq!(read, expected);
        assert_eq!(cluster(&Value::Null, Timestamp::default()), Cluster::default());
    }

    #[test]
    fn encodes_expressions() {
        assert_eq!(percent("a{b=\"c\"}"), "a%7Bb%3D%22c%22%7D");
    }
}
