//! `state.json`: what a PKI folder remembers beside its certificates. ROTATION.md tells every field.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::certificate::{Certificate, hex};
use crate::disk;
use crate::identity::Identity;
use crate::rotate::{Past, Rotation, Sighting};
use crate::token::Token;

/// The file's name in the PKI folder.
pub const STATE: &str = "state.json";
/// The file that is locked while the state is changed.
pub const LOCK: &str = "state.lock";
/// Rotations that are remembered; the oldest is forgotten first.
pub const MAX_HISTORY: usize = 50;

const VERSION: u32 = 1;
/// What has run out is kept this much longer, so that the reason of a refusal can be told.
const REMEMBERED: Duration = Duration::from_secs(7 * 86_400);

/// Everything that `state.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Of the format.
    pub version: u32,
    /// The trust domain, where the authority's own certificate does not name it (`init --from-ca`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_domain: Option<String>,
    /// The certificates that were issued and have not run out, by `cluster/instance` or `collector/name`.
    #[serde(default)]
    pub issued: BTreeMap<String, Vec<IssuedKey>>,
    /// Keys that are refused whatever their certificates say.
    #[serde(default)]
    pub denied: Vec<Denied>,
    /// One-time tokens for enrolment.
    #[serde(default)]
    pub tokens: Vec<Token>,
    /// The rotation that is going on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// Rotations that are over, the newest last.
    #[serde(default)]
    pub history: Vec<Past>,
    /// When the collector last looked at each agent, and what it saw.
    #[serde(default)]
    pub seen: BTreeMap<String, Sighting>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: VERSION,
            trust_domain: None,
            issued: BTreeMap::new(),
            denied: Vec::new(),
            tokens: Vec::new(),
            rotation: None,
            history: Vec::new(),
            seen: BTreeMap::new(),
        }
    }
}

/// One certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IssuedKey {
    /// The hash of its public key.
    #[serde(with = "hex32")]
    pub spki_sha256: [u8; 32],
    /// Its serial number in hexadecimal digits.
    pub serial: String,
    /// The hash of the public key of the authority that signed it.
    #[serde(with = "hex32")]
    pub authority: [u8; 32],
    /// From when it is valid.
    #[serde(with = "at")]
    pub not_before: SystemTime,
    /// Until when it is valid.
    #[serde(with = "at")]
    pub not_after: SystemTime,
    /// What it was issued for.
    pub how: How,
}

/// On which way a certificate came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// The collector's first, made with the folder.
    Init,
    /// `tributary-certs issue`: the folder holds the key.
    Issue,
    /// An agent enrolled with a token; every earlier certificate of its identity is denied.
    Join,
    /// An agent, or the collector itself, renewed in time.
    Renewal,
}

impl How {
    /// The word in `state.json` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Issue => "issue",
            Self::Join => "join",
            Self::Renewal => "renewal",
        }
    }
}

/// A key that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denied {
    /// The hash of the public key.
    #[serde(with = "hex32")]
    pub spki_sha256: [u8; 32],
    /// Whose it is, as in [`State::issued`]; empty if nobody knows.
    pub identity: String,
    /// Since when.
    #[serde(with = "at")]
    pub at: SystemTime,
    /// When its last certificate runs out and the entry may go; without it, never.
    #[serde(default, with = "maybe_at", skip_serializing_if = "Option::is_none")]
    pub until: Option<SystemTime>,
    /// Why, in the operator's words.
    pub why: String,
}

/// The name of an identity in this file: `cluster/instance` or `collector/name`.
pub fn name_of(identity: &Identity) -> String {
    match identity {
        Identity::Agent { cluster, instance, .. } => format!("{cluster}/{instance}"),
        Identity::Collector { name, .. } => format!("collector/{name}"),
    }
}

/// Whether `cluster/instance` is the one that is named, or one of the cluster that is named.
pub(crate) fn is_of(name: &str, named: &str) -> bool {
    name == named || name.split_once('/').is_some_and(|(cluster, _)| cluster == named)
}

/// Tells whether a file has changed since it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl State {
    /// Reads the state; a folder without one has an empty state.
    pub fn read(dir: &Path) -> Result<Self, StateError> {
        let path = dir.join(STATE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(StateError::Disk { doing: "reading", path, source }),
        };
        let state: Self = serde_json::from_slice(&text)
            .map_err(|source| StateError::Malformed { path: path.clone(), source })?;
        if state.version != VERSION {
            return Err(StateError::Version { path, found: state.version });
        }
        Ok(state)
    }

    /// Changes the state under the folder's lock: what `change` returns an error for is not written. The file is
    /// replaced whole, so a kill leaves the old state or the new one.
    pub fn change<T, E: From<StateError>>(
        dir: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let failed = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Disk { doing, path, source }
        };
        let lock_path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(disk::SECRET)
            .open(&lock_path)
            .map_err(failed("opening", &lock_path))?;
        lock.lock().map_err(failed("locking", &lock_path))?;
        let before = Self::read(dir)?;
        let mut state = before.clone();
        let done = change(&mut state)?;
        if state != before {
            let path = dir.join(STATE);
            let text = serde_json::to_vec_pretty(&state)
                .map_err(|source| StateError::Malformed { path: path.clone(), source })?;
            disk::replace(&path, &text, disk::SECRET).map_err(failed("writing", &path))?;
        }
        Ok(done)
    }

    /// Changes with the file; cheap enough to look at five times a second. `None` where there is none.
    pub fn stamp(dir: &Path) -> Option<Stamp> {
        let found = fs::metadata(dir.join(STATE)).ok()?;
        Some(Stamp {
            inode: found.ino(),
            bytes: found.len(),
            modified: (found.mtime(), found.mtime_nsec()),
        })
    }

    /// The keys that are refused.
    pub fn denied_keys(&self) -> HashSet<[u8; 32]> {
        self.denied.iter().map(|denied| denied.spki_sha256).collect()
    }

    /// Whether a key is refused.
    pub fn is_denied(&self, spki_sha256: &[u8; 32]) -> bool {
        self.denied.iter().any(|denied| denied.spki_sha256 == *spki_sha256)
    }

    /// The certificates of an identity that are neither over nor denied.
    pub fn valid_keys(&self, name: &str, now: SystemTime) -> impl Iterator<Item = &IssuedKey> {
        let keys = self.issued.get(name).into_iter().flatten();
        keys.filter(move |key| key.not_after > now && !self.is_denied(&key.spki_sha256))
    }

    /// The names of the agents that hold a certificate that is neither over nor denied.
    pub fn agents(&self, now: SystemTime) -> impl Iterator<Item = &str> {
        let names = self.issued.keys().filter(|name| !name.starts_with("collector/"));
        names.filter(move |name| self.valid_keys(name, now).next().is_some()).map(String::as_str)
    }

    /// Remembers a certificate that was issued. One that was enrolled for denies all earlier ones of its identity:
    /// whoever lost the old key cannot come back with it.
    pub fn record(
        &mut self,
        identity: &Identity,
        certificate: &Certificate,
        authority: [u8; 32],
        (how, now): (How, SystemTime),
    ) {
        self.prune(now);
        let name = name_of(identity);
        if how == How::Join {
            let earlier: Vec<IssuedKey> = self.issued.get(&name).cloned().unwrap_or_default();
            for key in earlier.iter().filter(|key| key.spki_sha256 != certificate.spki_sha256) {
                self.deny(&name, key, "replaced by a new enrolment", now);
            }
        }
        self.issued.entry(name).or_default().push(IssuedKey {
            spki_sha256: certificate.spki_sha256,
            serial: certificate.serial.clone(),
            authority,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            how,
        });
    }

    /// Refuses a key from now on; one that is refused already keeps its reason.
    pub fn deny(&mut self, name: &str, key: &IssuedKey, why: &str, now: SystemTime) {
        if self.is_denied(&key.spki_sha256) {
            return;
        }
        self.denied.push(Denied {
            spki_sha256: key.spki_sha256,
            identity: name.to_owned(),
            at: now,
            until: Some(key.not_after),
            why: why.to_owned(),
        });
    }

    /// Forgets what can have no effect any more.
    pub fn prune(&mut self, now: SystemTime) {
        let over = |end: SystemTime| end.checked_add(REMEMBERED).is_some_and(|end| end < now);
        for keys in self.issued.values_mut() {
            keys.retain(|key| !over(key.not_after));
        }
        self.issued.retain(|_, keys| !keys.is_empty());
        self.denied.retain(|denied| !denied.until.is_some_and(over));
        self.tokens.retain(|token| !over(token.expires_at));
        let excess = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..excess);
    }
}

/// Why the state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk says no.
    #[error("{doing} {}: {source}", path.display())]
    Disk {
        /// `reading`, `writing`, `locking`.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Somebody else wrote it, or edited it.
    #[error("{}: this is not the state of a PKI folder: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: serde_json::Error,
    },
    /// A newer program wrote it.
    #[error("{}: format version {found}; this program knows version {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Times in RFC 3339, whole seconds.
pub(crate) mod at {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};
    use time::OffsetDateTime;
    use time::format_description::well_known::Rfc3339;

    pub(crate) fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::certificate::rfc3339(*time))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|_| D::Error::custom(format_args!("{text:?} is not a time in RFC 3339")))?;
        Ok(time.into())
    }
}

/// A time, or none.
pub(crate) mod maybe_at {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer};

    #[derive(Deserialize)]
    struct At(#[serde(with = "super::at")] SystemTime);

    #[expect(clippy::ref_option, reason = "serde wants this signature")]
    pub(crate) fn serialize<S: Serializer>(
        time: &Option<SystemTime>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => super::at::serialize(time, to),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<SystemTime>, D::Error> {
        Ok(Option::<At>::deserialize(from)?.map(|At(time)| time))
    }
}

/// Hashes as 64 hexadecimal digits.
pub(crate) mod hex32 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(hash: &[u8; 32], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&super::hex(hash))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(from)?;
        crate::digest::parse_hex(&text)
            .ok_or_else(|| D::Error::custom(format_args!("{text:?} is not a SHA-256")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use tempfile::TempDir;

    use super::*;

    fn change(dir: &Path, change: impl FnOnce(&mut State)) -> Result<(), StateError> {
        State::change(dir, |state| {
            change(state);
            Ok(())
        })
    }

    fn denied(number: u8, now: SystemTime, until: Option<SystemTime>) -> Denied {
        let identity = "eu-1/agent".to_owned();
        Denied { spki_sha256: [number; 32], identity, at: now, until, why: "test".to_owned() }
    }

    #[test]
    fn what_is_written_is_read_again_and_nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = TempDir::new().unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), State::default());
        assert_eq!(State::stamp(dir.path()), None);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        change(dir.path(), |state| state.denied.push(denied(7, now, Some(now)))).unwrap();
        let state = State::read(dir.path()).unwrap();
        assert_eq!(state.denied, [denied(7, now, Some(now))]);
        assert_eq!(state.denied_keys(), HashSet::from([[7; 32]]));
        let text = fs::read_to_string(dir.path().join(STATE)).unwrap();
        assert!(text.contains("\"at\": \"2027-01-15T08:00:00Z\""), "{text}");
        let mode = fs::metadata(dir.path().join(STATE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_change_that_fails_or_changes_nothing_writes_nothing() {
        let dir = TempDir::new().unwrap();
        let now = SystemTime::now();
        change(dir.path(), |state| state.denied.push(denied(1, now, None))).unwrap();
        let stamp = State::stamp(dir.path());
        change(dir.path(), |_| {}).unwrap();
        assert_eq!(State::stamp(dir.path()), stamp);
        let failed: Result<(), StateError> = State::change(dir.path(), |state| {
            state.denied.clear();
            Err(StateError::Version { path: PathBuf::new(), found: 9 })
        });
        assert!(failed.is_err());
        assert_eq!(State::stamp(dir.path()), stamp);
        change(dir.path(), |state| state.denied.clear()).unwrap();
        assert_ne!(State::stamp(dir.path()), stamp);
    }

    #[test]
    fn changes_wait_for_each_other() {
        const WRITERS: usize = 8;
        let dir = TempDir::new().unwrap();
        let now = SystemTime::now();
        let start = Barrier::new(WRITERS);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (start, dir) = (&start, dir.path());
                scope.spawn(move || {
                    start.wait();
                    let number = u8::try_from(writer).unwrap();
                    change(dir, |state| state.denied.push(denied(number, now, None))).unwrap();
                });
            }
        });
        assert_eq!(State::read(dir.path()).unwrap().denied_keys().len(), WRITERS);
    }

    #[test]
    fn what_is_not_ours_is_refused_and_left_alone() {
        let dir = TempDir::new().unwrap();
        let cases = [
            ("", "this is not the state of a PKI folder"),
            ("{", "this is not the state of a PKI folder"),
            (r#"{"version":1,"extra":1}"#, "unknown field `extra`"),
            (r#"{"version":2}"#, "format version 2; this program knows version 1"),
            (
                r#"{"version":1,"denied":[{"spki_sha256":"ab","identity":"","at":"2027-01-15T08:00:00Z","why":""}]}"#,
                "is not a SHA-256",
            ),
        ];
        for (text, words) in cases {
            fs::write(dir.path().join(STATE), text).unwrap();
            let error = change(dir.path(), |state| state.denied.clear()).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
            assert_eq!(fs::read_to_string(dir.path().join(STATE)).unwrap(), text);
        }
        fs::write(dir.path().join(STATE), r#"{"version":1}"#).unwrap();
        assert_eq!(State::read(dir.path()).unwrap(), State::default());
    }

    #[test]
    fn what_has_run_out_is_forgotten_after_a_week() {
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let entries = [
            denied(1, now, Some(now - 8 * day)),
            denied(2, now, Some(now - 6 * day)),
            denied(3, now, None),
        ];
        let mut state = State { denied: entries.to_vec(), ..State::default() };
        state.prune(now);
        assert_eq!(state.denied_keys(), HashSet::from([[2; 32], [3; 32]]));
    }
}
