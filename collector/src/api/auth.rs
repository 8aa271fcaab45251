//! Checks basic authentication: bcrypt on few threads, verified passwords remembered under a keyed hash.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bcrypt::HashParts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::sync::Semaphore;

use super::envelope::plain;
use super::serve::PeerAddress;

/// bcrypt runs at once. More wait.
const MAX_CHECKS: usize = 2;

/// Requests that may wait for bcrypt. More are answered 429.
const MAX_WAITING: usize = 64;

/// Wrong passwords from one address in [`FAILURE_WINDOW`]. After that it is answered 429 unless its password is
/// remembered.
const MAX_FAILURES: u32 = 20;

/// How long wrong passwords count.
const FAILURE_WINDOW: Duration = Duration::from_secs(60);

/// Addresses whose failures are remembered. Full: those whose window is over are forgotten, or else all.
const MAX_ADDRESSES: usize = 4096;

/// Remembered passwords. Full: all are forgotten.
const MAX_REMEMBERED: usize = 256;

/// Longest password in bytes; bcrypt reads 72.
const MAX_PASSWORD_BYTES: usize = 1024;

/// Who may ask, and what every answer carries.
#[derive(Debug, Default)]
pub struct Access {
    users: BTreeMap<String, String>,
    /// What the password of an unknown user is compared with, so that it takes as long.
    nobody: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Access {
    /// Access for users with these bcrypt hashes; for everyone, if there are none.
    pub fn new(
        users: BTreeMap<String, String>,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Self, bcrypt::BcryptError> {
        let costs = users.values().filter_map(|hash| HashParts::from_str(hash).ok());
        let nobody = match costs.map(|parts| parts.get_cost()).max() {
            Some(cost) => bcrypt::hash("", cost)?,
            None => String::new(),
        };
        Ok(Self { users, nobody, headers })
    }
}

/// Stands before every page.
#[derive(Debug)]
pub struct Guard {
    access: ArcSwap<Access>,
    checks: Semaphore,
    waiting: Semaphore,
    /// Two keys that nobody knows: a tag is 128 bits that only this process can make.
    keys: [RandomState; 2],
    remembered: Mutex<HashSet<[u64; 2]>>,
    failures: Mutex<Failures>,
    /// Answers 401 and 429.
    pub refused: Family<Refusal, Counter>,
}

/// Why a request was not let in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Refusal {
    reason: &'static str,
}

impl Guard {
    /// A guard that lets in whom `access` lists.
    pub fn new(access: Access) -> Self {
        Self {
            access: ArcSwap::from_pointee(access),
            checks: Semaphore::new(MAX_CHECKS),
            waiting: Semaphore::new(MAX_WAITING),
            keys: [RandomState::new(), RandomState::new()],
            remembered: Mutex::default(),
            failures: Mutex::default(),
            refused: Family::default(),
        }
    }

    /// From now on `access` holds; what was remembered is forgotten.
    pub fn replace(&self, access: Access) {
        self.access.store(Arc::new(access));
        lock(&self.remembered).clear();
    }

    async fn check(&self, headers: &HeaderMap, from: Option<IpAddr>) -> Verdict {
        let access = self.access.load_full();
        if access.users.is_empty() {
            return Verdict::Open;
        }
        let Some((user, password)) = headers.get(header::AUTHORIZATION).and_then(credentials)
        else {
            return Verdict::Unauthorized;
        };
        let known = access.users.get(&user);
        let hash = known.unwrap_or(&access.nobody).clone();
        let tag = [0, 1].map(|i| {
            self.keys.get(i).map_or(0, |key: &RandomState| key.hash_one((&user, &password, &hash)))
        });
        if known.is_some() && lock(&self.remembered).contains(&tag) {
            return Verdict::Welcome;
        }
        if !lock(&self.failures).may_try(from, Instant::now()) {
            return Verdict::TooMany;
        }
        let (Ok(_waiting), false) =
            (self.waiting.try_acquire(), password.len() > MAX_PASSWORD_BYTES)
        else {
            return Verdict::TooMany;
        };
        let Ok(_check) = self.checks.acquire().await else { return Verdict::TooMany };
        let verified = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash)).await;
        if known.is_some() && matches!(verified, Ok(Ok(true))) {
            let mut remembered = lock(&self.remembered);
            if remembered.len() >= MAX_REMEMBERED {
                remembered.clear();
            }
            // Only if the file has not changed meanwhile: what it no longer lists must not be remembered.
            if Arc::ptr_eq(&access, &self.access.load()) {
                remembered.insert(tag);
            }
            return Verdict::Welcome;
        }
        lock(&self.failures).failed(from, Instant::now());
        Verdict::Unauthorized
    }
}

/// Whoever sent the request has shown a password; an extension of such requests.
#[derive(Debug, Clone, Copy)]
pub struct Known;

/// Lets a request through, or answers it.
pub async fn guard(State(guard): State<Arc<Guard>>, mut request: Request, next: Next) -> Response {
    let from = request.extensions().get::<PeerAddress>().map(|peer| peer.0.ip());
    let verdict = guard.check(request.headers(), from).await;
    let mut response = match verdict {
        Verdict::Open => next.run(request).await,
        Verdict::Welcome => {
            request.extensions_mut().insert(Known);
            next.run(request).await
        }
        Verdict::Unauthorized => {
            guard.refused.get_or_create(&Refusal { reason: "unauthorized" }).inc();
            let mut response = plain(StatusCode::UNAUTHORIZED, "Unauthorized\n");
            let basic = HeaderValue::from_static("Basic");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
            response
        }
        Verdict::TooMany => {
            guard.refused.get_or_create(&Refusal { reason: "too_many" }).inc();
            let text = "Too many failed logins: try again in a minute\n";
            let mut response = plain(StatusCode::TOO_MANY_REQUESTS, text);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
            response
        }
    };
    for (name, value) in &guard.access.load().headers {
        response.headers_mut().insert(name.clone(), value.clone());
    }
    response
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Everybody is let in.
    Open,
    /// The password is right.
    Welcome,
    Unauthorized,
    TooMany,
}

/// Wrong passwords per address.
#[derive(Debug, Default)]
struct Failures(HashMap<IpAddr, (u32, Instant)>);

impl Failures {
    fn may_try(&self, from: Option<IpAddr>, now: Instant) -> bool {
        let failed = from.and_then(|from| self.0.get(&from));
        failed.is_none_or(|(count, since)| *count < MAX_FAILURES || now >= *since + FAILURE_WINDOW)
    }

    fn failed(&mut self, from: Option<IpAddr>, now: Instant) {
        let Some(from) = from else { return };
        if self.0.len() >= MAX_ADDRESSES && !self.0.contains_key(&from) {
            self.0.retain(|_, (_, since)| now < *since + FAILURE_WINDOW);
            if self.0.len() >= MAX_ADDRESSES {
                self.0.clear();
            }
        }
        let entry = self.0.entry(from).or_insert((0, now));
        if now >= entry.1 + FAILURE_WINDOW {
            *entry = (0, now);
        }
        entry.0 += 1;
    }
}

/// User and password of a basic authorization.
fn credentials(header: &HeaderValue) -> Option<(String, String)> {
    let (scheme, encoded) = header.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(base64(encoded.trim())?).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Standard base64, with its padding or without.
fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let (mut bits, mut count) = (0_u32, 0_u32);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(digit);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).ok()?);
        }
    }
    Some(out)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(users: &[(&str, &str)]) -> Guard {
        let hashed = |(user, password): &(&str, &str)| {
            ((*user).to_owned(), bcrypt::hash(password, 4).unwrap())
        };
        Guard::new(Access::new(users.iter().map(hashed).collect(), Vec::new()).unwrap())
    }

    fn basic(encoded: &str) -> HeaderMap {
        let value = HeaderValue::from_str(&format!("Basic {encoded}")).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    const ADDRESS: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    /// alice:secret
    const GOOD: &str = "YWxpY2U6c2VjcmV0";
    /// alice:wrong
    const WRONG: &str = "YWxpY2U6d3Jvbmc=";
    /// bob:secret
    const UNKNOWN: &str = "Ym9iOnNlY3JldA==";

    #[tokio::test]
    async fn only_listed_users_come_in() {
        assert_eq!(guard(&[]).check(&HeaderMap::new(), ADDRESS).await, Verdict::Open);
        let guard = guard(&[("alice", "secret")]);
        for (headers, verdict) in [
            (HeaderMap::new(), Verdict::Unauthorized),
            (basic(GOOD), Verdict::Welcome),
            (basic(GOOD), Verdict::Welcome),
            (basic(WRONG), Verdict::Unauthorized),
            (basic(UNKNOWN), Verdict::Unauthorized),
            (basic("%%%"), Verdict::Unauthorized),
        ] {
            assert_eq!(guard.check(&headers, ADDRESS).await, verdict, "{headers:?}");
        }
        assert_eq!(lock(&guard.remembered).len(), 1);
        guard.replace(
            Access::new(BTreeMap::from([("carol".into(), String::new())]), vec![]).unwrap(),
        );
        assert_eq!(guard.check(&basic(GOOD), ADDRESS).await, Verdict::Unauthorized);
    }

    #[tokio::test]
    async fn guessing_is_stopped_but_who_is_known_comes_in() {
        let guard = guard(&[("alice", "secret")]);
        assert_eq!(guard.check(&basic(GOOD), ADDRESS).await, Verdict::Welcome);
        for _ in 0..MAX_FAILURES {
            assert_eq!(guard.check(&basic(WRONG), ADDRESS).await, Verdict::Unauthorized);
        }
        assert_eq!(guard.check(&basic(WRONG), ADDRESS).await, Verdict::TooMany);
        assert_eq!(guard.check(&basic(GOOD), ADDRESS).await, Verdict::Welcome);
        let mut failures = lock(&guard.failures);
        assert!(failures.may_try(ADDRESS, Instant::now() + FAILURE_WINDOW));
        failures.failed(ADDRESS, Instant::now() + FAILURE_WINDOW);
        assert_eq!(failures.0.values().next().unwrap().0, 1);
    }

    #[test]
    fn base64_is_standard() {
        for (text, bytes) in [("", &b""[..]), ("YQ==", b"a"), ("YWI", b"ab"), ("+/8=", b"\xfb\xff")]
        {
            assert_eq!(base64(text).unwrap(), bytes);
        }
        assert_eq!(base64("a b"), None);
    }
}
