//! What each step of a rotation does to the PKI folder, and what it wants of the streams.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{
    Advance, Desired, Fleet, Kind, Outcome, Policy, RotateError, Rotation, Step, collector_dir,
    lack,
};
use crate::authority::Authority;
use crate::bundle::{self, ARCHIVE, BundleError, COLLECTOR, Folder, LEAF_CERT};
use crate::certificate::{Certificate, hex};
use crate::disk;
use crate::pair;
use crate::state::{How, State};
use crate::succession;
use crate::tls::Material;
use crate::trust::Bundle;

/// How often a collector that has nothing to do says that it is at it.
const HEARTBEAT: Duration = Duration::from_secs(3);
const NAME_DIGITS: usize = 8;

/// What a step needs.
struct Work<'a> {
    dir: &'a Path,
    folder: Folder,
    state: &'a mut State,
    rotation: Rotation,
    policy: &'a Policy,
    now: SystemTime,
}

/// Does the present step if it can be done now, and goes on to the next. The state is written after the effects,
/// so that a kill between repeats the step.
pub(super) fn advance(
    dir: &Path,
    state: &mut State,
    fleet: &Fleet,
    (policy, now): (&Policy, SystemTime),
) -> Result<Advance, RotateError> {
    let folder = Folder::open_locked(dir)?;
    let Some(rotation) = state.rotation.clone() else {
        return Ok(Advance::idle(desired(&folder, None)?));
    };
    let mut work = Work { dir, folder, state, rotation, policy, now };
    let is_due = |at| now.duration_since(at).map_or(true, |since| since >= HEARTBEAT);
    if work.rotation.carried_at.is_none_or(is_due) {
        work.rotation.carried_at = Some(now);
    }
    work.survey(fleet)?;
    let mut note = Vec::new();
    let mut leaf_changed = false;
    if !work.rotation.paused && work.is_ready() {
        leaf_changed = work.carry_out(fleet)?;
        note.push(work.go_on());
        work.survey(fleet)?;
    }
    let Work { folder, state, rotation, .. } = work;
    let step = rotation.step;
    let kind = rotation.kind;
    state.rotation = (step != Step::Done).then_some(rotation);
    if let Some(rotation) = state.rotation.as_ref().filter(|_| !note.is_empty()) {
        note.extend(lack::summary(rotation));
    }
    let desired = desired(&folder, state.rotation.as_ref())?;
    Ok(Advance { step: Some(step), kind: Some(kind), desired, leaf_changed, note })
}

/// What the streams should be like in a step.
pub(super) fn desired(
    folder: &Folder,
    rotation: Option<&Rotation>,
) -> Result<Desired, RotateError> {
    let mut desired = Desired {
        bundle: folder.bundle()?,
        authority: folder.authority().certificate().spki_sha256,
        renew_authorities: HashSet::new(),
        renew_keys: HashSet::new(),
        reconnect: false,
        tainted: HashSet::new(),
    };
    let Some(rotation) = rotation else { return Ok(desired) };
    if rotation.has_begun(Step::Drain) {
        match rotation.kind {
            Kind::Ca => {
                desired.renew_authorities.insert(rotation.from);
                desired.reconnect = true;
            }
            Kind::Leaf | Kind::All => {
                desired.renew_keys.extend(rotation.old_keys.iter().map(|key| key.0));
            }
            Kind::Emergency => {}
        }
    }
    if rotation.kind == Kind::Ca && rotation.has_begun(Step::Prove) {
        desired.tainted.insert(rotation.from);
    }
    Ok(desired)
}

/// Writes the bundle into every leaf folder, the collector's last: it decides what the folder's bundle is.
pub(super) fn publish(dir: &Path, bundle: &Bundle) -> Result<(), RotateError> {
    let text = bundle.pem();
    let names = bundle::leaf_folders(dir)?;
    for name in names.iter().rev() {
        let files = bundle::files(&dir.join(name));
        pair::install_bundle(&files, &text).map_err(BundleError::from)?;
    }
    Ok(())
}

/// What is kept of an authority loses its key.
pub(super) fn drop_archived_key(dir: &Path, authority: &[u8; 32]) -> Result<(), RotateError> {
    let [_, key] = archived(dir, authority);
    Ok(bundle::remove(&key)?)
}

impl Work<'_> {
    fn survey(&mut self, fleet: &Fleet) -> Result<(), RotateError> {
        let bundle = self.folder.bundle()?;
        self.rotation.agents = lack::survey(&self.rotation, self.state, (fleet, &bundle), self.now);
        Ok(())
    }

    /// Whether nobody stands in the way of the present step's end.
    fn is_ready(&self) -> bool {
        let rotation = &self.rotation;
        let all_ready = rotation.laggards().next().is_none();
        match rotation.step {
            Step::Preflight => all_ready || rotation.wait,
            Step::Wait | Step::Drain | Step::Prove => all_ready,
            Step::Taint => {
                let watched = self.now.duration_since(rotation.step_since).unwrap_or_default();
                all_ready && watched >= Duration::from_secs(rotation.grace_seconds)
            }
            Step::Prepare | Step::Publish | Step::Activate | Step::Retire | Step::Done => true,
        }
    }

    /// `true` if the collector must read its own files again.
    fn carry_out(&mut self, fleet: &Fleet) -> Result<bool, RotateError> {
        match self.rotation.step {
            Step::Preflight => self.note_old_keys(fleet)?,
            Step::Prepare => self.prepare()?,
            Step::Publish => {
                let next = self.next()?;
                let both = self.folder.bundle()?.with(&authority_bundle(&next)?)?;
                publish(self.dir, &both)?;
                return Ok(true);
            }
            Step::Activate => return self.activate(),
            Step::Retire => {
                self.retire()?;
                return Ok(true);
            }
            Step::Wait | Step::Drain | Step::Prove | Step::Taint | Step::Done => {}
        }
        Ok(false)
    }

    fn go_on(&mut self) -> String {
        let done = self.rotation.step;
        self.rotation.go_on(self.now);
        if self.rotation.step == Step::Done {
            let past = self.rotation.end(Outcome::Done, self.now);
            self.state.history.push(past);
        }
        let stops = if self.rotation.paused { "; stopped here as asked" } else { "" };
        format!("step {} is done: {}{stops}", done.as_str(), self.rotation.kind.explain(done))
    }

    /// The keys that are to vanish: those of all certificates of the targets.
    fn note_old_keys(&mut self, fleet: &Fleet) -> Result<(), RotateError> {
        if !matches!(self.rotation.kind, Kind::Leaf | Kind::All) {
            return Ok(());
        }
        let mut keys = HashSet::new();
        for (name, issued) in &self.state.issued {
            if self.rotation.is_target(name) {
                keys.extend(issued.iter().map(|key| key.spki_sha256));
            }
        }
        let agents = fleet.agents.iter().filter(|seen| self.rotation.is_target(&seen.identity));
        keys.extend(agents.filter_map(|seen| seen.leaf_spki));
        if self.rotation.is_target(COLLECTOR) {
            keys.insert(self.collector_leaf()?.spki_sha256);
        }
        self.rotation.set_old_keys(keys);
        Ok(())
    }

    fn prepare(&mut self) -> Result<(), RotateError> {
        let present = self.folder.authority();
        let made = succession::next_authority(self.dir, present.trust_domain());
        let next = made.map_or_else(|| self.make_next(), Ok)?;
        self.rotation.to = Some(next.certificate().spki_sha256);
        self.rotation.to_name = Some(next.certificate().subject.clone());
        // What cannot be read back, or is too much for a bundle, shows here and not at an agent.
        let both = self.folder.bundle()?.with(&authority_bundle(&self.next()?)?)?;
        Bundle::parse(both.pem().as_bytes())?;
        Ok(())
    }

    fn make_next(&self) -> Result<Authority, RotateError> {
        let next = self.folder.authority().successor(self.now).map_err(BundleError::from)?;
        succession::write_next(self.dir, &next)?;
        Ok(next)
    }

    fn next(&self) -> Result<Authority, RotateError> {
        succession::next_authority(self.dir, self.folder.authority().trust_domain())
            .filter(|next| Some(next.certificate().spki_sha256) == self.rotation.to)
            .ok_or_else(|| RotateError::Next {
                why: "next/ca.crt and next/ca.key are missing or damaged".to_owned(),
            })
    }

    fn activate(&mut self) -> Result<bool, RotateError> {
        match self.rotation.kind {
            Kind::Leaf | Kind::All => {
                let is_target = self.rotation.is_target(COLLECTOR);
                if is_target && self.rotation.is_old_key(&self.collector_leaf()?.spki_sha256) {
                    self.reissue_collector()?;
                }
                Ok(is_target)
            }
            Kind::Ca | Kind::Emergency => {
                self.exchange()?;
                Ok(true)
            }
        }
    }

    /// The next authority signs from now on, and first of all the collector's own certificate.
    fn exchange(&mut self) -> Result<(), RotateError> {
        if Some(self.folder.authority().certificate().spki_sha256) != self.rotation.to {
            self.next()?;
            self.archive()?;
            succession::exchange(self.dir)?;
            self.folder = Folder::open_locked(self.dir)?;
        }
        let files = bundle::files(&collector_dir(self.dir));
        let own = Material::load(&files).map(|material| material.authority());
        if own.ok() != self.rotation.to {
            self.reissue_collector()?;
        }
        Ok(())
    }

    fn reissue_collector(&mut self) -> Result<(), RotateError> {
        let lifetime = self.policy.leaf_lifetime;
        self.folder.replace_collector(self.state, &[], (How::Renewal, self.now), lifetime)?;
        Ok(())
    }

    /// Keeps the old authority; its key only until it is retired.
    fn archive(&self) -> Result<(), RotateError> {
        let [cert, key] = archived(self.dir, &self.rotation.from);
        bundle::create_dir(&self.dir.join(ARCHIVE))?;
        let old = self.folder.authority();
        bundle::write(&cert, old.pem().as_bytes(), disk::PUBLIC)?;
        if self.rotation.kind == Kind::Ca {
            bundle::write(&key, old.key_pem().as_bytes(), disk::SECRET)?;
        }
        Ok(())
    }

    fn retire(&mut self) -> Result<(), RotateError> {
        let bundle = match self.rotation.kind {
            Kind::Emergency => self.folder.own_bundle()?,
            _ => self.folder.bundle()?.without(&self.rotation.from),
        };
        publish(self.dir, &bundle)?;
        drop_archived_key(self.dir, &self.rotation.from)
    }

    fn collector_leaf(&self) -> Result<Certificate, RotateError> {
        Ok(bundle::leaf(&collector_dir(self.dir).join(LEAF_CERT))?)
    }
}

fn archived(dir: &Path, authority: &[u8; 32]) -> [PathBuf; 2] {
    let digits: String = hex(authority).chars().take(NAME_DIGITS).collect();
    ["crt", "key"].map(|end| dir.join(ARCHIVE).join(format!("ca-{digits}.{end}")))
}

fn authority_bundle(authority: &Authority) -> Result<Bundle, RotateError> {
    Ok(Bundle::parse(authority.pem().as_bytes())?)
}
