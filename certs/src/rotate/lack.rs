//! What each agent still lacks in each step.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::{Fleet, Kind, Lack, MAX_CLOCK_SKEW, Rotation, Seen, Sighting, Step};
use crate::state::{State, is_of};
use crate::trust::Bundle;

/// How often a sighting is written down while nothing else is going on.
const SIGHTING: Duration = Duration::from_secs(60);

/// Looks at every agent that holds a certificate and at every one that is there, in the light of the present step.
/// `bundle` is what everybody should trust; whoever has only certificates of other authorities was left behind before.
pub(super) fn survey(
    rotation: &Rotation,
    state: &State,
    (fleet, bundle): (&Fleet, &Bundle),
    now: SystemTime,
) -> BTreeMap<String, Lack> {
    let digest = bundle.digest();
    let is_trusted =
        |name: &&str| state.valid_keys(name, now).any(|key| bundle.contains(&key.authority));
    let holders = state.agents(now).filter(is_trusted);
    let mut agents: BTreeMap<String, Option<&Seen>> =
        holders.map(|name| (name.to_owned(), None)).collect();
    for seen in &fleet.agents {
        let denied = seen.leaf_spki.is_some_and(|key| state.is_denied(&key));
        if seen.connected && !denied || agents.contains_key(&seen.identity) {
            agents.insert(seen.identity.clone(), Some(seen));
        }
    }
    agents.retain(|name, _| rotation.is_target(name));
    let look = |(name, seen): (String, Option<&Seen>)| {
        let before = rotation.agents.get(&name);
        let last_seen = seen
            .and_then(|seen| seen.last_seen)
            .or_else(|| before.and_then(|before| before.last_seen))
            .or_else(|| state.seen.get(&name).map(|sighting| sighting.at));
        let connected = seen.is_some_and(|seen| seen.connected);
        let proven = is_proven(rotation, seen, before.is_some_and(|before| before.proven));
        let lack = Lack {
            connected,
            last_seen: last_seen.filter(|_| !connected),
            proven,
            skipped: rotation.is_skipped(&name),
            lacks: lacks(rotation, seen.filter(|seen| seen.connected), digest, proven),
        };
        (name, lack)
    };
    agents.into_iter().map(look).collect()
}

/// Who keeps the rotation from going on, in one log line.
pub(super) fn summary(rotation: &Rotation) -> Option<String> {
    let behind: Vec<String> = rotation
        .laggards()
        .map(|(name, lack)| format!("{name} ({})", lack.lacks.join("; ")))
        .collect();
    (!behind.is_empty())
        .then(|| format!("step {} waits for {}", rotation.step.as_str(), behind.join(", ")))
}

/// The sightings to write down, if those in the state are old.
pub(super) fn sightings(
    state: &State,
    fleet: &Fleet,
    now: SystemTime,
) -> Option<BTreeMap<String, Sighting>> {
    let mut sightings = state.seen.clone();
    let mut stale = false;
    for seen in &fleet.agents {
        let Some(at) = seen.last_seen.or(seen.connected.then_some(now)) else { continue };
        let clock_skew_ms = seen.clock_skew_ms;
        let (connected, renewable) = (seen.connected, seen.renewable);
        let sighting = Sighting { at, connected, clock_skew_ms, renewable };
        let written = sightings.insert(seen.identity.clone(), sighting);
        stale |= written.is_none_or(|written| {
            (written.connected, written.renewable) != (connected, renewable)
                || at.duration_since(written.at).is_ok_and(|age| age >= SIGHTING)
        });
    }
    // Whoever has no certificate any more and is not there is forgotten.
    let known = |name: &String| {
        state.issued.contains_key(name) || fleet.agents.iter().any(|seen| seen.identity == *name)
    };
    sightings.retain(|name, _| known(name));
    stale.then_some(sightings)
}

/// Once seen with nothing but new certificates an agent stays proven until it is seen with an old one.
fn is_proven(rotation: &Rotation, seen: Option<&Seen>, before: bool) -> bool {
    let Some(seen) = seen.filter(|_| rotation.has_begun(Step::Drain)) else { return before };
    let leaf = match rotation.kind {
        Kind::Ca | Kind::Emergency => seen.leaf_authority.map(|of| Some(of) == rotation.to),
        Kind::Leaf | Kind::All => seen.leaf_spki.map(|key| !rotation.is_old_key(&key)),
    };
    let ours = seen
        .collector_authority
        .is_none_or(|of| rotation.kind != Kind::Ca || Some(of) == rotation.to);
    leaf.map_or(before, |leaf| leaf && (ours || !seen.connected))
}

/// For people: nothing means that the agent is ready for the end of the present step.
fn lacks(rotation: &Rotation, seen: Option<&Seen>, bundle: [u8; 32], proven: bool) -> Vec<String> {
    let mut lacks = Vec::new();
    match (rotation.step, seen) {
        (Step::Preflight | Step::Wait, None) => lacks.push("is not connected".to_owned()),
        (Step::Prove, None) if !proven => {
            lacks.push("is not connected, and has not shown a new certificate yet".to_owned());
        }
        (Step::Preflight, Some(seen)) => {
            lacks.extend(clock(seen.clock_skew_ms));
            if !seen.renewable {
                lacks.push(
                    "cannot renew: its certificate files are not its own to write".to_owned(),
                );
            }
        }
        (Step::Wait, Some(seen)) => {
            lacks.extend(clock(seen.clock_skew_ms));
            if seen.bundle != Some(bundle) {
                lacks.push("does not trust the next authority yet".to_owned());
            }
        }
        (Step::Drain | Step::Prove | Step::Taint, Some(seen)) if !proven => {
            lacks.push(old_use(rotation, seen).to_owned());
            if !seen.renewable {
                lacks.push("cannot renew itself: issue a certificate and give it to it".to_owned());
            }
        }
        _ => {}
    }
    if let Some(seen) = seen.filter(|seen| !lacks.is_empty() && !seen.trust_error.is_empty()) {
        lacks.push(format!("it says: {}", seen.trust_error.escape_debug()));
    }
    lacks
}

fn old_use(rotation: &Rotation, seen: &Seen) -> &'static str {
    let leaf_is_old = match rotation.kind {
        Kind::Ca | Kind::Emergency => seen.leaf_authority != rotation.to,
        Kind::Leaf | Kind::All => true,
    };
    if leaf_is_old {
        "still uses its old certificate"
    } else {
        "its stream was opened with the collector's old certificate"
    }
}

/// In whole minutes, so that it stays the same from one look to the next.
fn clock(skew_ms: i64) -> Option<String> {
    let skew = Duration::from_millis(skew_ms.unsigned_abs());
    let direction = if skew_ms < 0 { "behind" } else { "ahead" };
    (skew > MAX_CLOCK_SKEW).then(|| format!("its clock is {} min {direction}", skew.as_secs() / 60))
}

impl Rotation {
    /// Those who keep the present step from its end.
    pub fn laggards(&self) -> impl Iterator<Item = (&str, &Lack)> {
        let agents = self.agents.iter().map(|(name, lack)| (name.as_str(), lack));
        agents.filter(|(_, lack)| !lack.skipped && !lack.lacks.is_empty())
    }

    /// Whether an agent is left behind.
    pub fn is_skipped(&self, name: &str) -> bool {
        self.skip.iter().any(|skipped| is_of(name, skipped))
    }

    /// Whether this identity's certificate is to be rotated.
    pub(super) fn is_target(&self, name: &str) -> bool {
        self.kind != Kind::Leaf || self.targets.iter().any(|target| is_of(name, target))
    }
}
