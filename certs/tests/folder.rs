//! The PKI folder: what is written, what is refused, and the table of its state.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tributary_certs::bundle::{self, BundleError, Folder, Init};
use tributary_certs::request::{Pending, Request};
use tributary_certs::state::How;
use tributary_certs::status::{self, Status};
use tributary_certs::tls::Material;

const DAY: Duration = Duration::from_secs(86_400);

fn init(dir: &Path, now: SystemTime) -> Folder {
    try_init(dir, now, false).unwrap()
}

fn try_init(dir: &Path, now: SystemTime, force: bool) -> Result<Folder, BundleError> {
    let hosts = ["tools.example.org".to_owned(), "::1".to_owned()];
    let init = Init {
        trust_domain: "tributary.internal",
        collector: "collector",
        hosts: &hosts,
        lifetime: 30 * DAY,
        force,
    };
    Folder::init(dir, &init, now)
}

#[test]
fn every_folder_loads_and_keys_are_private() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let folder = init(dir.path(), now);
    let written = folder.issue_agent(("eu-1", "agent"), None, now, 30 * DAY).unwrap();
    assert_eq!(written.dir, dir.path().join("eu-1"));
    for leaf in ["collector", "eu-1"] {
        Material::load(&bundle::files(&dir.path().join(leaf))).unwrap();
    }
    for key in ["ca.key", "collector/tls.key", "eu-1/tls.key"] {
        let mode = fs::metadata(dir.path().join(key)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }
}

#[test]
fn an_authority_is_not_replaced_by_accident() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    init(dir.path(), now);
    let before = fs::read(dir.path().join("ca.crt")).unwrap();
    assert!(matches!(try_init(dir.path(), now, false), Err(BundleError::Exists { .. })));
    assert_eq!(fs::read(dir.path().join("ca.crt")).unwrap(), before);
    try_init(dir.path(), now, true).unwrap();
    assert_ne!(fs::read(dir.path().join("ca.crt")).unwrap(), before);
}

#[test]
fn names_that_are_not_clusters_leave_no_trace() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let folder = init(dir.path(), now);
    for name in ["../x", "EU", "a\0b", "", "a.b", "-a", "collector", "next", "archive", "a/b"] {
        assert!(folder.issue_agent((name, "agent"), None, now, DAY).is_err(), "{name:?}");
    }
    for instance in ["", "..", "A", "a/b", "a\n"] {
        assert!(folder.issue_agent(("eu-1", instance), None, now, DAY).is_err(), "{instance:?}");
    }
    let entries = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(entries, 5, "ca.crt, ca.key, collector, state.json, state.lock");
}

#[test]
fn a_certificate_is_renewed_but_not_given_to_another() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let folder = init(dir.path(), now);
    let first = folder.issue_agent(("eu-1", "a"), None, now, DAY).unwrap();
    let second = folder.issue_agent(("eu-1", "a"), None, now, 2 * DAY).unwrap();
    assert_ne!(first.certificate.serial, second.certificate.serial);
    assert!(matches!(
        folder.issue_agent(("eu-1", "b"), None, now, DAY),
        Err(BundleError::OtherIdentity { .. })
    ));
    let elsewhere = dir.path().join("second");
    folder.issue_agent(("eu-1", "b"), Some(&elsewhere), now, DAY).unwrap();
    let renewed = folder.issue_collector(&[], now, 60 * DAY).unwrap();
    assert_eq!(renewed.certificate.hosts, ["tools.example.org", "::1"]);
    assert!(folder.issue_agent(("eu-1", "a"), None, now, 11 * 365 * DAY).is_err());
}

#[test]
fn renewal_goes_on_in_the_last_days_of_the_authority() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let folder = init(dir.path(), now);
    let ends = folder.authority().certificate().not_after;
    let late = ends - 3 * DAY;
    let renewed = folder.renew_collector(late, 30 * DAY).unwrap();
    assert_eq!(renewed.certificate.not_after, ends);
    let request = Request::parse(&Pending::new().unwrap().csr_der).unwrap();
    let who = ("eu-1", "agent");
    folder.issue_agent_request(&request, who, (How::Renewal, late), 30 * DAY).unwrap();
    assert!(folder.issue_agent(who, None, late, 30 * DAY).is_err(), "asked for, not given");
    let after = ends + DAY;
    assert!(folder.issue_agent_request(&request, who, (How::Renewal, after), DAY).is_err());
}

#[test]
fn the_status_table_shows_what_to_do() {
    let dir = TempDir::new().unwrap();
    let now = SystemTime::now();
    let folder = init(dir.path(), now);
    folder.issue_agent(("lab-7", "agent"), None, now - 25 * DAY, 30 * DAY).unwrap();
    folder.issue_agent(("gone", "agent"), None, now - 3 * DAY, DAY).unwrap();
    folder.issue_agent(("eu-1", "agent"), None, now, 30 * DAY).unwrap();
    folder.issue_agent(("moved", "agent"), None, now, 30 * DAY).unwrap();
    fs::remove_file(dir.path().join("moved/tls.key")).unwrap();
    folder.issue_agent(("mixed", "agent"), None, now, 30 * DAY).unwrap();
    fs::copy(dir.path().join("eu-1/tls.key"), dir.path().join("mixed/tls.key")).unwrap();

    let rows = status::read(dir.path(), now).unwrap();
    let states: Vec<(&str, Status)> =
        rows.iter().map(|row| (row.certificate.as_str(), row.status)).collect();
    assert_eq!(
        states,
        [
            ("ca", Status::Ok),
            ("collector", Status::Ok),
            ("agent/eu-1", Status::Ok),
            ("agent/gone", Status::Expired),
            ("agent/lab-7", Status::ExpiresSoon),
            ("agent/mixed", Status::Broken),
            ("agent/moved", Status::Ok),
        ]
    );
    let table = status::table(&rows);
    let shown: Vec<String> = table.lines().map(|line| mask(line, dir.path())).collect();
    assert_eq!(
        shown,
        [
            "CERTIFICATE SUBJECT SERIAL NOT AFTER LEFT ISSUER STATUS",
            "ca Tributary CA 1 S DATE 9y 364d self ok",
            "collector tools.example.org S DATE 29d Tributary CA 1 ok",
            "agent/eu-1 eu-1 S DATE 29d Tributary CA 1 ok",
            "agent/gone gone S DATE - Tributary CA 1 EXPIRED → tributary-certs issue gone --dir DIR",
            "agent/lab-7 lab-7 S DATE 4d Tributary CA 1 EXPIRES SOON → tributary-certs issue lab-7 --dir DIR",
            "agent/mixed mixed S DATE 29d Tributary CA 1 BROKEN → DIR/mixed/tls.key: this private key does not \
             belong to the certificate in DIR/mixed/tls.crt",
            "agent/moved moved S DATE 29d Tributary CA 1 ok",
        ]
    );
}

/// Serial numbers, dates and the folder are another every time.
fn mask(line: &str, dir: &Path) -> String {
    let mut words = Vec::new();
    for word in line.replace(&dir.display().to_string(), "DIR").split_whitespace() {
        let date = word.len() == 10 && word.chars().filter(|c| *c == '-').count() == 2;
        let time = word.len() == 9 && word.ends_with('Z') && word.contains(':');
        match word {
            _ if word.ends_with('…') => words.push("S"),
            _ if date => words.push("DATE"),
            _ if time => {}
            _ => words.push(Box::leak(word.to_owned().into_boxed_str())),
        }
    }
    words.join(" ")
}
