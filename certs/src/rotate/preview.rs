//! What a rotation would meet, from what the collector last wrote down.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Fleet, RotateError, Rotation, Seen, Wish, check_names, lack};
use crate::bundle::Folder;
use crate::state::State;

/// An older sighting means that no collector is running: they are written down once a minute.
const FRESH: Duration = Duration::from_secs(150);

/// The plan as it would be written, and how ready everybody is; nothing is changed.
pub fn preview(dir: &Path, wish: &Wish, now: SystemTime) -> Result<Rotation, RotateError> {
    let folder = Folder::open(dir)?;
    let state = State::read(dir)?;
    check_names(&state, dir, wish.skip.iter().chain(&wish.targets))?;
    if let Some(running) = &state.rotation {
        return Err(RotateError::Busy { kind: running.kind, step: running.step });
    }
    let mut rotation = Rotation::begin(wish, folder.authority().certificate(), now);
    let agents = state.seen.iter().map(|(name, sighting)| Seen {
        identity: name.clone(),
        connected: sighting.connected
            && now.duration_since(sighting.at).is_ok_and(|age| age <= FRESH),
        last_seen: Some(sighting.at),
        clock_skew_ms: sighting.clock_skew_ms,
        renewable: sighting.renewable,
        bundle: None,
        leaf_authority: None,
        leaf_spki: None,
        collector_authority: None,
        trust_error: String::new(),
    });
    let authority = folder.authority().certificate().spki_sha256;
    let fleet = Fleet { agents: agents.collect(), collector_authority: authority };
    let bundle = folder.bundle()?;
    rotation.agents = lack::survey(&rotation, &state, (&fleet, &bundle), now);
    Ok(rotation)
}
