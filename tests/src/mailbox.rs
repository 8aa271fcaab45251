//! A mail server for stories: keeps what it gets, and refuses, defers or forgets on demand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::eventually;

/// A running server on loopback; plain, without login.
#[derive(Debug)]
pub struct Mailbox {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// A mail that was taken.
#[derive(Debug, Clone)]
pub struct Mail {
    /// The envelope's recipients.
    pub to: Vec<String>,
    /// Headers and body, as sent.
    pub text: String,
}

/// What the server does with mail from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mood {
    /// Takes everything.
    Accept,
    /// Answers 550 to this recipient.
    Refuse(String),
    /// Answers 451 to every recipient.
    Defer,
    /// Keeps the mail and hangs up before saying so.
    LoseReply,
}

#[derive(Debug)]
struct State {
    mails: Vec<Mail>,
    mood: Mood,
    /// How often a recipient was named, by anybody.
    recipients: Vec<String>,
}

impl Mailbox {
    /// Starts one that accepts everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = State { mails: Vec::new(), mood: Mood::Accept, recipients: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared)));
            }
        });
        Self { address, state, task }
    }

    /// Changes what it does.
    pub fn set(&self, mood: Mood) {
        self.state.lock().unwrap().mood = mood;
    }

    /// Everything it took so far.
    pub fn mails(&self) -> Vec<Mail> {
        self.state.lock().unwrap().mails.clone()
    }

    /// How often an address was given as a recipient.
    pub fn asked(&self, address: &str) -> usize {
        self.state.lock().unwrap().recipients.iter().filter(|to| *to == address).count()
    }

    /// Waits until there are at least `count` mails; returns them all.
    pub async fn at_least(&self, count: usize) -> Vec<Mail> {
        eventually(&format!("{count} mails"), async || {
            let mails = self.mails();
            (mails.len() >= count).then_some(mails)
        })
        .await
    }

    /// An Alertmanager configuration that mails to these addresses through this server, as fast as it may.
    pub fn alertmanager(&self, to: &str) -> String {
        format!(
            "global: {{ smtp_smarthost: '{}', smtp_from: tributary@example.org, smtp_require_tls: false }}
route: {{ receiver: oncall, group_by: [alertname], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }}
receivers: [ {{ name: oncall, email_configs: [ {{ to: '{to}', send_resolved: true }} ] }} ]
",
            self.address
        )
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Mail {
    /// A header's value, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.text.split("\r\n\r\n").next()?.replace("\r\n ", " ").replace("\r\n\t", " ");
        head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 story ESMTP\r\n").await.ok()?;
    let mut to = Vec::new();
    loop {
        let line = read_line(&mut stream).await?;
        let mood = state.lock().unwrap().mood.clone();
        let reply = match line.get(..4).unwrap_or("").to_ascii_uppercase().as_str() {
            "RCPT" => {
                let address = line.split(['<', '>']).nth(1).unwrap_or("").to_owned();
                state.lock().unwrap().recipients.push(address.clone());
                match mood {
                    Mood::Refuse(bad) if bad == address => "550 5.1.1 no such user",
                    Mood::Defer => "451 4.7.1 later",
                    _ => {
                        to.push(address);
                        "250 ok"
                    }
                }
            }
            "DATA" => {
                stream.write_all(b"354 go on\r\n").await.ok()?;
                let mut text = String::new();
                loop {
                    let line = read_line(&mut stream).await?;
                    if line == "." {
                        break;
                    }
                    text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    text.push_str("\r\n");
                }
                state.lock().unwrap().mails.push(Mail { to: std::mem::take(&mut to), text });
                if mood == Mood::LoseReply {
                    return None;
                }
                "250 kept"
            }
            "QUIT" => {
                stream.write_all(b"221 bye\r\n").await.ok()?;
                return Some(());
            }
            _ => "250 ok",
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await.ok()?;
    }
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await {
        Ok(0) | Err(_) => None,
        Ok(_) => Some(line.trim_end_matches(['\r', '\n']).to_owned()),
    }
}
