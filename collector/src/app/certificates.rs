//! Assembles what handles certificates: the collector's own, the PKI folder's work, enrolment.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::registry::Registry;
use tributary_certs::tls::{Material, TlsError};

use super::stage::Stage;
use crate::config::{Config, Pki};
use crate::ingest::Ingest;
use crate::ingest::enrol::Desk;
use crate::pki::credentials::Credentials;
use crate::pki::driver::Driver;
use crate::pki::expiry::Expiry;
use crate::pki::metrics::PkiMetrics;
use crate::pki::signer::{Signer, Turn};

/// The collector's own certificate, in force; the rest is not started yet.
pub(super) struct Certificates {
    /// What ingest and the dialler use.
    pub(super) credentials: Arc<Credentials>,
    metrics: PkiMetrics,
}

impl Certificates {
    /// Puts `material` in force, which was read from the files of `ingest.tls`.
    pub(super) fn new(
        config: &Config,
        material: Material,
        registry: &mut Registry,
    ) -> Result<Self, TlsError> {
        let metrics = PkiMetrics::new(registry);
        let enrol = config.pki.as_ref().is_some_and(|pki| pki.enrol);
        let files = config.ingest.tls.clone();
        let credentials = Credentials::new(files, material, enrol, metrics.clone())?;
        Ok(Self { credentials: Arc::new(credentials), metrics })
    }

    /// Starts what works on the PKI folder or, without one, what follows the files. Who is denied is known before
    /// this returns.
    pub(super) fn start(
        self,
        config: &Config,
        ingest: &mut Ingest,
        registry: &mut Registry,
        intake: &mut Stage,
    ) {
        let expiry = Expiry::new(self.credentials.clone(), ingest.registry());
        registry.register_collector(Box::new(expiry));
        match &config.pki {
            Some(pki) => self.work_on(pki, config, ingest, intake),
            None => intake.spawn(|stop| self.credentials.follow(stop)),
        }
    }

    fn work_on(&self, pki: &Pki, config: &Config, ingest: &mut Ingest, intake: &mut Stage) {
        let turn = Turn::default();
        let signer =
            Signer::new(pki.dir.clone(), pki.leaf_lifetime, self.metrics.clone(), turn.clone());
        let signer = Arc::new(signer);
        self.credentials.trust().issue_by(signer.clone());
        let registry = ingest.registry();
        let mut driver = Driver::new(
            pki.dir.clone(),
            pki.leaf_lifetime,
            self.credentials.clone(),
            move || registry.fleet(),
            (self.metrics.clone(), turn),
        );
        driver.work(SystemTime::now());
        intake.spawn(|stop| driver.run(stop));
        if pki.enrol {
            let desk = Desk::new(signer, self.metrics.clone());
            let connections = ingest.enrolments();
            intake.spawn(|stop| desk.clone().serve(connections, stop));
            let (client, dir) = (self.credentials.client(), pki.dir.clone());
            let visitor = ingest.visitor(desk, client, config.dial.clone(), dir);
            intake.spawn(|stop| visitor.run(stop));
        }
    }
}
