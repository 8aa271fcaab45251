//! Signs certificates for agents: first ones for a token, later ones over the agent's own stream.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tributary_certs::bundle::{BundleError, Folder};
use tributary_certs::certificate::{hex, utc};
use tributary_certs::identity::{Identity, InvalidIdentity};
use tributary_certs::request::{Request, RequestError};
use tributary_certs::state::{How, State, StateError, name_of};
use tributary_certs::tls::Peer;
use tributary_certs::token::{self, TokenError};
use tributary_proto::v1;

use super::metrics::PkiMetrics;
use crate::ingest::trust::Issuer;

/// How far an agent's clock may be off when it enrols. Further: its certificate would soon be refused by one side.
const MAX_CLOCK_SKEW: Duration = Duration::from_secs(10 * 60);
/// Certificates of one agent that are valid at the same time. At the bound it may not renew until one runs out or is
/// revoked: something is wrong with it, and the folder's state stays small.
const MAX_VALID_CERTIFICATES: usize = 100;

/// The authority's hand. Whatever is signed is on record before it is given away.
pub(crate) struct Signer {
    dir: PathBuf,
    lifetime: Duration,
    metrics: PkiMetrics,
    turn: Turn,
}

/// Whose turn it is to work on the folder: an authority is not read while it is being replaced. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<Mutex<()>>);

impl Turn {
    /// Waits for the turn.
    pub(crate) fn take(&self) -> MutexGuard<'_, ()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an agent gets no first certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EnrolError {
    /// The clocks differ too much.
    #[error(
        "the agent's clock says {}, the collector's {}: set the wrong one right (the token was not used up)",
        utc(*theirs),
        utc(*ours)
    )]
    Clock {
        /// The agent's.
        theirs: SystemTime,
        /// The collector's.
        ours: SystemTime,
    },
    /// The request is not one.
    #[error("{0} (the token was not used up)")]
    Request(#[from] RequestError),
    /// The token does not allow it.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The request asks for more than the token allows.
    #[error(
        "the request asks for {}, the token grants {granted} and nothing else (the token was not used up)",
        asked.join(", ")
    )]
    Names {
        /// What it asks for.
        asked: Vec<String>,
        /// What the token allows.
        granted: Identity,
    },
    /// The key is on the deny-list.
    #[error("this key was revoked: make a new one (the token was not used up)")]
    Revoked,
    /// The folder's state cannot be read or written.
    #[error("the collector's PKI folder: {0}")]
    State(#[from] StateError),
    /// The folder's authority does not sign.
    #[error("the collector's PKI folder: {0}")]
    Folder(#[from] BundleError),
    /// A name in the token or in the request is none.
    #[error(transparent)]
    Identity(#[from] InvalidIdentity),
}

impl EnrolError {
    /// One word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Clock { .. } => "clock",
            Self::Request(_) => "request",
            Self::Token(error) => error.reason(),
            Self::Names { .. } => "names",
            Self::Revoked => "revoked",
            Self::State(_) | Self::Folder(_) => "internal",
            Self::Identity(_) => "name",
        }
    }
}

/// Why a certificate is not renewed.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("only agents renew here")]
    NotAgent,
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the certificate is revoked")]
    Revoked,
    #[error("the request is for the key of the present certificate; a new key is wanted each time")]
    OldKey,
    #[error("this agent holds {MAX_VALID_CERTIFICATES} valid certificates already")]
    TooMany,
    #[error("the collector's PKI folder: {0}")]
    State(#[from] StateError),
    #[error("the collector's PKI folder: {0}")]
    Folder(#[from] BundleError),
}

impl Signer {
    /// Signs with the authority of the folder `dir`; certificates live for `lifetime`.
    pub(crate) fn new(dir: PathBuf, lifetime: Duration, metrics: PkiMetrics, turn: Turn) -> Self {
        Self { dir, lifetime, metrics, turn }
    }

    /// A first certificate for a token. Everything is checked before the token is spent, and the token is spent before
    /// anything is signed. Blocks.
    pub(crate) fn enrol(
        &self,
        asked: &v1::EnrolRequest,
        now: SystemTime,
    ) -> Result<v1::EnrolResponse, EnrolError> {
        check_clock(asked.now_ms, now)?;
        let request = Request::parse(&asked.csr_der)?;
        let _turn = self.turn.take();
        let folder = Folder::open(&self.dir)?;
        let trust_domain = folder.authority().trust_domain();
        let granted = State::change(&self.dir, |state| {
            if state.is_denied(&request.spki_sha256()) {
                return Err(EnrolError::Revoked);
            }
            let wanted = (asked.cluster.as_str(), asked.instance.as_str());
            let granted = token::redeem(state, &asked.token, wanted, now)?;
            let identity = Identity::agent(trust_domain, &granted.cluster, &granted.instance)?;
            let uri = identity.to_string();
            if request.names().iter().any(|name| *name != uri) {
                return Err(EnrolError::Names {
                    asked: request.names().to_vec(),
                    granted: identity,
                });
            }
            Ok(granted)
        })?;
        let name = (granted.cluster.as_str(), granted.instance.as_str());
        let chain = folder.issue_agent_request(&request, name, (How::Join, now), self.lifetime)?;
        let ca_pem = folder.bundle()?.pem();
        self.metrics.issued(How::Join);
        tracing::info!(
            cluster = granted.cluster,
            instance = granted.instance,
            token = granted.token,
            key = hex(&request.spki_sha256()),
            "an agent enrolled"
        );
        Ok(v1::EnrolResponse {
            chain_pem: chain.into(),
            ca_pem: ca_pem.into(),
            cluster: granted.cluster,
            instance: granted.instance,
            refused: String::new(),
            now_ms: millis(now),
        })
    }

    fn try_renew(&self, peer: &Peer, csr: &[u8], now: SystemTime) -> Result<String, RenewError> {
        let Identity::Agent { cluster, instance, .. } = &peer.identity else {
            return Err(RenewError::NotAgent);
        };
        let request = Request::parse(csr)?;
        let key = request.spki_sha256();
        if key == peer.spki_sha256 {
            return Err(RenewError::OldKey);
        }
        let _turn = self.turn.take();
        let state = State::read(&self.dir)?;
        if state.is_denied(&peer.spki_sha256) || state.is_denied(&key) {
            return Err(RenewError::Revoked);
        }
        if state.valid_keys(&name_of(&peer.identity), now).count() >= MAX_VALID_CERTIFICATES {
            return Err(RenewError::TooMany);
        }
        let folder = Folder::open(&self.dir)?;
        let name = (cluster.as_str(), instance.as_str());
        Ok(folder.issue_agent_request(&request, name, (How::Renewal, now), self.lifetime)?)
    }
}

impl Issuer for Signer {
    fn renew(&self, peer: &Peer, csr: &[u8]) -> Result<String, String> {
        let who = peer.identity.describe();
        match self.try_renew(peer, csr, SystemTime::now()) {
            Ok(chain) => {
                self.metrics.issued(How::Renewal);
                tracing::info!(agent = who, "a certificate was renewed");
                Ok(chain)
            }
            Err(error) => {
                tracing::warn!(agent = who, %error, "a certificate was not renewed");
                Err(error.to_string())
            }
        }
    }
}

/// A request without a time is not refused for it.
fn check_clock(now_ms: i64, ours: SystemTime) -> Result<(), EnrolError> {
    let since_epoch = Duration::from_millis(now_ms.unsigned_abs());
    let theirs = match now_ms {
        0 => return Ok(()),
        1.. => UNIX_EPOCH.checked_add(since_epoch),
        _ => UNIX_EPOCH.checked_sub(since_epoch),
    };
    let theirs = theirs.unwrap_or(UNIX_EPOCH);
    let apart = ours.duration_since(theirs).unwrap_or_else(|ahead| ahead.duration());
    if apart > MAX_CLOCK_SKEW { Err(EnrolError::Clock { theirs, ours }) } else { Ok(()) }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn millis(at: SystemTime) -> i64 {
    tributary_model::sample::Timestamp::from(at).as_millis()
}
