//! Runs dashboards against a server as Grafana's Prometheus data source would, and says what each panel shows.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use http::Method;
use tributary_tests::grafana::DataSource;
use tributary_tests::grafana::dashboard::Dashboard;
use tributary_tests::now_ms;

/// Saves and tests a data source, loads a page, and shows every panel of every dashboard.
///
/// Exit code 0 if everything was answered; with --filled, if every panel has data as well.
#[derive(Debug, Parser)]
struct Arguments {
    /// The server.
    #[arg(long, value_name = "URL")]
    url: String,
    /// How requests are sent: POST or GET.
    #[arg(long, default_value = "POST")]
    method: Method,
    /// How far the dashboards look back, in minutes.
    #[arg(long, default_value_t = 60)]
    minutes: i64,
    /// A panel without data is a failure.
    #[arg(long)]
    filled: bool,
    /// Dashboards, as Grafana exports them.
    #[arg(value_name = "FILE")]
    dashboards: Vec<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let now = now_ms() / 1000;
    let times = (now - arguments.minutes * 60, now);
    let source = DataSource::new(&arguments.url, arguments.method, times);
    source.save_and_test().await?;
    source.load_page().await?;
    println!("saved and tested");
    let mut empty = 0;
    for path in &arguments.dashboards {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {shown}"))?;
        let dashboard = Dashboard::parse(&text).with_context(|| format!("reading {shown}"))?;
        let values = source.variables(&dashboard).await?;
        println!("{}: {values:?}", dashboard.title);
        for panel in &dashboard.panels {
            let shown = source.panel(panel, &values).await?;
            let points: usize = shown.frames.iter().map(|frame| frame.points.len()).sum();
            empty += usize::from(points == 0);
            println!("{:6} series {points:8} points  {}", shown.frames.len(), panel.title);
            for notice in &shown.notices {
                println!("       {notice}");
            }
        }
    }
    Ok(if arguments.filled && empty > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
