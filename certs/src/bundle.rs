//! The PKI folder: `ca.crt`, `ca.key`, and one folder with `tls.crt`, `tls.key`, `ca.crt` per certificate.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::authority::{Authority, AuthorityError, Issued};
use crate::certificate::Certificate;
use crate::identity::{self, Identity};
use crate::pem;
use crate::tls::{Files, TlsError};

/// The authority's certificate, and each leaf folder's bundle of trusted authorities.
pub const CA_CERT: &str = "ca.crt";
/// The authority's private key.
pub const CA_KEY: &str = "ca.key";
/// A leaf certificate.
pub const LEAF_CERT: &str = "tls.crt";
/// A leaf's private key.
pub const LEAF_KEY: &str = "tls.key";
/// The folder of the collector's own certificate; no cluster can have this name here.
pub const COLLECTOR: &str = "collector";

const PUBLIC: u32 = 0o644;
const SECRET: u32 = 0o600;

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
        for name in [CA_CERT, CA_KEY] {
            let path = dir.join(name);
            if !init.force && path.exists() {
                return Err(BundleError::Exists { path });
            }
        }
        let authority = Authority::create(init.trust_domain, now)?;
        let issued = authority.issue_collector(init.collector, init.hosts, now, init.lifetime)?;
        create_dir(dir)?;
        write(&dir.join(CA_KEY), authority.key_pem().as_bytes(), SECRET)?;
        write(&dir.join(CA_CERT), authority.pem().as_bytes(), PUBLIC)?;
        let folder = Self { dir: dir.to_owned(), authority };
        folder.write_leaf(&dir.join(COLLECTOR), issued)?;
        Ok(folder)
    }

    /// Reads the authority of an existing folder.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let cert_path = dir.join(CA_CERT);
        let key_path = dir.join(CA_KEY);
        if !cert_path.exists() && !key_path.exists() {
            return Err(BundleError::NoAuthority { dir: dir.to_owned() });
        }
        let pem = read(&cert_path)?;
        let key_pem = Zeroizing::new(read(&key_path)?);
        let authority = Authority::load(&pem, key_pem)
            .map_err(|source| BundleError::Load { path: cert_path, source })?;
        Ok(Self { dir: dir.to_owned(), authority })
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
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
        if cluster == COLLECTOR && out.is_none() {
            return Err(BundleError::Reserved);
        }
        let target = out.map_or_else(|| self.dir.join(cluster), Path::to_owned);
        let issued = self.authority.issue_agent(cluster, instance, now, lifetime)?;
        self.replace_leaf(&target, issued)
    }

    /// Issues the collector's certificate again; without `hosts`, with those it has.
    pub fn issue_collector(
        &self,
        hosts: &[String],
        now: SystemTime,
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
        let issued = self.authority.issue_collector(&name, hosts, now, lifetime)?;
        self.replace_leaf(&target, issued)
    }

    fn replace_leaf(&self, target: &Path, issued: Issued) -> Result<Written, BundleError> {
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
        self.write_leaf(target, issued)
    }

    /// The key goes first: a reader that sees the new key with the old certificate refuses the pair and keeps
    /// what it has.
    fn write_leaf(&self, target: &Path, issued: Issued) -> Result<Written, BundleError> {
        create_dir(target)?;
        write(&target.join(LEAF_KEY), issued.key_pem.as_bytes(), SECRET)?;
        write(&target.join(CA_CERT), self.authority.pem().as_bytes(), PUBLIC)?;
        write(&target.join(LEAF_CERT), issued.certificate_pem.as_bytes(), PUBLIC)?;
        Ok(Written { dir: target.to_owned(), certificate: issued.certificate })
    }
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
    /// A cluster cannot be called `collector` here.
    #[error("the folder \"collector\" is the collector's own; a cluster cannot have this name")]
    Reserved,
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

fn create_dir(path: &Path) -> Result<(), BundleError> {
    fs::create_dir_all(path).map_err(|source| disk("creating", path, source))
}

fn read(path: &Path) -> Result<String, BundleError> {
    fs::read_to_string(path).map_err(|source| disk("reading", path, source))
}

/// Writes beside, syncs, renames: a reader sees the old file or the new one, never half of it. The mode is
/// right from the first byte.
fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), BundleError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let attempt = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    attempt().map_err(|source| disk("writing", path, source))
}

fn disk(doing: &'static str, path: &Path, source: io::Error) -> BundleError {
    BundleError::Disk { doing, path: path.to_owned(), source }
}
