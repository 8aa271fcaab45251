//! The state of every certificate in a PKI folder, as a table or as JSON.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::bundle::{self, BundleError, CA_CERT, COLLECTOR, LEAF_CERT};
use crate::certificate::{Certificate, rfc3339, utc};
use crate::table;
use crate::tls::Material;

const SERIAL_DIGITS: usize = 8;
const SUBJECT_CHARS: usize = 24;

/// One certificate of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// `ca`, `collector` or `agent/<cluster>`.
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
    /// The file.
    pub file: PathBuf,
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
        }
    }
}

/// Looks at the authority and at every leaf folder: the authority first, then the collector, then the
/// clusters by name.
pub fn read(dir: &Path, now: SystemTime) -> Result<Vec<Row>, BundleError> {
    let ca_path = dir.join(CA_CERT);
    if !ca_path.exists() {
        return Err(BundleError::NoAuthority { dir: dir.to_owned() });
    }
    let authority = bundle::leaf(&ca_path)?;
    let mut rows = vec![row("ca".to_owned(), &authority, ca_path, now)];
    for name in bundle::leaf_folders(dir)? {
        let folder = dir.join(&name);
        let label = if name == COLLECTOR { name.clone() } else { format!("agent/{name}") };
        rows.push(leaf_row(label, &folder, now));
    }
    for row in &mut rows {
        let name = row.certificate.trim_start_matches("agent/");
        if matches!(row.status, Status::ExpiresSoon | Status::Expired) && name != "ca" {
            row.note = Some(format!("tributary-certs issue {name} --dir {}", dir.display()));
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

fn leaf_row(label: String, folder: &Path, now: SystemTime) -> Row {
    let path = folder.join(LEAF_CERT);
    let certificate = match bundle::leaf(&path) {
        Ok(certificate) => certificate,
        Err(why) => return unreadable(label, path, &why),
    };
    let mut row = row(label, &certificate, path, now);
    let files = bundle::files(folder);
    // A key that has been moved to its agent is as it should be; an expired certificate says so already.
    if row.status != Status::Expired
        && files.key_file.exists()
        && let Err(why) = Material::load(&files)
    {
        row.status = Status::Broken;
        row.note = Some(why.to_string());
    }
    row
}

fn unreadable(label: String, file: PathBuf, why: &BundleError) -> Row {
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
        note: Some(why.to_string()),
        file,
    }
}

fn row(label: String, certificate: &Certificate, file: PathBuf, now: SystemTime) -> Row {
    let identity = (!certificate.is_ca).then(|| certificate.uris.first().cloned()).flatten();
    let seconds_left = signed_seconds(certificate.not_after, now);
    let life = certificate
        .not_after
        .duration_since(certificate.not_before)
        .map_or(0, |life| i64::try_from(life.as_secs()).unwrap_or(i64::MAX));
    let status = match seconds_left {
        ..0 => Status::Expired,
        _ if seconds_left < life / 3 => Status::ExpiresSoon,
        _ => Status::Ok,
    };
    Row {
        certificate: label,
        subject: certificate.subject.clone(),
        identity,
        serial: certificate.serial.clone(),
        not_after: rfc3339(certificate.not_after),
        not_after_text: utc(certificate.not_after),
        seconds_left,
        issuer: if certificate.is_self_issued() {
            "self".to_owned()
        } else {
            certificate.issuer.clone()
        },
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
