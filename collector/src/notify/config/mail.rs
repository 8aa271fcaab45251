//! Reads `email_configs`, filling in the global settings.

use std::collections::BTreeMap;
use std::fmt;

use lettre::message::{Mailbox, Mailboxes};
use serde_saphyr::Spanned;
use tributary_model::diagnostic::Diagnostic;

use super::{Email, Login, Password, Reader, Secret, Security, Tls, raw};

/// The port on which TLS begins at once, without STARTTLS.
const IMPLICIT_TLS_PORT: u16 = 465;
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

impl Reader<'_> {
    pub(super) fn email(
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
            hello: self.hello(raw.hello.as_ref().or(global.smtp_hello.as_ref()))?,
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

    fn hello(&self, name: Option<&Spanned<String>>) -> Result<Option<String>, Box<Diagnostic>> {
        let Some(name) = name.filter(|name| !name.value.is_empty()) else { return Ok(None) };
        if name.value.bytes().all(|b| b.is_ascii_graphic()) {
            return Ok(Some(name.value.clone()));
        }
        let what = format!("\"{}\" is not a host name", name.value.escape_debug());
        Err(self.fault(name, what, None))
    }

    fn mailboxes(&self, text: &Spanned<String>) -> Result<Vec<Mailbox>, Box<Diagnostic>> {
        self.refuse_template(text)?;
        let fault = |e: &dyn fmt::Display| {
            let what = format!("\"{}\" is not a mail address: {e}", text.value.escape_debug());
            self.fault(text, what, Some("several addresses are separated by commas"))
        };
        let list: Mailboxes = text.value.parse().map_err(|e| fault(&e))?;
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
}
