//! A PKI folder that goes away, with what a collector makes of it; for tests.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tributary_certs::bundle::{self, COLLECTOR, Folder, Init};
use tributary_certs::identity::DEFAULT_TRUST_DOMAIN;

use super::credentials::{Credentials, Loaded};
use super::metrics::PkiMetrics;

pub(crate) const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// The folder.
pub(crate) struct Pki {
    pub(crate) dir: PathBuf,
    pub(crate) metrics: PkiMetrics,
    pub(crate) credentials: Arc<Credentials>,
    _temp: TempDir,
}

impl Pki {
    pub(crate) fn new() -> Self {
        let temp = TempDir::new().unwrap();
        let dir = temp.path().join("pki");
        init(&dir);
        let files = bundle::files(&dir.join(COLLECTOR));
        let metrics = PkiMetrics::default();
        let loaded = Loaded::read(&files).unwrap();
        let credentials = Credentials::new(loaded, true, metrics.clone()).unwrap();
        Self { dir, metrics, credentials: Arc::new(credentials), _temp: temp }
    }

    /// Another folder beside it, of another authority.
    pub(crate) fn other(&self) -> PathBuf {
        let dir = self.dir.with_file_name("other");
        init(&dir);
        dir
    }

    pub(crate) fn folder(&self) -> Folder {
        Folder::open(&self.dir).unwrap()
    }
}

fn init(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let init = Init {
        trust_domain: DEFAULT_TRUST_DOMAIN,
        collector: "main",
        hosts: &["localhost".to_owned()],
        lifetime: MONTH,
        force: false,
    };
    Folder::init(dir, &init, SystemTime::now()).unwrap();
}
