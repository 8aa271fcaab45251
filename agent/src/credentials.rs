//! The agent's certificate, its key, and the authorities it trusts: changed whole or not at all, on disk and in force.

mod schedule;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tributary_certs::certificate::utc;
use tributary_certs::digest::sha256;
use tributary_certs::identity::Identity;
use tributary_certs::pair::{self, New};
use tributary_certs::request::Pending;
use tributary_certs::tls::{ClientTls, Files, Material, ServerTls, TlsError};
use tributary_certs::trust::Bundle;
use tributary_proto::v1;

use crate::handover::Handover;
use crate::link::chain;
use crate::metrics::{CertificateMetrics, Outcome};
pub(crate) use schedule::Schedule;

/// What the agent trusts and holds.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    /// Whom it trusts.
    pub(crate) bundle: Bundle,
    /// When its certificate is to be renewed.
    pub(crate) schedule: Schedule,
    /// The same as the collector is told.
    pub(crate) trust: v1::Trust,
    /// Its certificate's serial number.
    serial: String,
}

impl InForce {
    fn new(material: &Material, renewable: bool) -> Self {
        let (certificate, bundle) = (material.certificate(), material.bundle().clone());
        Self {
            schedule: Schedule::new(certificate.not_before, certificate.not_after, renewable),
            trust: v1::Trust {
                bundle_sha256: bundle.digest().to_vec().into(),
                leaf_spki_sha256: certificate.spki_sha256.to_vec().into(),
                renewable,
                error: String::new(),
            },
            serial: certificate.serial.clone(),
            bundle,
        }
    }
}

/// Our side of TLS, replaceable.
pub(crate) enum Tls {
    /// We dial.
    Client(Arc<ClientTls>),
    /// We are dialled.
    Server(Arc<ServerTls>),
}

impl Tls {
    /// Whether `material` could be used.
    fn check(&self, material: &Material) -> Result<(), TlsError> {
        match self {
            Self::Client(_) => ClientTls::new(material).map(drop),
            Self::Server(_) => ServerTls::new(material).map(drop),
        }
    }

    fn replace(&self, material: &Material) -> Result<(), TlsError> {
        match self {
            Self::Client(tls) => tls.replace(material),
            Self::Server(tls) => tls.replace(material),
        }
    }
}

/// Keeps the three files and what is in force the same. Everything here that changes them blocks on the disk.
pub(crate) struct Credentials {
    files: Files,
    tls: Tls,
    /// Whom the certificate must stay for.
    identity: Identity,
    /// Whether the configuration lets the agent write the files.
    renew: bool,
    handover: Arc<Handover>,
    metrics: CertificateMetrics,
    in_force: watch::Sender<InForce>,
    /// One change at a time.
    looked: Mutex<Looked>,
}

/// What was found in the files when they were looked at last.
#[derive(Default)]
struct Looked {
    contents: [Option<[u8; 32]>; 3],
    /// They were found twice, and judged.
    judged: bool,
    /// What was wrong with them.
    complaint: Option<String>,
}

impl Credentials {
    /// `material` is what `files` hold, and what `tls` was made of.
    pub(crate) fn new(
        (files, renew): (Files, bool),
        material: &Material,
        tls: Tls,
        handover: Arc<Handover>,
        metrics: CertificateMetrics,
    ) -> Arc<Self> {
        let renewable = renew && pair::is_writable(&files);
        metrics.show(material.not_after(), SystemTime::now());
        Arc::new(Self {
            tls,
            identity: material.identity().clone(),
            renew,
            handover,
            metrics,
            in_force: watch::Sender::new(InForce::new(material, renewable)),
            looked: Mutex::default(),
            files,
        })
    }

    /// Follows what is in force.
    pub(crate) fn watch(&self) -> watch::Receiver<InForce> {
        self.in_force.subscribe()
    }

    /// Reads the files again, now; the caller tells what is wrong with them.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let mut looked = self.looked();
        let contents = contents(&self.files);
        let material = self.ours(Material::load(&self.files));
        let done = material.and_then(|material| self.put_in_force(&material));
        *looked = Looked { contents, judged: true, complaint: done.clone().err() };
        if done.is_err() {
            self.metrics.reloads_refused.inc();
        }
        done
    }

    /// Looks whether somebody has changed the files, and puts them in force if they fit together. To be called often: a
    /// change counts once it is found twice, as it may be half written.
    pub(crate) fn look(&self) {
        let mut looked = self.looked();
        let found = contents(&self.files);
        if found != looked.contents {
            (looked.contents, looked.judged) = (found, false);
        } else if !looked.judged || looked.complaint.is_some() {
            // What was refused is tried again: time may heal it, as a certificate that was not valid yet.
            let first = !std::mem::replace(&mut looked.judged, true);
            let material = self.ours(Material::load(&self.files));
            if contents(&self.files) != looked.contents {
                return;
            }
            let complaint = material.and_then(|material| self.put_in_force(&material)).err();
            if let Some(error) = complaint.as_ref().filter(|_| complaint != looked.complaint)
                && first
            {
                self.metrics.reloads_refused.inc();
                tracing::error!(error, "the certificate files are refused; the old ones stay");
            }
            looked.complaint = complaint;
        }
        self.metrics.show(self.in_force.borrow().schedule.not_after(), SystemTime::now());
    }

    /// Keeps a bundle that the collector sent over a connection whose authority is `collector`.
    pub(crate) fn replace_bundle(&self, ca_pem: &[u8], collector: &[u8; 32]) {
        let mut looked = self.looked();
        let done = self.try_bundle(ca_pem, collector);
        match &done {
            Ok(()) => looked.ours(&self.files),
            Err(error) => tracing::error!(error, "a bundle is refused; the old one stays in force"),
        }
        self.in_force.send_modify(|now| now.trust.error = done.err().unwrap_or_default());
    }

    fn try_bundle(&self, ca_pem: &[u8], collector: &[u8; 32]) -> Result<(), String> {
        let bundle = Bundle::parse(ca_pem).map_err(|error| chain(&error))?;
        if !bundle.contains(collector) {
            return Err("the authority of the collector that sent it is not in it".to_owned());
        }
        self.may_write()?;
        let read =
            |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
        let (cert, key) = (read(&self.files.cert_file)?, read(&self.files.key_file)?);
        let material = Material::from_parts(&self.files, &cert, &key, bundle);
        let material = self.ours(material)?;
        pair::install_bundle(&self.files, &material.bundle().pem()).map_err(|e| chain(&e))?;
        self.put_in_force(&material)
    }

    /// Keeps the certificate that the collector signed for `pending`.
    pub(crate) fn renewed(&self, pending: &Pending, chain_pem: &[u8]) {
        let mut looked = self.looked();
        match self.try_certificate(pending, chain_pem) {
            Ok(()) => {
                looked.ours(&self.files);
                self.metrics.renewed(Outcome::renewed);
                tracing::info!("the certificate is renewed");
            }
            Err(why) => {
                self.in_force.send_modify(|now| now.trust.error.clone_from(&why));
                self.renewal_failed(&why);
            }
        }
    }

    fn try_certificate(&self, pending: &Pending, chain_pem: &[u8]) -> Result<(), String> {
        self.may_write()?;
        let bundle = self.in_force.borrow().bundle.clone();
        let key_pem = pending.key_pem.as_str();
        let chain_text = str::from_utf8(chain_pem).map_err(|_| "it is not text".to_owned())?;
        let material = Material::from_parts(&self.files, chain_pem, key_pem.as_bytes(), bundle);
        let material = self.ours(material)?;
        let new = New { chain_pem: chain_text, key_pem, ca_pem: None };
        pair::install(&self.files, &new).map_err(|error| chain(&error))?;
        self.put_in_force(&material)
    }

    /// The certificate is to be renewed now.
    pub(crate) fn wish_renewal(&self) {
        self.in_force.send_modify(|now| now.schedule.at_once(SystemTime::now()));
    }

    /// The certificate could not be renewed; later again.
    pub(crate) fn renewal_failed(&self, why: &str) {
        self.metrics.renewed(Outcome::failed);
        self.in_force.send_modify(|now| {
            let next = now.schedule.failed(SystemTime::now());
            tracing::warn!(error = why, again_in = ?next, "the certificate could not be renewed");
        });
    }

    /// A certificate must be usable, and stay for the same agent.
    fn ours(&self, material: Result<Material, TlsError>) -> Result<Material, String> {
        let material = material.map_err(|error| chain(&error))?;
        if *material.identity() != self.identity {
            let (new, old) = (material.identity().describe(), self.identity.describe());
            return Err(format!("the new certificate is for {new}; this is {old}"));
        }
        self.tls.check(&material).map_err(|error| chain(&error))?;
        Ok(material)
    }

    fn put_in_force(&self, material: &Material) -> Result<(), String> {
        let renewable = self.renew && pair::is_writable(&self.files);
        let (mut new, old) = (InForce::new(material, renewable), self.in_force.borrow().clone());
        let same_certificate = new.serial == old.serial;
        if same_certificate && new.trust == old.trust {
            return Ok(());
        }
        if same_certificate && new.trust.renewable == old.trust.renewable {
            new.schedule = old.schedule;
        }
        self.tls.replace(material).map_err(|error| chain(&error))?;
        self.metrics.show(material.not_after(), SystemTime::now());
        tracing::info!(
            authorities = new.bundle.len(),
            serial = new.serial,
            not_after = utc(material.not_after()),
            "certificates are in force"
        );
        self.in_force.send_replace(new);
        if !same_certificate {
            self.handover.renew();
        }
        Ok(())
    }

    fn may_write(&self) -> Result<(), String> {
        if !self.renew {
            return Err("tls.renew is off in the agent's configuration".to_owned());
        }
        if !pair::is_writable(&self.files) {
            let folder = self.files.cert_file.display();
            return Err(format!("the agent cannot write {folder}: somebody else keeps the files"));
        }
        Ok(())
    }

    fn looked(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Looked {
    /// What is in the files now was put there by us.
    fn ours(&mut self, files: &Files) {
        *self = Self { contents: contents(files), judged: true, complaint: None };
    }
}

/// What the files hold, by hash; nothing where a file cannot be read.
fn contents(files: &Files) -> [Option<[u8; 32]>; 3] {
    [&files.cert_file, &files.key_file, &files.ca_file]
        .map(|path| fs::read(path).ok().map(|bytes| sha256(&bytes)))
}

#[cfg(test)]
mod tests;
