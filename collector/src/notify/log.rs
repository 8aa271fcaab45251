//! The notification log: what was told to whom, and what is about to be; survives a kill at any moment.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Serialize};
use tributary_certs::digest::sha256_hex;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;

use super::Alert;

/// Where the records are in the durable state.
pub const PREFIX: &str = "notify/log/";
/// Longest record, decompressed; a longer one is not read back.
const MAX_RECORD_BYTES: u64 = 64 << 20;

/// Whom a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The receiver's name.
    pub receiver: String,
    /// Which of the receiver's mail settings.
    pub integration: usize,
    /// The route's key and the group's labels.
    pub group: String,
}

impl Key {
    /// The record's key in the durable state.
    pub fn state_key(&self) -> String {
        let parts = format!("{}\0{}\0{}", self.receiver, self.integration, self.group);
        format!("{PREFIX}{}", sha256_hex(parts.as_bytes()))
    }
}

/// What one receiver knows about one group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// The number of the last intent; grows, never repeats.
    pub sequence: i64,
    /// The Message-Id of the incident's first mail, which the later ones answer.
    pub root: Option<String>,
    /// The last notification that ended.
    pub sent: Option<Sent>,
    /// The notification that has not ended yet.
    pub intent: Option<Intent>,
}

/// A notification that ended: delivered, or refused for good.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// When it was decided.
    pub at: Timestamp,
    /// The alerts that were firing.
    pub firing: Vec<Alert>,
    /// The alerts that were resolved.
    pub resolved: Vec<Labels>,
}

/// A notification that is to be delivered; retries use the same intent, and so the same Message-Id.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    /// Its number.
    pub sequence: i64,
    /// Stable over retries and restarts.
    pub message_id: String,
    /// The Message-Id that it answers.
    pub in_reply_to: Option<String>,
    /// When it was decided; the mail's date.
    pub created_at: Timestamp,
    /// The labels that the alerts share by `group_by`.
    pub group_labels: Labels,
    /// The alerts that fire.
    pub firing: Vec<Alert>,
    /// The alerts that are resolved.
    pub resolved: Vec<Alert>,
    /// Who gets it, and who has it.
    pub recipients: Vec<Recipient>,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_attempt: Timestamp,
}

/// One recipient of an intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The address.
    pub address: String,
    /// How far the delivery came.
    pub state: Progress,
}

/// How far a delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// Not accepted yet.
    Pending,
    /// The server has taken responsibility.
    Delivered,
    /// The server said no for good.
    Refused,
}

/// A record as bytes: compressed JSON.
pub fn encode(key: &Key, log: &Log) -> Result<Vec<u8>, RecordError> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let record = Record { version: 1, key: key.clone(), log: log.into() };
    serde_json::to_writer(&mut encoder, &record)?;
    encoder.flush()?;
    Ok(encoder.finish()?)
}

/// Reads a record back.
pub fn decode(bytes: &[u8]) -> Result<(Key, Log), RecordError> {
    let mut text = Vec::new();
    ZlibDecoder::new(bytes).take(MAX_RECORD_BYTES).read_to_end(&mut text)?;
    let record: Record = serde_json::from_slice(&text)?;
    if record.version != 1 {
        return Err(RecordError::Version(record.version));
    }
    Ok((record.key, record.log.into_log()?))
}

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// Not JSON of the expected shape.
    #[error("the notification record is damaged: {0}")]
    Shape(#[from] serde_json::Error),
    /// Not compressed as expected.
    #[error("the notification record is damaged: {0}")]
    Compression(#[from] std::io::Error),
    /// Labels that cannot be.
    #[error("the notification record is damaged: {0}")]
    Labels(#[from] tributary_model::label::LabelError),
    /// Written by a newer version.
    #[error("the notification record has version {0}, this program reads version 1")]
    Version(u32),
}

type Pairs = BTreeMap<String, String>;

#[derive(Serialize, Deserialize)]
struct Record {
    version: u32,
    key: Key,
    log: LogRecord,
}

#[derive(Serialize, Deserialize)]
struct LogRecord {
    sequence: i64,
    root: Option<String>,
    sent: Option<SentRecord>,
    intent: Option<IntentRecord>,
}

#[derive(Serialize, Deserialize)]
struct SentRecord {
    at: i64,
    firing: Vec<AlertRecord>,
    resolved: Vec<Pairs>,
}

#[derive(Serialize, Deserialize)]
struct IntentRecord {
    sequence: i64,
    message_id: String,
    in_reply_to: Option<String>,
    created_at: i64,
    group_labels: Pairs,
    firing: Vec<AlertRecord>,
    resolved: Vec<AlertRecord>,
    recipients: Vec<Recipient>,
    attempts: u32,
    next_attempt: i64,
}

#[derive(Serialize, Deserialize)]
struct AlertRecord {
    labels: Pairs,
    annotations: Pairs,
    starts_at: i64,
    ends_at: i64,
    generator_url: String,
}

impl From<&Log> for LogRecord {
    fn from(log: &Log) -> Self {
        Self {
            sequence: log.sequence,
            root: log.root.clone(),
            sent: log.sent.as_ref().map(|sent| SentRecord {
                at: sent.at.as_millis(),
                firing: sent.firing.iter().map(AlertRecord::from).collect(),
                resolved: sent.resolved.iter().map(pairs).collect(),
            }),
            intent: log.intent.as_ref().map(IntentRecord::from),
        }
    }
}

impl LogRecord {
    fn into_log(self) -> Result<Log, RecordError> {
        let sent = self.sent.map(|sent| -> Result<Sent, RecordError> {
            Ok(Sent {
                at: Timestamp::from_millis(sent.at),
                firing: alerts(sent.firing)?,
                resolved: sent.resolved.into_iter().map(labels).collect::<Result<_, _>>()?,
            })
        });
        Ok(Log {
            sequence: self.sequence,
            root: self.root,
            sent: sent.transpose()?,
            intent: self.intent.map(IntentRecord::into_intent).transpose()?,
        })
    }
}

impl From<&Intent> for IntentRecord {
    fn from(intent: &Intent) -> Self {
        Self {
            sequence: intent.sequence,
            message_id: intent.message_id.clone(),
            in_reply_to: intent.in_reply_to.clone(),
            created_at: intent.created_at.as_millis(),
            group_labels: pairs(&intent.group_labels),
            firing: intent.firing.iter().map(AlertRecord::from).collect(),
            resolved: intent.resolved.iter().map(AlertRecord::from).collect(),
            recipients: intent.recipients.clone(),
            attempts: intent.attempts,
            next_attempt: intent.next_attempt.as_millis(),
        }
    }
}

impl IntentRecord {
    fn into_intent(self) -> Result<Intent, RecordError> {
        Ok(Intent {
            sequence: self.sequence,
            message_id: self.message_id,
            in_reply_to: self.in_reply_to,
            created_at: Timestamp::from_millis(self.created_at),
            group_labels: labels(self.group_labels)?,
            firing: alerts(self.firing)?,
            resolved: alerts(self.resolved)?,
            recipients: self.recipients,
            attempts: self.attempts,
            next_attempt: Timestamp::from_millis(self.next_attempt),
        })
    }
}

impl From<&Alert> for AlertRecord {
    fn from(alert: &Alert) -> Self {
        Self {
            labels: pairs(&alert.labels),
            annotations: alert.annotations.clone(),
            starts_at: alert.starts_at.as_millis(),
            ends_at: alert.ends_at.as_millis(),
            generator_url: alert.generator_url.clone(),
        }
    }
}

fn alerts(records: Vec<AlertRecord>) -> Result<Vec<Alert>, RecordError> {
    let alert = |record: AlertRecord| -> Result<Alert, RecordError> {
        Ok(Alert {
            labels: labels(record.labels)?,
            annotations: record.annotations,
            starts_at: Timestamp::from_millis(record.starts_at),
            ends_at: Timestamp::from_millis(record.ends_at),
            generator_url: record.generator_url,
        })
    };
    records.into_iter().map(alert).collect()
}

fn pairs(labels: &Labels) -> Pairs {
    labels.iter().map(|label| (label.name.to_string(), label.value.to_string())).collect()
}

fn labels(pairs: Pairs) -> Result<Labels, RecordError> {
    Ok(Labels::from_pairs(pairs)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let alert = Alert {
            labels: Labels::from_pairs([("a", "1")]).unwrap(),
            annotations: [("s".to_owned(), "t\n".to_owned())].into(),
            starts_at: Timestamp::from_millis(1),
            ends_at: Timestamp::MAX,
            generator_url: "u".into(),
        };
        let recipient = Recipient { address: "a@b.org".into(), state: Progress::Refused };
        let intent = Intent {
            sequence: 7,
            message_id: "<m>".into(),
            in_reply_to: Some("<r>".into()),
            created_at: Timestamp::from_millis(2),
            group_labels: Labels::empty(),
            firing: vec![alert.clone()],
            resolved: vec![alert.clone()],
            recipients: vec![recipient],
            attempts: 3,
            next_attempt: Timestamp::from_millis(4),
        };
        let sent = Sent {
            at: Timestamp::from_millis(5),
            firing: vec![alert.clone()],
            resolved: vec![alert.labels],
        };
        let key = Key { receiver: "r".into(), integration: 1, group: "g".into() };
        let log = Log { sequence: 7, root: None, sent: Some(sent), intent: Some(intent) };
        let bytes = encode(&key, &log).unwrap();
        assert_eq!(decode(&bytes).unwrap(), (key, log));
        for cut in 0..bytes.len() {
            assert!(decode(&bytes[..cut]).is_err());
        }
    }
}
