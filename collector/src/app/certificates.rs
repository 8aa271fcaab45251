//! Assembles what handles certificates: the collector's own, the PKI folder's work, enrolment.

use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::registry::Registry;
use tributary_certs::bundle::{self, Folder};
use tributary_certs::certificate::utc;
use tributary_certs::tls::TlsError;

use super::files::StartError;
use super::stage::Stage;
use crate::config::{Config, Pki};
use crate::ingest::Ingest;
use crate::ingest::enrol::Desk;
use crate::pki::credentials::{Credentials, Loaded};
use crate::pki::driver::Driver;
use crate::pki::expiry::Expiry;
use crate::pki::metrics::PkiMetrics;
use crate::pki::signer::{Signer, Turn};

/// Renews the collector's own certificate if it has run out, as it has after a month without the collector; the rest of
/// the start would refuse it. Nothing without a PKI folder.
pub(super) fn renew_expired(config: &Config, now: SystemTime) -> Result<(), StartError> {
    let Some(pki) = &config.pki else { return Ok(()) };
    if bundle::leaf(&config.ingest.tls.cert_file)?.not_after > now {
        return Ok(());
    }
    let written = Folder::open(&pki.dir)?.renew_collector(now, pki.leaf_lifetime)?;
    let until = utc(written.certificate.not_after);
    tracing::warn!(until, "the collector's own certificate had run out and was renewed");
    Ok(())
}

/// The collector's own certificate, in force; the rest is not started yet.
pub(super) struct Certificates {
    /// What ingest and the dialler use.
    pub(super) credentials: Arc<Credentials>,
    metrics: PkiMetrics,
}

impl Certificates {
    /// Puts the files of `ingest.tls` in force.
    pub(super) fn new(
        config: &Config,
        loaded: Loaded,
        registry: &mut Registry,
    ) -> Result<Self, TlsError> {
        let metrics = PkiMetrics::new(registry);
        let enrol = config.pki.as_ref().is_some_and(|pki| pki.enrol);
        let credentials = Credentials::new(loaded, enrol, metrics.clone())?;
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
            if !config.dial.is_empty() {
                let (client, dir) = (self.credentials.client(), pki.dir.clone());
                let visitor = ingest.visitor(desk, client, config.dial.clone(), dir);
                intake.spawn(|stop| visitor.run(stop));
            }
        }
    }
}
