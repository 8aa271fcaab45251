//! Reads Alertmanager's configuration file: where mail goes, when, and over which server.

mod mail;
mod matchers;
mod raw;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::Mailbox;
use serde_saphyr::Spanned;
use tributary_model::diagnostic::Diagnostic;
use tributary_model::duration;

use super::route::Route;

/// What the file says, checked.
#[derive(Debug)]
pub struct Config {
    /// The tree that decides about receivers.
    pub route: Route,
    /// The receivers, by name.
    pub receivers: BTreeMap<String, Vec<Email>>,
}

/// One `email_configs` entry with the global settings filled in.
#[derive(Debug, Clone)]
pub struct Email {
    /// Who gets the mail; at least one.
    pub to: Vec<Mailbox>,
    /// The sender.
    pub from: Mailbox,
    /// The server's host name or address.
    pub host: String,
    /// The server's port.
    pub port: u16,
    /// The name given with EHLO; the machine's own name if it is not set.
    pub hello: Option<String>,
    /// How the connection is protected.
    pub security: Security,
    /// The login, if the server wants one.
    pub login: Option<Login>,
    /// How the server's certificate is checked.
    pub tls: Tls,
    /// Whether the end of an alert is worth a mail.
    pub send_resolved: bool,
    /// The subject, if it is not the default one.
    pub subject: Option<String>,
    /// Headers besides those of every mail.
    pub headers: BTreeMap<String, String>,
    /// The text part, if it is not the default one.
    pub text: Option<String>,
    /// The HTML part, if it is not the default one; empty: the mail has no HTML part.
    pub html: Option<String>,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plain at first, then STARTTLS; without it nothing is sent.
    StartTls,
    /// TLS from the first byte.
    Implicit,
    /// No TLS; never with a login.
    Plain,
}

/// How a mail server's certificate is checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Trusted instead of the system's authorities.
    pub ca_file: Option<PathBuf>,
    /// The name in the certificate, if it is not the host's.
    pub server_name: Option<String>,
    /// Accepts any certificate.
    pub insecure_skip_verify: bool,
}

/// A user and a password.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user's name.
    pub username: String,
    /// Where the password is.
    pub password: Password,
}

/// Where a password is.
#[derive(Debug, Clone)]
pub enum Password {
    /// In the configuration itself.
    Given(Secret),
    /// In a file that is read again at each use.
    File(PathBuf),
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Config {
    /// Reads a file; paths inside it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Ok(Self::parse(&path.display().to_string(), folder, &text)?)
    }

    /// Reads a text; `file` is its name in messages, `folder` where its relative paths begin.
    pub fn parse(file: &str, folder: &Path, text: &str) -> Result<Self, Box<Diagnostic>> {
        let raw = raw::read(file, text)?;
        let reader = Reader { file, folder, text };
        if let Some(timeout) = &raw.global.resolve_timeout {
            reader.duration(timeout)?;
        }
        let mut receivers = BTreeMap::new();
        for receiver in &raw.receivers {
            let name = &receiver.name;
            if name.value.is_empty() {
                return Err(reader.fault(name, "a receiver needs a name", None));
            }
            let emails = receiver.email_configs.iter().map(|e| reader.email(&raw.global, e));
            let emails = emails.collect::<Result<Vec<_>, _>>()?;
            if receivers.insert(name.value.clone(), emails).is_some() {
                let what = format!("receiver \"{}\" is defined twice", name.value.escape_debug());
                return Err(reader.fault(name, what, None));
            }
        }
        let root = raw.route.as_ref().ok_or_else(|| {
            Box::new(Diagnostic {
                what: "the file has no route".into(),
                file: file.into(),
                place: None,
                help: Some("add the root route with at least a receiver".into()),
            })
        })?;
        let names = receivers.keys().cloned().collect();
        let route = reader.root(root, &names)?;
        Ok(Self { route, receivers })
    }
}

/// Why a configuration was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("reading the alerting configuration {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file says something that cannot be done.
    #[error(transparent)]
    Faulty(#[from] Box<Diagnostic>),
}

struct Reader<'a> {
    file: &'a str,
    folder: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn duration(&self, text: &Spanned<String>) -> Result<Duration, Box<Diagnostic>> {
        duration::parse(&text.value).map_err(|e| self.fault(text, e.to_string(), None))
    }

    #[expect(clippy::unnecessary_box_returns, reason = "every caller returns the box as its error")]
    fn fault<T>(
        &self,
        at: &Spanned<T>,
        what: impl Into<String>,
        help: Option<&str>,
    ) -> Box<Diagnostic> {
        let place = Some(raw::place(self.text, at.referenced, 1));
        Box::new(Diagnostic {
            what: what.into(),
            file: self.file.to_owned(),
            place,
            help: help.map(str::to_owned),
        })
    }
}
