//! Writes a notification as a mail: the same bytes for every attempt.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use lettre::Message;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, MultiPart, SinglePart};
use tributary_certs::digest::sha256_hex;
use tributary_model::label::{Label, Labels};
use tributary_model::sample::Timestamp;

use super::Alert;
use super::config::Email;
use super::log::{Intent, Key};

/// Alerts described in one mail; the rest is only counted.
const MAX_LISTED: usize = 100;
/// Longest subject, in characters.
const MAX_SUBJECT_CHARS: usize = 200;
/// Longest value of another header, in characters.
const MAX_HEADER_CHARS: usize = 500;
/// Longest label or annotation value shown, in characters.
const MAX_VALUE_CHARS: usize = 4000;

/// What mails say about the collector that sends them.
#[derive(Debug, Clone)]
pub struct Sender {
    /// Where people reach the collector, for the link in the mail.
    pub external_url: Option<String>,
    /// The label that names the cluster.
    pub cluster_label: String,
}

/// Why a notification cannot be written as a mail.
#[derive(Debug, thiserror::Error)]
#[error("writing the mail: {0}")]
pub struct MessageError(#[from] lettre::error::Error);

/// The mail, with CRLF line ends.
pub fn write(
    sender: &Sender,
    key: &Key,
    email: &Email,
    intent: &Intent,
) -> Result<Vec<u8>, MessageError> {
    let date = u64::try_from(intent.created_at.as_millis()).unwrap_or(0);
    let subject = email.subject.clone().unwrap_or_else(|| subject(intent));
    let mut builder = Message::builder()
        .from(email.from.clone())
        .date(SystemTime::UNIX_EPOCH + Duration::from_millis(date))
        .message_id(Some(intent.message_id.clone()))
        .subject(one_line(&subject, MAX_SUBJECT_CHARS));
    for to in &email.to {
        builder = builder.to(to.clone());
    }
    if let Some(root) = &intent.in_reply_to {
        builder = builder.in_reply_to(root.clone()).references(root.clone());
    }
    for (name, value) in own_headers(sender, key, intent) {
        builder = raw(builder, name, &value);
    }
    for (name, value) in &email.headers {
        builder = raw(builder, name, value);
    }
    let plain = email.text.clone().unwrap_or_else(|| text(sender, intent));
    let rich = email.html.clone().unwrap_or_else(|| html(sender, intent));
    let plain = part(&plain, ContentType::TEXT_PLAIN);
    let message = if rich.is_empty() {
        builder.singlepart(plain)?
    } else {
        let boundary = sha256_hex(intent.message_id.as_bytes());
        let boundary = boundary.get(..32).unwrap_or("tributary");
        let rich = part(&rich, ContentType::TEXT_HTML);
        let both = MultiPart::alternative().boundary(boundary).singlepart(plain);
        builder.multipart(both.singlepart(rich))?
    };
    Ok(message.formatted())
}

/// `[FIRING:2] values of the group's labels (values of the other common labels)`.
fn subject(intent: &Intent) -> String {
    let status = if intent.firing.is_empty() {
        "[RESOLVED]".to_owned()
    } else {
        format!("[FIRING:{}]", intent.firing.len())
    };
    let common = common_labels(intent);
    let mut out = format!("{status} {}", values(&intent.group_labels));
    let rest = common.filter(|label| intent.group_labels.find(&label.name).is_none());
    if !rest.is_empty() {
        let _ = write!(out, " ({})", values(&rest));
    }
    out
}

fn own_headers(sender: &Sender, key: &Key, intent: &Intent) -> Vec<(&'static str, String)> {
    let mut clusters: Vec<&str> =
        all(intent).filter_map(|alert| alert.labels.get(&sender.cluster_label)).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let mut fingerprint = String::new();
    for alert in &intent.firing {
        let _ = write!(fingerprint, "{}\0", alert.labels);
    }
    let fingerprint = sha256_hex(fingerprint.as_bytes());
    let status = if intent.firing.is_empty() { "resolved" } else { "firing" };
    let mut headers = vec![
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("X-Tributary-Status", status.to_owned()),
        ("X-Tributary-Group", key.group.clone()),
        ("X-Tributary-Fingerprint", fingerprint.get(..16).unwrap_or_default().to_owned()),
    ];
    if !clusters.is_empty() {
        headers.push(("X-Tributary-Cluster", clusters.join(", ")));
    }
    headers
}

fn raw(
    builder: lettre::message::MessageBuilder,
    name: &str,
    value: &str,
) -> lettre::message::MessageBuilder {
    match HeaderName::new_from_ascii(name.to_owned()) {
        Ok(name) => builder.raw_header(HeaderValue::new(name, one_line(value, MAX_HEADER_CHARS))),
        Err(_) => builder,
    }
}

fn part(text: &str, kind: ContentType) -> SinglePart {
    let text = text.replace("\r\n", "\n").replace('\r', "\n").replace('\n', "\r\n");
    let encoding = ContentTransferEncoding::QuotedPrintable;
    let body = Body::new_with_encoding(text, encoding)
        .unwrap_or_else(|raw| Body::dangerous_pre_encoded(raw, encoding));
    SinglePart::builder().header(kind).body(body)
}

fn text(sender: &Sender, intent: &Intent) -> String {
    let mut out = format!("{}\n", headline(intent));
    for (title, alerts) in sections(intent) {
        let _ = write!(out, "\n{title}\n");
        for alert in alerts.iter().take(MAX_LISTED) {
            let _ = write!(out, "\n* {}\n", name(alert));
            for (key, value) in details(alert) {
                let value = clip(&value, MAX_VALUE_CHARS).replace('\n', "\n      ");
                let _ = writeln!(out, "    {key}: {value}");
            }
        }
        if alerts.len() > MAX_LISTED {
            let _ = write!(out, "\n… and {} more\n", alerts.len() - MAX_LISTED);
        }
    }
    if let Some(url) = &sender.external_url {
        let _ = write!(out, "\n-- \nTributary, {url}\n");
    }
    out
}

fn html(sender: &Sender, intent: &Intent) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"></head><body>\n<p>{}</p>\n",
        escape(&headline(intent))
    );
    for (title, alerts) in sections(intent) {
        let colour = if title == FIRING { "#b00020" } else { "#1b5e20" };
        let _ = writeln!(out, "<h3 style=\"color:{colour}\">{title}</h3>");
        for alert in alerts.iter().take(MAX_LISTED) {
            let _ = write!(out, "<p><b>{}</b></p>\n<table>\n", escape(&name(alert)));
            for (key, value) in details(alert) {
                let value = escape(&clip(&value, MAX_VALUE_CHARS)).replace('\n', "<br>\n");
                let link = value.starts_with("https://") || value.starts_with("http://");
                let plain = !value.contains(char::is_whitespace);
                let cell =
                    if link && plain { format!("<a href=\"{value}\">{value}</a>") } else { value };
                let _ = writeln!(out, "<tr><td>{}</td><td>{cell}</td></tr>", escape(&key));
            }
            out.push_str("</table>\n");
        }
        if alerts.len() > MAX_LISTED {
            let _ = writeln!(out, "<p>… and {} more</p>", alerts.len() - MAX_LISTED);
        }
    }
    if let Some(url) = sender.external_url.as_deref().map(escape) {
        let _ = writeln!(out, "<p>Tributary, <a href=\"{url}\">{url}</a></p>");
    }
    out.push_str("</body></html>\n");
    out
}

const FIRING: &str = "Firing";

fn sections(intent: &Intent) -> impl Iterator<Item = (&'static str, &[Alert])> {
    [(FIRING, &intent.firing[..]), ("Resolved", &intent.resolved[..])]
        .into_iter()
        .filter(|(_, alerts)| !alerts.is_empty())
}

fn headline(intent: &Intent) -> String {
    let mut out = format!("{} firing, {} resolved", intent.firing.len(), intent.resolved.len());
    if !intent.group_labels.is_empty() {
        let _ = write!(out, ": {}", intent.group_labels);
    }
    out
}

fn name(alert: &Alert) -> String {
    let name = alert.labels.get("alertname").unwrap_or("(no alertname)");
    one_line(name, MAX_HEADER_CHARS)
}

/// What is said about an alert, in order: annotations, labels, times, source.
fn details(alert: &Alert) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = alert
        .annotations
        .iter()
        .map(|(key, value)| (one_line(key, MAX_HEADER_CHARS), value.clone()))
        .collect();
    out.push(("labels".into(), alert.labels.to_string()));
    out.push(("since".into(), time(alert.starts_at)));
    if !alert.generator_url.is_empty() {
        out.push(("source".into(), alert.generator_url.clone()));
    }
    out
}

fn time(at: Timestamp) -> String {
    jiff::Timestamp::from_millisecond(at.as_millis())
        .map_or_else(|_| at.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// The labels that every alert of the mail has with the same value.
fn common_labels(intent: &Intent) -> Labels {
    let mut alerts = all(intent);
    let Some(first) = alerts.next() else { return Labels::empty() };
    let mut common: BTreeMap<&str, &str> =
        first.labels.iter().map(|label| (&*label.name, &*label.value)).collect();
    for alert in alerts {
        common.retain(|name, value| alert.labels.get(name) == Some(value));
    }
    first.labels.filter(|label| common.contains_key(&*label.name))
}

fn all(intent: &Intent) -> impl Iterator<Item = &Alert> {
    intent.firing.iter().chain(&intent.resolved)
}

/// The values, `alertname` first.
fn values(labels: &Labels) -> String {
    let is_name = |label: &&Label| &*label.name == "alertname";
    let first = labels.iter().filter(is_name);
    let rest = labels.iter().filter(|label| !is_name(label));
    first.chain(rest).map(|label| &*label.value).collect::<Vec<_>>().join(" ")
}

/// Without line breaks and other control characters, and not longer than `max` characters.
fn one_line(text: &str, max: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    clip(clean.trim(), max)
}

fn clip(text: &str, max: usize) -> String {
    match text.char_indices().nth(max) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or(text)),
        None => text.to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::config::Config;
    use super::*;

    fn alert(name: &str, more: &[(&str, &str)]) -> Alert {
        let pairs = [("alertname", name), ("cluster", "eu-1")].into_iter().chain(more.to_vec());
        Alert {
            labels: Labels::from_pairs(pairs).unwrap(),
            annotations: BTreeMap::from([("summary".into(), "<b>it\nburns</b> ü".into())]),
            starts_at: Timestamp::from_millis(1_700_000_000_000),
            ends_at: Timestamp::MAX,
            generator_url: "https://t.example.org/graph?a=1&b=2".into(),
        }
    }

    fn mail(name: &str, firing: bool) -> String {
        let text = "
global: { smtp_smarthost: 'h:25', smtp_from: Tributary <t@example.org> }
route: { receiver: a }
receivers: [{ name: a, email_configs: [{ to: 'x@example.org, y@example.org', headers: { X-Desk: \"a\\r\\nb\" } }] }]
";
        let config = Config::parse("f", Path::new(""), text).unwrap();
        let sender = Sender { external_url: None, cluster_label: "cluster".into() };
        let key = Key { receiver: "a".into(), integration: 0, group: "{}:{}".into() };
        let alerts = vec![alert(name, &[("pod", "p")])];
        let (firing, resolved) = if firing { (alerts, vec![]) } else { (vec![], alerts) };
        let intent = Intent {
            sequence: 1,
            message_id: "<1@example.org>".into(),
            in_reply_to: (!firing.is_empty()).then(|| "<0@example.org>".into()),
            created_at: Timestamp::from_millis(1_700_000_000_000),
            group_labels: Labels::from_pairs([("alertname", name)]).unwrap(),
            firing,
            resolved,
            recipients: Vec::new(),
            attempts: 0,
            next_attempt: Timestamp::default(),
        };
        let email = &config.receivers["a"][0];
        let mail = write(&sender, &key, email, &intent).unwrap();
        assert_eq!(mail, write(&sender, &key, email, &intent).unwrap());
        String::from_utf8(mail).unwrap()
    }

    #[test]
    fn has_the_headers_of_a_machine() {
        let mail = mail("Down", true);
        for line in [
            "Subject: [FIRING:1] Down (eu-1 p)",
            "From: Tributary <t@example.org>",
            "To: x@example.org, y@example.org",
            "Date: Tue, 14 Nov 2023 22:13:20 +0000",
            "Message-ID: <1@example.org>",
            "In-Reply-To: <0@example.org>",
            "References: <0@example.org>",
            "Auto-Submitted: auto-generated",
            "X-Tributary-Status: firing",
            "X-Tributary-Cluster: eu-1",
            "X-Tributary-Group: {}:{}",
            "X-Desk: a  b",
        ] {
            assert!(mail.contains(&format!("{line}\r\n")), "{line} in\n{mail}");
        }
        assert!(mail.lines().all(|line| line.len() < 998));
        assert!(mail.is_ascii());
    }

    #[test]
    fn escapes_html_and_encodes_text() {
        let mail = mail("A&B", true).replace("=\r\n", "");
        assert!(mail.contains("<b>A&amp;B</b>"), "{mail}");
        assert!(mail.contains("&lt;b&gt;it<br>"), "{mail}");
        assert!(mail.contains("burns&lt;/b&gt; =C3=BC"), "{mail}");
        assert!(
            mail.contains("<a href=3D\"https://t.example.org/graph?a=3D1&amp;b=3D2\">"),
            "{mail}"
        );
        assert!(mail.find("text/plain").unwrap() < mail.find("text/html").unwrap());
    }

    #[test]
    fn a_label_cannot_become_a_header() {
        for firing in [true, false] {
            let mail = mail("x\r\nBcc: evil@example.net\r\n\r\n<script>", firing);
            let headers = mail.split("\r\n\r\n").next().unwrap();
            assert!(!headers.to_lowercase().contains("\r\nbcc"), "{headers}");
            assert!(!mail.split("text/html").nth(1).unwrap().contains("<script>"));
        }
        assert!(mail("Ümlaut 🔥", false).contains("Subject: [RESOLVED] =?utf-8?b?"));
    }
}
