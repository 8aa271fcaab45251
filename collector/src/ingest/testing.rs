//! A store in a folder that goes away, and an agent's certificate with the terms under which it is welcome; for tests.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tributary_certs::authority::Authority;
use tributary_certs::identity::Identity;
use tributary_certs::tls::{Material, Peer};
use tributary_certs::trust::Bundle;
use tributary_store::{Options, Store, StreamKey};

use super::replay::Replayer;
use super::stream::StreamReader;
use super::trust::{KeyHash, Terms, Trust};

/// The hash of the collector's certificate.
pub(crate) const LEAF: [u8; 32] = [9; 32];

/// Two authorities, each a bundle of its own.
pub(crate) fn authorities() -> &'static [Bundle; 2] {
    static MADE: OnceLock<[Bundle; 2]> = OnceLock::new();
    MADE.get_or_init(|| {
        [(); 2].map(|()| {
            let authority = Authority::create("td", SystemTime::now()).unwrap();
            Bundle::parse(authority.pem().as_bytes()).unwrap()
        })
    })
}

/// The key of the bundle's first authority.
pub(crate) fn key(bundle: &Bundle) -> KeyHash {
    bundle.authorities().next().unwrap().spki_sha256
}

/// An agent of the first authority.
pub(crate) fn peer() -> Peer {
    let authority = key(&authorities()[0]);
    Peer {
        identity: Identity::agent("td", "eu-1", "a").unwrap(),
        serial: "01".to_owned(),
        not_before: SystemTime::now(),
        not_after: SystemTime::now() + Duration::from_secs(3600),
        spki_sha256: [1; 32],
        intermediates: Vec::new(),
        issuer: "CA".to_owned(),
        authority,
        authority_name: "CA".to_owned(),
        generation: 1,
        local_authority: authority,
        local_sha256: LEAF,
        address: ([127, 0, 0, 1], 5000).into(),
    }
}

/// The first authority is trusted, and nobody is denied.
pub(crate) fn terms() -> Terms {
    Terms { trusted: authorities()[0].clone(), denied: Arc::default(), leaf: LEAF, desired: None }
}

/// The same, where it can be changed.
pub(crate) fn trust() -> Trust {
    Trust::new(terms())
}

/// Terms with which this collector's material goes together.
pub(crate) fn terms_of(material: &Material) -> Terms {
    Terms {
        trusted: material.bundle().clone(),
        denied: Arc::default(),
        leaf: material.certificate().sha256,
        desired: None,
    }
}

/// The same, where they can be changed.
pub(crate) fn trust_of(material: &Material) -> Trust {
    Trust::new(terms_of(material))
}

/// A store, and what is in it.
pub(crate) struct Folder {
    store: Store,
    dir: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self::open(tempfile::TempDir::new().unwrap()).0
    }

    /// Closes the store and opens it again; the streams' readers come from its journal.
    pub(crate) fn reopen(self) -> (Self, HashMap<StreamKey, StreamReader>) {
        let Self { store, dir } = self;
        drop(store);
        Self::open(dir)
    }

    fn open(dir: tempfile::TempDir) -> (Self, HashMap<StreamKey, StreamReader>) {
        let options = Options { path: dir.path().to_owned(), ..Options::default() };
        let mut replayer = Replayer::default();
        let (store, report) = Store::open(options, std::slice::from_mut(&mut replayer)).unwrap();
        assert!(report.is_clean(), "{report:?}");
        (Self { store, dir }, replayer.into_readers())
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// The text of every series.
    pub(crate) fn series(&self) -> Vec<String> {
        use tributary_model::sample::Timestamp;
        let all = self.store.series(&[], Timestamp::MIN, Timestamp::MAX);
        let mut texts: Vec<String> = all.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }
}
