//! Reads certificates and keys from PEM files; whatever is half-written is refused.

use std::fs;
use std::path::Path;

use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::TlsError;
use crate::tls::Files;

/// Bytes that make a line of 64 characters.
const PEM_LINE_BYTES: usize = 48;

pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    certificates(&read(path)?, path)
}

/// `path` is named in errors.
pub(crate) fn certificates(
    text: &[u8],
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = |why: String| TlsError::Pem { path: path.to_owned(), what: "certificate", why };
    let certificates = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem(error.to_string()))?;
    if certificates.is_empty() {
        return Err(pem("it holds no CERTIFICATE block".to_owned()));
    }
    Ok(certificates)
}

pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    key(&zeroize::Zeroizing::new(read(path)?), path)
}

/// `path` is named in errors.
pub(crate) fn key(text: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|error| TlsError::Pem {
        path: path.to_owned(),
        what: "private key",
        why: error.to_string(),
    })
}

/// A certificate as PEM text.
pub(crate) fn text(der: &CertificateDer<'_>) -> String {
    let lines = der.chunks(PEM_LINE_BYTES).map(|line| base64(line) + "\n").collect::<String>();
    format!("-----BEGIN CERTIFICATE-----\n{lines}-----END CERTIFICATE-----\n")
}

/// Base64 (RFC 4648) without line breaks.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let byte = |at: usize| u32::from(group.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = usize::try_from(bits >> (18 - 6 * digit) & 0x3f).unwrap_or(0);
            let letter = ALPHABET.get(value).filter(|_| digit <= group.len());
            text.push(letter.map_or('=', |letter| char::from(*letter)));
        }
    }
    text
}

/// Whether the key is the certificate's.
pub(crate) fn check_key(
    provider: &CryptoProvider,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
    files: &Files,
) -> Result<(), TlsError> {
    match CertifiedKey::from_der(chain.to_vec(), key.clone_key(), provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(TlsError::KeyMismatch {
                cert: files.cert_file.clone(),
                key: files.key_file.clone(),
            })
        }
        Err(source) => Err(TlsError::Unusable { path: files.key_file.clone(), source }),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 1..300)) {
            let der = CertificateDer::from(bytes);
            let text = text(&der);
            prop_assert!(text.lines().all(|line| line.len() <= 64));
            let read = certificates(text.repeat(2).as_bytes(), Path::new("x")).unwrap();
            prop_assert_eq!(read, [der.clone(), der]);
        }
    }
}
