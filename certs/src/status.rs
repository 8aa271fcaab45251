//! The state of every certificate that counts, as a table or as JSON: those in the PKI folder, and those that agents
//! got over the network.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::bundle::{self, ARCHIVE, BundleError, CA_CERT, COLLECTOR, Folder, LEAF_CERT, NEXT};
use crate::certificate::{Certificate, hex, rfc3339, utc};
use crate::state::{IssuedKey, State, name_of};
use crate::table;
use crate::tls::{Material, Refusal, TlsError};

const SERIAL_DIGITS: usize = 8;
const SUBJECT_CHARS: usize = 24;
const UNTRUSTED: &str =
    "its authority is trusted no more: issue it again, or let its agent enrol again";

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `ca`, `next ca`, `collector`, `agent/<cluster>` in the folder, `agent/<cluster>/<instance>` elsewhere.
    pub certificate: String,
    /// The subject's common name.
    pub subject: String,
    /// The identity, or nothing.
    pub identity: Option<String>,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// RFC 3339.
    pub not_after: String,
    /// Seconds left; negative when expired.
    pub seconds_left: i64,
    /// The issuer's common name, `self` for the authority.
    pub issuer: String,
    /// The state.
    pub status: Status,
    /// Why it is not `ok`, and what to do.
    pub note: Option<String>,
    /// The file; nothing for a certificate that only its agent has.
    pub file: Option<PathBuf>,
    #[serde(skip)]
    not_after_text: String,
}

/// What state a certificate is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Good for now.
    Ok,
    /// Less than a third of its life is left.
    ExpiresSoon,
    /// Over.
    Expired,
    /// Cannot be used: another authority, another key, damaged.
    Broken,
    /// On the deny-list.
    Revoked,
    /// Its agent has a newer one; this copy is of no use any more.
    Replaced,
}

impl Status {
    /// Whether a check of the folder fails because of it.
    pub fn is_failure(self) -> bool {
        matches!(self, Self::Expired | Self::Broken)
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ExpiresSoon => "EXPIRES SOON",
            Self::Expired => "EXPIRED",
            Self::Broken => "BROKEN",
            Self::Revoked => "REVOKED",
            Self::Replaced => "replaced",
        }
    }
}

/// Looks at the authorities, at every leaf folder (the collector's first, then the clusters' by name), and at what was
/// issued to agents that keep their certificates themselves.
pub fn read(dir: &Path, now: SystemTime) -> Result<Vec<Row>, BundleError> {
    let ca_path = dir.join(CA_CERT);
    if !ca_path.exists() {
        return Err(BundleError::NoAuthority { dir: dir.to_owned() });
    }
    let state = State::read(dir)?;
    let mut rows = vec![row("ca".to_owned(), &bundle::leaf(&ca_path)?, ca_path, now)];
    let next = dir.join(NEXT).join(CA_CERT);
    match bundle::leaf(&next) {
        Ok(certificate) => rows.push(row("next ca".to_owned(), &certificate, next, now)),
        Err(_) if next.exists() => {
            rows.push(unreadable("next ca".to_owned(), next, "not readable"));
        }
        Err(_) => {}
    }
    let mut shown = Vec::new();
    for name in bundle::leaf_folders(dir)? {
        let label = if name == COLLECTOR { name.clone() } else { format!("agent/{name}") };
        let (row, of) = leaf_row(label, &dir.join(&name), &state, now);
        let again = format!("tributary-certs issue {name} --dir {}", dir.display());
        rows.push(with_advice(row, &again));
        shown.extend(of);
    }
    let authorities = authorities(dir);
    let trusted = Folder::trusted(dir)?;
    for name in state.issued.keys() {
        let newest = state.valid_keys(name, now).max_by_key(|key| key.not_after);
        if let Some(key) = newest.filter(|key| !shown.contains(&key.spki_sha256)) {
            let mut row = issued_row(name, key, &authorities, now);
            if !trusted.contains(&key.authority) {
                row.status = Status::Broken;
                row.note = Some(UNTRUSTED.to_owned());
            }
            rows.push(with_advice(row, "is the agent running?"));
        }
    }
    Ok(rows)
}

/// The table that `tributary-certs status` prints.
pub fn table(rows: &[Row]) -> String {
    const HEAD: [&str; 7] =
        ["CERTIFICATE", "SUBJECT", "SERIAL", "NOT AFTER", "LEFT", "ISSUER", "STATUS"];
    table::text(HEAD, rows.iter().map(cells))
}

fn cells(row: &Row) -> [String; 7] {
    let status = match &row.note {
        Some(note) => format!("{} → {note}", row.status.as_str()),
        None => row.status.as_str().to_owned(),
    };
    [
        row.certificate.clone(),
        shorten(&row.subject, SUBJECT_CHARS),
        shorten(&row.serial, SERIAL_DIGITS),
        row.not_after_text.clone(),
        left(row.seconds_left),
        row.issuer.clone(),
        status,
    ]
}

/// The row of a leaf folder, and the key that it is about.
fn leaf_row(
    label: String,
    folder: &Path,
    state: &State,
    now: SystemTime,
) -> (Row, Option<[u8; 32]>) {
    let path = folder.join(LEAF_CERT);
    let certificate = match bundle::leaf(&path) {
        Ok(certificate) => certificate,
        Err(why) => return (unreadable(label, path, &why.to_string()), None),
    };
    let mut row = row(label, &certificate, path, now);
    let files = bundle::files(folder);
    if let Some(denied) = state.denied.iter().find(|d| d.spki_sha256 == certificate.spki_sha256) {
        row.status = Status::Revoked;
        row.note = Some(denied.why.clone());
    } else if has_newer(state, &certificate, now) {
        row.status = Status::Replaced;
        row.note = Some("the agent has a newer one".to_owned());
    // A key that has been moved to its agent is as it should be; an expired certificate says so already.
    } else if row.status != Status::Expired
        && files.key_file.exists()
        && let Err(why) = Material::load(&files)
    {
        row.status = Status::Broken;
        row.note = Some(match why {
            TlsError::Refused { why: Refusal::UnknownAuthority, .. } => UNTRUSTED.to_owned(),
            why => why.to_string(),
        });
    }
    (row, Some(certificate.spki_sha256))
}

fn has_newer(state: &State, certificate: &Certificate, now: SystemTime) -> bool {
    let identity = certificate.uris.first().and_then(|uri| uri.parse().ok());
    let name = identity.as_ref().map(name_of).unwrap_or_default();
    let mut known = state.valid_keys(&name, now);
    known.any(|key| {
        key.not_before > certificate.not_before && key.spki_sha256 != certificate.spki_sha256
    })
}

fn issued_row(
    name: &str,
    key: &IssuedKey,
    authorities: &BTreeMap<[u8; 32], String>,
    now: SystemTime,
) -> Row {
    let known = authorities.get(&key.authority).cloned();
    let facts = Facts {
        subject: name.split('/').next().unwrap_or(name).to_owned(),
        identity: None,
        serial: key.serial.clone(),
        issuer: known.unwrap_or_else(|| shorten(&hex(&key.authority), SERIAL_DIGITS)),
        period: (key.not_before, key.not_after),
    };
    let label =
        if name.starts_with("collector/") { name.to_owned() } else { format!("agent/{name}") };
    of_facts(label, facts, None, now)
}

/// The names of all authorities that are known here, those that were among them.
fn authorities(dir: &Path) -> BTreeMap<[u8; 32], String> {
    let archived = std::fs::read_dir(dir.join(ARCHIVE)).into_iter().flatten().flatten();
    let files = [dir.join(CA_CERT), dir.join(NEXT).join(CA_CERT)].into_iter();
    let certificates =
        files.chain(archived.map(|entry| entry.path())).map(|path| bundle::leaf(&path));
    certificates.flatten().map(|found| (found.spki_sha256, found.subject)).collect()
}

fn with_advice(mut row: Row, advice: &str) -> Row {
    if matches!(row.status, Status::ExpiresSoon | Status::Expired) {
        row.note = Some(advice.to_owned());
    }
    row
}

fn unreadable(label: String, file: PathBuf, why: &str) -> Row {
    let unknown = || "-".to_owned();
    Row {
        certificate: label,
        subject: unknown(),
        identity: None,
        serial: unknown(),
        not_after: unknown(),
        not_after_text: unknown(),
        seconds_left: -1,
        issuer: unknown(),
        status: Status::Broken,
        note: Some(why.to_owned()),
        file: Some(file),
    }
}

fn row(label: String, certificate: &Certificate, file: PathBuf, now: SystemTime) -> Row {
    let self_issued = certificate.is_self_issued();
    let facts = Facts {
        subject: certificate.subject.clone(),
        identity: certificate.uris.first().filter(|_| !certificate.is_ca).cloned(),
        serial: certificate.serial.clone(),
        issuer: if self_issued { "self".to_owned() } else { certificate.issuer.clone() },
        period: (certificate.not_before, certificate.not_after),
    };
    of_facts(label, facts, Some(file), now)
}

/// What is known of a certificate, whether it is at hand or only on record.
struct Facts {
    subject: String,
    identity: Option<String>,
    serial: String,
    issuer: String,
    period: (SystemTime, SystemTime),
}

fn of_facts(certificate: String, facts: Facts, file: Option<PathBuf>, now: SystemTime) -> Row {
    let (not_before, not_after) = facts.period;
    let seconds_left = signed_seconds(not_after, now);
    let status = match seconds_left {
        ..0 => Status::Expired,
        _ if seconds_left < signed_seconds(not_after, not_before) / 3 => Status::ExpiresSoon,
        _ => Status::Ok,
    };
    Row {
        certificate,
        subject: facts.subject,
        identity: facts.identity,
        serial: facts.serial,
        not_after: rfc3339(not_after),
        not_after_text: utc(not_after),
        seconds_left,
        issuer: facts.issuer,
        status,
        note: None,
        file,
    }
}

fn signed_seconds(to: SystemTime, from: SystemTime) -> i64 {
    match to.duration_since(from) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
        Err(behind) => i64::try_from(behind.duration().as_secs()).map_or(i64::MIN, |s| -s.max(1)),
    }
}

fn left(seconds: i64) -> String {
    u64::try_from(seconds).map_or_else(|_| "-".to_owned(), |s| table::span(Duration::from_secs(s)))
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
