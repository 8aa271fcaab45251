//! `tributary-collector smtp test`: shows whether mail would go out, before an alert has to.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use lettre::message::Mailbox;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use super::Alert;
use super::config::{Config, ConfigError, Email, Security};
use super::email::{Failure, LoggedIn, Mailer, Reason};
use super::group::Answer;
use super::log::{Intent, Key};
use super::message::{self, Sender};

const CHECK_FAILED: u8 = 1;
const USAGE: u8 = 2;
const NO_CONNECTION: u8 = 3;

/// Look at the mail servers that alerts are sent over.
#[derive(Debug, Clone, clap::Args)]
pub struct SmtpArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Connect and log in for every receiver; with --to, also send a test mail.
    ///
    /// Exit codes: 0 all well, 1 something was refused, 2 bad configuration, 3 a server cannot be reached.
    Test {
        /// An Alertmanager configuration file
        #[arg(long, value_name = "FILE", default_value = "alertmanager.yml")]
        config: PathBuf,
        /// Only this receiver
        #[arg(long, value_name = "NAME")]
        receiver: Option<String>,
        /// Send a test mail to this address instead of only logging in
        #[arg(long, value_name = "ADDRESS")]
        to: Option<Mailbox>,
    },
}

/// Runs the command.
pub async fn command(args: SmtpArgs, out: &mut (impl Write + Send)) -> std::io::Result<ExitCode> {
    let Action::Test { config, receiver, to } = args.action;
    let config = match Config::load(&config) {
        Ok(config) => config,
        Err(error @ (ConfigError::Unreadable { .. } | ConfigError::Faulty(_))) => {
            writeln!(out, "error: {error}")?;
            return Ok(ExitCode::from(USAGE));
        }
    };
    if let Some(name) = receiver.as_ref().filter(|name| !config.receivers.contains_key(*name)) {
        let names: Vec<&str> = config.receivers.keys().map(String::as_str).collect();
        writeln!(
            out,
            "error: receiver \"{name}\" is not defined\n  = help: defined are: {}",
            names.join(", ")
        )?;
        return Ok(ExitCode::from(USAGE));
    }
    let mut code = 0;
    let mailer = Mailer::default();
    for (name, emails) in &config.receivers {
        if receiver.as_ref().is_some_and(|wanted| wanted != name) {
            continue;
        }
        for (integration, email) in emails.iter().enumerate() {
            let key = Key { receiver: name.clone(), integration, group: "{}:{}".to_owned() };
            let result = try_out(&mailer, &key, email, to.as_ref()).await;
            write!(out, "{name}  {}:{} {}  ", email.host, email.port, words(email.security))?;
            match result {
                Ok(said) => writeln!(out, "ok: {said}")?,
                Err(failure) => {
                    writeln!(out, "FAILED ({}): {failure}", failure.reason.as_str())?;
                    code = code.max(exit_code(failure.reason));
                }
            }
        }
    }
    Ok(ExitCode::from(code))
}

async fn try_out(
    mailer: &Mailer,
    key: &Key,
    email: &Email,
    to: Option<&Mailbox>,
) -> Result<String, Failure> {
    let Some(to) = to else {
        let login = mailer.probe(email).await?;
        return Ok(login_words(login.as_ref()));
    };
    let email = Email { to: vec![to.clone()], ..email.clone() };
    let sender = Sender { external_url: None, cluster_label: "cluster".to_owned() };
    let mail = message::write(&sender, key, &email, &test_intent(&email)).map_err(|e| Failure {
        reason: Reason::Message,
        step: "preparing",
        text: e.to_string(),
    })?;
    let delivery = mailer.deliver(&email, std::slice::from_ref(&to.email), &mail).await?;
    let login = login_words(delivery.login.as_ref());
    match delivery.replies.into_iter().next() {
        Some(reply) if reply.answer == Answer::Accepted => {
            Ok(format!("{login}; a test mail to {} was accepted", reply.address))
        }
        reply => Err(Failure {
            reason: Reason::Refused,
            step: "the test mail",
            text: reply.map_or_else(|| "no answer".to_owned(), |reply| reply.text),
        }),
    }
}

/// A notification about an alert that says what it is.
fn test_intent(email: &Email) -> Intent {
    let now = Timestamp::from(SystemTime::now());
    // The name is well-formed, and given once.
    let labels = Labels::from_pairs([("alertname", "TributaryTest")]).unwrap_or_default();
    let text = "This is a test mail; nothing is wrong".to_owned();
    let alert = Alert {
        labels: labels.clone(),
        annotations: BTreeMap::from([("summary".to_owned(), text)]),
        starts_at: now,
        ends_at: now,
        generator_url: String::new(),
    };
    Intent {
        sequence: now.as_millis(),
        message_id: format!(
            "<test.{now}.{:016x}@{}>",
            rand::random::<u64>(),
            email.from.email.domain()
        ),
        in_reply_to: None,
        created_at: now,
        group_labels: labels,
        firing: vec![alert],
        resolved: Vec::new(),
        recipients: Vec::new(),
        attempts: 0,
        next_attempt: now,
    }
}

fn login_words(login: Option<&LoggedIn>) -> String {
    match login {
        Some(LoggedIn { username, credential }) => {
            format!("logged in as {username} with credential sha256:{credential}")
        }
        None => "no login configured".to_owned(),
    }
}

fn words(security: Security) -> &'static str {
    match security {
        Security::StartTls => "STARTTLS",
        Security::Implicit => "TLS",
        Security::Plain => "plain",
    }
}

fn exit_code(reason: Reason) -> u8 {
    match reason {
        Reason::Connection | Reason::Timeout => NO_CONNECTION,
        _ => CHECK_FAILED,
    }
}
