//! The state of every certificate in a PKI folder, as a table or as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::bundle::{self, BundleError, CA_CERT, COLLECTOR, LEAF_CERT};
use crate::certificate::{Certificate, rfc3339, utc};
use crate::tls::Material;

const SERIAL_DIGITS: usize = 8;
const SUBJECT_CHARS: usize = 24;
const DAY: Duration = Duration::from_secs(86_400);

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
    for name in leaf_folders(dir)? {
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
    let cells: Vec<[String; 7]> =
        std::iter::once(HEAD.map(str::to_owned)).chain(rows.iter().map(cells)).collect();
    let mut table = String::new();
    let mut widths = [0_usize; 7];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &cells {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
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

/// Names of the sub-folders that hold a certificate; the collector's first.
fn leaf_folders(dir: &Path) -> Result<Vec<String>, BundleError> {
    let failed = |source| BundleError::Disk { doing: "reading", path: dir.to_owned(), source };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().join(LEAF_CERT).is_file()
        {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (name != COLLECTOR, name.clone()));
    Ok(names)
}

fn signed_seconds(to: SystemTime, from: SystemTime) -> i64 {
    match to.duration_since(from) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
        Err(behind) => i64::try_from(behind.duration().as_secs()).map_or(i64::MIN, |s| -s.max(1)),
    }
}

/// The two largest units: `9y 362d`, `89d`, `6d`, `5h 3m`.
fn left(seconds: i64) -> String {
    if seconds < 0 {
        return "-".to_owned();
    }
    let seconds = seconds.unsigned_abs();
    let days = seconds / DAY.as_secs();
    let (hours, minutes) = (seconds / 3600 % 24, seconds / 60 % 60);
    match days {
        365.. => format!("{}y {}d", days / 365, days % 365),
        2.. => format!("{days}d"),
        1 => format!("1d {hours}h"),
        _ if hours > 0 => format!("{hours}h {minutes}m"),
        _ => format!("{minutes}m"),
    }
}

fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
