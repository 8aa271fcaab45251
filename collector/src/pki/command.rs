//! `tributary-collector clusters`: who sends, and, on the PKI folder itself, who may.

use std::process::ExitCode;

use clap::Subcommand;

use crate::api;

/// `tributary-collector clusters`
#[derive(Debug, Subcommand)]
pub enum ClustersAction {
    /// Who sends, how much, and how far behind
    List(api::clusters::ListArgs),
    /// What the agents of a cluster hold: certificates, bundle, clock. Exit code 1 if there is no such cluster
    Show(api::clusters::ShowArgs),
}

/// Does it.
pub async fn clusters(action: ClustersAction) -> anyhow::Result<ExitCode> {
    match action {
        ClustersAction::List(args) => api::clusters::list(args).await?,
        ClustersAction::Show(args) => api::clusters::show(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
