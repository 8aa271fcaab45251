//! The agent: lets listed series through and streams them to the collector.

mod admin;
mod allow;
mod app;
mod ask;
mod config;
mod connection;
mod credentials;
mod handover;
mod join;
mod link;
mod log;
mod metrics;
mod outlet;
mod pipeline;
mod reload;
mod session;
mod source;
mod spool;
#[cfg(test)]
mod testing;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};

use app::{Checked, StartError};
use config::Config;

/// Sends what the allowlist lists from one cluster to the collector, and keeps it on disk until it has arrived.
#[derive(Debug, Parser)]
#[command(
    name = "tributary-agent",
    version,
    after_help = "Begin with:\n  tributary-agent join https://… --token …                  a certificate; the collector prints the command\n  \
                  tributary-agent allowlist preview --prometheus http://127.0.0.1:9090\n  \
                  tributary-agent check --config.file=agent.yml             is everything right?\n  \
                  tributary-agent run --config.file=agent.yml"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent.
    ///
    /// Sources bring samples, the allowlist decides, the spool keeps them on disk, and one stream takes them to the
    /// collector. SIGHUP reads allowlist and certificates again; SIGTERM delivers what is there and exits.
    Run {
        #[command(flatten)]
        file: ConfigFile,
        /// error, warn, info, debug or trace; or a filter like info,h2=debug.
        #[arg(long = "log.level", default_value = "info", value_name = "LEVEL")]
        log_level: String,
        /// How log lines are written.
        #[arg(long = "log.format", default_value = "logfmt", value_name = "FORMAT")]
        log_format: log::Format,
    },
    /// Get the first certificate: run once what `tributary-collector clusters add` prints.
    ///
    /// Makes a key, lets the collector sign it for the token, and keeps key, certificate and authorities in a folder.
    /// The key never leaves this machine, and restarts never need the token again. Does nothing if the folder holds a
    /// good certificate already. Exit code 1: refused; 2: wrong usage; 3: cannot connect.
    #[command(after_help = join::EXAMPLES)]
    Join(join::Args),
    /// Check configuration, certificate and allowlist, and say what is wrong. Starts nothing.
    Check {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Check an allowlist, and see what it would do to a real Prometheus.
    #[command(subcommand)]
    Allowlist(allow::plan::Command),
    /// Show the link and the spool of the running agent.
    Status {
        #[command(flatten)]
        agent: Address,
        /// How to print it.
        #[arg(short, long, default_value = "table")]
        output: ask::Format,
    },
    /// Exit with 0 if the running agent is healthy; for containers without curl.
    Healthcheck {
        #[command(flatten)]
        agent: Address,
        /// Ask whether it is ready instead.
        #[arg(long)]
        ready: bool,
    },
    /// Print shell completions.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, clap::Args)]
struct ConfigFile {
    /// The configuration. Environment variables override its keys by their paths: TRIBUTARY_SPOOL_MAX_BYTES=2GiB.
    #[arg(long = "config.file", default_value = "agent.yml", value_name = "FILE")]
    path: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Address {
    /// The agent's HTTP port.
    #[arg(long, default_value = "http://127.0.0.1:9392", value_name = "URL")]
    url: String,
}

/// Exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    let result = work(Cli::parse().command);
    result.unwrap_or_else(|error| {
        // Without standard error there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "error: {}", link::chain(error.as_ref()));
        let start = error.downcast_ref::<StartError>().is_some();
        ExitCode::from(if start { BAD_CONFIGURATION } else { 1 })
    })
}

fn work(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run { file, log_level, log_format } => {
            log::start(&log_level, log_format)
                .map_err(|error| StartError::Usage(error.to_string()))?;
            let checked = load(&file)?;
            runtime()?.block_on(app::run(checked))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Join(args) => runtime()?.block_on(join::command(args)),
        Command::Check { file } => {
            let checked = load(&file)?;
            let mut out = std::io::stdout();
            writeln!(
                out,
                "{} is good: agent {} of cluster {}, {} allowlist rules, {}",
                file.path.display(),
                checked.speaker.instance,
                checked.speaker.cluster,
                checked.rules.iter().count(),
                checked.config.way,
            )?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Allowlist(command) => runtime()?.block_on(allow::plan::command(command)),
        Command::Status { agent, output } => runtime()?.block_on(ask::status(&agent.url, output)),
        Command::Healthcheck { agent, ready } => {
            runtime()?.block_on(ask::healthcheck(&agent.url, ready))
        }
        Command::Completions { shell } => {
            let name = "tributary-agent";
            clap_complete::generate(shell, &mut Cli::command(), name, &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn load(file: &ConfigFile) -> Result<Checked, StartError> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Checked::new(Config::load(&file.path, environment)?)
}

/// One thread is enough for streams, and wakes nobody; the disk has a few of its own.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("starting threads")
}
