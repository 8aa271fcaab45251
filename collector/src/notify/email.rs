//! Delivers one mail over SMTP, command by command, each under its own deadline.

use std::collections::HashMap;
use std::fmt::Display;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters,
};
use lettre::transport::smtp::commands::{Auth, Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use lettre::transport::smtp::response::{Category, Code, Detail, Response, Severity};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tributary_certs::digest::sha256_hex;

use super::config::{Email, Login, Password, Security, Tls};
use super::group::Answer;
use super::stream::Guarded;

/// After a refused login the same password is not tried again for so long.
const LOGIN_PAUSE: Duration = Duration::from_secs(15 * 60);

/// How long each step may take.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// The TCP connection.
    pub connect: Duration,
    /// Each reply, TLS handshakes included.
    pub reply: Duration,
    /// The reply to the mail's last line.
    pub data: Duration,
    /// Everything together.
    pub attempt: Duration,
    /// The farewell, whose reply nothing depends on.
    pub quit: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            reply: Duration::from_secs(30),
            data: Duration::from_secs(60),
            attempt: Duration::from_secs(120),
            quit: Duration::from_secs(2),
        }
    }
}

/// The server's answer for one recipient.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The recipient.
    pub address: String,
    /// Whether it takes the mail.
    pub answer: Answer,
    /// What it said.
    pub text: String,
}

/// Why nobody got the mail.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{step}: {text}")]
pub struct Failure {
    /// The kind, for the metric.
    pub reason: Reason,
    /// What was being done.
    pub step: &'static str,
    /// What happened.
    pub text: String,
}

/// The kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No connection, or it broke.
    Connection,
    /// The TLS handshake failed, or the server offers none.
    Tls,
    /// A step took too long.
    Timeout,
    /// The server does not offer a login, but one is configured.
    LoginNotOffered,
    /// The server refused the login.
    LoginRefused,
    /// The login was refused earlier, and the password has not changed since; nothing was tried.
    LoginPaused,
    /// A secret or a CA file cannot be read.
    File,
    /// The server answered 4xx.
    Deferred,
    /// The server answered 5xx.
    Refused,
    /// The server does not speak SMTP.
    Protocol,
    /// The mail could not be written.
    Message,
    /// It was tried for too long.
    Expired,
}

impl Reason {
    /// The word in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::LoginNotOffered => "login_not_offered",
            Self::LoginRefused => "login_refused",
            Self::LoginPaused => "login_paused",
            Self::File => "file",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Protocol => "protocol",
            Self::Message => "message",
            Self::Expired => "expired",
        }
    }
}

/// A login that worked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// The user.
    pub username: String,
    /// The beginning of the SHA-256 of user and password, which tells old from new.
    pub credential: String,
}

/// What a conversation came to.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The login, if there was one.
    pub login: Option<LoggedIn>,
    /// One answer a recipient.
    pub replies: Vec<Reply>,
}

/// Delivers mails; remembers refused logins.
#[derive(Debug, Default)]
pub struct Mailer {
    /// How long each step may take.
    pub deadlines: Deadlines,
    logins: Mutex<HashMap<(String, u16, String), Arc<LoginState>>>,
}

/// The last refusal of a login; the lock also keeps two logins of one user from running at once.
type LoginState = tokio::sync::Mutex<Option<Refusal>>;

#[derive(Debug)]
struct Refusal {
    credential: String,
    at: Instant,
}

impl Mailer {
    /// Delivers a mail to those recipients; fails as a whole, or has an answer for each of them.
    pub async fn deliver(
        &self,
        email: &Email,
        to: &[Address],
        mail: &[u8],
    ) -> Result<Delivery, Failure> {
        let work = Box::pin(async {
            let (mut connection, login) = self.open(email).await?;
            let replies = self.hand_over(&mut connection, email, to, mail).await?;
            let _ = timeout(self.deadlines.quit, connection.quit()).await;
            Ok(Delivery { login, replies })
        });
        within(self.deadlines.attempt, "the whole attempt", work).await?
    }

    /// Connects and logs in, without sending anything: shows whether the settings work.
    pub async fn probe(&self, email: &Email) -> Result<Option<LoggedIn>, Failure> {
        let work = Box::pin(async {
            let (mut connection, login) = self.open(email).await?;
            let _ = timeout(self.deadlines.quit, connection.quit()).await;
            Ok(login)
        });
        within(self.deadlines.attempt, "the whole attempt", work).await?
    }

    async fn open(
        &self,
        email: &Email,
    ) -> Result<(AsyncSmtpConnection, Option<LoggedIn>), Failure> {
        let Some(login) = &email.login else {
            return Ok((self.connect(email).await?, None));
        };
        let state = self.login_state(email, login);
        let mut refusal = state.lock().await;
        let password = read_password(&login.password).await?;
        let credential = fingerprint(&login.username, &password);
        let paused = refusal
            .as_ref()
            .is_some_and(|r| r.credential == credential && r.at.elapsed() < LOGIN_PAUSE);
        if paused {
            let text = "the server refused this password; waiting for a new one".to_owned();
            return Err(Failure { reason: Reason::LoginPaused, step: "AUTH", text });
        }
        let mut connection = self.connect(email).await?;
        let credentials = Credentials::new(login.username.clone(), password);
        match self.log_in(&mut connection, credentials).await {
            Ok(()) => {
                *refusal = None;
                let username = login.username.clone();
                Ok((connection, Some(LoggedIn { username, credential })))
            }
            Err(failure) => {
                if failure.reason == Reason::LoginRefused {
                    *refusal = Some(Refusal { credential, at: Instant::now() });
                }
                let _ = timeout(self.deadlines.quit, connection.quit()).await;
                Err(failure)
            }
        }
    }

    fn login_state(&self, email: &Email, login: &Login) -> Arc<LoginState> {
        let key = (email.host.clone(), email.port, login.username.clone());
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(logins.entry(key).or_default())
    }

    async fn connect(&self, email: &Email) -> Result<AsyncSmtpConnection, Failure> {
        let hello = email.hello.clone().map_or_else(ClientId::default, ClientId::Domain);
        let server = (email.host.as_str(), email.port);
        if email.security == Security::Implicit {
            let tls = tls_parameters(email).await?;
            let limit = self.deadlines.connect + self.deadlines.reply;
            let connecting = AsyncSmtpConnection::connect_tokio1(
                server,
                Some(self.deadlines.connect),
                &hello,
                Some(tls),
                None,
            );
            return step(limit, "connecting with TLS", connecting).await;
        }
        let connecting = TcpStream::connect(server);
        let tcp = within(self.deadlines.connect, "connecting", connecting).await?;
        let tcp = tcp.map_err(|e| Failure {
            reason: Reason::Connection,
            step: "connecting",
            text: e.to_string(),
        })?;
        let stream = Box::new(Guarded::new(tcp));
        let greeting = AsyncSmtpConnection::connect_with_transport(stream, &hello);
        let mut connection = step(self.deadlines.reply, "EHLO", greeting).await?;
        if email.security == Security::StartTls {
            if !connection.can_starttls() {
                let text = "the server does not offer STARTTLS, and mail is not sent without TLS"
                    .to_owned();
                let _ = timeout(self.deadlines.quit, connection.quit()).await;
                return Err(Failure { reason: Reason::Tls, step: "STARTTLS", text });
            }
            let tls = tls_parameters(email).await?;
            step(self.deadlines.reply, "STARTTLS", connection.starttls(tls, &hello)).await?;
        }
        Ok(connection)
    }

    async fn log_in(
        &self,
        connection: &mut AsyncSmtpConnection,
        credentials: Credentials,
    ) -> Result<(), Failure> {
        let auth = |text: String, reason| Failure { reason, step: "AUTH", text };
        if !connection.is_encrypted() {
            let text = "refusing to log in without TLS".to_owned();
            return Err(auth(text, Reason::LoginNotOffered));
        }
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        let Some(mechanism) = connection.server_info().get_auth_mechanism(&mechanisms) else {
            let text =
                "a login is configured, but the server offers neither AUTH PLAIN nor AUTH LOGIN"
                    .to_owned();
            return Err(auth(text, Reason::LoginNotOffered));
        };
        let first = Auth::new(mechanism, credentials.clone(), None);
        let mut reply = self.auth_command(connection, first).await?;
        if mechanism == Mechanism::Login {
            // The first question is for the user, the second for the password, whatever their words.
            for question in ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"] {
                if !reply.has_code(334) {
                    break;
                }
                let code =
                    Code::new(Severity::PositiveIntermediate, Category::Unspecified3, Detail::Four);
                let asked = Response::new(code, vec![question.to_owned()]);
                let next = Auth::new_from_response(mechanism, credentials.clone(), &asked);
                reply = self.auth_command(connection, next).await?;
            }
        }
        if reply.has_code(235) {
            return Ok(());
        }
        let text = format!("unexpected answer {} to the login", reply.code());
        Err(auth(text, Reason::Protocol))
    }

    async fn auth_command(
        &self,
        connection: &mut AsyncSmtpConnection,
        command: Result<Auth, SmtpError>,
    ) -> Result<Response, Failure> {
        let command = command.map_err(|e| failure("AUTH", &e))?;
        let reply = step(self.deadlines.reply, "AUTH", connection.command(command)).await;
        reply.map_err(|failure| match failure.reason {
            Reason::Refused => Failure { reason: Reason::LoginRefused, ..failure },
            _ => failure,
        })
    }

    /// MAIL, every RCPT on its own, DATA.
    async fn hand_over(
        &self,
        connection: &mut AsyncSmtpConnection,
        email: &Email,
        to: &[Address],
        mail: &[u8],
    ) -> Result<Vec<Reply>, Failure> {
        let reply = self.deadlines.reply;
        let from = &email.from.email;
        let utf8 = connection.server_info().supports_feature(Extension::SmtpUtfEight);
        let beyond_ascii = |a: &Address| !AsRef::<str>::as_ref(a).is_ascii();
        let (sendable, unsendable): (Vec<_>, Vec<_>) =
            to.iter().partition(|a| utf8 || !(beyond_ascii(a) || beyond_ascii(from)));
        let no_utf8 = "550 the server does not take addresses beyond ASCII (SMTPUTF8)";
        let mut replies = answers(&unsendable, Answer::Refused, no_utf8);
        if sendable.is_empty() {
            return Ok(replies);
        }
        let needs_utf8 = sendable.iter().any(|a| beyond_ascii(a)) || beyond_ascii(from);
        let parameters = if needs_utf8 { vec![MailParameter::SmtpUtfEight] } else { Vec::new() };
        let command = connection.command(Mail::new(Some(from.clone()), parameters));
        if let Some((answer, text)) = refusal(step(reply, "MAIL", command).await)? {
            replies.extend(answers(&sendable, answer, &text));
            return Ok(replies);
        }
        let mut accepted = Vec::new();
        for address in sendable {
            let command = connection.command(Rcpt::new(address.clone(), Vec::new()));
            match refusal(step(reply, "RCPT", command).await)? {
                Some((answer, text)) => replies.extend(answers(&[address], answer, &text)),
                None => accepted.push(address),
            }
        }
        if accepted.is_empty() {
            return Ok(replies);
        }
        let outcome = match refusal(step(reply, "DATA", connection.command(Data)).await)? {
            Some(outcome) => Some(outcome),
            None => refusal(
                step(self.deadlines.data, "the mail's text", connection.message(mail)).await,
            )?,
        };
        let (answer, text) = outcome.unwrap_or((Answer::Accepted, "250".to_owned()));
        replies.extend(answers(&accepted, answer, &text));
        Ok(replies)
    }
}

fn answers(addresses: &[&Address], answer: Answer, text: &str) -> Vec<Reply> {
    let reply = |a: &&Address| Reply { address: a.to_string(), answer, text: text.to_owned() };
    addresses.iter().map(reply).collect()
}

/// A refused command is an answer for its recipients; anything else that went wrong fails the attempt.
fn refusal(result: Result<Response, Failure>) -> Result<Option<(Answer, String)>, Failure> {
    match result {
        Ok(_) => Ok(None),
        // 530: the server wants TLS or a login first. That is about our settings, not about recipients.
        Err(f) if f.reason == Reason::Refused && !f.text.starts_with("530") => {
            Ok(Some((Answer::Refused, f.text)))
        }
        // 421: the server is about to close the connection.
        Err(f) if f.reason == Reason::Deferred && !f.text.starts_with("421") => {
            Ok(Some((Answer::Later, f.text)))
        }
        Err(f) => Err(f),
    }
}

async fn within<T>(
    limit: Duration,
    step: &'static str,
    work: impl Future<Output = T>,
) -> Result<T, Failure> {
    timeout(limit, work).await.map_err(|_| Failure {
        reason: Reason::Timeout,
        step,
        text: format!("no answer within {limit:?}"),
    })
}

async fn step<T>(
    limit: Duration,
    name: &'static str,
    work: impl Future<Output = Result<T, SmtpError>>,
) -> Result<T, Failure> {
    within(limit, name, work).await?.map_err(|e| failure(name, &e))
}

fn failure(step: &'static str, error: &SmtpError) -> Failure {
    let source = || chain(std::error::Error::source(error));
    let (reason, text) = match error.status() {
        Some(code) => {
            let reason = if error.is_permanent() { Reason::Refused } else { Reason::Deferred };
            (reason, format!("{code} {}", source()))
        }
        None if error.is_tls() || (step == "STARTTLS" && !error.is_response()) => {
            (Reason::Tls, source())
        }
        None if error.is_response() || error.is_client() => (Reason::Protocol, source()),
        None => (Reason::Connection, source()),
    };
    Failure { reason, step, text }
}

/// The reasons below an error, each once.
fn chain(mut source: Option<&dyn std::error::Error>) -> String {
    let mut parts: Vec<String> = Vec::new();
    while let Some(error) = source {
        let text = error.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = error.source();
    }
    if parts.is_empty() { "no reason given".to_owned() } else { parts.join(": ") }
}

async fn read_password(password: &Password) -> Result<String, Failure> {
    match password {
        Password::Given(secret) => Ok(secret.0.clone()),
        Password::File(path) => {
            let text = tokio::fs::read_to_string(path).await.map_err(|e| file(path, &e))?;
            Ok(text.trim().to_owned())
        }
    }
}

/// The first eight hexadecimal digits of the SHA-256 of user and password.
fn fingerprint(username: &str, password: &str) -> String {
    let hash = sha256_hex(format!("{username}\0{password}").as_bytes());
    hash.get(..8).unwrap_or_default().to_owned()
}

async fn tls_parameters(email: &Email) -> Result<TlsParameters, Failure> {
    let (tls, host) = (email.tls.clone(), email.host.clone());
    let built = tokio::task::spawn_blocking(move || build_tls(&tls, host)).await;
    built.unwrap_or_else(|e| {
        Err(Failure { reason: Reason::Tls, step: "preparing TLS", text: e.to_string() })
    })
}

fn build_tls(tls: &Tls, host: String) -> Result<TlsParameters, Failure> {
    let failed = |text: String| Failure { reason: Reason::Tls, step: "preparing TLS", text };
    let mut builder = TlsParameters::builder(tls.server_name.clone().unwrap_or(host));
    if let Some(path) = &tls.ca_file {
        let pem = std::fs::read(path).map_err(|e| file(path, &e))?;
        let ca =
            Certificate::from_pem(&pem).map_err(|e| failed(format!("{}: {e}", path.display())))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(ca);
    }
    if tls.insecure_skip_verify {
        builder =
            builder.dangerous_accept_invalid_certs(true).dangerous_accept_invalid_hostnames(true);
    }
    builder.build().map_err(|e| failed(e.to_string()))
}

fn file(path: &Path, error: &dyn Display) -> Failure {
    let text = format!("reading {}: {error}", path.display());
    Failure { reason: Reason::File, step: "preparing", text }
}

#[cfg(test)]
pub(super) mod tests;
