//! Reads a web configuration file in Prometheus' format: TLS, users with bcrypt hashes, headers.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bcrypt::HashParts;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use tributary_model::diagnostic::{Diagnostic, Place};
use tributary_model::yaml;

/// Headers that the file may set, as in Prometheus.
const HEADERS: [&str; 5] = [
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
    "Content-Security-Policy",
];

/// What the file says, checked.
#[derive(Debug, Default)]
pub struct WebFile {
    /// The certificate; without one the port speaks plain HTTP.
    pub tls: Option<TlsFiles>,
    /// bcrypt hashes by user; without users everyone may ask.
    pub users: BTreeMap<String, String>,
    /// Headers of every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// Where the port's certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Clients must present a certificate of this authority.
    pub client_ca: Option<PathBuf>,
}

impl WebFile {
    /// Reads `path`; relative paths in the file are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, Box<Diagnostic>> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|e| {
            Box::new(Diagnostic {
                what: format!("cannot read the web configuration: {e}"),
                file: file.clone(),
                place: None,
                help: Some("web.config_file names it in collector.yml".to_owned()),
            })
        })?;
        let raw: Raw = yaml::parse(&text, &file)?;
        Door { text: &text, file, folder: path.parent().unwrap_or(Path::new("")) }.open(raw)
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Raw {
    tls_server_config: Option<RawTls>,
    http_server_config: RawHttp,
    basic_auth_users: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RawTls {
    cert_file: PathBuf,
    key_file: PathBuf,
    client_ca_file: PathBuf,
    client_auth_type: String,
    min_version: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHttp {
    http2: bool,
    headers: BTreeMap<String, String>,
}

impl Default for RawHttp {
    fn default() -> Self {
        Self { http2: true, headers: BTreeMap::new() }
    }
}

struct Door<'a> {
    text: &'a str,
    file: String,
    folder: &'a Path,
}

impl Door<'_> {
    fn open(&self, raw: Raw) -> Result<WebFile, Box<Diagnostic>> {
        // HTTP/2 is an offer that a server need not make.
        let _ = raw.http_server_config.http2;
        for (user, hash) in &raw.basic_auth_users {
            if user.contains(':') {
                return Err(self
                    .fail(user, "a user name cannot contain ':'".to_owned(), None)
                    .into());
            }
            if hash.parse::<HashParts>().is_err() {
                let what = format!(
                    "the password of user \"{}\" is not a bcrypt hash",
                    user.escape_debug()
                );
                return Err(self
                    .fail(user, what, Some("make one with: htpasswd -nBC 10 \"\""))
                    .into());
            }
        }
        let headers =
            raw.http_server_config.headers.iter().map(|(name, value)| self.header(name, value));
        Ok(WebFile {
            tls: raw.tls_server_config.as_ref().map(|tls| self.tls(tls)).transpose()?,
            headers: headers.collect::<Result<_, _>>()?,
            users: raw.basic_auth_users,
        })
    }

    fn tls(&self, raw: &RawTls) -> Result<TlsFiles, Box<Diagnostic>> {
        for (key, value) in [("cert_file", &raw.cert_file), ("key_file", &raw.key_file)] {
            if value.as_os_str().is_empty() {
                return Err(self
                    .fail("tls_server_config", format!("{key} is missing"), None)
                    .into());
            }
        }
        if !matches!(raw.min_version.as_str(), "" | "TLS10" | "TLS11" | "TLS12") {
            let what =
                format!("min_version \"{}\" is not supported", raw.min_version.escape_debug());
            let help = "leave it out: TLS 1.2 and 1.3 are spoken, nothing older";
            return Err(self.fail("min_version", what, Some(help)).into());
        }
        let has_ca = !raw.client_ca_file.as_os_str().is_empty();
        let client_ca = match raw.client_auth_type.as_str() {
            "" | "NoClientCert" if !has_ca => None,
            "RequireAndVerifyClientCert" if has_ca => Some(self.folder.join(&raw.client_ca_file)),
            "RequireAndVerifyClientCert" => {
                return Err(self
                    .fail("client_auth_type", "client_ca_file is missing".to_owned(), None)
                    .into());
            }
            "" | "NoClientCert" => {
                let what =
                    "client_ca_file is given, but client_auth_type does not ask for certificates";
                let help = "add client_auth_type: RequireAndVerifyClientCert";
                return Err(self.fail("client_ca_file", what.to_owned(), Some(help)).into());
            }
            other => {
                let what =
                    format!("client_auth_type \"{}\" is not supported", other.escape_debug());
                let help = "use NoClientCert or RequireAndVerifyClientCert";
                return Err(self.fail("client_auth_type", what, Some(help)).into());
            }
        };
        Ok(TlsFiles {
            cert: self.folder.join(&raw.cert_file),
            key: self.folder.join(&raw.key_file),
            client_ca,
        })
    }

    fn header(
        &self,
        name: &str,
        value: &str,
    ) -> Result<(HeaderName, HeaderValue), Box<Diagnostic>> {
        let known = HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name));
        let parsed = name.parse::<HeaderName>().ok().zip(value.parse::<HeaderValue>().ok());
        parsed.filter(|_| known).ok_or_else(|| {
            let name_shown = name.escape_debug();
            let what = format!("the header \"{name_shown}\" cannot be set, or not to this value");
            self.fail(name, what, Some(&format!("one of {}", HEADERS.join(", ")))).into()
        })
    }

    /// The fault stands at the first line that begins with `key`.
    fn fail(&self, key: &str, what: String, help: Option<&str>) -> Diagnostic {
        let line = self
            .text
            .lines()
            .position(|line| line.starts_with(key) || line.contains(&format!(" {key}:")));
        let place = line.map(|line| {
            let source = self.text.lines().nth(line).unwrap_or("");
            let before = source.find(key).and_then(|at| source.get(..at)).unwrap_or("");
            // The hash of a password does not belong into a message.
            let mut place = Place::at_line(
                self.text,
                line + 1,
                before.chars().count() + 1,
                key.chars().count(),
            );
            place.source = format!("{before}{key}: …");
            place
        });
        Diagnostic { what, file: self.file.clone(), place, help: help.map(str::to_owned) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$04$wvXOsuIm9rZRhj8cxY4Spew7bYpkPRJhNsSPWZrEg0pX2K8q8WHuu";

    fn load(text: &str) -> Result<WebFile, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.yml");
        fs::write(&path, text).unwrap();
        WebFile::load(&path).map_err(|e| e.to_string().replace(&*path.to_string_lossy(), "web.yml"))
    }

    #[test]
    fn reads_what_prometheus_reads() {
        let web = load(&format!(
            "tls_server_config:\n  cert_file: a.crt\n  key_file: /k\n  min_version: TLS12\n\
             http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n\
             basic_auth_users:\n  alice: {HASH}\n"
        ))
        .unwrap();
        let tls = web.tls.unwrap();
        assert!(tls.cert.is_absolute() && tls.cert.ends_with("a.crt"));
        assert_eq!((tls.key, tls.client_ca), (PathBuf::from("/k"), None));
        assert_eq!(web.headers.len(), 1);
        assert_eq!(web.users["alice"], HASH);
        assert!(load("").unwrap().users.is_empty());
    }

    #[test]
    fn faults_have_places_and_never_show_a_secret() {
        for (text, expected) in [
            ("basic_auth_user: {}\n", "unknown key \"basic_auth_user\"\n  --> web.yml:1:1"),
            (
                "basic_auth_users:\n  bob: hunter2\n",
                "the password of user \"bob\" is not a bcrypt hash\n  --> web.yml:2:3\n 2 |   bob: …\n",
            ),
            ("tls_server_config: { cert_file: a }\n", "key_file is missing\n  --> web.yml:1:1"),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  min_version: TLS13\n",
                "min_version \"TLS13\" is not supported\n  --> web.yml:4:3",
            ),
            (
                "tls_server_config:\n  cert_file: a\n  key_file: b\n  client_ca_file: c\n",
                "client_ca_file is given, but client_auth_type does not ask for certificates\n  --> web.yml:4:3",
            ),
            (
                "http_server_config:\n  headers:\n    X-Odd: 1\n",
                "the header \"X-Odd\" cannot be set",
            ),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
            assert!(!error.contains("hunter2"));
        }
        assert!(
            WebFile::load(Path::new("/nowhere")).unwrap_err().to_string().contains("cannot read")
        );
    }
}
