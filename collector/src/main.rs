//! The collector: keeps what agents send, answers PromQL, runs rules and sends alerts.

mod admin;
mod api;
mod app;
mod check;
mod config;
mod demo;
mod facts;
mod host;
mod ingest;
mod local;
mod log;
mod metrics;
mod notify;
mod own;
mod pki;
mod query;
mod rules;
mod scrape;
mod storage;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::api::client::ClientError;
use crate::app::files::StartError;
use crate::config::{Config, ConfigError};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Exit code for a failed check.
const CHECK_FAILED: u8 = 1;
/// Exit code for wrong usage or a configuration that cannot be used.
const USAGE: u8 = 2;

/// Keeps the metrics that matter of many clusters in one place: ingest over mTLS, PromQL, rules, alerts by e-mail.
///
/// To see it work on this machine:
///     tributary-collector demo
/// For real: make certificates with `tributary-certs init`, write collector.yml, then
///     tributary-collector check config collector.yml
///     tributary-collector run --config.file=collector.yml
#[derive(Debug, Parser)]
#[command(name = "tributary-collector", version, verbatim_doc_comment)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Run the collector until SIGTERM. SIGHUP or POST /-/reload reads configuration, certificates, rules and alerting again.
    Run(RunArgs),
    /// Run a collector and three clusters on this machine, on real metrics. Ctrl-C removes everything.
    Demo(demo::DemoArgs),
    /// Check files without running anything. Exit code 1 if one is wrong.
    #[command(subcommand)]
    Check(check::CheckAction),
    /// Run tests.
    #[command(subcommand)]
    Test(TestAction),
    /// Look at rule files.
    #[command(subcommand)]
    Rules(RulesAction),
    /// Ask a running collector.
    Query(api::command::QueryArgs),
    /// The clusters: who sends, and who may.
    #[command(subcommand)]
    Clusters(pki::command::ClustersAction),
    /// Look at the data folder of a collector that is not running.
    #[command(subcommand)]
    Storage(storage::StorageAction),
    /// Log in to the mail servers of alerting, or send a test mail, and say what they answered.
    Smtp(notify::command::SmtpArgs),
    /// Exit code 0 if a running collector is healthy.
    Healthcheck(api::command::HealthcheckArgs),
    /// Print shell completions.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Subcommand)]
enum TestAction {
    /// Run rules on made-up series, in the file format of `promtool test rules`.
    Rules(rules::unit::TestArgs),
}

#[derive(Debug, Subcommand)]
enum RulesAction {
    /// Print the rules as they run in one cluster's scope: every selector narrowed, every output stamped.
    Scope(rules::command::ScopeArgs),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// The configuration file; every key can be overridden by an environment variable with its path, like TRIBUTARY_STORAGE_PATH for storage.path.
    #[arg(long = "config.file", value_name = "FILE", default_value = "collector.yml")]
    config_file: PathBuf,
    /// error, warn, info, debug, trace, or a filter like info,tributary_collector=debug.
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// How log lines are written.
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    log_format: log::Format,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let checks = matches!(command.action, Action::Check(_));
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(act(command.action)));
    match done {
        Ok(code) => code,
        Err(error) => {
            report(&error);
            ExitCode::from(if checks { CHECK_FAILED } else { exit_code(&error) })
        }
    }
}

async fn act(action: Action) -> anyhow::Result<ExitCode> {
    match action {
        Action::Run(args) => {
            log::start(&args.log_level, args.log_format)?;
            let config = Config::load(&args.config_file, std::env::vars())?;
            app::run(config).await
        }
        Action::Demo(args) => demo::command(args).await,
        Action::Check(action) => check::command(action),
        Action::Test(TestAction::Rules(args)) => {
            let output =
                rules::unit::Output { out: &mut std::io::stdout(), err: &mut std::io::stderr() };
            let passed = rules::unit::command(&args, output).await?;
            Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(CHECK_FAILED) })
        }
        Action::Rules(RulesAction::Scope(args)) => {
            rules::command::scope(&args, &mut std::io::stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Query(args) => {
            api::command::query(args).await?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Clusters(action) => pki::command::clusters(action).await,
        Action::Storage(action) => storage::command(action),
        Action::Smtp(args) => Ok(notify::command::command(args, &mut std::io::stdout()).await?),
        Action::Healthcheck(args) => {
            api::command::healthcheck(args).await?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Completions { shell } => {
            let mut command = Command::command();
            clap_complete::generate(
                shell,
                &mut command,
                "tributary-collector",
                &mut std::io::stdout(),
            );
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Writes the whole chain of causes once, as `error: …`.
#[expect(clippy::print_stderr, reason = "the one place where errors reach a person")]
fn report(error: &anyhow::Error) {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    eprintln!("error: {text}");
}

/// 2 if the cause lies in what the person gave: flags, files, addresses; 3 if nobody answers; otherwise 1.
fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(client) = error.downcast_ref::<ClientError>() {
        return client.exit_code();
    }
    let given = error.chain().any(|cause| cause.is::<ConfigError>() || cause.is::<StartError>());
    if given { USAGE } else { CHECK_FAILED }
}
