//! Rotations of a folder whose agents do at once what is desired of them; and a kill between any two changes on disk.

use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::bundle::{CA_CERT, CA_KEY, Init, LEAF_CERT, NEXT};
use crate::disk::fault;
use crate::request::{Pending, Request};
use crate::state::How;
use crate::tls::Material;

const DAY: Duration = Duration::from_secs(86_400);
const POLICY: Policy = Policy { leaf_lifetime: Duration::from_secs(30 * 86_400) };
/// More calls than any rotation takes.
const PATIENCE: usize = 40;

/// A PKI folder, and agents that do at once what is desired of them.
struct World {
    dir: TempDir,
    now: SystemTime,
    agents: Vec<Seen>,
    notes: Vec<String>,
}

impl World {
    fn new(agents: &[&str]) -> Self {
        let now = SystemTime::now();
        let dir = TempDir::new().unwrap();
        let hosts = ["localhost".to_owned()];
        let init = Init {
            trust_domain: "tributary.internal",
            collector: "collector",
            hosts: &hosts,
            lifetime: 30 * DAY,
            force: false,
        };
        Folder::init(dir.path(), &init, now).unwrap();
        let mut world = Self { dir, now, agents: Vec::new(), notes: Vec::new() };
        let desired = desired(world.path()).unwrap();
        for name in agents {
            let leaf = world.enrol(name, How::Join);
            world.agents.push(Seen {
                identity: (*name).to_owned(),
                connected: true,
                last_seen: Some(now),
                clock_skew_ms: 0,
                renewable: true,
                bundle: Some(desired.bundle.digest()),
                leaf_authority: Some(desired.authority),
                leaf_spki: Some(leaf),
                collector_authority: Some(desired.authority),
                trust_error: String::new(),
            });
        }
        world
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn enrol(&self, name: &str, how: How) -> [u8; 32] {
        let request = Request::parse(&Pending::new().unwrap().csr_der).unwrap();
        let who = name.split_once('/').unwrap();
        let folder = Folder::open(self.path()).unwrap();
        folder.issue_agent_request(&request, who, (how, self.now), 30 * DAY).unwrap();
        request.spki_sha256()
    }

    fn agent(&mut self, name: &str) -> &mut Seen {
        self.agents.iter_mut().find(|agent| agent.identity == name).unwrap()
    }

    fn begin(&self, wish: &Wish) -> Result<Begun, RotateError> {
        begin(self.path(), wish, self.now)
    }

    fn fleet(&self) -> Fleet {
        let files = bundle::files(&self.path().join(COLLECTOR));
        let collector_authority = Material::load(&files).unwrap().authority();
        Fleet { agents: self.agents.clone(), collector_authority }
    }

    /// What a collector and its agents do, once.
    fn turn(&mut self) -> Result<Option<Step>, RotateError> {
        self.now += Duration::from_secs(1);
        let advance = advance(self.path(), &self.fleet(), &POLICY, self.now)?;
        self.notes.extend(advance.note);
        self.follow(&advance.desired);
        Ok(advance.step)
    }

    fn follow(&mut self, desired: &Desired) {
        for index in 0..self.agents.len() {
            let mut agent = self.agents[index].clone();
            if !agent.connected {
                continue;
            }
            agent.bundle = Some(desired.bundle.digest());
            let old = desired.renew_authorities.contains(&agent.leaf_authority.unwrap())
                || desired.renew_keys.contains(&agent.leaf_spki.unwrap());
            if old && agent.renewable {
                agent.leaf_spki = Some(self.enrol(&agent.identity, How::Renewal));
                agent.leaf_authority = Some(desired.authority);
            }
            if desired.reconnect {
                agent.collector_authority = Some(desired.authority);
            }
            let alive = [agent.leaf_authority, agent.collector_authority]
                .iter()
                .all(|authority| desired.bundle.contains(&authority.unwrap()));
            agent.connected = alive;
            self.agents[index] = agent;
        }
    }

    /// Until it is over or stands still.
    fn run(&mut self) -> Option<Step> {
        let mut step = None;
        for _ in 0..PATIENCE {
            step = self.turn().unwrap();
            if step == Some(Step::Done) {
                break;
            }
        }
        step
    }

    fn state(&self) -> State {
        State::read(self.path()).unwrap()
    }

    fn collector_leaf(&self) -> crate::certificate::Certificate {
        bundle::leaf(&self.path().join(COLLECTOR).join(LEAF_CERT)).unwrap()
    }

    fn lacks(&self, name: &str) -> String {
        self.state().rotation.unwrap().agents[name].lacks.join("; ")
    }

    /// The folder after a rotation of the authority: one authority, everything fits together, nothing is left over.
    fn check_rotated(&self, from: &[u8; 32], context: &str) {
        let state = self.state();
        assert_eq!(state.rotation, None, "{context}");
        let past = state.history.last().unwrap();
        assert_eq!(past.result, Outcome::Done, "{context}");
        let folder = Folder::open(self.path()).unwrap();
        let authority = folder.authority().certificate();
        assert_eq!(Some(authority.spki_sha256), past.to, "{context}");
        assert_ne!(authority.spki_sha256, *from, "{context}");
        let material = Material::load(&bundle::files(&self.path().join(COLLECTOR))).unwrap();
        assert_eq!(material.authority(), authority.spki_sha256, "{context}");
        assert_eq!(material.bundle().len(), 1, "{context}");
        assert!(!self.path().join(NEXT).join(CA_CERT).exists(), "{context}");
        assert!(!self.path().join(NEXT).join(CA_KEY).exists(), "{context}");
        let archived: Vec<String> = std::fs::read_dir(self.path().join("archive"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let old = crate::certificate::hex(from);
        assert_eq!(archived, [format!("ca-{}.crt", &old[..8])], "{context}");
    }
}

fn wish(kind: Kind) -> Wish {
    Wish {
        kind,
        targets: Vec::new(),
        wait: false,
        skip: Vec::new(),
        until: None,
        grace: Duration::ZERO,
        next: None,
    }
}

fn authority_of(world: &World) -> [u8; 32] {
    desired(world.path()).unwrap().authority
}

#[test]
fn the_authority_changes_step_by_step_and_nobody_loses_its_stream() {
    let mut world = World::new(&["eu-1/agent", "us-1/a", "us-1/b"]);
    let from = authority_of(&world);
    assert_eq!(world.begin(&wish(Kind::Ca)).unwrap(), Begun::New);
    let mut steps = Vec::new();
    while steps.last() != Some(&Step::Done) {
        steps.push(world.turn().unwrap().unwrap());
        assert!(world.agents.iter().all(|agent| agent.connected), "{steps:?}");
        assert!(steps.len() < PATIENCE, "{steps:?}");
    }
    assert_eq!(steps, Step::ALL[1..], "one step a turn");
    world.check_rotated(&from, "");
    assert!(world.agents.iter().all(|agent| agent.leaf_authority != Some(from)));
    assert_eq!(world.turn().unwrap(), None, "nothing is left to do");
}

#[test]
fn a_kill_between_any_two_changes_on_disk_is_made_good() {
    for kind in [Kind::Ca, Kind::All, Kind::Emergency] {
        let mut changes = 0;
        while is_killed_and_ends_well(kind, changes) {
            changes += 1;
        }
        assert!(changes > 5, "{kind:?}: faults are not injected");
    }
}

/// `false` if the rotation ended before so many changes.
fn is_killed_and_ends_well(kind: Kind, changes: u32) -> bool {
    let mut world = World::new(&["eu-1/agent"]);
    let from = authority_of(&world);
    let own = world.collector_leaf();
    let context = format!("{kind:?} killed after {changes} changes");
    world.begin(&wish(kind)).unwrap();
    fault::after(Some(changes));
    let killed = loop {
        let fleet = world.fleet();
        match advance(world.path(), &fleet, &POLICY, world.now) {
            Err(_) => break true,
            Ok(advance) if advance.step == Some(Step::Done) => break false,
            // The agents' own certificates are another process's business.
            Ok(advance) => {
                let left = fault::after(None);
                world.follow(&advance.desired);
                fault::after(left);
            }
        }
    };
    fault::after(None);
    if killed {
        let step = world.run();
        // The kill may have come after the last change that counts.
        assert!(step == Some(Step::Done) || step.is_none(), "{context}: {step:?}");
    }
    let folder = Folder::open(world.path()).unwrap();
    assert_ne!(world.collector_leaf().spki_sha256, own.spki_sha256, "{context}");
    assert_eq!(world.collector_leaf().hosts, own.hosts, "{context}");
    assert_eq!(world.state().history.last().unwrap().result, Outcome::Done, "{context}");
    match kind {
        Kind::Ca | Kind::Emergency => world.check_rotated(&from, &context),
        _ => assert_eq!(folder.authority().certificate().spki_sha256, from, "{context}"),
    }
    killed
}

#[test]
fn a_kill_while_it_is_taken_back_is_made_good() {
    for changes in 0.. {
        let mut world = World::new(&["eu-1/agent"]);
        let before = desired(world.path()).unwrap();
        world.begin(&Wish { until: Some(Step::Publish), ..wish(Kind::Ca) }).unwrap();
        world.run();
        fault::after(Some(changes));
        let killed = withdraw(world.path(), world.now).is_err();
        fault::after(None);
        if killed {
            assert!(withdraw(world.path(), world.now).unwrap(), "{changes}");
        }
        assert_eq!(desired(world.path()).unwrap(), before, "{changes}");
        assert!(!world.path().join(NEXT).exists(), "{changes}");
        if !killed {
            assert!(changes > 3, "faults are not injected");
            break;
        }
    }
}

#[test]
fn an_agent_that_is_away_is_named_and_waited_for() {
    let mut world = World::new(&["eu-1/agent", "us-1/agent"]);
    let from = authority_of(&world);
    world.agent("us-1/agent").connected = false;
    world.begin(&wish(Kind::Ca)).unwrap();
    assert_eq!(world.run(), Some(Step::Preflight));
    assert_eq!(world.lacks("us-1/agent"), "is not connected");
    assert_eq!(world.lacks("eu-1/agent"), "");

    assert_eq!(world.begin(&Wish { wait: true, ..wish(Kind::Ca) }).unwrap(), Begun::Resumed);
    assert_eq!(world.run(), Some(Step::Wait), "both authorities are trusted, the old one signs");
    assert_eq!(world.lacks("us-1/agent"), "is not connected");
    assert_eq!(authority_of(&world), from);
    assert_eq!(desired(world.path()).unwrap().bundle.len(), 2);
    let table = table(&world.state(), world.now);
    assert!(table.contains("us-1/agent  last seen"), "{table}");
    assert!(table.contains("ago  is not connected"), "{table}");

    world.agent("us-1/agent").connected = true;
    assert_eq!(world.run(), Some(Step::Done));
    world.check_rotated(&from, "");
}

#[test]
fn an_agent_that_goes_away_later_is_waited_for_before_the_old_authority_goes() {
    let mut world = World::new(&["eu-1/agent", "us-1/agent"]);
    let from = authority_of(&world);
    world.begin(&Wish { until: Some(Step::Activate), ..wish(Kind::Ca) }).unwrap();
    assert_eq!(world.run(), Some(Step::Drain));
    world.agent("us-1/agent").connected = false;
    world.begin(&wish(Kind::Ca)).unwrap();
    assert_eq!(world.run(), Some(Step::Prove));
    assert!(world.lacks("us-1/agent").contains("has not shown a new certificate"));
    world.agent("us-1/agent").connected = true;
    assert_eq!(world.run(), Some(Step::Done));
    world.check_rotated(&from, "");
}

#[test]
fn an_agent_that_is_skipped_is_left_behind() {
    let mut world = World::new(&["eu-1/agent", "us-1/agent"]);
    let from = authority_of(&world);
    world.agent("us-1/agent").connected = false;
    world.begin(&Wish { skip: vec!["us-1".to_owned()], ..wish(Kind::Ca) }).unwrap();
    assert_eq!(world.run(), Some(Step::Done));
    world.check_rotated(&from, "");
    assert_eq!(world.state().history.last().unwrap().skipped, ["us-1"]);
    assert_eq!(world.agent("us-1/agent").leaf_authority, Some(from));
}

#[test]
fn preflight_names_what_stands_in_the_way() {
    let mut world = World::new(&["a/agent", "b/agent", "c/agent", "d/agent"]);
    world.agent("a/agent").clock_skew_ms = -3_600_000;
    world.agent("b/agent").renewable = false;
    world.agent("b/agent").trust_error = "disk full\n".to_owned();
    world.agent("c/agent").clock_skew_ms = 120_000;
    world.begin(&wish(Kind::Ca)).unwrap();
    assert_eq!(world.run(), Some(Step::Preflight));
    assert_eq!(world.lacks("a/agent"), "its clock is 60 min behind");
    assert_eq!(
        world.lacks("b/agent"),
        "cannot renew: its certificate files are not its own to write; it says: disk full\\n"
    );
    assert_eq!(world.lacks("c/agent"), "", "two minutes are allowed");
    assert_eq!(world.lacks("d/agent"), "");
}

#[test]
fn it_stops_after_every_step_when_asked_and_goes_on() {
    let mut world = World::new(&["eu-1/agent"]);
    let from = authority_of(&world);
    for (step, next) in Step::ALL.iter().zip(&Step::ALL[1..]) {
        world.begin(&Wish { until: Some(*step), ..wish(Kind::Ca) }).unwrap();
        let reached = world.run().unwrap();
        assert_eq!(reached, *next);
        let paused = world.state().rotation.is_some_and(|rotation| rotation.paused);
        assert_eq!(paused, *next != Step::Done, "{step:?}");
    }
    world.check_rotated(&from, "");
}

#[test]
fn it_can_be_withdrawn_until_the_next_authority_signs() {
    for until in [Step::Preflight, Step::Prepare, Step::Publish, Step::Wait] {
        let mut world = World::new(&["eu-1/agent"]);
        let before = desired(world.path()).unwrap();
        world.begin(&Wish { until: Some(until), ..wish(Kind::Ca) }).unwrap();
        world.run();
        if until == Step::Wait {
            assert!(matches!(
                withdraw(world.path(), world.now),
                Err(RotateError::TooLate { step: Step::Activate })
            ));
            continue;
        }
        assert!(withdraw(world.path(), world.now).unwrap());
        assert_eq!(desired(world.path()).unwrap(), before, "{until:?}");
        assert_eq!(world.state().history.last().unwrap().result, Outcome::Withdrawn);
        assert!(!withdraw(world.path(), world.now).unwrap());
        world.begin(&wish(Kind::Ca)).unwrap();
        assert_eq!(world.run(), Some(Step::Done));
    }
}

#[test]
fn the_old_authority_is_watched_for_as_long_as_asked() {
    let mut world = World::new(&["eu-1/agent"]);
    let from = authority_of(&world);
    world.begin(&Wish { grace: Duration::from_secs(10), ..wish(Kind::Ca) }).unwrap();
    let mut tainted = 0;
    while world.turn().unwrap() != Some(Step::Done) {
        if world.state().rotation.unwrap().step == Step::Taint {
            tainted += 1;
            assert_eq!(desired(world.path()).unwrap().tainted, HashSet::from([from]));
        }
        assert!(tainted < PATIENCE);
    }
    assert!(tainted >= 10, "{tainted}");
    assert!(desired(world.path()).unwrap().tainted.is_empty());
}

#[test]
fn leaves_get_new_keys_from_the_same_authority() {
    let mut world = World::new(&["eu-1/agent", "us-1/agent"]);
    let (authority, collector) = (authority_of(&world), world.collector_leaf());
    let keys: Vec<_> = world.agents.iter().map(|agent| agent.leaf_spki).collect();

    world.begin(&Wish { targets: vec!["us-1".to_owned()], ..wish(Kind::Leaf) }).unwrap();
    assert_eq!(world.run(), Some(Step::Done));
    assert_eq!(world.agents[0].leaf_spki, keys[0]);
    assert_ne!(world.agents[1].leaf_spki, keys[1]);
    assert_eq!(world.collector_leaf(), collector);

    world.begin(&Wish { targets: vec!["collector".to_owned()], ..wish(Kind::Leaf) }).unwrap();
    assert_eq!(world.run(), Some(Step::Done));
    let second = world.collector_leaf();
    assert_ne!(second.spki_sha256, collector.spki_sha256);
    assert_eq!(second.hosts, collector.hosts);

    world.begin(&wish(Kind::All)).unwrap();
    assert_eq!(world.run(), Some(Step::Done));
    assert_ne!(world.agents[0].leaf_spki, keys[0]);
    assert_ne!(world.collector_leaf().spki_sha256, second.spki_sha256);
    assert_eq!(authority_of(&world), authority);
    assert!(world.agents.iter().all(|agent| agent.connected));
}

#[test]
fn an_emergency_ends_everything_at_once() {
    let mut world = World::new(&["eu-1/agent"]);
    let from = authority_of(&world);
    // Even in the middle of a rotation, whose next authority was in the same folder.
    world.begin(&Wish { until: Some(Step::Publish), ..wish(Kind::Ca) }).unwrap();
    world.run();
    let stolen = desired(world.path()).unwrap().bundle;
    assert!(matches!(world.begin(&wish(Kind::All)), Err(RotateError::Busy { .. })));
    assert_eq!(world.begin(&wish(Kind::Emergency)).unwrap(), Begun::New);
    assert_eq!(world.run(), Some(Step::Done));
    world.check_rotated(&from, "");
    let after = desired(world.path()).unwrap();
    assert_eq!(after.bundle.len(), 1);
    assert!(stolen.authorities().all(|old| !after.bundle.contains(&old.spki_sha256)));
    assert!(!world.agents[0].connected);
    let history: Vec<Outcome> = world.state().history.iter().map(|past| past.result).collect();
    assert_eq!(history, [Outcome::Superseded, Outcome::Done]);
}

#[test]
fn names_that_nobody_has_are_refused() {
    let world = World::new(&["eu-1/agent"]);
    let skip = Wish { skip: vec!["eu-2".to_owned()], ..wish(Kind::Ca) };
    let error = world.begin(&skip).unwrap_err().to_string();
    assert_eq!(error, "no certificate was issued for \"eu-2\"; there are: collector, eu-1");
    assert_eq!(world.state().rotation, None);
}

#[test]
fn a_revoked_agent_is_not_waited_for() {
    let mut world = World::new(&["eu-1/agent", "us-1/agent"]);
    world.agent("us-1/agent").connected = false;
    let now = world.now;
    State::change(world.path(), |state| {
        let key = state.issued["us-1/agent"][0].clone();
        state.deny("us-1/agent", &key, "lost", now);
        Ok::<_, StateError>(())
    })
    .unwrap();
    world.begin(&wish(Kind::Ca)).unwrap();
    assert_eq!(world.run(), Some(Step::Done));
}

#[test]
fn sightings_are_written_once_a_minute() {
    let mut world = World::new(&["eu-1/agent"]);
    world.turn().unwrap();
    let first = State::stamp(world.path());
    for _ in 0..5 {
        world.turn().unwrap();
    }
    assert_eq!(State::stamp(world.path()), first);
    world.now += Duration::from_secs(60);
    let now = world.now;
    world.agent("eu-1/agent").last_seen = Some(now);
    world.turn().unwrap();
    assert_ne!(State::stamp(world.path()), first);
    assert!(world.state().seen["eu-1/agent"].connected);
    world.agent("eu-1/agent").connected = false;
    world.turn().unwrap();
    assert!(!world.state().seen["eu-1/agent"].connected);
}
