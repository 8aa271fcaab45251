//! The PKI folder: `ca.crt`, `ca.key`, `state.json`, and one folder with `tls.crt`, `tls.key`, `ca.crt` per
//! certificate.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Issued};
use crate::certificate::Certificate;
use crate::disk;
use crate::identity::{self, Identity};
use crate::pair;
use crate::pem;
use crate::request::Request;
use crate::state::{How, State, StateError};
use crate::succession;
use crate::tls::{Files, TlsError};
use crate::trust::{Bundle, TrustError};

/// The authority's certificate, and each leaf folder's bundle of trusted authorities.
pub const CA_CERT: &str = "ca.crt";
/// The authority's private key.
pub const CA_KEY: &str = "ca.key";
/// A leaf certificate.
pub const LEAF_CERT: &str = "tls.crt";
/// A leaf's private key.
pub const LEAF_KEY: &str = "tls.key";
/// The folder of the collector's own certificate; no cluster can have this name.
pub const COLLECTOR: &str = "collector";
/// The folder of the authority that comes next, while a rotation goes on.
pub const NEXT: &str = "next";
/// The folder of the authorities that were.
pub const ARCHIVE: &str = "archive";

/// A PKI folder with its authority.
pub struct Folder {
    dir: PathBuf,
    authority: Authority,
}

/// A certificate that was written, and where.
pub struct Written {
    /// Its folder.
    pub dir: PathBuf,
    /// What it says.
    pub certificate: Certificate,
}

/// What `init` makes.
pub struct Init<'a> {
    /// The trust domain of all identities.
    pub trust_domain: &'a str,
    /// The collector's name.
    pub collector: &'a str,
    /// The names and addresses the collector is reached under.
    pub hosts: &'a [String],
    /// Life of the collector's certificate.
    pub lifetime: Duration,
    /// Replace an authority that is there. Everything it signed stops working.
    pub force: bool,
}

impl Folder {
    /// Makes a new authority and the collector's certificate.
    pub fn init(dir: &Path, init: &Init<'_>, now: SystemTime) -> Result<Self, BundleError> {
        Self::found(dir, init, Authority::create(init.trust_domain, now)?, now)
    }

    /// Makes the folder around an authority that is there already: one's own, or an intermediate that a company's
    /// authority has signed. What the authority's certificate does not say, the trust domain, is kept beside it.
    pub fn adopt(
        dir: &Path,
        init: &Init<'_>,
        (cert, key): (&Path, &Path),
        now: SystemTime,
    ) -> Result<Self, BundleError> {
        let authority = load_authority(cert, key, Some(init.trust_domain))?;
        Self::found(dir, init, authority, now)
    }

    fn found(
        dir: &Path,
        init: &Init<'_>,
        authority: Authority,
        now: SystemTime,
    ) -> Result<Self, BundleError> {
        for name in [CA_CERT, CA_KEY] {
            let path = dir.join(name);
            if !init.force && path.exists() {
                return Err(BundleError::Exists { path });
            }
        }
        let issued = authority.issue_collector(init.collector, init.hosts, now, init.lifetime)?;
        create_dir(dir)?;
        let folder = Self { dir: dir.to_owned(), authority };
        State::change(dir, |state| {
            *state = State::default();
            if !folder.authority.names_trust_domain() {
                state.trust_domain = Some(folder.authority.trust_domain().to_owned());
            }
            folder.record(state, &issued.certificate, (How::Init, now))
        })?;
        succession::remove_next(dir)?;
        write(&dir.join(CA_KEY), folder.authority.key_pem().as_bytes(), disk::SECRET)?;
        write(&dir.join(CA_CERT), folder.authority.pem().as_bytes(), disk::PUBLIC)?;
        write_leaf(&dir.join(COLLECTOR), issued, folder.authority.pem())?;
        Ok(folder)
    }

    /// Reads the authority of an existing folder, and ends the change to the next one that a kill interrupted. One
    /// that is going on is waited for; so this is not for within [`State::change`].
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        match Self::open_locked(dir) {
            Err(BundleError::Load { .. }) => State::change(dir, |_| Self::open_locked(dir)),
            opened => opened,
        }
    }

    /// The same within [`State::change`]: the folder stands still.
    pub(crate) fn open_locked(dir: &Path) -> Result<Self, BundleError> {
        let cert = dir.join(CA_CERT);
        let key = dir.join(CA_KEY);
        if !cert.exists() && !key.exists() {
            return Err(BundleError::NoAuthority { dir: dir.to_owned() });
        }
        succession::settle(dir)?;
        let trust_domain = State::read(dir)?.trust_domain;
        let authority = load_authority(&cert, &key, trust_domain.as_deref())?;
        Ok(Self { dir: dir.to_owned(), authority })
    }

    /// The authority that signs.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authorities to trust: those of the collector, and the one that signs. Two while a rotation goes on.
    pub fn bundle(&self) -> Result<Bundle, BundleError> {
        Self::trusted(&self.dir)
    }

    /// The same without the authority's key.
    pub fn trusted(dir: &Path) -> Result<Bundle, BundleError> {
        let path = dir.join(CA_CERT);
        if !path.exists() {
            return Err(BundleError::NoAuthority { dir: dir.to_owned() });
        }
        let own = Bundle::read(&path)?;
        let path = dir.join(COLLECTOR).join(CA_CERT);
        if !path.exists() {
            return Ok(own);
        }
        let present = Bundle::read(&path)?;
        present.with(&own).map_err(|source| BundleError::Trust { path, source })
    }

    /// The authority that signs, alone.
    pub(crate) fn own_bundle(&self) -> Result<Bundle, BundleError> {
        Bundle::parse(self.authority.pem().as_bytes())
            .map_err(|source| BundleError::Trust { path: self.dir.join(CA_CERT), source })
    }

    /// Issues an agent's certificate into `<dir>/<cluster>`, or into `out`. The same agent's older certificate
    /// is replaced; another agent's is not.
    pub fn issue_agent(
        &self,
        (cluster, instance): (&str, &str),
        out: Option<&Path>,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Written, BundleError> {
        identity::check_cluster(cluster).map_err(AuthorityError::Name)?;
        check_not_reserved(cluster)?;
        let target = out.map_or_else(|| self.dir.join(cluster), Path::to_owned);
        let issued = self.authority.issue_agent(cluster, instance, now, lifetime)?;
        State::change(&self.dir, |state| {
            self.replace_leaf(state, &target, issued, (How::Issue, now))
        })
    }

    /// Signs an agent's request: nothing in it counts but its key. Returns the certificate in PEM. Whether the
    /// agent may have it is for the caller to know.
    pub fn issue_agent_request(
        &self,
        request: &Request,
        (cluster, instance): (&str, &str),
        (how, now): (How, SystemTime),
        lifetime: Duration,
    ) -> Result<String, BundleError> {
        check_not_reserved(cluster)?;
        let lifetime = self.at_most(lifetime, now);
        let signed = self.authority.sign_agent(request, (cluster, instance), now, lifetime)?;
        State::change(&self.dir, |state| self.record(state, &signed.certificate, (how, now)))?;
        Ok(signed.chain_pem)
    }

    /// Issues the collector's certificate again; without `hosts`, with those it has.
    pub fn issue_collector(
        &self,
        hosts: &[String],
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Written, BundleError> {
        State::change(&self.dir, |state| {
            self.replace_collector(state, hosts, (How::Issue, now), lifetime)
        })
    }

    /// Renews the collector's certificate: same name, same hosts, a new key.
    pub fn renew_collector(
        &self,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Written, BundleError> {
        State::change(&self.dir, |state| {
            self.replace_collector(state, &[], (How::Renewal, now), lifetime)
        })
    }

    pub(crate) fn replace_collector(
        &self,
        state: &mut State,
        hosts: &[String],
        (how, now): (How, SystemTime),
        lifetime: Duration,
    ) -> Result<Written, BundleError> {
        let target = self.dir.join(COLLECTOR);
        let present = leaf(&target.join(LEAF_CERT))?;
        let Some(Ok(Identity::Collector { name, .. })) =
            present.uris.first().map(|uri| uri.parse::<Identity>())
        else {
            return Err(BundleError::NotCollector { path: target.join(LEAF_CERT) });
        };
        let hosts = if hosts.is_empty() { &present.hosts } else { hosts };
        let lifetime = if how == How::Renewal { self.at_most(lifetime, now) } else { lifetime };
        let issued = self.authority.issue_collector(&name, hosts, now, lifetime)?;
        self.replace_leaf(state, &target, issued, (how, now))
    }

    /// What renews itself must go on doing so in the last days of the authority, too.
    fn at_most(&self, lifetime: Duration, now: SystemTime) -> Duration {
        let left = self.authority.certificate().not_after.duration_since(now);
        lifetime.min(left.unwrap_or_default())
    }

    /// What is issued is recorded before it is written: a kill between leaves a record of a key that nobody has.
    fn replace_leaf(
        &self,
        state: &mut State,
        target: &Path,
        issued: Issued,
        how: (How, SystemTime),
    ) -> Result<Written, BundleError> {
        let path = target.join(LEAF_CERT);
        if path.exists() {
            let present = leaf(&path)?;
            if present.uris != issued.certificate.uris {
                return Err(BundleError::OtherIdentity {
                    path,
                    present: present.uris.join(", "),
                    wanted: issued.certificate.uris.join(", "),
                });
            }
        }
        self.record(state, &issued.certificate, how)?;
        write_leaf(target, issued, &self.bundle()?.pem())
    }

    fn record(
        &self,
        state: &mut State,
        certificate: &Certificate,
        how: (How, SystemTime),
    ) -> Result<(), BundleError> {
        let uri = certificate.uris.first().map_or("", String::as_str);
        let identity: Identity = uri.parse().map_err(AuthorityError::Name)?;
        state.record(&identity, certificate, self.authority.certificate().spki_sha256, how);
        Ok(())
    }
}

fn write_leaf(target: &Path, issued: Issued, ca_pem: &str) -> Result<Written, BundleError> {
    create_dir(target)?;
    let new = pair::New {
        chain_pem: &issued.certificate_pem,
        key_pem: &issued.key_pem,
        ca_pem: Some(ca_pem),
    };
    pair::install(&files(target), &new)?;
    Ok(Written { dir: target.to_owned(), certificate: issued.certificate })
}

/// The names of the sub-folders that hold a certificate; the collector's first.
pub fn leaf_folders(dir: &Path) -> Result<Vec<String>, BundleError> {
    let failed = |source| disk_error("reading", dir, source);
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string()
            && entry.path().join(LEAF_CERT).is_file()
        {
            names.push(name);
        }
    }
    names.sort_by_key(|name| (name != COLLECTOR, name.clone()));
    Ok(names)
}

/// Whether the folder uses this name itself, so that no cluster can have it.
pub fn is_reserved(cluster: &str) -> bool {
    [COLLECTOR, NEXT, ARCHIVE].contains(&cluster)
}

fn check_not_reserved(cluster: &str) -> Result<(), BundleError> {
    if is_reserved(cluster) {
        return Err(BundleError::Reserved { name: cluster.to_owned() });
    }
    Ok(())
}

pub(crate) fn load_authority(
    cert: &Path,
    key: &Path,
    trust_domain: Option<&str>,
) -> Result<Authority, BundleError> {
    let pem = read(cert)?;
    let key_pem = Zeroizing::new(read(key)?);
    Authority::load_in(&pem, key_pem, trust_domain)
        .map_err(|source| BundleError::Load { path: cert.to_owned(), source })
}

/// The three files of a leaf folder.
pub fn files(dir: &Path) -> Files {
    Files {
        cert_file: dir.join(LEAF_CERT),
        key_file: dir.join(LEAF_KEY),
        ca_file: dir.join(CA_CERT),
    }
}

/// Reads the first certificate of a PEM file.
pub fn leaf(path: &Path) -> Result<Certificate, BundleError> {
    let chain = pem::read_certificates(path)?;
    let malformed = || BundleError::Malformed { path: path.to_owned() };
    chain
        .first()
        .ok_or_else(malformed)
        .and_then(|der| Certificate::parse(der).map_err(|_| malformed()))
}

/// Why the folder cannot be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// There is an authority already.
    #[error("{}: there is an authority here already", path.display())]
    Exists {
        /// The file that is there.
        path: PathBuf,
    },
    /// There is no authority.
    #[error("{}: no authority here (ca.crt and ca.key are missing)", dir.display())]
    NoAuthority {
        /// The folder.
        dir: PathBuf,
    },
    /// The authority's files are damaged.
    #[error("{}: {source}", path.display())]
    Load {
        /// The certificate's file.
        path: PathBuf,
        /// The reason.
        source: AuthorityError,
    },
    /// The authority does not sign this.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A certificate file cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A certificate file holds something else.
    #[error("{}: the certificate is not well-formed X.509", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The name of a folder that has another purpose.
    #[error("a cluster cannot have the name \"{name}\": the PKI folder uses it itself")]
    Reserved {
        /// The name.
        name: String,
    },
    /// A file of authorities holds something else.
    #[error("{}: {source}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: TrustError,
    },
    /// The state cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// The folder holds the certificate of somebody else.
    #[error("{}: this is the certificate of {present}, not of {wanted}", path.display())]
    OtherIdentity {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        present: String,
        /// Who asks.
        wanted: String,
    },
    /// The collector's folder holds no collector's certificate.
    #[error("{}: this is not a collector's certificate", path.display())]
    NotCollector {
        /// The file.
        path: PathBuf,
    },
    /// The disk says no.
    #[error("{doing} {}: {source}", path.display())]
    Disk {
        /// `reading`, `writing`, `creating`.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

pub(crate) fn create_dir(path: &Path) -> Result<(), BundleError> {
    disk::create_dir(path).map_err(|source| disk_error("creating", path, source))
}

pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BundleError> {
    disk::replace(path, bytes, mode).map_err(|source| disk_error("writing", path, source))
}

pub(crate) fn remove(path: &Path) -> Result<(), BundleError> {
    disk::remove(path).map_err(|source| disk_error("removing", path, source))
}

pub(crate) fn move_file(from: &Path, to: &Path) -> Result<(), BundleError> {
    disk::rename(from, to).map_err(|source| disk_error("replacing", to, source))
}

pub(crate) fn read(path: &Path) -> Result<String, BundleError> {
    fs::read_to_string(path).map_err(|source| disk_error("reading", path, source))
}

fn disk_error(doing: &'static str, path: &Path, source: io::Error) -> BundleError {
    BundleError::Disk { doing, path: path.to_owned(), source }
}
