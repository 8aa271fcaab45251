//! Asks the running agent: `status` and `healthcheck`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use comfy_table::{Table, presets};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tributary_model::duration;
use tributary_model::sample::Timestamp;

use crate::admin::Report;

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// How an answer is printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Prints the agent's state; 3 if it cannot be reached.
pub(crate) async fn status(url: &str, format: Format) -> anyhow::Result<ExitCode> {
    let (_, body) = match get(url, "/api/v1/tributary/status").await {
        Ok(answer) => answer,
        Err(error) => return unreachable(url, &error),
    };
    let report: Report = serde_json::from_slice(&body).context("reading the agent's answer")?;
    let text = match format {
        Format::Json => serde_json::to_string_pretty(&report)? + "\n",
        Format::Table => table(&report, std::time::SystemTime::now().into()),
    };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// 0 if the agent is healthy (or ready), 1 if not, 3 if it cannot be reached.
pub(crate) async fn healthcheck(url: &str, ready: bool) -> anyhow::Result<ExitCode> {
    match get(url, if ready { "/-/ready" } else { "/-/healthy" }).await {
        Ok((status, _)) if status.is_success() => Ok(ExitCode::SUCCESS),
        Ok((status, _)) => {
            writeln!(std::io::stderr(), "error: {url} answers {status}")?;
            Ok(ExitCode::from(1))
        }
        Err(error) => unreachable(url, &error),
    }
}

fn unreachable(url: &str, error: &anyhow::Error) -> anyhow::Result<ExitCode> {
    let mut text = format!("error: no answer from the agent at {url}: {error:#}\n");
    text.push_str("   = help: is it running? give its address with --url\n");
    std::io::stderr().write_all(text.as_bytes())?;
    Ok(ExitCode::from(3))
}

fn table(report: &Report, now: Timestamp) -> String {
    let since = Timestamp::from_millis(float_millis(report.since_seconds));
    let link = match (report.connected, &report.error) {
        (true, _) => format!("● connected for {}", age(now, since)),
        (false, Some(error)) => format!("✗ not connected for {}: {error}", age(now, since)),
        (false, None) => "… connecting".to_owned(),
    };
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let waiting = format!("{} frames, {} bytes on disk", report.spool_frames, report.spool_bytes);
    let end = Timestamp::from_millis(float_millis(report.certificate_not_after_seconds));
    let who = if report.certificate_renewable { "renewed in time" } else { "renewed by others" };
    let certificate = if end <= now {
        format!("✗ expired {} ago", age(now, end))
    } else {
        let minutes = end.since(now).as_secs() / 60;
        format!("good for {}, {who}", duration::format(Duration::from_secs(minutes * 60)))
    };
    let numbers = format!("next {}, acknowledged {}", report.next_seq, report.acked_seq);
    for (name, value) in [
        ("AGENT", format!("{} of cluster {}", report.instance, report.cluster)),
        ("COLLECTOR", report.collector.clone()),
        ("LINK", link),
        ("CERTIFICATE", certificate),
        ("WAITING", waiting),
        ("FRAMES", numbers),
        ("DROPPED", format!("{} samples, because the spool was full", report.dropped_samples)),
    ] {
        table.add_row([name, &value]);
    }
    let mut text = String::new();
    for line in table.to_string().lines() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

fn age(now: Timestamp, since: Timestamp) -> String {
    let age = now.since(since);
    duration::format(Duration::from_secs(age.as_secs()))
}

fn float_millis(seconds: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, and is only shown")]
    let millis = (seconds * 1000.0) as i64;
    millis
}

/// One GET of a path.
async fn get(url: &str, path: &str) -> anyhow::Result<(http::StatusCode, Vec<u8>)> {
    let url = format!("{}{path}", url.trim_end_matches('/'));
    let uri: http::Uri = url.parse().with_context(|| format!("\"{url}\" is not a URL"))?;
    anyhow::ensure!(uri.scheme_str() == Some("http"), "only http:// is possible");
    let authority = uri.authority().context("the URL has no host")?.clone();
    let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
    let request = http::Request::get(uri.path())
        .header(http::header::HOST, authority.as_str())
        .body(Empty::<bytes::Bytes>::new())?;
    let answer = async {
        let tcp = TcpStream::connect(&address).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| anyhow::anyhow!("{error}"))?;
            anyhow::Ok((status, body.to_bytes().to_vec()))
        };
        tokio::select! {
            answer = exchange => answer,
            ended = connection => Err(ended.err().map_or_else(
                || anyhow::anyhow!("the connection was closed"), anyhow::Error::from)),
        }
    };
    tokio::time::timeout(TIMEOUT, answer).await.context("no answer within 5s")?
}
