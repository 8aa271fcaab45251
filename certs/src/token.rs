//! One-time tokens: each lets one agent enrol, once, as one cluster, for a short time.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::bundle;
use crate::certificate::utc;
use crate::digest::sha256_hex;
use crate::identity::{self, DEFAULT_INSTANCE, InvalidIdentity};
use crate::state::{State, at, maybe_at};

/// How long a token is good for unless told otherwise.
pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);
/// Longest a token may be good for.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);
/// Most tokens that are remembered at a time, the spent and expired ones of the last week among them.
pub const MAX_TOKENS: usize = 1000;

const ID_CHARS: usize = 6;
/// 134 bits.
const SECRET_CHARS: usize = 26;
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// A token as `state.json` keeps it; the secret itself is kept nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Names it in logs and messages; no secret.
    pub id: String,
    /// The hash of its secret.
    pub secret_sha256: String,
    /// The cluster whose agent may enrol with it.
    pub cluster: String,
    /// Which of the cluster's agents; without it, the agent says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// When it was made.
    #[serde(with = "at")]
    pub created_at: SystemTime,
    /// When it ends, spent or not.
    #[serde(with = "at")]
    pub expires_at: SystemTime,
    /// When it was spent.
    #[serde(default, with = "maybe_at", skip_serializing_if = "Option::is_none")]
    pub spent_at: Option<SystemTime>,
    /// Whether it may take the place of an agent that is enrolled already.
    #[serde(default)]
    pub replace: bool,
}

impl Token {
    /// Whether somebody can still enrol with it.
    pub fn is_open(&self, now: SystemTime) -> bool {
        self.spent_at.is_none() && self.expires_at > now
    }
}

/// What a token is to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The cluster whose agent may enrol.
    pub cluster: String,
    /// Which of the cluster's agents; without it, the agent says so itself.
    pub instance: Option<String>,
    /// For how long; at most [`MAX_TTL`].
    pub ttl: Duration,
    /// Whether it may take the place of an agent that is enrolled already.
    pub replace: bool,
}

/// Who may be enrolled: what a token that was good for it allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The token's id, for logs.
    pub token: String,
    /// The cluster.
    pub cluster: String,
    /// The agent.
    pub instance: String,
}

/// Makes a token and returns it as text, `id.secret`: the only time its secret is seen.
pub fn create(
    state: &mut State,
    grant: &Grant,
    now: SystemTime,
) -> Result<Zeroizing<String>, TokenError> {
    identity::check_cluster(&grant.cluster)?;
    grant.instance.as_deref().map_or(Ok(()), identity::check_instance)?;
    if bundle::is_reserved(&grant.cluster) {
        return Err(TokenError::Reserved { name: grant.cluster.clone() });
    }
    if grant.ttl.is_zero() || grant.ttl > MAX_TTL {
        return Err(TokenError::Ttl { asked: grant.ttl });
    }
    state.prune(now);
    if state.tokens.len() >= MAX_TOKENS {
        return Err(TokenError::TooMany);
    }
    if !grant.replace
        && let Some(name) = enrolled(state, &grant.cluster, grant.instance.as_deref(), now)
    {
        return Err(TokenError::AlreadyEnrolled { name });
    }
    let id = std::iter::repeat_with(|| random_text(ID_CHARS))
        .find(|id| id.as_ref().map_or(true, |id| state.tokens.iter().all(|t| t.id != **id)))
        .unwrap_or(Err(TokenError::Random))?;
    let secret = random_text(SECRET_CHARS)?;
    state.tokens.push(Token {
        id: id.to_string(),
        secret_sha256: sha256_hex(secret.as_bytes()),
        cluster: grant.cluster.clone(),
        instance: grant.instance.clone(),
        created_at: now,
        expires_at: now + grant.ttl,
        spent_at: None,
        replace: grant.replace,
    });
    Ok(Zeroizing::new(format!("{}.{}", *id, *secret)))
}

/// Spends a token: within [`State::change`], and before anything is issued for it. `wanted` is the cluster and the
/// instance that the agent asks for; empty leaves either to the token. Nothing is told about a token to whoever
/// does not know its secret.
pub fn redeem(
    state: &mut State,
    presented: &str,
    (cluster, instance): (&str, &str),
    now: SystemTime,
) -> Result<Granted, TokenError> {
    let (id, secret) = split(presented).ok_or(TokenError::Malformed)?;
    let position = state.tokens.iter().position(|token| token.id == id);
    let found = position.and_then(|index| state.tokens.get(index)).ok_or(TokenError::Unknown)?;
    let hash = sha256_hex(secret.as_bytes());
    let same = aws_lc_rs::constant_time::verify_slices_are_equal(
        hash.as_bytes(),
        found.secret_sha256.as_bytes(),
    );
    same.map_err(|_| TokenError::WrongSecret)?;
    if let Some(at) = found.spent_at {
        return Err(TokenError::Spent { at });
    }
    if found.expires_at <= now {
        return Err(TokenError::Expired { at: found.expires_at });
    }
    if !cluster.is_empty() && cluster != found.cluster {
        return Err(TokenError::OtherCluster {
            granted: found.cluster.clone(),
            asked: cluster.escape_debug().to_string(),
        });
    }
    let granted = match &found.instance {
        Some(granted) if !instance.is_empty() && instance != granted => {
            return Err(TokenError::OtherInstance {
                granted: granted.clone(),
                asked: instance.escape_debug().to_string(),
            });
        }
        Some(granted) => granted,
        None if instance.is_empty() => DEFAULT_INSTANCE,
        None => instance,
    };
    identity::check_instance(granted)?;
    if !found.replace
        && let Some(name) = enrolled(state, &found.cluster, Some(granted), now)
    {
        return Err(TokenError::AlreadyEnrolled { name });
    }
    let granted = Granted {
        token: found.id.clone(),
        cluster: found.cluster.clone(),
        instance: granted.to_owned(),
    };
    if let Some(token) = position.and_then(|index| state.tokens.get_mut(index)) {
        token.spent_at = Some(now);
    }
    Ok(granted)
}

/// Why a token is not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not `id.secret`.
    #[error(
        "this is not a token: a token is six letters or digits, a dot, and {SECRET_CHARS} more"
    )]
    Malformed,
    /// No token has this id: mistyped, of another collector, or long forgotten.
    #[error("no token has this id")]
    Unknown,
    /// The id is right, the secret is not.
    #[error("the token's secret is wrong")]
    WrongSecret,
    /// A token is good for one enrolment.
    #[error("the token was used already, at {}", utc(*at))]
    Spent {
        /// When.
        at: SystemTime,
    },
    /// Too late.
    #[error("the token expired at {}", utc(*at))]
    Expired {
        /// When.
        at: SystemTime,
    },
    /// The token is for another cluster.
    #[error("the token is for cluster \"{granted}\", not for \"{asked}\"")]
    OtherCluster {
        /// Its own.
        granted: String,
        /// The agent's wish.
        asked: String,
    },
    /// The token is for another of the cluster's agents.
    #[error("the token is for the agent \"{granted}\", not for \"{asked}\"")]
    OtherInstance {
        /// Its own.
        granted: String,
        /// The agent's wish.
        asked: String,
    },
    /// The name is taken, and the token may not replace its holder.
    #[error("{name} is enrolled already")]
    AlreadyEnrolled {
        /// `cluster/instance`.
        name: String,
    },
    /// A name is not valid.
    #[error(transparent)]
    Name(#[from] InvalidIdentity),
    /// The name of a folder that has another purpose.
    #[error("a cluster cannot have the name \"{name}\": the PKI folder uses it itself")]
    Reserved {
        /// The name.
        name: String,
    },
    /// Zero, or too long.
    #[error("a token lives more than no time and at most 24 h, not {} s", asked.as_secs())]
    Ttl {
        /// The wish.
        asked: Duration,
    },
    /// [`MAX_TOKENS`] are there.
    #[error("there are {MAX_TOKENS} tokens already; the oldest go a week after they expired")]
    TooMany,
    /// The operating system gave no random bytes.
    #[error("the operating system gave no random bytes for a token")]
    Random,
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] crate::state::StateError),
}

impl TokenError {
    /// One word for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::WrongSecret => "wrong_secret",
            Self::Spent { .. } => "spent",
            Self::Expired { .. } => "expired",
            Self::OtherCluster { .. } => "other_cluster",
            Self::OtherInstance { .. } => "other_instance",
            Self::AlreadyEnrolled { .. } => "already_enrolled",
            Self::Name(_) | Self::Reserved { .. } => "name",
            Self::Ttl { .. } | Self::TooMany | Self::Random | Self::State(_) => "internal",
        }
    }
}

/// The agent that stands in the way of a new one: this instance, or any of the cluster's.
fn enrolled(
    state: &State,
    cluster: &str,
    instance: Option<&str>,
    now: SystemTime,
) -> Option<String> {
    let is_it = |name: &&str| {
        name.split_once('/').is_some_and(|(of, agent)| {
            of == cluster && instance.is_none_or(|instance| instance == agent)
        })
    };
    state.agents(now).find(is_it).map(str::to_owned)
}

fn split(presented: &str) -> Option<(&str, &str)> {
    let (id, secret) = presented.trim().split_once('.')?;
    let good =
        |text: &str, chars| text.len() == chars && text.bytes().all(|b| ALPHABET.contains(&b));
    (good(id, ID_CHARS) && good(secret, SECRET_CHARS)).then_some((id, secret))
}

/// Every character is as likely as every other: bytes past the last whole multiple of 36 are thrown away.
fn random_text(chars: usize) -> Result<Zeroizing<String>, TokenError> {
    let mut text = Zeroizing::new(String::with_capacity(chars));
    while text.len() < chars {
        let mut bytes = Zeroizing::new([0_u8; 64]);
        aws_lc_rs::rand::fill(bytes.as_mut()).map_err(|_| TokenError::Random)?;
        let even = bytes.iter().filter(|byte| **byte < 252).map(|byte| usize::from(byte % 36));
        let letters = even.filter_map(|index| ALPHABET.get(index)).map(|byte| char::from(*byte));
        let wanted = chars - text.len();
        text.extend(letters.take(wanted));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Authority;
    use crate::identity::Identity;
    use crate::state::How;

    const HOUR: Duration = Duration::from_secs(3600);

    fn grant(cluster: &str, instance: Option<&str>) -> Grant {
        let instance = instance.map(str::to_owned);
        Grant { cluster: cluster.to_owned(), instance, ttl: HOUR, replace: false }
    }

    fn new(state: &mut State, grant: &Grant, now: SystemTime) -> String {
        create(state, grant, now).unwrap().to_string()
    }

    /// As if an agent had enrolled.
    fn enrol(state: &mut State, cluster: &str, instance: &str, now: SystemTime) {
        let authority = Authority::create("td", now).unwrap();
        let issued = authority.issue_agent(cluster, instance, now, 24 * HOUR).unwrap();
        let identity = Identity::agent("td", cluster, instance).unwrap();
        state.record(&identity, &issued.certificate, [0; 32], (How::Join, now));
    }

    #[test]
    fn a_token_is_good_once_and_its_secret_is_kept_nowhere() {
        let (mut state, now) = (State::default(), SystemTime::now());
        let token = new(&mut state, &grant("eu-1", None), now);
        let (id, secret) = token.split_once('.').unwrap();
        assert_eq!((id.len(), secret.len()), (6, 26));
        assert!(!serde_json::to_string(&state).unwrap().contains(secret));
        assert_ne!(token, new(&mut state, &grant("eu-1", None), now));

        let granted = redeem(&mut state, &token, ("eu-1", "prometheus-0"), now).unwrap();
        assert_eq!((granted.cluster.as_str(), granted.instance.as_str()), ("eu-1", "prometheus-0"));
        let again = redeem(&mut state, &token, ("eu-1", "prometheus-0"), now).unwrap_err();
        assert!(matches!(again, TokenError::Spent { at } if at == now), "{again}");
    }

    #[test]
    fn every_refusal_has_its_own_words() {
        let (mut state, now) = (State::default(), SystemTime::now());
        let any = new(&mut state, &grant("eu-1", None), now);
        let one = new(&mut state, &grant("us-1", Some("a")), now);
        let other_secret = format!("{}.{}", &any[..6], &one[7..]);
        let unknown = format!("000000.{}", &one[7..]);
        let later = now + HOUR;
        let cases: &[(&str, (&str, &str), SystemTime, &str)] = &[
            ("", ("", ""), now, "malformed"),
            ("abc", ("", ""), now, "malformed"),
            ("abcdef.", ("", ""), now, "malformed"),
            (&any.to_uppercase(), ("", ""), now, "malformed"),
            (&format!("{any}x"), ("", ""), now, "malformed"),
            (&unknown, ("", ""), now, "unknown"),
            (&other_secret, ("us-2", ""), later, "wrong_secret"),
            (&any, ("us-1", ""), now, "other_cluster"),
            (&any, ("../x\0", ""), now, "other_cluster"),
            (&one, ("us-1", "b"), now, "other_instance"),
            (&any, ("eu-1", "../x"), now, "name"),
            (&any, ("", ""), later, "expired"),
        ];
        for (token, wanted, at, reason) in cases {
            let before = state.clone();
            let error = redeem(&mut state, token, *wanted, *at).unwrap_err();
            assert_eq!(error.reason(), *reason, "{token:?} {wanted:?}: {error}");
            assert!(!error.to_string().contains('\0'), "{error}");
            assert_eq!(state, before, "{reason}: nothing is spent");
        }
        let defaults = redeem(&mut state, &any, ("", ""), now).unwrap();
        assert_eq!((defaults.cluster.as_str(), defaults.instance.as_str()), ("eu-1", "agent"));
        let named = redeem(&mut state, &format!(" {one}\n"), ("us-1", ""), now).unwrap();
        assert_eq!(named.instance, "a");
    }

    #[test]
    fn a_name_that_is_taken_wants_replace() {
        let (mut state, now) = (State::default(), SystemTime::now());
        let before = new(&mut state, &grant("eu-1", None), now);
        enrol(&mut state, "eu-1", "agent", now);
        let taken = |error: &TokenError| matches!(error, TokenError::AlreadyEnrolled { .. });
        for instance in [None, Some("agent")] {
            assert!(taken(&create(&mut state, &grant("eu-1", instance), now).unwrap_err()));
        }
        create(&mut state, &grant("eu-1", Some("second")), now).unwrap();
        assert!(taken(&redeem(&mut state, &before, ("eu-1", "agent"), now).unwrap_err()));

        let grant = Grant { replace: true, ..grant("eu-1", Some("agent")) };
        let token = new(&mut state, &grant, now);
        redeem(&mut state, &token, ("", ""), now).unwrap();
        let old = state.issued["eu-1/agent"][0].spki_sha256;
        enrol(&mut state, "eu-1", "agent", now);
        assert!(state.is_denied(&old), "whoever has the old key is shut out");
        assert_eq!(state.valid_keys("eu-1/agent", now).count(), 1);
    }

    #[test]
    fn what_cannot_be_granted_is_refused() {
        let (mut state, now) = (State::default(), SystemTime::now());
        let cases = [
            (grant("EU", None), "name"),
            (grant("collector", None), "name"),
            (grant("eu-1", Some("a/b")), "name"),
            (Grant { ttl: Duration::ZERO, ..grant("eu-1", None) }, "internal"),
            (Grant { ttl: 25 * HOUR, ..grant("eu-1", None) }, "internal"),
        ];
        for (grant, reason) in cases {
            assert_eq!(create(&mut state, &grant, now).unwrap_err().reason(), reason, "{grant:?}");
        }
        assert!(state.tokens.is_empty());
        for _ in 0..MAX_TOKENS {
            create(&mut state, &grant("eu-1", None), now).unwrap();
        }
        let full = create(&mut state, &grant("eu-1", None), now).unwrap_err();
        assert!(matches!(full, TokenError::TooMany), "{full}");
        create(&mut state, &grant("eu-1", None), now + 8 * 24 * HOUR).unwrap();
        assert_eq!(state.tokens.len(), 1, "those of last week are forgotten");
    }
}
