//! Conversations with scripted mail servers on loopback.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tributary_certs::bundle::{Folder, Init};
use tributary_certs::tls::WebTls;

use super::super::config::Secret;
use super::*;

/// What a server does at one command.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Act {
    Say(&'static str),
    Hang,
    Drop,
}

pub(in super::super) struct Script {
    pub(in super::super) security: Security,
    /// What EHLO lists before and under TLS.
    pub(in super::super) plain: &'static [&'static str],
    pub(in super::super) secure: &'static [&'static str],
    /// By the beginning of the line; `.` is the end of the mail.
    pub(in super::super) acts: &'static [(&'static str, Act)],
}

const OPEN: &[&str] = &["STARTTLS", "8BITMIME"];
const BOTH: &[&str] = &["AUTH PLAIN LOGIN"];
pub(in super::super) const STARTTLS: Script =
    Script { security: Security::StartTls, plain: OPEN, secure: BOTH, acts: &[] };
pub(in super::super) const PLAIN: Script =
    Script { security: Security::Plain, plain: &[], secure: &[], acts: &[] };

/// A running server: everything that was said to it, and the mails that it took.
pub(in super::super) struct Server {
    folder: TempDir,
    port: u16,
    heard: Arc<Mutex<Vec<String>>>,
    security: Security,
}

impl Server {
    pub(in super::super) async fn start(script: Script) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pki = folder.path().join("pki");
        let init = Init {
            trust_domain: "t",
            collector: "c",
            hosts: &["localhost".into()],
            lifetime: Duration::from_secs(3600),
            force: false,
        };
        Folder::init(&pki, &init, SystemTime::now()).unwrap();
        let own = pki.join("collector");
        let tls = WebTls::new(&own.join("tls.crt"), &own.join("tls.key"), None).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (log, security) = (Arc::clone(&heard), script.security);
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                serve(tcp, &tls, &script, &log).await;
            }
        });
        Self { folder, port, heard, security }
    }

    pub(in super::super) fn email(&self, login: bool) -> Email {
        let secret = self.folder.path().join("secret");
        if !secret.exists() {
            std::fs::write(&secret, "pass word\n").unwrap();
        }
        Email {
            to: Vec::new(),
            from: "t@example.org".parse().unwrap(),
            host: "localhost".into(),
            port: self.port,
            hello: Some("client.example.org".into()),
            security: self.security,
            login: login
                .then(|| Login { username: "user".into(), password: Password::File(secret) }),
            tls: Tls { ca_file: Some(self.folder.path().join("pki/ca.crt")), ..Tls::default() },
            send_resolved: false,
            subject: None,
            headers: BTreeMap::new(),
            text: None,
            html: None,
        }
    }

    pub(in super::super) fn heard(&self) -> String {
        self.heard.lock().unwrap().join("|")
    }
}

async fn serve(tcp: TcpStream, tls: &WebTls, script: &Script, heard: &Mutex<Vec<String>>) {
    if script.security == Security::Implicit {
        if let Ok(stream) = tls.accept(tcp).await {
            talk(stream, script, true, true, heard).await;
        }
        return;
    }
    let Some(tcp) = talk(tcp, script, false, true, heard).await else { return };
    if let Ok(stream) = tls.accept(tcp).await {
        talk(stream, script, true, false, heard).await;
    }
}

/// Serves until the client leaves; returns the stream for a TLS handshake after STARTTLS.
async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    script: &Script,
    secure: bool,
    greet: bool,
    heard: &Mutex<Vec<String>>,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    if greet {
        stream.write_all(b"220 peer ESMTP\r\n").await.ok()?;
    }
    let mut in_mail = false;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        if in_mail && line != "." {
            continue;
        }
        heard.lock().unwrap().push(line.clone());
        in_mail = false;
        let scripted = script.acts.iter().find(|(start, _)| line.starts_with(start));
        let reply = match scripted {
            Some((_, Act::Hang)) => return std::future::pending().await,
            Some((_, Act::Drop)) => return None,
            Some((_, Act::Say(text))) => format!("{text}\r\n"),
            None => default_reply(&line, if secure { script.secure } else { script.plain }),
        };
        stream.write_all(reply.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
        match line.as_str() {
            "STARTTLS" if reply.starts_with("220") => return Some(stream.into_inner()),
            "DATA" => in_mail = reply.starts_with("354"),
            "QUIT" => return None,
            _ => {}
        }
    }
}

fn default_reply(line: &str, extensions: &[&str]) -> String {
    match line.split_whitespace().next().unwrap_or("") {
        "EHLO" => {
            let mut lines = vec!["peer"];
            lines.extend(extensions);
            let last = lines.len() - 1;
            let line =
                |(i, l): (usize, &&str)| format!("250{}{l}\r\n", if i == last { ' ' } else { '-' });
            lines.iter().enumerate().map(line).collect()
        }
        "STARTTLS" => "220 go\r\n".into(),
        "AUTH" => "235 welcome\r\n".into(),
        "DATA" => "354 go on\r\n".into(),
        "QUIT" => "221 bye\r\n".into(),
        _ => "250 ok\r\n".into(),
    }
}

fn to(addresses: &[&str]) -> Vec<Address> {
    addresses.iter().map(|a| a.parse().unwrap()).collect()
}

fn quick() -> Mailer {
    let step = Duration::from_millis(300);
    let attempt = Duration::from_secs(20);
    let deadlines =
        Deadlines { connect: step * 10, reply: step * 10, data: step, attempt, quit: step };
    Mailer { deadlines, ..Mailer::default() }
}

async fn deliver(server: &Server, login: bool) -> Result<Delivery, Failure> {
    quick()
        .deliver(&server.email(login), &to(&["a@x.org", "b@x.org"]), b"Subject: s\r\n\r\n.hi")
        .await
}

fn summary(delivery: &Delivery) -> String {
    let reply = |r: &Reply| format!("{} {:?}", r.address, r.answer);
    delivery.replies.iter().map(reply).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn starttls_login_and_delivery() {
    let server = Server::start(STARTTLS).await;
    let delivery = deliver(&server, true).await.unwrap();
    assert_eq!(summary(&delivery), "a@x.org Accepted, b@x.org Accepted");
    assert_eq!(delivery.login.unwrap().username, "user");
    assert_eq!(
        server.heard(),
        "EHLO client.example.org|STARTTLS|EHLO client.example.org|AUTH PLAIN AHVzZXIAcGFzcyB3b3Jk|\
         MAIL FROM:<t@example.org>|RCPT TO:<a@x.org>|RCPT TO:<b@x.org>|DATA|.|QUIT"
    );
}

#[tokio::test]
async fn implicit_tls_and_login_whatever_the_questions_are() {
    let acts: &[(&str, Act)] = &[
        ("AUTH LOGIN", Act::Say("334 VXNlciBOYW1lAA==")),
        ("dXNlcg==", Act::Say("334 R2VoZWltbmlz")),
        ("cGFzcyB3b3Jk", Act::Say("235 ok")),
    ];
    let script = Script { security: Security::Implicit, plain: &[], secure: &["AUTH LOGIN"], acts };
    let server = Server::start(script).await;
    let delivery = deliver(&server, true).await.unwrap();
    assert_eq!(summary(&delivery), "a@x.org Accepted, b@x.org Accepted");
    assert!(server.heard().contains("AUTH LOGIN|dXNlcg==|cGFzcyB3b3Jk|MAIL"), "{}", server.heard());
}

#[tokio::test]
async fn plain_only_without_a_login() {
    let server = Server::start(PLAIN).await;
    assert_eq!(deliver(&server, false).await.unwrap().replies.len(), 2);
    let failure = deliver(&server, true).await.unwrap_err();
    assert_eq!(failure.reason, Reason::LoginNotOffered);
    assert!(!server.heard().contains("AUTH"));
}

#[tokio::test]
async fn nothing_is_sent_without_the_tls_that_is_wanted() {
    let server = Server::start(Script { plain: &["AUTH PLAIN"], ..STARTTLS }).await;
    let failure = deliver(&server, true).await.unwrap_err();
    assert_eq!((failure.reason, failure.step), (Reason::Tls, "STARTTLS"));
    assert_eq!(server.heard(), "EHLO client.example.org|QUIT");
}

#[tokio::test]
async fn answers_smuggled_before_tls_are_not_believed() {
    let injected = "220 go\r\n250-peer\r\n250 AUTH PLAIN\r\n235 welcome";
    let acts: &'static [(&str, Act)] = Box::leak(Box::new([("STARTTLS", Act::Say(injected))]));
    let server = Server::start(Script { acts, ..STARTTLS }).await;
    let failure = deliver(&server, true).await.unwrap_err();
    assert_eq!(failure.reason, Reason::Tls, "{failure}");
    assert_eq!(server.heard(), "EHLO client.example.org|STARTTLS");
}

#[tokio::test]
async fn a_server_that_cannot_prove_its_name_gets_nothing() {
    let server = Server::start(STARTTLS).await;
    let mut email = server.email(true);
    for (ca_file, name) in [(None, None), (email.tls.ca_file.clone(), Some("other".to_owned()))] {
        email.tls = Tls { ca_file, server_name: name, insecure_skip_verify: false };
        let failure = quick().deliver(&email, &to(&["a@x.org"]), b"x").await.unwrap_err();
        assert_eq!(failure.reason, Reason::Tls, "{failure}");
    }
    assert!(!server.heard().contains("AUTH"));
    email.tls.insecure_skip_verify = true;
    quick().deliver(&email, &to(&["a@x.org"]), b"x").await.unwrap();
}

#[tokio::test]
async fn a_login_that_is_not_offered_is_an_error() {
    let server = Server::start(Script { secure: &["AUTH CRAM-MD5"], ..STARTTLS }).await;
    let failure = deliver(&server, true).await.unwrap_err();
    assert_eq!(failure.reason, Reason::LoginNotOffered);
    assert!(!server.heard().contains("MAIL"));
}

#[tokio::test]
async fn a_refused_login_is_tried_once_until_the_password_changes() {
    let acts: &[(&str, Act)] = &[("AUTH PLAIN AHVzZXIAcGFzcyB3b3Jk", Act::Say("535 5.7.8 no"))];
    let server = Server::start(Script { acts, ..STARTTLS }).await;
    let (mailer, email) = (quick(), server.email(true));
    let first = mailer.probe(&email).await.unwrap_err();
    assert_eq!(first.reason, Reason::LoginRefused);
    assert!(first.text.contains("535 5.7.8 no") && !first.text.contains("pass"), "{first}");
    for _ in 0..3 {
        let again = mailer.probe(&email).await.unwrap_err();
        assert_eq!(again.reason, Reason::LoginPaused);
    }
    assert_eq!(server.heard().matches("AUTH").count(), 1);
    std::fs::write(server.folder.path().join("secret"), "new").unwrap();
    let login = mailer.probe(&email).await.unwrap().unwrap();
    assert_eq!(login.credential, fingerprint("user", "new"));
    let given =
        Some(Login { username: "user".into(), password: Password::Given(Secret("new".into())) });
    assert_eq!(mailer.probe(&Email { login: given, ..email }).await.unwrap().unwrap(), login);
}

#[tokio::test]
async fn one_refused_recipient_does_not_stop_the_others() {
    for (answer, expected) in [("550 5.1.1 no", "Refused"), ("451 4.7.1 later", "Later")] {
        let acts = vec![("RCPT TO:<a@", Act::Say(answer))];
        let server = Server::start(Script { acts: acts.leak(), ..PLAIN }).await;
        let delivery = deliver(&server, false).await.unwrap();
        assert_eq!(summary(&delivery), format!("a@x.org {expected}, b@x.org Accepted"));
        assert!(delivery.replies[0].text.contains(&answer[4..]));
    }
}

#[tokio::test]
async fn refusals_count_for_everybody_they_concern() {
    for (command, answer, expected) in [
        ("MAIL", "550 no", "Refused"),
        ("MAIL", "450 later", "Later"),
        ("RCPT", "550 no", "Refused"),
        ("DATA", "554 no", "Refused"),
        (".", "552 5.2.2 full", "Refused"),
        (".", "451 later", "Later"),
    ] {
        let acts = vec![(command, Act::Say(answer))];
        let server = Server::start(Script { acts: acts.leak(), ..PLAIN }).await;
        let delivery = deliver(&server, false).await.unwrap();
        let both = format!("a@x.org {expected}, b@x.org {expected}");
        assert_eq!(summary(&delivery), both, "{command} {answer}");
    }
}

#[tokio::test]
async fn a_silent_or_broken_server_costs_one_attempt() {
    for (command, act, expected) in [
        (".", Act::Hang, Reason::Timeout),
        (".", Act::Drop, Reason::Protocol),
        ("MAIL", Act::Say("421 shutting down"), Reason::Deferred),
        ("MAIL", Act::Say("530 5.7.0 STARTTLS first"), Reason::Refused),
        ("EHLO", Act::Say("554 go away"), Reason::Refused),
        ("EHLO", Act::Say("nonsense"), Reason::Protocol),
    ] {
        let acts = vec![(command, act)];
        let server = Server::start(Script { acts: acts.leak(), ..PLAIN }).await;
        let failure = deliver(&server, false).await.unwrap_err();
        assert_eq!(failure.reason, expected, "{command} {act:?}: {failure}");
    }
    let gone =
        Email { port: 1, host: "127.0.0.1".into(), ..Server::start(PLAIN).await.email(false) };
    let failure = quick().deliver(&gone, &to(&["a@x.org"]), b"x").await.unwrap_err();
    assert_eq!((failure.reason, failure.step), (Reason::Connection, "connecting"));
}

#[tokio::test]
async fn addresses_beyond_ascii_need_a_server_that_takes_them() {
    let mail = to(&["ä@x.org", "b@x.org"]);
    let server = Server::start(PLAIN).await;
    let delivery = quick().deliver(&server.email(false), &mail, b"x").await.unwrap();
    assert_eq!(summary(&delivery), "ä@x.org Refused, b@x.org Accepted");
    let server = Server::start(Script { plain: &["SMTPUTF8"], ..PLAIN }).await;
    let delivery = quick().deliver(&server.email(false), &mail, b"x").await.unwrap();
    assert_eq!(summary(&delivery), "ä@x.org Accepted, b@x.org Accepted");
    assert!(server.heard().contains("MAIL FROM:<t@example.org> SMTPUTF8"), "{}", server.heard());
}

#[tokio::test]
async fn an_unreadable_secret_is_said_so() {
    let server = Server::start(STARTTLS).await;
    let email = server.email(true);
    std::fs::remove_file(server.folder.path().join("secret")).unwrap();
    let failure = quick().probe(&email).await.unwrap_err();
    assert_eq!(failure.reason, Reason::File);
    assert_eq!(server.heard(), "");
}
