//! Certificate requests (PKCS#10): an agent proves that it has a key; what it asks to be called is not believed.

use rcgen::{CertificateParams, KeyPair, PublicKeyData, SubjectPublicKeyInfo};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use zeroize::Zeroizing;

use crate::certificate::address;
use crate::digest::sha256;

/// Bytes of a request (DER). More: it is refused before it is read.
pub const MAX_REQUEST_BYTES: usize = 8 << 10;

/// A new key, and the request for a certificate of it.
pub struct Pending {
    /// The private key, PKCS#8 PEM; wiped from memory when dropped. It never leaves the agent.
    pub key_pem: Zeroizing<String>,
    /// The request, DER. It names nobody: the names come from whoever signs.
    pub csr_der: Vec<u8>,
}

impl Pending {
    /// Makes a key (ECDSA P-256) and a request.
    pub fn new() -> Result<Self, RequestError> {
        let key = KeyPair::generate().map_err(RequestError::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let request = params.serialize_request(&key).map_err(RequestError::Make)?;
        let key_pem = Zeroizing::new(key.serialize_pem());
        Ok(Self { key_pem, csr_der: request.der().to_vec() })
    }
}

/// A request whose sender has the key.
#[derive(Debug)]
pub struct Request {
    pub(crate) key: SubjectPublicKeyInfo,
    names: Vec<String>,
    spki_sha256: [u8; 32],
}

impl Request {
    /// Reads a request (DER). The key must be one of today's, and the request must be signed with it.
    pub fn parse(csr_der: &[u8]) -> Result<Self, RequestError> {
        if csr_der.len() > MAX_REQUEST_BYTES {
            return Err(RequestError::TooLong);
        }
        let (rest, request) =
            X509CertificationRequest::from_der(csr_der).map_err(|_| RequestError::Malformed)?;
        if !rest.is_empty() {
            return Err(RequestError::Malformed);
        }
        let spki = request.certification_request_info.subject_pki.raw;
        let key = SubjectPublicKeyInfo::from_der(spki).map_err(|_| RequestError::Key)?;
        let accepted =
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !accepted.contains(&key.algorithm()) {
            return Err(RequestError::Key);
        }
        request.verify_signature().map_err(|_| RequestError::Signature)?;
        Ok(Self { key, names: names(&request), spki_sha256: sha256(spki) })
    }

    /// Whatever it asks to be called: parts of a subject, URIs, hosts, addresses; control characters are escaped.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// SHA-256 of the key (SPKI).
    pub fn spki_sha256(&self) -> [u8; 32] {
        self.spki_sha256
    }
}

fn names(request: &X509CertificationRequest<'_>) -> Vec<String> {
    let subject = &request.certification_request_info.subject;
    let subject = subject.iter_attributes().map(|name| name.as_str().unwrap_or("?").to_owned());
    let extensions = request.requested_extensions().into_iter().flatten();
    let alternative = extensions.flat_map(|extension| match extension {
        ParsedExtension::SubjectAlternativeName(names) => {
            names.general_names.iter().map(alternative).collect()
        }
        _ => Vec::new(),
    });
    subject.chain(alternative).map(|name| name.escape_debug().to_string()).collect()
}

fn alternative(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::URI(uri) => (*uri).to_owned(),
        GeneralName::DNSName(host) => (*host).to_owned(),
        GeneralName::IPAddress(bytes) => address(bytes).unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    }
}

/// Why a request cannot be made or is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// More than [`MAX_REQUEST_BYTES`].
    #[error("the certificate request is longer than {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// Not PKCS#10.
    #[error("the certificate request is not well-formed PKCS#10")]
    Malformed,
    /// RSA, an odd curve, or something unknown.
    #[error("the certificate request's key is none of ECDSA P-256, ECDSA P-384, Ed25519")]
    Key,
    /// Whoever sent it does not have the key.
    #[error("the certificate request is not signed with its own key")]
    Signature,
    /// No randomness.
    #[error("making a key and a certificate request: {0}")]
    Make(#[source] rcgen::Error),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{DnType, SanType};

    use super::*;

    fn request(params: &CertificateParams, key: &KeyPair) -> Vec<u8> {
        params.serialize_request(key).unwrap().der().to_vec()
    }

    #[test]
    fn ours_names_nobody() {
        let pending = Pending::new().unwrap();
        let request = Request::parse(&pending.csr_der).unwrap();
        assert!(request.names().is_empty());
        let key = KeyPair::from_pem(&pending.key_pem).unwrap();
        assert_eq!(request.spki_sha256(), sha256(&key.subject_public_key_info()));
        assert_ne!(pending.csr_der, Pending::new().unwrap().csr_der, "each has a key of its own");
    }

    #[test]
    fn every_name_that_is_asked_for_is_seen() {
        let mut params =
            CertificateParams::new(["host".to_owned(), "10.0.0.1".to_owned()]).unwrap();
        let uri = "spiffe://tributary.internal/cluster/us-1/agent/a";
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.distinguished_name.push(DnType::CommonName, "../x\0\n");
        let der = request(&params, &KeyPair::generate().unwrap());
        let names = Request::parse(&der).unwrap().names().to_vec();
        assert_eq!(names, ["../x\\0\\n", "host", "10.0.0.1", uri]);
    }

    #[test]
    fn only_the_keys_of_today_and_only_with_proof() {
        let params = CertificateParams::default();
        for good in
            [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519]
        {
            let der = request(&params, &KeyPair::generate_for(good).unwrap());
            assert!(Request::parse(&der).is_ok(), "{good:?}");
        }
        let refused = |der: &[u8]| Request::parse(der).unwrap_err();
        let odd = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        assert!(matches!(refused(&request(&params, &odd)), RequestError::Key));

        let der = Pending::new().unwrap().csr_der;
        // The last byte is in the signature.
        let mut forged = der.clone();
        *forged.last_mut().unwrap() ^= 1;
        assert!(matches!(refused(&forged), RequestError::Signature));
        let longer = [der.as_slice(), &[0]].concat();
        assert!(matches!(refused(&longer), RequestError::Malformed));
        assert!(matches!(refused(&vec![0x30; MAX_REQUEST_BYTES + 1]), RequestError::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            prop_assert!(Request::parse(&bytes).is_err());
        }

        #[test]
        fn damage_changes_neither_key_nor_names(at in any::<prop::sample::Index>(), to: u8) {
            let mut der = Pending::new().unwrap().csr_der;
            let sent = Request::parse(&der).unwrap();
            let at = at.index(der.len());
            der[at] = to;
            if let Ok(read) = Request::parse(&der) {
                prop_assert_eq!(read.spki_sha256(), sent.spki_sha256());
                prop_assert!(read.names().is_empty());
            }
        }
    }
}
