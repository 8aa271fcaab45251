//! Ends certificates before their time: their keys are refused, whatever the certificates say.

use std::path::Path;
use std::time::SystemTime;

use crate::bundle::{self, BundleError, COLLECTOR, LEAF_CERT, LEAF_KEY};
use crate::certificate::Certificate;
use crate::identity::{self, InvalidIdentity};
use crate::state::{Denied, How, IssuedKey, State, StateError, is_of, name_of};

/// Digits of a serial number that are enough, if no other begins alike.
const MIN_SERIAL_DIGITS: usize = 6;

/// Whose certificates end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// All agents of a cluster, or `cluster/instance`.
    Name(String),
    /// The one with this serial number, or the only one whose serial number begins so.
    Serial(String),
    /// Those with this key (SHA-256 of the SPKI), known here or not.
    Key([u8; 32]),
}

/// Refuses keys from now on. A collector with `pki.dir` on this folder ends their streams within a second; open tokens
/// of a cluster that is named are void. Returns the entries of the deny-list, those that were there before included.
pub fn revoke(
    dir: &Path,
    whose: &Whose,
    why: &str,
    now: SystemTime,
) -> Result<Vec<Denied>, RevokeError> {
    State::change(dir, |state| {
        let found = match whose {
            Whose::Name(name) => of_name(dir, state, name)?,
            Whose::Serial(serial) => of_serial(state, serial)?,
            Whose::Key(key) => of_key(state, key),
        };
        for (name, key) in &found {
            state.deny(name, key, why, now);
        }
        if let Whose::Name(name) = whose {
            void_tokens(state, name, now);
        }
        if let Whose::Key(key) = whose
            && found.is_empty()
            && !state.is_denied(key)
        {
            state.denied.push(Denied {
                spki_sha256: *key,
                identity: String::new(),
                at: now,
                until: None,
                why: why.to_owned(),
            });
        }
        let keys: Vec<[u8; 32]> = match whose {
            Whose::Key(key) => vec![*key],
            _ => found.iter().map(|(_, key)| key.spki_sha256).collect(),
        };
        let denied = state.denied.iter().filter(|denied| keys.contains(&denied.spki_sha256));
        Ok(denied.cloned().collect())
    })
}

/// Removes a cluster for good: its certificates are refused, its tokens void, its folder emptied, its name free.
pub fn remove(
    dir: &Path,
    cluster: &str,
    why: &str,
    now: SystemTime,
) -> Result<Vec<Denied>, RevokeError> {
    identity::check_cluster(cluster)?;
    let denied = revoke(dir, &Whose::Name(cluster.to_owned()), why, now)?;
    let folder = dir.join(cluster);
    for name in [LEAF_KEY, LEAF_CERT, bundle::CA_CERT] {
        bundle::remove(&folder.join(name))?;
    }
    State::change(dir, |state| {
        let is_it = |name: &String| is_of(name, cluster);
        state.issued.retain(|name, _| !is_it(name));
        state.seen.retain(|name, _| !is_it(name));
        Ok::<_, RevokeError>(())
    })?;
    Ok(denied)
}

/// Why nothing is revoked.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// No certificate of this name is known.
    #[error("no certificate was issued for \"{name}\"")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// No certificate with this serial number is known.
    #[error("no certificate with the serial number {serial} was issued here, or it has run out")]
    UnknownSerial {
        /// The number.
        serial: String,
    },
    /// The digits are not enough.
    #[error(
        "{serial}: {count} serial numbers begin so; give more digits (at least {MIN_SERIAL_DIGITS})"
    )]
    Ambiguous {
        /// The digits.
        serial: String,
        /// How many.
        count: usize,
    },
    /// Agents know no deny-list.
    #[error("the collector's own certificate cannot be revoked: agents know no deny-list")]
    Collector,
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] InvalidIdentity),
    /// The folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] BundleError),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

type Found = Vec<(String, IssuedKey)>;

/// What was issued, and what lies in the leaf folder: it may be older than the state.
fn of_name(dir: &Path, state: &State, name: &str) -> Result<Found, RevokeError> {
    let mut found = filter(state, |of, _| is_of(of, name));
    let (cluster, instance) = name.split_once('/').unwrap_or((name, ""));
    if cluster == COLLECTOR {
        return Err(RevokeError::Collector);
    }
    identity::check_cluster(cluster)?;
    let file = dir.join(cluster).join(LEAF_CERT);
    if file.exists() {
        let leaf = bundle::leaf(&file)?;
        let known = found.iter().any(|(_, key)| key.spki_sha256 == leaf.spki_sha256);
        let of = name_in(&leaf);
        if !known && (instance.is_empty() || of == name) {
            found.push((of, key_of(&leaf)));
        }
    }
    if found.is_empty() {
        return Err(RevokeError::UnknownName { name: name.to_owned() });
    }
    Ok(found)
}

fn of_serial(state: &State, serial: &str) -> Result<Found, RevokeError> {
    let digits = serial.to_ascii_lowercase().replace(':', "");
    let found = filter(state, |_, key| key.serial.starts_with(&digits));
    match found.as_slice() {
        [] => Err(RevokeError::UnknownSerial { serial: digits }),
        [_] if digits.len() < MIN_SERIAL_DIGITS => {
            Err(RevokeError::Ambiguous { serial: digits, count: 1 })
        }
        [(name, _)] if name.starts_with("collector/") => Err(RevokeError::Collector),
        [_] => Ok(found),
        several => Err(RevokeError::Ambiguous { serial: digits, count: several.len() }),
    }
}

fn of_key(state: &State, wanted: &[u8; 32]) -> Found {
    filter(state, |_, key| key.spki_sha256 == *wanted)
}

fn filter(state: &State, wanted: impl Fn(&str, &IssuedKey) -> bool) -> Found {
    let all = state.issued.iter().flat_map(|(name, keys)| keys.iter().map(move |key| (name, key)));
    let found = all.filter(|(name, key)| wanted(name, key));
    found.map(|(name, key)| (name.clone(), key.clone())).collect()
}

fn void_tokens(state: &mut State, name: &str, now: SystemTime) {
    for token in &mut state.tokens {
        let instance = token.instance.as_deref().unwrap_or("");
        if token.is_open(now)
            && (token.cluster == name || format!("{}/{instance}", token.cluster) == name)
        {
            token.expires_at = now;
        }
    }
}

fn name_in(leaf: &Certificate) -> String {
    let identity = leaf.uris.first().and_then(|uri| uri.parse().ok());
    identity.map_or_else(String::new, |identity| name_of(&identity))
}

fn key_of(leaf: &Certificate) -> IssuedKey {
    IssuedKey {
        spki_sha256: leaf.spki_sha256,
        serial: leaf.serial.clone(),
        authority: [0; 32],
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        how: How::Issue,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tempfile::TempDir;

    use super::*;
    use crate::bundle::{Folder, Init};
    use crate::token::{self, Grant};

    const DAY: Duration = Duration::from_secs(86_400);

    /// A folder with two agents of `eu-1` and one of `us-1`.
    fn folder(now: SystemTime) -> TempDir {
        let dir = TempDir::new().unwrap();
        let init = Init {
            trust_domain: "td",
            collector: "collector",
            hosts: &["localhost".to_owned()],
            lifetime: DAY,
            force: false,
        };
        let folder = Folder::init(dir.path(), &init, now).unwrap();
        let second = dir.path().join("second");
        folder.issue_agent(("eu-1", "a"), None, now, DAY).unwrap();
        folder.issue_agent(("eu-1", "b"), Some(&second), now, DAY).unwrap();
        folder.issue_agent(("us-1", "a"), None, now, DAY).unwrap();
        dir
    }

    fn name(name: &str) -> Whose {
        Whose::Name(name.to_owned())
    }

    fn names(denied: &[Denied]) -> Vec<&str> {
        denied.iter().map(|denied| denied.identity.as_str()).collect()
    }

    #[test]
    fn a_cluster_or_one_of_its_agents() {
        let now = SystemTime::now();
        let dir = folder(now);
        let one = revoke(dir.path(), &name("eu-1/b"), "lost", now).unwrap();
        assert_eq!(names(&one), ["eu-1/b"]);
        let all = revoke(dir.path(), &name("eu-1"), "gone", now).unwrap();
        assert_eq!(names(&all), ["eu-1/b", "eu-1/a"]);
        let why: Vec<&str> = all.iter().map(|denied| denied.why.as_str()).collect();
        assert_eq!(why, ["lost", "gone"], "the first reason stays");
        let state = State::read(dir.path()).unwrap();
        assert_eq!(state.agents(now).collect::<Vec<_>>(), ["us-1/a"]);
    }

    #[test]
    fn a_certificate_that_is_older_than_the_state_is_found_in_its_folder() {
        let now = SystemTime::now();
        let dir = folder(now);
        std::fs::remove_file(dir.path().join(crate::state::STATE)).unwrap();
        let leaf = bundle::leaf(&dir.path().join("us-1").join(LEAF_CERT)).unwrap();
        assert!(matches!(
            revoke(dir.path(), &name("us-1/other"), "", now),
            Err(RevokeError::UnknownName { .. })
        ));
        let denied = revoke(dir.path(), &name("us-1"), "", now).unwrap();
        assert_eq!(names(&denied), ["us-1/a"]);
        assert_eq!(denied[0].spki_sha256, leaf.spki_sha256);
    }

    #[test]
    fn a_serial_number_by_its_first_digits() {
        let now = SystemTime::now();
        let dir = folder(now);
        let serial = State::read(dir.path()).unwrap().issued["us-1/a"][0].serial.clone();
        let of = |digits: &str| revoke(dir.path(), &Whose::Serial(digits.to_owned()), "", now);
        assert!(matches!(of(&serial[..3]), Err(RevokeError::Ambiguous { .. })));
        assert!(matches!(of(""), Err(RevokeError::Ambiguous { .. })));
        assert!(matches!(of("ffffffffff"), Err(RevokeError::UnknownSerial { .. })));
        assert_eq!(names(&of(&serial[..8].to_uppercase()).unwrap()), ["us-1/a"]);
        let own = State::read(dir.path()).unwrap().issued["collector/collector"][0].serial.clone();
        assert!(matches!(of(&own), Err(RevokeError::Collector)));
    }

    #[test]
    fn a_removed_cluster_leaves_only_its_entries_on_the_deny_list() {
        let now = SystemTime::now();
        let dir = folder(now);
        let grant = Grant {
            cluster: "eu-1".to_owned(),
            instance: Some("c".to_owned()),
            ttl: DAY,
            replace: false,
        };
        let token = State::change(dir.path(), |state| token::create(state, &grant, now)).unwrap();
        assert_eq!(names(&remove(dir.path(), "eu-1", "gone", now).unwrap()), ["eu-1/a", "eu-1/b"]);
        let mut state = State::read(dir.path()).unwrap();
        assert_eq!(state.denied.len(), 2);
        assert_eq!(state.issued.keys().collect::<Vec<_>>(), ["collector/collector", "us-1/a"]);
        let late = token::redeem(&mut state, &token, ("eu-1", ""), now).unwrap_err();
        assert_eq!(late.reason(), "expired");
        assert!(!dir.path().join("eu-1").join(LEAF_KEY).exists());
        assert!(matches!(
            remove(dir.path(), "eu-1", "gone", now),
            Err(RevokeError::UnknownName { .. })
        ));
    }
}
