//! A mail server that keeps nothing: it takes mail on loopback and hands it on to be shown.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Connections served at once; others wait to be accepted.
const MAX_CONNECTIONS: usize = 8;
/// Longest line, RFC 5321's 1000 with room to spare; a longer one ends the connection.
const MAX_LINE: u64 = 4096;
/// Longest mail; a longer one ends the connection.
const MAX_MAIL: usize = 1 << 20;
/// Most recipients of one mail.
const MAX_RECIPIENTS: usize = 100;
/// How long a client may think.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mail as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mail {
    /// Who gets it, by the envelope.
    pub to: Vec<String>,
    /// Headers and body.
    pub text: String,
}

/// The server.
pub struct Mailbox {
    listener: TcpListener,
    mails: mpsc::Sender<Mail>,
}

impl Mailbox {
    /// Listens on a free port of loopback; mails go to `mails`.
    pub async fn bind(mails: mpsc::Sender<Mail>) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Self { listener, mails })
    }

    /// Where it listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Takes mail until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    if let Ok((tcp, _)) = accepted {
                        connections.spawn(serve(tcp, self.mails.clone()));
                    }
                }
            }
        }
    }
}

/// One connection; ends at QUIT, at the client's end, or at the first thing that no mail client does.
async fn serve(tcp: TcpStream, mails: mpsc::Sender<Mail>) -> Option<()> {
    let mut stream = BufReader::new(tcp);
    say(&mut stream, "220 mailbox ESMTP").await?;
    let mut to: Option<Vec<String>> = None;
    loop {
        let line = read_line(&mut stream).await?;
        let upper = line.to_ascii_uppercase();
        let verb = upper.split([' ', ':']).next().unwrap_or("");
        let reply = match (verb, &mut to) {
            ("EHLO" | "HELO", _) => "250 mailbox",
            ("MAIL", _) => {
                to = Some(Vec::new());
                "250 2.1.0 sender ok"
            }
            ("RCPT" | "DATA", None) => "503 5.5.1 MAIL first",
            ("RCPT", Some(list)) if list.len() >= MAX_RECIPIENTS => "452 4.5.3 too many recipients",
            ("RCPT", Some(list)) => {
                let address = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
                list.push(address.map_or(line.clone(), |(address, _)| address.to_owned()));
                "250 2.1.5 recipient ok"
            }
            ("DATA", Some(list)) if list.is_empty() => "503 5.5.1 RCPT first",
            ("DATA", Some(list)) => {
                say(&mut stream, "354 end with a dot").await?;
                let text = read_mail(&mut stream).await?;
                mails.send(Mail { to: std::mem::take(list), text }).await.ok()?;
                to = None;
                "250 2.0.0 shown"
            }
            ("RSET", _) => {
                to = None;
                "250 2.0.0 ok"
            }
            ("NOOP", _) => "250 2.0.0 ok",
            ("QUIT", _) => {
                say(&mut stream, "221 2.0.0 bye").await?;
                return Some(());
            }
            _ => "502 5.5.2 unknown command",
        };
        say(&mut stream, reply).await?;
    }
}

async fn say(stream: &mut BufReader<TcpStream>, reply: &str) -> Option<()> {
    let line = format!("{reply}\r\n");
    timeout(PATIENCE, stream.write_all(line.as_bytes())).await.ok()?.ok()
}

async fn read_line(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut bytes = Vec::new();
    let mut limited = stream.take(MAX_LINE);
    timeout(PATIENCE, limited.read_until(b'\n', &mut bytes)).await.ok()?.ok()?;
    let line = bytes.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    Some(String::from_utf8_lossy(line).into_owned())
}

async fn read_mail(stream: &mut BufReader<TcpStream>) -> Option<String> {
    let mut text = String::new();
    loop {
        let line = read_line(stream).await?;
        if line == "." {
            return Some(text);
        }
        if text.len() + line.len() > MAX_MAIL {
            return None;
        }
        text.push_str(line.strip_prefix('.').unwrap_or(&line));
        text.push('\n');
    }
}

impl Mail {
    /// The value of a header, unfolded.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut value: Option<String> = None;
        for line in self.text.lines().take_while(|line| !line.is_empty()) {
            match (&mut value, line.starts_with([' ', '\t'])) {
                (Some(value), true) => value.push_str(line),
                (Some(_), false) => break,
                (None, _) => {
                    let found = line.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case(name));
                    value = found.map(|(_, rest)| rest.trim().to_owned());
                }
            }
        }
        value
    }

    /// The text part, decoded; of a mail without parts its body.
    pub fn body(&self) -> String {
        let plain = self.text.find("Content-Type: text/plain").and_then(|at| self.text.get(at..));
        let part = plain.unwrap_or(&self.text);
        let (headers, body) = part.split_once("\n\n").unwrap_or(("", part));
        let end = body.find("\n--").unwrap_or(body.len());
        let body = body.get(..end).unwrap_or(body);
        if headers.contains("quoted-printable") { unquote_printable(body) } else { body.to_owned() }
    }
}

fn unquote_printable(text: &str) -> String {
    let text = text.replace("=\n", "");
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let decoded = code.and_then(|two| u8::from_str_radix(two, 16).ok());
        if let Some(decoded) = decoded.filter(|_| byte == b'=') {
            out.push(decoded);
            rest = after.get(2..).unwrap_or_default();
        } else {
            out.push(byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn talk(script: &[(&str, &str)]) -> Vec<Mail> {
        let (sender, mut mails) = mpsc::channel(4);
        let mailbox = Mailbox::bind(sender).await.unwrap();
        let address = mailbox.address().unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(mailbox.run(stop.clone()));
        let mut client = BufReader::new(TcpStream::connect(address).await.unwrap());
        assert!(read_line(&mut client).await.unwrap().starts_with("220"));
        for (line, expected) in script {
            client.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
            let reply = read_line(&mut client).await.unwrap_or_default();
            assert!(reply.starts_with(expected), "{line}: {reply}");
        }
        stop.cancel();
        running.await.unwrap();
        let mut all = Vec::new();
        while let Ok(mail) = mails.try_recv() {
            all.push(mail);
        }
        all
    }

    #[tokio::test]
    async fn takes_mail() {
        let mails = talk(&[
            ("EHLO x", "250"),
            ("DATA", "503"),
            ("MAIL FROM:<a@b>", "250"),
            ("DATA", "503"),
            ("RCPT TO:<c@d>", "250"),
            ("rcpt to:<e@f>", "250"),
            ("DATA", "354"),
            ("Subject: [FIRING:1]\r\n  x\r\n\r\n..dot=\r\nted =C3=BC\r\n.", "250"),
            ("STARTTLS", "502"),
            ("QUIT", "221"),
        ])
        .await;
        assert_eq!(mails.len(), 1);
        assert_eq!(mails[0].to, ["c@d", "e@f"]);
        assert_eq!(mails[0].header("subject").as_deref(), Some("[FIRING:1]  x"));
        assert_eq!(mails[0].header("to"), None);
        assert_eq!(mails[0].body(), ".dot=\nted =C3=BC\n");
    }

    #[tokio::test]
    async fn ends_a_conversation_without_line_ends() {
        let long = "x".repeat(5000);
        assert!(talk(&[("NOOP", "250"), (&long, "")]).await.is_empty());
    }

    #[test]
    fn shows_the_text_part() {
        let text = "Subject: s\nContent-Type: multipart/alternative; boundary=\"b\"\n\n--b\n\
                    Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n\n\
                    1 firing =E2=80=A6 lo=\nng\n\n--b\nContent-Type: text/html\n\n<p>\n--b--\n";
        let mail = Mail { to: vec![], text: text.into() };
        assert_eq!(mail.body(), "1 firing … long\n");
    }
}
