//! One stream per identity: who holds it, who may take it over, and the reader that outlives connections.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;
use tributary_certs::tls::Peer;
use tributary_store::StreamKey;

use super::stream::StreamReader;

/// A reader without a connection is kept this long: its dictionary takes memory, and the store forgets series that
/// nothing is written to. After that the agent sends its current segment again.
const KEEP_IDLE: Duration = Duration::from_secs(3600);

/// All streams, by identity.
#[derive(Debug, Default)]
pub(crate) struct Streams(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    slots: HashMap<StreamKey, Slot>,
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
    key: [u8; 32],
    address: SocketAddr,
    replaced: CancellationToken,
}

/// The right to be the identity's stream; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    streams: Arc<Streams>,
    key: StreamKey,
    number: u64,
    /// Cancelled when another connection with the same key takes over.
    pub(crate) replaced: CancellationToken,
    /// The stream's reader. It is free once the connection before has ended.
    pub(crate) reader: Arc<AsyncMutex<StreamReader>>,
}

/// Another connection with another key holds the stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this identity is already connected from {address} with another private key")]
pub(crate) struct Held {
    /// Where the other one is.
    pub(crate) address: SocketAddr,
}

impl Streams {
    /// Streams whose readers were rebuilt from the journal.
    pub(crate) fn new(readers: HashMap<StreamKey, StreamReader>, now: Instant) -> Self {
        let slots = readers.into_iter().map(|(key, reader)| {
            let reader = Arc::new(AsyncMutex::new(reader));
            (key, Slot { reader, holder: None, idle_since: now })
        });
        Self(Mutex::new(Inner { slots: slots.collect(), next: 0 }))
    }

    /// Takes the stream for this peer. One with the same private key is asked to end; one with another key stays,
    /// and the newcomer is refused.
    pub(crate) fn claim(
        self: &Arc<Self>,
        key: &StreamKey,
        peer: &Peer,
        now: Instant,
    ) -> Result<Claim, Held> {
        let mut inner = self.lock();
        inner.forget_idle(now);
        inner.next += 1;
        let number = inner.next;
        let slot = inner.slots.entry(key.clone()).or_insert_with(|| Slot {
            reader: Arc::new(AsyncMutex::new(StreamReader::new(key.clone()))),
            holder: None,
            idle_since: now,
        });
        if let Some(holder) = &slot.holder {
            if holder.key != peer.spki_sha256 {
                return Err(Held { address: holder.address });
            }
            holder.replaced.cancel();
        }
        let replaced = CancellationToken::new();
        slot.holder = Some(Holder {
            number,
            key: peer.spki_sha256,
            address: peer.address,
            replaced: replaced.clone(),
        });
        let reader = slot.reader.clone();
        Ok(Claim { streams: self.clone(), key: key.clone(), number, replaced, reader })
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

impl Inner {
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
    use tributary_certs::identity::Identity;

    use super::*;

    fn peer(key: u8) -> Peer {
        Peer {
            identity: Identity::agent("td", "eu-1", "a").unwrap(),
            serial: "01".to_owned(),
            not_before: std::time::UNIX_EPOCH,
            not_after: std::time::SystemTime::now(),
            spki_sha256: [key; 32],
            issuer: "CA".to_owned(),
            authority: [9; 32],
            authority_name: "Tributary CA 1".to_owned(),
            generation: 1,
            local_authority: [9; 32],
            address: ([127, 0, 0, 1], 1).into(),
        }
    }

    fn key(instance: &str) -> StreamKey {
        StreamKey { cluster: "eu-1".parse().unwrap(), instance: instance.to_owned() }
    }

    #[test]
    fn the_same_key_takes_over_and_another_is_refused() {
        let streams = Arc::new(Streams::default());
        let now = Instant::now();
        let first = streams.claim(&key("a"), &peer(1), now).unwrap();
        assert_eq!(streams.claim(&key("a"), &peer(2), now).unwrap_err().address, peer(1).address);
        assert!(!first.replaced.is_cancelled());
        let other = streams.claim(&key("b"), &peer(2), now).unwrap();
        let second = streams.claim(&key("a"), &peer(1), now).unwrap();
        assert!(first.replaced.is_cancelled() && !other.replaced.is_cancelled());
        // The end of the first does not free what the second holds.
        drop(first);
        assert!(streams.claim(&key("a"), &peer(2), now).is_err());
        drop(second);
        assert!(streams.claim(&key("a"), &peer(2), now).is_ok());
    }

    #[test]
    fn readers_are_kept_for_an_hour() {
        let streams = Arc::new(Streams::default());
        let start = Instant::now();
        let reader = |now| streams.claim(&key("a"), &peer(1), now).unwrap().reader.clone();
        let first = reader(start);
        assert!(Arc::ptr_eq(&first, &reader(start + KEEP_IDLE / 2)));
        let later = start + 3 * KEEP_IDLE;
        drop(streams.claim(&key("b"), &peer(1), later).unwrap());
        assert!(!Arc::ptr_eq(&first, &reader(later)));
    }
}
