//! Who sends: each agent's connection, what arrived from it, and how fast. For people and for the API.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tributary_certs::rotate::Seen;
use tributary_certs::tls::Peer;
use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;
use tributary_proto::convert::Trust;
use tributary_store::{Accepted, Reason, StreamKey};

use super::policy;

/// Samples per second are averaged over this time.
const RATE_WINDOW: Duration = Duration::from_secs(60);
const SHORTEST_WINDOW: Duration = Duration::from_secs(15);

/// The agents that are known, connected or not. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Registry(Arc<Mutex<HashMap<StreamKey, Entry>>>);

/// One agent as it is now.
#[derive(Debug, Clone)]
pub(crate) struct AgentStatus {
    /// Its cluster, from its certificate.
    pub(crate) cluster: ClusterName,
    /// Its instance, from its certificate.
    pub(crate) instance: String,
    /// Its connection, if there is one.
    pub(crate) connection: Option<Connection>,
    /// Its address, now or the last time.
    pub(crate) address: Option<SocketAddr>,
    /// Its version, now or the last time.
    pub(crate) version: String,
    /// Why it is not connected, if that is known.
    pub(crate) ended: Option<String>,
    /// When the last frame arrived.
    pub(crate) last_frame: Option<Timestamp>,
    /// The time of its newest sample.
    pub(crate) last_sample: Option<Timestamp>,
    /// Up to when it vouches that nothing is missing, except what the gap ledger lists.
    pub(crate) complete_until: Option<Timestamp>,
    /// The last frame on our disk.
    pub(crate) durable_seq: u64,
    /// Samples stored since the collector's start.
    pub(crate) stored: u64,
    /// Samples stored per second over the last minute.
    pub(crate) samples_per_second: f64,
    /// Frames and bytes that wait in its spool.
    pub(crate) spooled: (u64, u64),
    /// How far its clock is from ours, in milliseconds; positive when it is ahead.
    pub(crate) clock_skew_ms: i64,
    /// Samples not stored since the collector's start, by reason.
    pub(crate) rejected: BTreeMap<&'static str, u64>,
    /// What it said that it trusts and holds, now or the last time.
    pub(crate) trust: Option<Trust>,
    /// When it was heard of last.
    pub(crate) last_seen: Option<SystemTime>,
}

/// What is known of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Since when.
    pub(crate) since: Timestamp,
    /// From when its certificate is valid.
    pub(crate) not_before: SystemTime,
    /// Until when; the connection ends then.
    pub(crate) not_after: SystemTime,
    /// The certificate's serial number.
    pub(crate) serial: String,
    /// The authority that signed it.
    pub(crate) issuer: String,
}

#[derive(Debug, Default)]
struct Entry {
    connection: Option<Connection>,
    address: Option<SocketAddr>,
    version: String,
    ended: Option<String>,
    last_frame: Option<Timestamp>,
    last_sample: Option<Timestamp>,
    complete_until: Option<Timestamp>,
    durable_seq: u64,
    stored: u64,
    spooled: (u64, u64),
    clock_skew_ms: i64,
    rejected: BTreeMap<&'static str, u64>,
    /// The certificates of its connection, now or the last time.
    peer: Option<Peer>,
    trust: Option<Trust>,
    last_seen: Option<SystemTime>,
    /// Samples by second, not older than the window.
    recent: VecDeque<(Instant, u64)>,
}

/// A frame that is durable now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Durable {
    /// Its number.
    pub(crate) seq: u64,
    /// Its newest sample.
    pub(crate) newest: Option<Timestamp>,
    /// What its agent vouches for.
    pub(crate) complete_until: Timestamp,
    /// When it arrived.
    pub(crate) received_at: Timestamp,
}

impl Registry {
    /// Every known agent, by cluster and instance.
    pub(crate) fn snapshot(&self, now: Instant) -> Vec<AgentStatus> {
        let mut agents: Vec<AgentStatus> =
            self.lock().iter().map(|(key, entry)| entry.status(key, now)).collect();
        agents.sort_by(|a, b| (&a.cluster, &a.instance).cmp(&(&b.cluster, &b.instance)));
        agents
    }

    /// Every known agent as a rotation of certificates sees it.
    pub(crate) fn fleet(&self) -> Vec<Seen> {
        let mut fleet: Vec<Seen> = self.lock().iter().map(|(key, entry)| entry.seen(key)).collect();
        fleet.sort_by(|a, b| a.identity.cmp(&b.identity));
        fleet
    }

    /// A stream that was found in the journal; its agent is not here yet.
    pub(super) fn known(&self, key: &StreamKey) {
        self.lock().entry(key.clone()).or_default();
    }

    pub(super) fn connected(&self, key: &StreamKey, peer: &Peer, version: &str, now: Timestamp) {
        self.change(key, |entry| {
            entry.connection = Some(Connection {
                since: now,
                not_before: peer.not_before,
                not_after: peer.not_after,
                serial: peer.serial.clone(),
                issuer: peer.issuer.clone(),
            });
            entry.address = Some(peer.address);
            version.clone_into(&mut entry.version);
            entry.ended = None;
            entry.peer = Some(peer.clone());
            entry.trust = None;
        });
    }

    pub(super) fn disconnected(&self, key: &StreamKey, why: String) {
        self.change(key, |entry| {
            entry.connection = None;
            entry.ended = Some(why);
        });
    }

    /// The agent said what it trusts and holds.
    pub(super) fn trusts(&self, key: &StreamKey, trust: &Trust) {
        self.change(key, |entry| entry.trust = Some(trust.clone()));
    }

    pub(super) fn heartbeat(
        &self,
        key: &StreamKey,
        spooled: (u64, u64),
        clock_skew_ms: i64,
        now: SystemTime,
    ) {
        self.change(key, |entry| {
            entry.last_seen = Some(now);
            entry.spooled = spooled;
            entry.clock_skew_ms = clock_skew_ms;
        });
    }

    pub(super) fn dropped(&self, key: &StreamKey, dropped: &[(policy::Reason, u32)]) {
        self.change(key, |entry| {
            for (reason, count) in dropped {
                *entry.rejected.entry(reason.as_str()).or_default() += u64::from(*count);
            }
        });
    }

    pub(super) fn durable(
        &self,
        key: &StreamKey,
        frame: Durable,
        accepted: &Accepted,
        now: Instant,
    ) {
        self.change(key, |entry| {
            entry.durable_seq = entry.durable_seq.max(frame.seq);
            entry.last_frame = entry.last_frame.max(Some(frame.received_at));
            entry.last_sample = entry.last_sample.max(frame.newest);
            entry.complete_until = entry.complete_until.max(Some(frame.complete_until));
            let stored = u64::from(accepted.stored);
            entry.stored += stored;
            for reason in Reason::ALL {
                let count = u64::from(accepted.of(reason));
                if count > 0 {
                    *entry.rejected.entry(reason.as_str()).or_default() += count;
                }
            }
            entry.count(stored, now);
        });
    }

    fn change(&self, key: &StreamKey, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.lock();
        match entries.get_mut(key) {
            Some(entry) => change(entry),
            None => change(entries.entry(key.clone()).or_default()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// One slot a second, so the window is bounded whatever the rate of frames.
    fn count(&mut self, samples: u64, now: Instant) {
        self.forget(now);
        match self.recent.back_mut() {
            Some((at, count)) if now.saturating_duration_since(*at) < Duration::from_secs(1) => {
                *count += samples;
            }
            _ => self.recent.push_back((now, samples)),
        }
    }

    fn forget(&mut self, now: Instant) {
        while let Some((at, _)) = self.recent.front()
            && now.saturating_duration_since(*at) > RATE_WINDOW
        {
            self.recent.pop_front();
        }
    }

    fn seen(&self, key: &StreamKey) -> Seen {
        let peer = self.peer.as_ref();
        let trust = self.trust.as_ref();
        Seen {
            identity: format!("{}/{}", key.cluster, key.instance),
            connected: self.connection.is_some(),
            last_seen: self.last_seen,
            clock_skew_ms: self.clock_skew_ms,
            renewable: trust.is_some_and(|trust| trust.renewable),
            bundle: trust.map(|trust| trust.bundle_sha256),
            leaf_authority: peer.map(|peer| peer.authority),
            leaf_spki: peer.map(|peer| peer.spki_sha256),
            collector_authority: peer.map(|peer| peer.local_authority),
            trust_error: trust.map(|trust| trust.error.clone()).unwrap_or_default(),
        }
    }

    fn status(&self, key: &StreamKey, now: Instant) -> AgentStatus {
        let age = |at: &Instant| now.saturating_duration_since(*at);
        let fresh = || self.recent.iter().filter(|(at, _)| age(at) <= RATE_WINDOW);
        let samples: u64 = fresh().map(|(_, count)| count).sum();
        // A stream younger than the window is averaged over its own time.
        let over = fresh().next().map_or(RATE_WINDOW, |(at, _)| age(at)).max(SHORTEST_WINDOW);
        AgentStatus {
            cluster: key.cluster.clone(),
            instance: key.instance.clone(),
            connection: self.connection.clone(),
            address: self.address,
            version: self.version.clone(),
            ended: self.ended.clone(),
            last_frame: self.last_frame,
            last_sample: self.last_sample,
            complete_until: self.complete_until,
            durable_seq: self.durable_seq,
            stored: self.stored,
            samples_per_second: samples as f64 / over.as_secs_f64(),
            spooled: self.spooled,
            clock_skew_ms: self.clock_skew_ms,
            rejected: self.rejected.clone(),
            trust: self.trust.clone(),
            last_seen: self.last_seen,
        }
    }
}
