//! OpenSSL agrees with every kind of certificate that is made here.

#![expect(clippy::expect_used, clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tributary_certs::bundle::{self, Folder, Init};
use tributary_certs::request::{Pending, Request};
use tributary_certs::rotate::{self, Fleet, Kind, Policy, Step, Wish};
use tributary_certs::state::How;

const DAY: Duration = Duration::from_secs(86_400);

fn openssl(dir: &Path, arguments: &str) -> Output {
    let mut command = Command::new("openssl");
    command.args(arguments.split_whitespace()).current_dir(dir);
    command.output().expect("tests/run installs openssl")
}

fn ok(dir: &Path, arguments: &str) -> String {
    let output = openssl(dir, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "openssl {arguments}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn hosts() -> Vec<String> {
    vec!["tools.example.org".to_owned(), "10.0.0.1".to_owned(), "::1".to_owned()]
}

fn init(hosts: &[String]) -> Init<'_> {
    Init {
        trust_domain: "tributary.internal",
        collector: "collector",
        hosts,
        lifetime: 30 * DAY,
        force: false,
    }
}

/// Both usages, strictly.
fn check_verifies(dir: &Path, ca: &str, leaf: &str, options: &str) {
    for purpose in ["sslclient", "sslserver"] {
        ok(dir, &format!("verify -x509_strict {options} -purpose {purpose} -CAfile {ca} {leaf}"));
    }
}

/// What OpenSSL reads in a certificate is what we read in it.
fn check_agrees(dir: &Path, file: &str) {
    let ours = bundle::leaf(&dir.join(file)).unwrap();
    let serial = ok(dir, &format!("x509 -in {file} -noout -serial"));
    assert_eq!(serial.trim().to_lowercase(), format!("serial={}", ours.serial));
    let subject = ok(dir, &format!("x509 -in {file} -noout -subject -issuer -nameopt RFC2253"));
    assert_eq!(
        subject.trim(),
        format!("subject=CN={}\nissuer=CN={}", ours.subject, ours.issuer),
        "{file}"
    );
    let ends = ok(dir, &format!("x509 -in {file} -noout -enddate -dateopt iso_8601"));
    let not_after = tributary_certs::certificate::utc(ours.not_after);
    assert_eq!(ends.trim(), format!("notAfter={not_after}"), "{file}");
    let names = ok(dir, &format!("x509 -in {file} -noout -ext subjectAltName"));
    for uri in &ours.uris {
        assert!(names.contains(&format!("URI:{uri}")), "{file}: {names}");
    }
    let key = ok(dir, &format!("x509 -in {file} -noout -pubkey"));
    std::fs::write(dir.join("key.pem"), key).unwrap();
    let der = "pkey -pubin -in key.pem -outform DER -out key.der";
    ok(dir, der);
    let hash = tributary_certs::digest::sha256(&std::fs::read(dir.join("key.der")).unwrap());
    assert_eq!(hash, ours.spki_sha256, "{file}");
}

#[test]
fn every_certificate_verifies_and_reads_alike() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let now = SystemTime::now();
    let folder = Folder::init(dir, &init(&hosts()), now).unwrap();
    folder.issue_agent(("eu-1", "prometheus-0"), None, now, 30 * DAY).unwrap();
    let pending = Pending::new().unwrap();
    std::fs::write(dir.join("request.der"), &pending.csr_der).unwrap();
    ok(dir, "req -inform DER -in request.der -noout -verify");
    let request = Request::parse(&pending.csr_der).unwrap();
    let chain = folder
        .issue_agent_request(&request, ("us-1", "agent"), (How::Join, now), 30 * DAY)
        .unwrap();
    std::fs::write(dir.join("joined.crt"), chain).unwrap();

    for leaf in ["collector/tls.crt", "eu-1/tls.crt", "joined.crt"] {
        check_verifies(dir, "ca.crt", leaf, "");
        check_agrees(dir, leaf);
    }
    check_agrees(dir, "ca.crt");
    ok(dir, "verify -x509_strict -CAfile ca.crt ca.crt");
    ok(dir, "verify -CAfile ca.crt -verify_hostname tools.example.org collector/tls.crt");
    ok(dir, "verify -CAfile ca.crt -verify_ip ::1 collector/tls.crt");
    ok(dir, "pkey -in eu-1/tls.key -noout -check");
}

#[test]
fn a_rotation_s_certificates_verify_on_both_sides_of_the_change() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let now = SystemTime::now();
    Folder::init(dir, &init(&hosts()), now).unwrap();
    let old = std::fs::read(dir.join("collector/tls.crt")).unwrap();
    std::fs::write(dir.join("old.crt"), old).unwrap();
    let wish = Wish {
        kind: Kind::Ca,
        targets: Vec::new(),
        wait: false,
        skip: Vec::new(),
        until: Some(Step::Drain),
        grace: Duration::ZERO,
        next: None,
    };
    rotate::begin(dir, &wish, now).unwrap();
    let policy = Policy { leaf_lifetime: 30 * DAY };
    let fleet = Fleet { agents: Vec::new(), collector_authority: [0; 32] };
    let advance = || rotate::advance(dir, &fleet, &policy, now).unwrap().step;
    while advance() != Some(Step::Prove) {}

    // Everybody has both authorities, so leaves of either are good.
    check_verifies(dir, "collector/ca.crt", "old.crt", "");
    check_verifies(dir, "collector/ca.crt", "collector/tls.crt", "");
    check_agrees(dir, "ca.crt");
    rotate::begin(dir, &Wish { until: None, ..wish }, now).unwrap();
    while advance() != Some(Step::Done) {}
    check_verifies(dir, "collector/ca.crt", "collector/tls.crt", "");
    let refused = openssl(dir, "verify -CAfile collector/ca.crt old.crt");
    assert!(!refused.status.success(), "the old authority is trusted no more");
}

#[test]
fn an_authority_of_one_s_own_signs() {
    let dir = TempDir::new().unwrap();
    let dir = dir.path();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    ok(
        dir,
        &format!("req -x509 {key} -subj /CN=Company -days 3650 -keyout root.key -out root.crt"),
    );
    ok(dir, &format!("req {key} -subj /CN=Metrics -keyout sub.key -out sub.csr"));
    let usage =
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n";
    std::fs::write(dir.join("sub.ext"), usage).unwrap();
    ok(
        dir,
        "x509 -req -in sub.csr -CA root.crt -CAkey root.key -days 365 -extfile sub.ext -out sub.crt",
    );

    let (pki, now) = (dir.join("pki"), SystemTime::now());
    let own = (dir.join("sub.crt"), dir.join("sub.key"));
    Folder::adopt(&pki, &init(&hosts()), (&own.0, &own.1), now).unwrap();
    let folder = Folder::open(&pki).unwrap();
    assert_eq!(folder.authority().trust_domain(), "tributary.internal");
    folder.issue_agent(("eu-1", "agent"), None, now, 30 * DAY).unwrap();
    // Only the intermediate is trusted, not everything the company's authority signs.
    assert_eq!(folder.bundle().unwrap().len(), 1);
    for leaf in ["pki/eu-1/tls.crt", "pki/collector/tls.crt"] {
        check_verifies(dir, "pki/ca.crt", leaf, "-partial_chain");
        check_agrees(dir, leaf);
    }
    ok(dir, "verify -CAfile root.crt -untrusted pki/ca.crt pki/eu-1/tls.crt");
    tributary_certs::tls::Material::load(&bundle::files(&pki.join("eu-1"))).unwrap();
}
