//! What is read from files before a port is bound, and why a start may fail.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tributary_certs::bundle::{self, BundleError, COLLECTOR, Folder};
use tributary_certs::state::{State, StateError};
use tributary_certs::tls::{self, TlsError};
use tributary_model::diagnostic::Diagnostic;

use super::settings::rule_settings;
use crate::api::serve::Port;
use crate::config::{Config, Pki};
use crate::pki::credentials::Loaded;
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
    /// The PKI folder cannot be used.
    #[error("pki.dir: {0}")]
    Folder(#[from] BundleError),
    /// What the PKI folder remembers cannot be read, and with it who is denied.
    #[error("pki.dir: {0}")]
    State(#[from] StateError),
    /// A rotation would replace a certificate that nobody uses.
    #[error(
        "ingest.tls names {}, but rotations replace {}\n  = help: with pki.dir, leave ingest.tls out",
        named.display(),
        own.display()
    )]
    OtherCertificate {
        /// In the configuration.
        named: PathBuf,
        /// In the PKI folder.
        own: PathBuf,
    },
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
    pub(super) tls: Loaded,
    pub(super) port: Arc<Port>,
    pub(super) alerting: Option<notify::config::Config>,
    pub(super) rules: Vec<rules::group::Group>,
}

impl Files {
    /// Reads everything that `config` names.
    pub fn read(config: &Config) -> Result<Self, StartError> {
        let alerting = config.alerting.config_file.as_deref();
        config.pki.as_ref().map_or(Ok(()), |pki| check_folder(pki, &config.ingest.tls))?;
        Ok(Self {
            tls: Loaded::read(&config.ingest.tls)?,
            port: Arc::new(Port::load(config.web.config_file.as_deref())?),
            alerting: alerting.map(notify::config::Config::load).transpose()?,
            rules: rules::engine::load(&config.rules, &rule_settings(config))?,
        })
    }
}

/// Whether the folder can be worked with, and holds the collector's own certificate.
fn check_folder(pki: &Pki, named: &tls::Files) -> Result<(), StartError> {
    Folder::open(&pki.dir)?;
    State::read(&pki.dir)?;
    let own = bundle::files(&pki.dir.join(COLLECTOR));
    let pairs = [
        (&named.cert_file, &own.cert_file),
        (&named.key_file, &own.key_file),
        (&named.ca_file, &own.ca_file),
    ];
    for (named, own) in pairs {
        // A file that is not there is named better by whoever reads it.
        let same = match (fs::canonicalize(named), fs::canonicalize(own)) {
            (Ok(named), Ok(own)) => named == own,
            _ => true,
        };
        if !same {
            let (named, own) = (named.clone(), own.clone());
            return Err(StartError::OtherCertificate { named, own });
        }
    }
    Ok(())
}
