//! What a certificate says, read once: subject, identity, validity, usages, the hash of its key.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use crate::digest::sha256;

/// The first and the last second of the calendar that times are written in: the years 0 to 9999.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

/// The facts of one certificate that decisions and tables are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// The subject's common name, or the whole subject where it has none.
    pub subject: String,
    /// The issuer's common name, or the whole issuer where it has none.
    pub issuer: String,
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// The URIs among its alternative names.
    pub uris: Vec<String>,
    /// The host names and addresses among its alternative names.
    pub hosts: Vec<String>,
    /// Whether it may be used to authenticate a client (extended key usage).
    pub client_auth: bool,
    /// Whether it may be used to authenticate a server (extended key usage).
    pub server_auth: bool,
    /// Whether it may sign other certificates.
    pub is_ca: bool,
    /// SHA-256 of the subject public key info: names the key whatever the certificate.
    pub spki_sha256: [u8; 32],
    /// SHA-256 of the whole certificate (DER): tells it from another one for the same key.
    pub sha256: [u8; 32],
}

impl Certificate {
    /// Reads one certificate.
    pub fn parse(der: &CertificateDer<'_>) -> Result<Self, Malformed> {
        let (_, parsed) = X509Certificate::from_der(der).map_err(|_| Malformed)?;
        let mut uris = Vec::new();
        let mut hosts = Vec::new();
        if let Some(names) = parsed.subject_alternative_name().map_err(|_| Malformed)? {
            for name in &names.value.general_names {
                match name {
                    GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                    GeneralName::DNSName(host) => hosts.push((*host).to_owned()),
                    GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                    _ => {}
                }
            }
        }
        let usage = parsed.extended_key_usage().map_err(|_| Malformed)?;
        Ok(Self {
            subject: name_text(parsed.subject()),
            issuer: name_text(parsed.issuer()),
            serial: hex(parsed.raw_serial()),
            not_before: system_time(parsed.validity().not_before)?,
            not_after: system_time(parsed.validity().not_after)?,
            uris,
            hosts,
            client_auth: usage.as_ref().is_some_and(|usage| usage.value.client_auth),
            server_auth: usage.as_ref().is_some_and(|usage| usage.value.server_auth),
            is_ca: parsed.is_ca(),
            spki_sha256: sha256(parsed.public_key().raw),
            sha256: sha256(der),
        })
    }

    /// Whether it is an authority's certificate that the authority signed itself.
    pub fn is_self_issued(&self) -> bool {
        self.is_ca && self.subject == self.issuer
    }
}

/// The bytes are not an X.509 certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a well-formed X.509 certificate")]
pub struct Malformed;

/// A time as people read it: `2036-11-18 01:00:00Z`. What a calendar does not reach, its last or first moment stands for.
pub fn utc(time: SystemTime) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |s| -s),
    };
    let at = OffsetDateTime::from_unix_timestamp(seconds.clamp(FIRST_SECOND, LAST_SECOND))
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// A time in RFC 3339: `2036-11-18T01:00:00Z`.
pub fn rfc3339(time: SystemTime) -> String {
    utc(time).replace(' ', "T")
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn name_text(name: &x509_parser::x509::X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|value| value.as_str().ok());
    let text = common.map_or_else(|| name.to_string(), str::to_owned);
    text.escape_debug().to_string()
}

/// An IP address of an alternative name.
pub(crate) fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

fn system_time(time: ASN1Time) -> Result<SystemTime, Malformed> {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let at = if seconds < 0 {
        UNIX_EPOCH.checked_sub(distance)
    } else {
        UNIX_EPOCH.checked_add(distance)
    };
    at.ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_can_be_written() {
        let after = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for (time, text) in [
            (UNIX_EPOCH, "1970-01-01 00:00:00Z"),
            (after(2_110_582_800), "2036-11-18 01:00:00Z"),
            (UNIX_EPOCH - Duration::from_secs(1), "1969-12-31 23:59:59Z"),
            (after(253_402_300_800), "9999-12-31 23:59:59Z"),
            (after(u64::MAX >> 11), "9999-12-31 23:59:59Z"),
            (UNIX_EPOCH - Duration::from_secs(u64::MAX >> 11), "0000-01-01 00:00:00Z"),
        ] {
            assert_eq!(utc(time), text);
        }
    }
}
