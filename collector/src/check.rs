//! `tributary-collector check`: reads files as `run` would, and says what is wrong with them, without running anything.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::api::web_file::WebFile;
use crate::app::files::Files;
use crate::config::Config;
use crate::{notify, rules};

/// What can be checked.
#[derive(Debug, Subcommand)]
pub enum CheckAction {
    /// collector.yml, and every file that it names: certificates, web configuration, rules, alerting.
    Config {
        /// The file.
        #[arg(default_value = "collector.yml")]
        file: PathBuf,
    },
    /// Prometheus rule files and PrometheusRule objects.
    Rules(rules::command::CheckArgs),
    /// A file in Prometheus' web-config format.
    WebConfig {
        /// The file.
        file: PathBuf,
    },
    /// A file in Alertmanager's format.
    Alerting {
        /// The file.
        file: PathBuf,
    },
}

/// Checks, and says so if all is well.
pub fn command(action: CheckAction) -> anyhow::Result<ExitCode> {
    let file = match action {
        CheckAction::Config { file } => {
            let config = Config::load(&file, std::env::vars())?;
            Files::read(&config)?;
            file
        }
        CheckAction::Rules(args) => {
            rules::command::check(&args, &mut std::io::stdout())?;
            return Ok(ExitCode::SUCCESS);
        }
        CheckAction::WebConfig { file } => {
            WebFile::load(&file)?;
            file
        }
        CheckAction::Alerting { file } => {
            notify::config::Config::load(&file)?;
            file
        }
    };
    fine(&file)?;
    Ok(ExitCode::SUCCESS)
}

fn fine(file: &Path) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}: ok", file.display())
}
