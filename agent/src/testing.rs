//! What tests of sessions share: a spool, a folder of certificates, and frames to send.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use tributary_certs::bundle::{self, Folder, Init};
use tributary_certs::identity::DEFAULT_TRUST_DOMAIN;
use tributary_certs::request::Request;
use tributary_certs::tls::{ClientTls, Files, Material};
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};

use crate::credentials::{Credentials, Tls};
use crate::handover::Handover;
use crate::metrics::{CertificateMetrics, LinkMetrics, SpoolMetrics};
use crate::session::{Session, Speaker};
use crate::spool::{Batch, Companion, Options, SharedSpool};

/// A life.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A companion without state.
pub(crate) struct Nothing;

impl Companion for Nothing {
    fn snapshot(&self) -> Vec<u8> {
        Vec::new()
    }

    fn changes(&mut self) -> Option<Vec<u8>> {
        None
    }
}

/// An agent without sources.
pub(crate) struct Bench {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spool: Arc<SharedSpool>,
    pub(crate) metrics: LinkMetrics,
    pub(crate) certificate: CertificateMetrics,
    pub(crate) handover: Arc<Handover>,
    pub(crate) session: Session,
    pub(crate) credentials: Arc<Credentials>,
    /// What the credentials keep up to date.
    pub(crate) tls: Arc<ClientTls>,
}

impl Bench {
    /// With an empty spool, and the folder `pki` of an authority, a collector and our certificate.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut registry = Registry::default();
        let options = Options { dir: folder.path().join("spool"), max_bytes: 64 << 20 };
        let spool_metrics = SpoolMetrics::new(&mut registry, 64 << 20);
        let (spool, _) = SharedSpool::open(options, spool_metrics).unwrap();
        spool.with(|spool| spool.begin(&mut Nothing, &[])).unwrap();
        let metrics = LinkMetrics::new(&mut registry);
        let handover = Handover::new("collector".to_owned(), metrics.clone());
        make_pki(&folder.path().join("pki"));
        let speaker =
            Speaker { cluster: "eu-1".parse().unwrap(), instance: "agent".into(), run: 77 };
        let files = bundle::files(&folder.path().join("pki/eu-1"));
        let material = Material::load(&files).unwrap();
        let tls = Arc::new(ClientTls::new(&material).unwrap());
        let certificate = CertificateMetrics::new(&mut registry);
        let credentials = Credentials::new(
            (files, true),
            &material,
            Tls::Client(tls.clone()),
            handover.clone(),
            certificate.clone(),
        );
        let session = Session::new(spool.clone(), speaker, credentials.clone(), metrics.clone());
        Self { folder, spool, metrics, certificate, handover, session, credentials, tls }
    }

    /// The files of a certificate in a folder of [`make_pki`].
    pub(crate) fn files(&self, pki: &str, leaf: &str) -> Files {
        bundle::files(&self.path(pki).join(leaf))
    }

    /// The same, read.
    pub(crate) fn material(&self, pki: &str, leaf: &str) -> Material {
        Material::load(&self.files(pki, leaf)).unwrap()
    }

    /// [`sign`] with a folder of this test.
    pub(crate) fn sign(&self, pki: &str, csr_der: &[u8], instance: &str) -> String {
        sign(&self.path(pki), csr_der, instance)
    }

    /// A path in the test's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One more frame, at `second`: far apart means in another segment.
    pub(crate) fn append(&self, second: i64) {
        let labels = Labels::from_pairs([("__name__", "m")]).unwrap();
        let samples = [(labels, Sample::new(second * 1000, 0.5))];
        let at = Timestamp::from_millis(second * 1000);
        let batch = Batch {
            samples: &samples,
            histograms: &[],
            metadata: &[],
            gaps: &[],
            complete_until: at,
        };
        self.spool.with(|spool| spool.append(&batch, &mut Nothing, at)).unwrap();
    }
}

/// An authority, the certificate of a collector, and that of the agent `agent` of `eu-1`.
pub(crate) fn make_pki(dir: &Path) {
    let init = Init {
        trust_domain: DEFAULT_TRUST_DOMAIN,
        collector: "collector",
        hosts: &["localhost".to_owned()],
        lifetime: DAY,
        force: false,
    };
    let now = SystemTime::now();
    let pki = Folder::init(dir, &init, now).unwrap();
    pki.issue_agent(("eu-1", "agent"), None, now, DAY).unwrap();
}

/// The authority of `pki` signs a request of our agent, or of another instance; the chain.
pub(crate) fn sign(pki: &Path, csr_der: &[u8], instance: &str) -> String {
    let folder = Folder::open(pki).unwrap();
    let request = Request::parse(csr_der).unwrap();
    let now = SystemTime::now();
    let signed = folder.authority().sign_agent(&request, ("eu-1", instance), now, DAY);
    signed.unwrap().chain_pem
}
