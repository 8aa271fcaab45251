//! The driver on a real folder, with agents that are told what to have and have it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use tributary_certs::request::{Pending, Request};
use tributary_certs::revoke::{self, Whose};
use tributary_certs::rotate::{Kind, Wish};

use super::*;
use crate::ingest::trust::Trust;
use crate::pki::testing::{MONTH, Pki};

type Agents = Arc<Mutex<BTreeMap<String, Seen>>>;

/// A folder, its driver, and two agents.
struct World<F> {
    pki: Pki,
    driver: Driver<F>,
    agents: Agents,
    now: SystemTime,
}

fn world() -> World<impl Fn() -> Vec<Seen> + Send + 'static> {
    let pki = Pki::new();
    let agents = Agents::default();
    let now = SystemTime::now();
    for name in ["eu-1", "eu-2"] {
        let mut agent = Seen {
            identity: format!("{name}/agent"),
            connected: true,
            last_seen: Some(now),
            clock_skew_ms: 3,
            renewable: true,
            bundle: None,
            leaf_authority: None,
            leaf_spki: None,
            collector_authority: None,
            trust_error: String::new(),
        };
        renew(&pki, &mut agent, now);
        agents.lock().unwrap().insert(name.to_owned(), agent);
    }
    let seen = agents.clone();
    let seen = move || seen.lock().unwrap().values().cloned().collect();
    let parts = (pki.metrics.clone(), Turn::default());
    let driver = Driver::new(pki.dir.clone(), MONTH, pki.credentials.clone(), seen, parts);
    World { pki, driver, agents, now }
}

/// A new certificate and a new stream.
fn renew(pki: &Pki, agent: &mut Seen, now: SystemTime) {
    let request = Request::parse(&Pending::new().unwrap().csr_der).unwrap();
    let (cluster, instance) = agent.identity.split_once('/').unwrap();
    let folder = pki.folder();
    folder.issue_agent_request(&request, (cluster, instance), (How::Renewal, now), MONTH).unwrap();
    agent.leaf_authority = Some(folder.authority().certificate().spki_sha256);
    agent.leaf_spki = Some(request.spki_sha256());
    agent.collector_authority = Some(pki.credentials.authority());
    agent.bundle = Some(pki.credentials.trust().terms().trusted.digest());
}

impl<F: Fn() -> Vec<Seen> + Send + 'static> World<F> {
    fn trust(&self) -> Trust {
        self.pki.credentials.trust()
    }

    /// One look of the driver, then each agent that is there does what is wished.
    fn turn(&mut self) {
        self.now += LOOK;
        self.driver.work(self.now);
        assert_eq!(self.driver.fault, "");
        let terms = self.trust().terms();
        let desired = terms.desired.clone().unwrap();
        for agent in self.agents.lock().unwrap().values_mut().filter(|agent| agent.connected) {
            agent.bundle = Some(desired.bundle.digest());
            let old = agent.leaf_authority.unwrap();
            if desired.renew_authorities.contains(&old) {
                renew(&self.pki, agent, self.now);
            }
        }
    }

    fn state(&self) -> State {
        State::read(&self.pki.dir).unwrap()
    }

    fn begin(&self, wait: bool) {
        let wish = Wish {
            kind: Kind::Ca,
            targets: Vec::new(),
            wait,
            skip: Vec::new(),
            until: None,
            grace: Duration::ZERO,
            next: None,
        };
        rotate::begin(&self.pki.dir, &wish, self.now).unwrap();
    }

    fn turns_until(&mut self, done: impl Fn(&State) -> bool) {
        for _ in 0..50 {
            self.turn();
            if done(&self.state()) {
                return;
            }
        }
        panic!("{:#?}", self.state().rotation);
    }
}

#[test]
fn a_rotation_goes_through_and_is_counted() {
    let mut world = world();
    world.turn();
    let old = world.pki.credentials.authority();
    world.begin(false);
    world.turns_until(|state| state.rotation.is_none());
    let new = world.pki.credentials.authority();
    assert_ne!(old, new);
    let terms = world.trust().terms();
    assert!(terms.trusted.contains(&new) && !terms.trusted.contains(&old));
    assert_eq!(terms.leaf, world.pki.credentials.certificate().sha256);
    let past = world.state().history.last().unwrap().clone();
    assert_eq!(world.pki.metrics.rotations_of(&past), 1);
    world.turn();
    assert_eq!(world.pki.metrics.rotations_of(&past), 1);
}

#[test]
fn an_agent_that_is_away_holds_a_rotation_until_it_is_back() {
    let mut world = world();
    world.agents.lock().unwrap().get_mut("eu-2").unwrap().connected = false;
    world.begin(true);
    for _ in 0..20 {
        world.turn();
    }
    let rotation = world.state().rotation.unwrap();
    assert_eq!(rotation.step, rotate::Step::Wait);
    assert!(!rotation.agents["eu-2/agent"].lacks.is_empty());
    assert_eq!(world.trust().terms().trusted.len(), 2);
    world.agents.lock().unwrap().get_mut("eu-2").unwrap().connected = true;
    world.turns_until(|state| state.rotation.is_none());
}

#[test]
fn a_revocation_is_in_force_at_the_next_look() {
    let mut world = world();
    world.turn();
    assert!(world.trust().terms().denied.is_empty());
    let whose = Whose::Name("eu-1".to_owned());
    let denied = revoke::revoke(&world.pki.dir, &whose, "lost", world.now).unwrap();
    world.turn();
    assert!(world.trust().terms().denied.contains(&denied[0].spki_sha256));
}

#[test]
fn a_revocation_holds_although_the_authority_cannot_be_read() {
    let mut world = world();
    world.turn();
    std::fs::remove_file(world.pki.dir.join("ca.key")).unwrap();
    let whose = Whose::Name("eu-1".to_owned());
    let denied = revoke::revoke(&world.pki.dir, &whose, "lost", world.now).unwrap();
    world.driver.work(world.now);
    assert!(world.driver.fault.contains("ca.key"), "{}", world.driver.fault);
    let terms = world.trust().terms();
    assert!(terms.denied.contains(&denied[0].spki_sha256) && terms.desired.is_some());
}

#[test]
fn the_collector_renews_its_own_certificate_around_half_of_its_life() {
    let mut world = world();
    for (days, renewed) in [(13, false), (17, true)] {
        let made = world.now - Duration::from_secs(days * 86_400);
        let written = world.pki.folder().issue_collector(&[], made, MONTH).unwrap();
        world.turn();
        // The files are looked at before the renewal.
        world.turn();
        let own = world.pki.credentials.certificate();
        assert_eq!(own != written.certificate, renewed, "after {days} days");
        world.turn();
        assert_eq!(world.pki.credentials.certificate(), own);
    }
}

#[test]
fn a_damaged_state_changes_nothing_and_is_tried_again() {
    let mut world = world();
    world.turn();
    let whose = Whose::Name("eu-1".to_owned());
    revoke::revoke(&world.pki.dir, &whose, "lost", world.now).unwrap();
    world.turn();
    let path = world.pki.dir.join(tributary_certs::state::STATE);
    let good = std::fs::read(&path).unwrap();
    std::fs::write(&path, "{").unwrap();
    world.driver.work(world.now);
    assert!(world.driver.fault.contains("state.json"), "{}", world.driver.fault);
    assert_eq!(world.trust().terms().denied.len(), 1);
    std::fs::write(&path, good).unwrap();
    world.turn();
}
