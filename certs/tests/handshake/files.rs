//! Files that fit together are loaded, others never.

use std::path::Path;
use std::time::SystemTime;

use rcgen::ExtendedKeyUsagePurpose;
use tributary_certs::bundle;
use tributary_certs::tls::{ClientTls, Material, Refusal, ServerTls, TlsError};

use crate::bench::{HOUR, Pki};

#[test]
fn files_that_do_not_fit_together_are_never_loaded() {
    let (pki, other) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let (a, b) = (pki.agent("eu-1"), pki.agent("eu-1"));
    let ca = pki.authority.pem();
    let load = |cert: &str, key: &str, ca: &str| pki.try_material(cert, key, ca).err().unwrap();

    assert!(matches!(load(&a.certificate_pem, &b.key_pem, ca), TlsError::KeyMismatch { .. }));
    let cut = &a.certificate_pem[..a.certificate_pem.len() / 2];
    assert!(matches!(load(cut, &a.key_pem, ca), TlsError::Pem { .. }));
    assert!(matches!(load("", &a.key_pem, ca), TlsError::Pem { .. }));
    assert!(matches!(load(&a.certificate_pem, "", ca), TlsError::Pem { .. }));
    assert!(matches!(load(&a.certificate_pem, &a.key_pem, ""), TlsError::Bundle { .. }));
    assert!(matches!(
        load(&a.certificate_pem, &a.key_pem, other.authority.pem()),
        TlsError::Refused { why: Refusal::UnknownAuthority, .. }
    ));
    let expired =
        pki.authority.issue_agent("eu-1", "a", SystemTime::now() - 2 * HOUR, HOUR).unwrap();
    assert!(matches!(
        load(&expired.certificate_pem, &expired.key_pem, ca),
        TlsError::Refused { why: Refusal::Expired { .. }, .. }
    ));
    let missing = Material::load(&bundle::files(Path::new("nowhere"))).unwrap_err();
    assert!(missing.to_string().starts_with("reading nowhere/tls.crt: "), "{missing}");
}

#[test]
fn a_certificate_without_the_usage_of_its_side_serves_only_the_other() {
    let pki = Pki::new("tributary.internal");
    let agent = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    let (cert, key) = pki.odd(&[agent], &[ExtendedKeyUsagePurpose::ClientAuth]);
    let material = pki.try_material(&cert, &key, pki.authority.pem()).unwrap();
    assert!(ClientTls::new(&material).is_ok());
    assert!(matches!(
        ServerTls::new(&material),
        Err(TlsError::Refused { why: Refusal::Usage { wanted: "server" }, .. })
    ));
}
