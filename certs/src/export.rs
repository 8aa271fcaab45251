//! A leaf folder in the form in which Kubernetes keeps it.

use std::fs;
use std::path::Path;

use zeroize::Zeroizing;

use crate::bundle::{self, CA_CERT, LEAF_CERT, LEAF_KEY};
use crate::identity;
use crate::pem;
use crate::tls::{Material, TlsError};

/// What every Secret of ours has between its name and its content.
const KIND: &str =
    "  labels:\n    app.kubernetes.io/part-of: tributary\ntype: kubernetes.io/tls\ndata:\n";

/// The Secret's place in Kubernetes.
pub struct Place<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace; without it, the one that `kubectl` is set to.
    pub namespace: Option<&'a str>,
}

/// The manifest of a `kubernetes.io/tls` Secret with certificate, key and bundle. What does not fit together is not
/// exported.
pub fn kubernetes_secret(
    folder: &Path,
    place: &Place<'_>,
) -> Result<Zeroizing<String>, ExportError> {
    for name in [Some(place.name), place.namespace].into_iter().flatten() {
        identity::check_cluster(name)
            .map_err(|_| ExportError::Name(name.escape_debug().to_string()))?;
    }
    if !folder.join(LEAF_CERT).exists() {
        return Err(ExportError::NoCertificate { folder: folder.display().to_string() });
    }
    Material::load(&bundle::files(folder))?;
    let mut text = Zeroizing::new(String::from("apiVersion: v1\nkind: Secret\nmetadata:\n"));
    let namespace = place.namespace.map(|name| ["  namespace: ", name, "\n"]).unwrap_or_default();
    let metadata = ["  name: ", place.name, "\n"].into_iter().chain(namespace);
    text.extend(metadata.chain([KIND]));
    for name in [CA_CERT, LEAF_CERT, LEAF_KEY] {
        let path = folder.join(name);
        let bytes =
            Zeroizing::new(fs::read(&path).map_err(|source| TlsError::Read { path, source })?);
        let value = Zeroizing::new(pem::base64(&bytes));
        text.extend(["  ", name, ": ", value.as_str(), "\n"]);
    }
    Ok(text)
}

/// Why a folder is not exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// Not a name that Kubernetes takes.
    #[error("\"{0}\" is not a name in Kubernetes: use 1 to 63 of a-z, 0-9 and '-'")]
    Name(String),
    /// The folder holds no certificate.
    #[error("{folder}: no certificate here (tls.crt is missing)")]
    NoCertificate {
        /// The folder.
        folder: String,
    },
    /// The files do not fit together, or cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
}
