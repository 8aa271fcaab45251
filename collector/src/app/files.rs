//! What is read from files before a port is bound, and why a start may fail.

use std::net::SocketAddr;
use std::sync::Arc;

use tributary_certs::tls::{Material, TlsError};
use tributary_model::diagnostic::Diagnostic;

use super::settings::rule_settings;
use crate::api::serve::Port;
use crate::config::Config;
use crate::rules::engine::RulesError;
use crate::{notify, rules};

/// Why the collector does not start: something that a person gave cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be had.
    #[error("listening on {address} ({key}): {source}\n  = help: {help}", help = bind_help(source))]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The key that gives it.
        key: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A file that people write is wrong.
    #[error(transparent)]
    File(#[from] Box<Diagnostic>),
    /// Alerting cannot be used.
    #[error(transparent)]
    Alerting(#[from] notify::config::ConfigError),
    /// Rule files cannot be used.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

fn bind_help(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process has this port: stop it, or give another port"
        }
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need privileges: give a higher one"
        }
        _ => "give an address of this machine, or 0.0.0.0",
    }
}

/// Everything read from files before a port is bound, so that a mistake starts nothing.
pub struct Files {
    pub(super) tls: Material,
    pub(super) port: Arc<Port>,
    pub(super) alerting: Option<notify::config::Config>,
    pub(super) rules: Vec<rules::group::Group>,
}

impl Files {
    /// Reads everything that `config` names.
    pub fn read(config: &Config) -> Result<Self, StartError> {
        let alerting = config.alerting.config_file.as_deref();
        Ok(Self {
            tls: Material::load(&config.ingest.tls)?,
            port: Arc::new(Port::load(config.web.config_file.as_deref())?),
            alerting: alerting.map(notify::config::Config::load).transpose()?,
            rules: rules::engine::load(&config.rules, &rule_settings(config))?,
        })
    }
}
