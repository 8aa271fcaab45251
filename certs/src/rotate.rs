//! Rotation: of leaves, of the authority, and of everything after a theft; resumable at every step.
//!
//! The operator's command writes a plan into `state.json` ([`begin`]). Whoever holds the streams, a collector, looks
//! at it a few times a second and calls [`advance`], which does at most one step, writes down how far it is, and says
//! what the streams should be like ([`Desired`]). Every step can be repeated: a kill between any two changes on disk
//! costs nothing but the repetition. ROTATION.md tells the procedure.

mod lack;
mod plan;
mod preview;
mod report;
mod steps;

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::authority::Authority;
use crate::bundle::{self, BundleError, COLLECTOR, Folder};
use crate::state::{State, StateError, is_of};
use crate::succession;
use crate::trust::{Bundle, TrustError};

pub use plan::{Hash, Kind, Lack, Outcome, Past, Rotation, Sighting, Step};
pub use preview::preview;
pub use report::{json, plan, rotation_json, table};

/// Clocks further apart than this make certificates fail that others find good.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(120);

/// What the operator wants.
pub struct Wish {
    /// What is rotated.
    pub kind: Kind,
    /// With [`Kind::Leaf`]: clusters, `cluster/instance`s, or `collector`.
    pub targets: Vec<String>,
    /// Wait for agents that are away, however long.
    pub wait: bool,
    /// Clusters or `cluster/instance`s to leave behind.
    pub skip: Vec<String>,
    /// Stop after this step.
    pub until: Option<Step>,
    /// How long to watch for use of the old authority before it is retired.
    pub grace: Duration,
    /// With [`Kind::Ca`]: the next authority, where it is not to be made here.
    pub next: Option<Authority>,
}

/// What became of a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// A new plan was written.
    New,
    /// The plan was there; it goes on from where it stood.
    Resumed,
}

/// One agent as the collector sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// `cluster/instance`
    pub identity: String,
    /// Whether it has a stream.
    pub connected: bool,
    /// When it was last heard of.
    pub last_seen: Option<SystemTime>,
    /// How far its clock is ahead of ours.
    pub clock_skew_ms: i64,
    /// Whether it can renew its certificate and keep a new bundle itself.
    pub renewable: bool,
    /// The digest of the bundle that it has in force.
    pub bundle: Option<[u8; 32]>,
    /// The authority that its stream's certificate chains to.
    pub leaf_authority: Option<[u8; 32]>,
    /// The key of its stream's certificate.
    pub leaf_spki: Option<[u8; 32]>,
    /// The authority of the collector's certificate that its stream was opened with.
    pub collector_authority: Option<[u8; 32]>,
    /// Why the last bundle or certificate could not be put in force there; empty if it was.
    pub trust_error: String,
}

/// All agents as the collector sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// Those that are there, and those that were.
    pub agents: Vec<Seen>,
    /// The authority of the certificate that the collector uses for new connections.
    pub collector_authority: [u8; 32],
}

/// What the streams should be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    /// The authorities that everybody should trust.
    pub bundle: Bundle,
    /// The one that signs.
    pub authority: [u8; 32],
    /// Agents whose certificates are of one of these authorities should renew.
    pub renew_authorities: HashSet<[u8; 32]>,
    /// Agents whose certificates have one of these keys should renew.
    pub renew_keys: HashSet<[u8; 32]>,
    /// Whether streams that were opened with a collector's certificate of another authority than
    /// [`Desired::authority`] should be opened again.
    pub reconnect: bool,
    /// Authorities whose use is to be logged and counted.
    pub tainted: HashSet<[u8; 32]>,
}

/// What [`advance`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Where the rotation is now; [`Step::Done`] once, when it has just ended; `None` without a rotation.
    pub step: Option<Step>,
    /// What is rotated.
    pub kind: Option<Kind>,
    /// What the streams should be like from now on.
    pub desired: Desired,
    /// The collector's own certificate or bundle was written: read it again.
    pub leaf_changed: bool,
    /// What was done, a log line each.
    pub note: Vec<String>,
}

impl Advance {
    fn idle(desired: Desired) -> Self {
        Self { step: None, kind: None, desired, leaf_changed: false, note: Vec::new() }
    }
}

/// What the collector decides.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// Life of the certificates that are issued.
    pub leaf_lifetime: Duration,
}

/// Writes the plan, or lets the one that is there go on: with the waiting, skipping and stopping that is wished now.
pub fn begin(dir: &Path, wish: &Wish, now: SystemTime) -> Result<Begun, RotateError> {
    State::change(dir, |state| {
        let folder = Folder::open_locked(dir)?;
        check_names(state, dir, wish.skip.iter().chain(&wish.targets))?;
        if let Some(running) = &mut state.rotation {
            if running.kind == wish.kind && running.targets == wish.targets {
                resume(running, wish);
                return Ok(Begun::Resumed);
            }
            if wish.kind != Kind::Emergency {
                return Err(RotateError::Busy { kind: running.kind, step: running.step });
            }
            steps::drop_archived_key(dir, &running.from)?;
            let past = running.end(Outcome::Superseded, now);
            state.history.push(past);
        }
        // The next authority's key lay beside the present one's: after a theft it is no better.
        succession::remove_next(dir)?;
        if let Some(next) = &wish.next {
            check_next(&folder, next)?;
            succession::write_next(dir, next)?;
            if !next.names_trust_domain() {
                state.trust_domain = Some(folder.authority().trust_domain().to_owned());
            }
        }
        let from = folder.authority().certificate();
        state.rotation = Some(Rotation::begin(wish, from, now));
        Ok(Begun::New)
    })
}

/// Takes the plan back, as long as nothing was signed by the next authority. `false`: there was none.
pub fn withdraw(dir: &Path, now: SystemTime) -> Result<bool, RotateError> {
    State::change(dir, |state| {
        let folder = Folder::open_locked(dir)?;
        let Some(rotation) = &state.rotation else { return Ok(false) };
        if rotation.kind == Kind::Emergency || rotation.step >= Step::Activate {
            return Err(RotateError::TooLate { step: rotation.step });
        }
        let bundle = folder.bundle()?;
        if let Some(to) = rotation.to.filter(|to| bundle.contains(to)) {
            steps::publish(dir, &bundle.without(&to))?;
        }
        succession::remove_next(dir)?;
        state.history.push(rotation.end(Outcome::Withdrawn, now));
        state.rotation = None;
        Ok(true)
    })
}

/// Does what can be done now: at most one step. Without a plan it only keeps the sightings of the agents up to date.
pub fn advance(
    dir: &Path,
    fleet: &Fleet,
    policy: &Policy,
    now: SystemTime,
) -> Result<Advance, RotateError> {
    let state = State::read(dir)?;
    if state.rotation.is_some() {
        return State::change(dir, |state| steps::advance(dir, state, fleet, (policy, now)));
    }
    if lack::sightings(&state, fleet, now).is_some() {
        State::change(dir, |state| {
            if let Some(seen) = lack::sightings(state, fleet, now) {
                state.seen = seen;
            }
            Ok::<_, RotateError>(())
        })?;
    }
    Ok(Advance::idle(desired(dir)?))
}

/// What the streams should be like as things stand.
pub fn desired(dir: &Path) -> Result<Desired, RotateError> {
    let folder = Folder::open(dir)?;
    steps::desired(&folder, State::read(dir)?.rotation.as_ref())
}

/// Why a rotation cannot be begun, withdrawn or carried on.
#[derive(Debug, thiserror::Error)]
pub enum RotateError {
    /// Another one is going on.
    #[error("a rotation ({}) is going on, in step {}", kind.as_str(), step.as_str())]
    Busy {
        /// What is rotated.
        kind: Kind,
        /// Where it is.
        step: Step,
    },
    /// Certificates of the next authority are out.
    #[error("it is too late to withdraw: the rotation is in step {}", step.as_str())]
    TooLate {
        /// Where it is.
        step: Step,
    },
    /// No agent has this name.
    #[error("no certificate was issued for \"{name}\"; there are: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Who there is.
        known: String,
    },
    /// The next authority cannot take the present one's place.
    #[error("the next authority cannot be used: {why}")]
    Next {
        /// The reason.
        why: String,
    },
    /// Both authorities make no bundle.
    #[error("the next authority beside the present ones: {0}")]
    Trust(#[from] TrustError),
    /// The folder cannot be read or written.
    #[error(transparent)]
    Folder(#[from] BundleError),
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
}

fn resume(running: &mut Rotation, wish: &Wish) {
    running.paused = false;
    running.until = wish.until.filter(|until| *until >= running.step);
    running.wait |= wish.wait;
    for name in &wish.skip {
        if !running.skip.contains(name) {
            running.skip.push(name.clone());
        }
    }
    if !wish.grace.is_zero() {
        running.grace_seconds = wish.grace.as_secs();
    }
}

/// A misspelt name would otherwise be waited for, or left behind, without a word.
fn check_names<'a>(
    state: &State,
    dir: &Path,
    names: impl Iterator<Item = &'a String>,
) -> Result<(), RotateError> {
    let present = state.rotation.iter().flat_map(|rotation| rotation.agents.keys());
    let agents: Vec<&String> =
        state.issued.keys().chain(state.seen.keys()).chain(present).collect();
    let folders = bundle::leaf_folders(dir)?;
    for name in names {
        if !folders.contains(name) && !agents.iter().any(|agent| is_of(agent, name)) {
            let clusters = agents.iter().filter_map(|agent| agent.split('/').next());
            let known: BTreeSet<&str> =
                clusters.chain(folders.iter().map(String::as_str)).collect();
            let known: Vec<&str> = known.into_iter().collect();
            return Err(RotateError::Unknown { name: name.clone(), known: known.join(", ") });
        }
    }
    Ok(())
}

fn check_next(folder: &Folder, next: &Authority) -> Result<(), RotateError> {
    let present = folder.authority();
    let refused = |why: &str| RotateError::Next { why: why.to_owned() };
    if next.certificate().spki_sha256 == present.certificate().spki_sha256 {
        return Err(refused("it has the key of the present one"));
    }
    if next.trust_domain() != present.trust_domain() {
        return Err(refused(&format!(
            "it is for the trust domain \"{}\", the present one for \"{}\"",
            next.trust_domain(),
            present.trust_domain()
        )));
    }
    Ok(())
}

/// The collector's own files.
fn collector_dir(dir: &Path) -> PathBuf {
    dir.join(COLLECTOR)
}

#[cfg(test)]
mod tests;
