//! Reads Alertmanager's configuration file: where mail goes, when, and over which server.

mod matchers;
mod raw;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lettre::message::Mailbox;
use serde_saphyr::Spanned;
use tributary_model::diagnostic::Diagnostic;
use tributary_model::duration;
use tributary_model::matcher::{MatchOp, Matcher};

use super::route::{GroupBy, Route, Timing};

/// The port on which TLS begins at once, without STARTTLS.
const IMPLICIT_TLS_PORT: u16 = 465;
/// How deep routes may nest.
const MAX_ROUTE_DEPTH: usize = 32;
/// Headers that are made here and cannot be set by hand; recipients come from `to` alone.
const RESERVED_HEADERS: &[&str] = &[
    "auto-submitted",
    "bcc",
    "cc",
    "content-transfer-encoding",
    "content-type",
    "date",
    "from",
    "in-reply-to",
    "message-id",
    "mime-version",
    "references",
    "sender",
    "to",
];

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

/// What a route takes from the one above it.
struct Above<'a> {
    receiver: &'a str,
    group_by: &'a GroupBy,
    timing: Timing,
    key: &'a str,
    depth: usize,
}

struct Reader<'a> {
    file: &'a str,
    folder: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    fn root(
        &self,
        raw: &Spanned<raw::Route>,
        receivers: &BTreeSet<String>,
    ) -> Result<Route, Box<Diagnostic>> {
        let route = &raw.value;
        if route.receiver.is_none() {
            return Err(self.fault(raw, "the root route needs a receiver", None));
        }
        if !(route.matchers.is_empty() && route.equal.is_empty() && route.regex.is_empty()) {
            let help = "the root route takes every alert: put the matchers on a route below it";
            return Err(self.fault(raw, "the root route must not have matchers", Some(help)));
        }
        let above = Above {
            receiver: "",
            group_by: &GroupBy::Labels(BTreeSet::new()),
            timing: Timing::default(),
            key: "",
            depth: 0,
        };
        self.route(raw, &above, receivers)
    }

    fn route(
        &self,
        spanned: &Spanned<raw::Route>,
        above: &Above<'_>,
        receivers: &BTreeSet<String>,
    ) -> Result<Route, Box<Diagnostic>> {
        let raw = &spanned.value;
        if above.depth >= MAX_ROUTE_DEPTH {
            let what = format!("routes are nested deeper than {MAX_ROUTE_DEPTH} levels");
            return Err(self.fault(spanned, what, None));
        }
        let receiver = match &raw.receiver {
            Some(name) if !receivers.contains(&name.value) => {
                let what = format!("receiver \"{}\" is not defined", name.value.escape_debug());
                let help = format!("defined are: {}", join(receivers));
                return Err(self.fault(name, what, Some(&help)));
            }
            Some(name) => name.value.as_str(),
            None => above.receiver,
        };
        let matchers = self.matchers(raw)?;
        let list: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        let list = format!("{{{}}}", list.join(","));
        let key = if above.key.is_empty() { list } else { format!("{}/{list}", above.key) };
        let group_by = match &raw.group_by {
            Some(names) => self.group_by(names)?,
            None => above.group_by.clone(),
        };
        let timing = self.timing(raw, above.timing)?;
        let below =
            Above { receiver, group_by: &group_by, timing, key: &key, depth: above.depth + 1 };
        let routes = raw.routes.iter().map(|r| self.route(r, &below, receivers));
        let routes = routes.collect::<Result<Vec<_>, _>>()?;
        Ok(Route {
            receiver: receiver.to_owned(),
            matchers,
            goes_on: raw.goes_on,
            routes,
            timing,
            group_by,
            key,
        })
    }

    fn timing(&self, raw: &raw::Route, above: Timing) -> Result<Timing, Box<Diagnostic>> {
        let or = |own: &Option<Spanned<String>>, above| match own {
            Some(text) => self.duration(text),
            None => Ok(above),
        };
        let timing = Timing {
            group_wait: or(&raw.group_wait, above.group_wait)?,
            group_interval: or(&raw.group_interval, above.group_interval)?,
            repeat_interval: or(&raw.repeat_interval, above.repeat_interval)?,
        };
        for (own, value, name) in [
            (&raw.group_interval, timing.group_interval, "group_interval"),
            (&raw.repeat_interval, timing.repeat_interval, "repeat_interval"),
        ] {
            if let (Some(text), true) = (own, value.is_zero()) {
                return Err(self.fault(text, format!("{name} must not be zero"), None));
            }
        }
        Ok(timing)
    }

    fn group_by(&self, names: &[Spanned<String>]) -> Result<GroupBy, Box<Diagnostic>> {
        if let [only] = names
            && only.value == "..."
        {
            return Ok(GroupBy::Everything);
        }
        let mut labels = BTreeSet::new();
        for name in names {
            if name.value == "..." {
                let help = "'...' means every label: write it alone or not at all";
                return Err(self.fault(name, "'...' stands beside other labels", Some(help)));
            }
            if name.value.is_empty() {
                return Err(self.fault(name, "a label name must not be empty", None));
            }
            if !labels.insert(name.value.clone()) {
                let what = format!("label \"{}\" is given twice", name.value.escape_debug());
                return Err(self.fault(name, what, None));
            }
        }
        Ok(GroupBy::Labels(labels))
    }

    fn matchers(&self, raw: &raw::Route) -> Result<Vec<Matcher>, Box<Diagnostic>> {
        let mut out: Vec<Matcher> =
            raw.equal.iter().map(|(name, value)| Matcher::equal(name, value)).collect();
        for (name, value) in &raw.regex {
            let matcher = Matcher::new(name, MatchOp::Match, &value.value)
                .map_err(|e| self.fault(value, e.to_string(), None))?;
            out.push(matcher);
        }
        for text in &raw.matchers {
            let help = "write label=\"value\", with =, !=, =~ or !~";
            let more = matchers::parse(&text.value).map_err(|e| self.fault(text, e, Some(help)))?;
            out.extend(more);
        }
        out.sort_by(|a, b| (a.name(), a.op(), a.value()).cmp(&(b.name(), b.op(), b.value())));
        Ok(out)
    }

    fn duration(&self, text: &Spanned<String>) -> Result<Duration, Box<Diagnostic>> {
        duration::parse(&text.value).map_err(|e| self.fault(text, e.to_string(), None))
    }

    fn email(
        &self,
        global: &raw::Global,
        spanned: &Spanned<raw::Email>,
    ) -> Result<Email, Box<Diagnostic>> {
        let raw = &spanned.value;
        let smarthost = raw.smarthost.as_ref().or(global.smtp_smarthost.as_ref());
        let missing = |what: &str, help: &str| self.fault(spanned, what, Some(help));
        let smarthost = smarthost.ok_or_else(|| {
            missing(
                "no mail server is given",
                "set smarthost here or global.smtp_smarthost to host:port",
            )
        })?;
        let (host, port) = self.smarthost(smarthost)?;
        let from = raw.from.as_ref().or(global.smtp_from.as_ref());
        let from =
            from.ok_or_else(|| missing("no sender is given", "set from here or global.smtp_from"))?;
        let [from] = <[Mailbox; 1]>::try_from(self.mailboxes(from)?)
            .map_err(|_| self.fault(from, "the sender must be one address", None))?;
        let login = self.login(global, spanned)?;
        let security = self.security(global, spanned, port, login.is_some())?;
        let mut headers = self.headers(&raw.headers)?;
        let subject = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("subject"));
        let subject = subject.map(|(name, _)| name.clone()).and_then(|name| headers.remove(&name));
        Ok(Email {
            to: self.mailboxes(&raw.to)?,
            from,
            host,
            port,
            hello: raw.hello.clone().or_else(|| global.smtp_hello.clone()),
            security,
            login,
            tls: self.tls(raw.tls_config.as_ref().or(global.smtp_tls_config.as_ref()), spanned)?,
            send_resolved: raw.send_resolved,
            subject,
            headers,
            text: self.fixed(raw.text.as_ref())?,
            html: self.fixed(raw.html.as_ref())?,
        })
    }

    fn smarthost(&self, text: &Spanned<String>) -> Result<(String, u16), Box<Diagnostic>> {
        let fault = || {
            self.fault(
                text,
                "the mail server must be written as host:port",
                Some("for example smtp.example.org:587"),
            )
        };
        let (host, port) = text.value.rsplit_once(':').ok_or_else(fault)?;
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().map_err(|_| fault())?;
        if bare.is_empty()
            || bare.contains(|c: char| c.is_whitespace() || c.is_control())
            || port == 0
        {
            return Err(fault());
        }
        Ok((bare.to_owned(), port))
    }

    fn mailboxes(&self, text: &Spanned<String>) -> Result<Vec<Mailbox>, Box<Diagnostic>> {
        self.refuse_template(text)?;
        let fault = |e: &dyn fmt::Display| {
            let what = format!("\"{}\" is not a mail address: {e}", text.value.escape_debug());
            self.fault(text, what, Some("several addresses are separated by commas"))
        };
        let list: lettre::message::Mailboxes = text.value.parse().map_err(|e| fault(&e))?;
        let list: Vec<Mailbox> = list.into_iter().collect();
        if list.is_empty() { Err(fault(&"it is empty")) } else { Ok(list) }
    }

    fn login(
        &self,
        global: &raw::Global,
        spanned: &Spanned<raw::Email>,
    ) -> Result<Option<Login>, Box<Diagnostic>> {
        let raw = &spanned.value;
        let username = raw.auth_username.as_ref().or(global.smtp_auth_username.as_ref());
        let own = (raw.auth_password.as_ref(), raw.auth_password_file.as_ref());
        let (given, file) = if own == (None, None) {
            (global.smtp_auth_password.as_ref(), global.smtp_auth_password_file.as_ref())
        } else {
            own
        };
        let password = match (given, file) {
            (Some(_), Some(_)) => {
                let what = "the password is given twice, as text and as a file";
                return Err(self.fault(spanned, what, Some("keep the file")));
            }
            (Some(text), None) => Some(Password::Given(Secret(text.clone()))),
            (None, Some(file)) => Some(Password::File(self.folder.join(file))),
            (None, None) => None,
        };
        match (username.filter(|name| !name.is_empty()), password) {
            (None, _) => Ok(None),
            (Some(username), Some(password)) => {
                Ok(Some(Login { username: username.clone(), password }))
            }
            (Some(_), None) => Err(self.fault(
                spanned,
                "a user is given without a password",
                Some("set auth_password_file here or global.smtp_auth_password_file"),
            )),
        }
    }

    fn security(
        &self,
        global: &raw::Global,
        spanned: &Spanned<raw::Email>,
        port: u16,
        login: bool,
    ) -> Result<Security, Box<Diagnostic>> {
        let raw = &spanned.value;
        let implicit = raw.force_implicit_tls.or(global.smtp_force_implicit_tls);
        let required = raw.require_tls.or(global.smtp_require_tls).unwrap_or(true);
        match (implicit.unwrap_or(port == IMPLICIT_TLS_PORT), required, login) {
            (true, _, _) => Ok(Security::Implicit),
            (false, true, _) => Ok(Security::StartTls),
            (false, false, false) => Ok(Security::Plain),
            (false, false, true) => Err(self.fault(
                spanned,
                "the password would cross the network in clear text",
                Some("set require_tls: true, or remove the login"),
            )),
        }
    }

    fn tls(
        &self,
        raw: Option<&raw::Tls>,
        at: &Spanned<raw::Email>,
    ) -> Result<Tls, Box<Diagnostic>> {
        let Some(raw) = raw else { return Ok(Tls::default()) };
        if raw.cert_file.is_some() || raw.key_file.is_some() {
            return Err(self.fault(
                at,
                "client certificates for mail servers are not supported yet",
                None,
            ));
        }
        Ok(Tls {
            ca_file: raw.ca_file.as_ref().map(|file| self.folder.join(file)),
            server_name: raw.server_name.clone().filter(|name| !name.is_empty()),
            insecure_skip_verify: raw.insecure_skip_verify,
        })
    }

    fn headers(
        &self,
        raw: &BTreeMap<String, Spanned<String>>,
    ) -> Result<BTreeMap<String, String>, Box<Diagnostic>> {
        let mut out = BTreeMap::new();
        for (name, value) in raw {
            self.refuse_template(value)?;
            let lower = name.to_ascii_lowercase();
            if RESERVED_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-tributary-") {
                let what = format!("the header \"{name}\" is made by Tributary and cannot be set");
                return Err(self.fault(value, what, None));
            }
            let legal = |b: u8| b.is_ascii_graphic() && b != b':';
            if name.is_empty() || name.len() > 76 || !name.bytes().all(legal) {
                let what = format!("\"{}\" is not a header's name", name.escape_debug());
                return Err(self.fault(value, what, None));
            }
            out.insert(name.clone(), value.value.clone());
        }
        Ok(out)
    }

    fn fixed(&self, text: Option<&Spanned<String>>) -> Result<Option<String>, Box<Diagnostic>> {
        text.map(|text| self.refuse_template(text).map(|()| text.value.clone())).transpose()
    }

    fn refuse_template(&self, text: &Spanned<String>) -> Result<(), Box<Diagnostic>> {
        if text.value.contains("{{") {
            let help = "remove it: the default mail names the alerts, their labels and annotations";
            return Err(self.fault(text, "templates are not supported here yet", Some(help)));
        }
        Ok(())
    }

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

fn join(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}
