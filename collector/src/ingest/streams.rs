//! One stream per identity: who holds it, who may take it over, and the reader that outlives connections.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tributary_certs::certificate::utc;
use tributary_certs::tls::Peer;
use tributary_store::StreamKey;

use super::stream::StreamReader;

/// A reader without a connection is kept this long: its dictionary takes memory, and the store forgets series that
/// nothing is written to. After that the agent sends its current segment again.
const KEEP_IDLE: Duration = Duration::from_secs(3600);
/// Fenced runs that are remembered of an identity. More: the oldest is forgotten, and could come back.
const MAX_FENCED: usize = 64;

/// All streams, by identity.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<StreamKey, Slot>,
    /// As many as there are certificates; kept as long as the process lives.
    runs: HashMap<StreamKey, Runs>,
    next: u64,
}

#[derive(Debug)]
struct Slot {
    reader: Arc<AsyncMutex<StreamReader>>,
    holder: Option<Holder>,
    idle_since: Instant,
}

#[derive(Debug)]
struct Holder {
    number: u64,
    who: Newcomer,
    replaced: Option<oneshot::Sender<Successor>>,
}

/// The processes that spoke for one identity.
#[derive(Debug)]
struct Runs {
    latest: Newcomer,
    fenced: VecDeque<u64>,
}

/// An agent's process that says hello.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Newcomer {
    run: u64,
    key: [u8; 32],
    address: SocketAddr,
    at: SystemTime,
}

impl Newcomer {
    /// The process behind `peer`; its hello said `run`, at `at`.
    pub(crate) fn new(peer: &Peer, run: u64, at: SystemTime) -> Self {
        Self { run, key: peer.spki_sha256, address: peer.address, at }
    }
}

/// The right to be the identity's stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    streams: Arc<Streams>,
    key: StreamKey,
    number: u64,
    /// Whether the process that said hello did not have the stream before.
    pub(crate) is_new_run: bool,
    /// Hears of the connection that takes over.
    pub(crate) replaced: oneshot::Receiver<Successor>,
    /// The stream's reader. It is free once the connection before has ended.
    pub(crate) reader: Arc<AsyncMutex<StreamReader>>,
}

/// Whose connection takes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Successor {
    /// The same process: it has connected again.
    Same,
    /// Another process with the same identity, at this address.
    Other(SocketAddr),
}

/// Why an agent does not get its identity's stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Held {
    /// Another agent with another key is connected, and one of them is too old to say which process it is.
    #[error("this identity is already connected from {address} with another private key")]
    OtherKey {
        /// Where the other one is.
        address: SocketAddr,
    },
    /// Another process has taken the identity over from this one.
    #[error(
        "another agent uses this identity since {}, from {address}: stop one of them, or restart this one",
        utc(*since)
    )]
    Fenced {
        /// Since when.
        since: SystemTime,
        /// Where the other one is.
        address: SocketAddr,
    },
}

impl Streams {
    /// Streams whose readers were rebuilt from the journal.
    pub(crate) fn new(readers: HashMap<StreamKey, StreamReader>, now: Instant) -> Self {
        let slots = readers.into_iter().map(|(key, reader)| {
            let reader = Arc::new(AsyncMutex::new(reader));
            (key, Slot { reader, holder: None, idle_since: now })
        });
        Self(Mutex::new(Inner { slots: slots.collect(), ..Inner::default() }))
    }

    /// Takes the stream for the newest process that says hello; the connection before it is asked to end. The
    /// process that had the identity before is fenced: it may not come back, as two that take the stream from each
    /// other would go on for ever. Where one of the two does not say which process it is, the same private key may
    /// take over and another may not.
    pub(crate) fn claim(
        self: &Arc<Self>,
        key: &StreamKey,
        who: Newcomer,
        now: Instant,
    ) -> Result<Claim, Held> {
        let mut inner = self.lock();
        inner.forget_idle(now);
        inner.check(key, who)?;
        let is_new_run = inner.note_run(key, who);
        inner.next += 1;
        let number = inner.next;
        let slot = inner.slots.entry(key.clone()).or_insert_with(|| Slot {
            reader: Arc::new(AsyncMutex::new(StreamReader::new(key.clone()))),
            holder: None,
            idle_since: now,
        });
        let (replaced, hears) = oneshot::channel();
        let before = slot.holder.replace(Holder { number, who, replaced: Some(replaced) });
        if let Some(Holder { who: before, replaced: Some(replaced), .. }) = before {
            // It may be ending already.
            let _ = replaced.send(before.succeeded_by(who));
        }
        let reader = slot.reader.clone();
        let (streams, key) = (self.clone(), key.clone());
        Ok(Claim { streams, key, number, is_new_run, replaced: hears, reader })
    }

    fn release(&self, key: &StreamKey, number: u64) {
        let mut inner = self.lock();
        if let Some(slot) = inner.slots.get_mut(key)
            && slot.holder.as_ref().is_some_and(|holder| holder.number == number)
        {
            slot.holder = None;
            slot.idle_since = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newcomer {
    /// Whether both say which process they are.
    fn comparable(self, other: Self) -> bool {
        self.run != 0 && other.run != 0
    }

    fn succeeded_by(self, newer: Self) -> Successor {
        if self.comparable(newer) && self.run != newer.run {
            return Successor::Other(newer.address);
        }
        Successor::Same
    }
}

impl Inner {
    fn check(&self, key: &StreamKey, who: Newcomer) -> Result<(), Held> {
        if let Some(Runs { latest, fenced }) = self.runs.get(key)
            && fenced.contains(&who.run)
        {
            return Err(Held::Fenced { since: latest.at, address: latest.address });
        }
        match self.slots.get(key).and_then(|slot| slot.holder.as_ref()) {
            Some(holder) if !holder.who.comparable(who) && holder.who.key != who.key => {
                Err(Held::OtherKey { address: holder.who.address })
            }
            _ => Ok(()),
        }
    }

    /// Fences the run before, if this is another one. Whether it is; of one that does not say, it is not known.
    fn note_run(&mut self, key: &StreamKey, who: Newcomer) -> bool {
        if who.run == 0 {
            return true;
        }
        let Some(runs) = self.runs.get_mut(key) else {
            self.runs.insert(key.clone(), Runs { latest: who, fenced: VecDeque::new() });
            return true;
        };
        if runs.latest.run == who.run {
            runs.latest.address = who.address;
            return false;
        }
        if runs.fenced.len() == MAX_FENCED {
            runs.fenced.pop_front();
        }
        runs.fenced.push_back(runs.latest.run);
        runs.latest = who;
        true
    }

    fn forget_idle(&mut self, now: Instant) {
        self.slots.retain(|_, slot| {
            let idle = now.saturating_duration_since(slot.idle_since);
            slot.holder.is_some() || idle <= KEEP_IDLE
        });
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.streams.release(&self.key, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(run: u64, key: u8) -> Newcomer {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(run);
        let port = u16::try_from(run).unwrap();
        Newcomer { run, key: [key; 32], address: ([127, 0, 0, 1], port).into(), at }
    }

    fn key(instance: &str) -> StreamKey {
        StreamKey { cluster: "eu-1".parse().unwrap(), instance: instance.to_owned() }
    }

    fn fenced_by(run: u64) -> Held {
        Held::Fenced { since: who(run, 0).at, address: who(run, 0).address }
    }

    #[test]
    fn the_same_run_takes_over_whatever_its_key() {
        let streams = Arc::new(Streams::default());
        let now = Instant::now();
        let mut first = streams.claim(&key("a"), who(1, 1), now).unwrap();
        let mut other = streams.claim(&key("b"), who(1, 1), now).unwrap();
        let mut second = streams.claim(&key("a"), who(1, 2), now).unwrap();
        assert_eq!(first.replaced.try_recv(), Ok(Successor::Same));
        assert!(other.replaced.try_recv().is_err());
        // The end of the first does not free what the second holds.
        drop(first);
        let third = streams.claim(&key("a"), who(1, 3), now).unwrap();
        assert_eq!(second.replaced.try_recv(), Ok(Successor::Same));
        drop(third);
    }

    #[test]
    fn a_newer_run_fences_the_older_for_good() {
        let streams = Arc::new(Streams::default());
        let now = Instant::now();
        let claim = |run, now| streams.claim(&key("a"), who(run, 1), now);
        let mut first = claim(1, now).unwrap();
        let second = claim(2, now).unwrap();
        assert_eq!(first.replaced.try_recv(), Ok(Successor::Other(who(2, 1).address)));
        drop(first);
        assert_eq!(claim(1, now).unwrap_err(), fenced_by(2));
        // Nor when the other one is away, whenever that is.
        drop(second);
        assert_eq!(claim(1, now + 3 * KEEP_IDLE).unwrap_err(), fenced_by(2));
        // A restart makes another run of it; that one is welcome, and fences in turn.
        drop(claim(3, now).unwrap());
        assert_eq!(claim(2, now).unwrap_err(), fenced_by(3));
        assert_eq!(
            claim(1, now).unwrap_err().to_string(),
            "another agent uses this identity since 1970-01-01 00:00:03Z, from 127.0.0.1:3: \
             stop one of them, or restart this one"
        );
    }

    #[test]
    fn so_many_fences_are_remembered() {
        let streams = Arc::new(Streams::default());
        let now = Instant::now();
        let bound = u64::try_from(MAX_FENCED).unwrap();
        for run in 1..=bound + 2 {
            drop(streams.claim(&key("a"), who(run, 1), now).unwrap());
        }
        assert!(streams.claim(&key("a"), who(2, 1), now).is_err());
        assert!(streams.claim(&key("a"), who(1, 1), now).is_ok());
    }

    #[test]
    fn between_agents_that_do_not_say_their_run_the_key_decides() {
        let streams = Arc::new(Streams::default());
        let now = Instant::now();
        for (before, after) in [(0, 0), (0, 5), (6, 0)] {
            let mut first = streams.claim(&key("a"), who(before, 1), now).unwrap();
            let held = streams.claim(&key("a"), who(after, 2), now).unwrap_err();
            assert_eq!(held, Held::OtherKey { address: who(before, 1).address });
            drop(streams.claim(&key("a"), who(after, 1), now).unwrap());
            assert_eq!(first.replaced.try_recv(), Ok(Successor::Same));
        }
    }

    #[test]
    fn readers_are_kept_for_an_hour() {
        let streams = Arc::new(Streams::default());
        let start = Instant::now();
        let reader = |now| streams.claim(&key("a"), who(1, 1), now).unwrap().reader.clone();
        let first = reader(start);
        assert!(Arc::ptr_eq(&first, &reader(start + KEEP_IDLE / 2)));
        let later = start + 3 * KEEP_IDLE;
        drop(streams.claim(&key("b"), who(1, 1), later).unwrap());
        assert!(!Arc::ptr_eq(&first, &reader(later)));
    }
}
