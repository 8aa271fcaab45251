//! What is put in force and kept on disk, and what is refused.

use tributary_certs::bundle::{self, Folder};

use super::*;
use crate::testing::{Bench, DAY, make_pki};

impl Bench {
    fn in_force(&self) -> InForce {
        self.credentials.watch().borrow().clone()
    }

    fn error(&self) -> String {
        self.in_force().trust.error
    }

    /// The text of one of our files, or of another folder's.
    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Puts a file in the place of one of ours.
    fn put(&self, name: &str, text: &str) {
        fs::write(self.path("pki/eu-1").join(name), text).unwrap();
    }

    /// Another certificate of the same agent, in the folder `again`.
    fn issue_again(&self) -> Material {
        let folder = Folder::open(&self.path("pki")).unwrap();
        let now = SystemTime::now();
        folder.issue_agent(("eu-1", "agent"), Some(&self.path("again")), now, DAY * 9).unwrap();
        Material::load(&bundle::files(&self.path("again"))).unwrap()
    }

    /// As if two seconds passed.
    fn look_twice(&self) {
        self.credentials.look();
        self.credentials.look();
    }
}

#[test]
fn a_bundle_is_kept_on_disk_and_in_force() {
    let bench = Bench::new();
    make_pki(&bench.path("next"));
    let (old, new) = (bench.material("pki", "eu-1"), bench.material("next", "eu-1"));
    let both = old.bundle().with(new.bundle()).unwrap();
    bench.credentials.replace_bundle(both.pem().as_bytes(), &old.authority());
    assert_eq!((bench.error().as_str(), bench.in_force().bundle), ("", both.clone()));
    assert_eq!(bench.material("pki", "eu-1").bundle(), &both);
    assert_eq!(bench.in_force().trust.bundle_sha256, both.digest().to_vec());
    assert_eq!(bench.tls.generation(), 2, "new connections use it");
    bench.look_twice();
    assert_eq!(bench.tls.generation(), 2, "what we wrote ourselves is no news");
}

#[test]
fn a_bundle_that_would_cut_us_off_is_refused() {
    let bench = Bench::new();
    make_pki(&bench.path("next"));
    let (old, new) = (bench.material("pki", "eu-1"), bench.material("next", "eu-1"));
    let (before, old_pem, new_pem) =
        (bench.text("pki/eu-1/ca.crt"), old.bundle().pem(), new.bundle().pem());
    for (pem, collector, why) in [
        ("", old.authority(), "holds no CERTIFICATE block"),
        (new_pem.as_str(), old.authority(), "the authority of the collector that sent it"),
        (new_pem.as_str(), new.authority(), "not signed by an authority in our CA bundle"),
        (&bench.text("pki/eu-1/tls.crt"), old.authority(), "is not an authority's"),
    ] {
        bench.credentials.replace_bundle(pem.as_bytes(), &collector);
        assert!(bench.error().contains(why), "{}", bench.error());
        assert_eq!(bench.text("pki/eu-1/ca.crt"), before);
    }
    assert_eq!(bench.tls.generation(), 1);
    bench.credentials.replace_bundle(old_pem.as_bytes(), &old.authority());
    assert_eq!(bench.error(), "", "a good one ends the complaint");
}

#[test]
fn a_renewed_certificate_is_kept_and_a_wrong_one_is_not() {
    let bench = Bench::new();
    make_pki(&bench.path("other"));
    let (pending, other) = (Pending::new().unwrap(), Pending::new().unwrap());
    let before = bench.text("pki/eu-1/tls.crt");
    for (chain, why) in [
        (bench.sign("pki", &other.csr_der, "agent"), "does not belong to"),
        (bench.sign("pki", &pending.csr_der, "another"), "the new certificate is for agent"),
        (
            bench.sign("other", &pending.csr_der, "agent"),
            "not signed by an authority in our CA bundle",
        ),
        ("nonsense".to_owned(), "no CERTIFICATE block"),
    ] {
        bench.credentials.renewed(&pending, chain.as_bytes());
        assert!(bench.error().contains(why), "{why}: {}", bench.error());
        assert_eq!(bench.text("pki/eu-1/tls.crt"), before);
    }
    assert_eq!(bench.certificate.renewals(Outcome::failed), 4);
    let chain = bench.sign("pki", &pending.csr_der, "agent");
    bench.credentials.renewed(&pending, chain.as_bytes());
    assert_eq!((bench.error().as_str(), bench.text("pki/eu-1/tls.crt")), ("", chain));
    assert_eq!(bench.certificate.renewals(Outcome::renewed), 1);
    let spki = bench.material("pki", "eu-1").certificate().spki_sha256;
    assert_eq!(bench.in_force().trust.leaf_spki_sha256, spki.to_vec());
    let due = bench.in_force().schedule.due().unwrap();
    assert!(due > SystemTime::now() + DAY / 3, "renewed again at half life");
}

#[test]
fn files_from_elsewhere_are_taken_once_they_fit_together() {
    let bench = Bench::new();
    let new = bench.issue_again();
    let old = bench.in_force();
    // Half written: the new certificate beside the old key, then a key that is cut short.
    bench.put("tls.crt", &bench.text("again/tls.crt"));
    bench.credentials.look();
    assert_eq!(bench.certificate.reloads_refused.get(), 0, "it may be half written");
    bench.look_twice();
    bench.look_twice();
    assert_eq!(bench.certificate.reloads_refused.get(), 1, "once for the same reason");
    bench.put("tls.key", &bench.text("again/tls.key")[..90]);
    bench.look_twice();
    assert_eq!(bench.certificate.reloads_refused.get(), 2);
    assert_eq!((bench.in_force().serial, bench.tls.generation()), (old.serial, 1));
    bench.put("tls.key", &bench.text("again/tls.key"));
    bench.look_twice();
    assert_eq!(bench.in_force().serial, new.certificate().serial);
    assert_eq!(bench.tls.generation(), 2);
}

#[test]
fn a_swapped_folder_of_links_is_followed_and_not_written() {
    let bench = Bench::new();
    let new = bench.issue_again();
    let mount = bench.path("mount");
    fs::create_dir(&mount).unwrap();
    let swap = |to: &str| {
        let link = mount.join("..data_tmp");
        std::os::unix::fs::symlink(bench.path(to), &link).unwrap();
        fs::rename(&link, mount.join("..data")).unwrap();
    };
    swap("pki/eu-1");
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(format!("..data/{name}"), mount.join(name)).unwrap();
    }
    let files = bundle::files(&mount);
    let material = Material::load(&files).unwrap();
    let tls = Tls::Client(bench.tls.clone());
    let metrics = bench.certificate.clone();
    let ours = Credentials::new((files, true), &material, tls, bench.handover.clone(), metrics);
    let now = || ours.watch().borrow().clone();
    assert!(!now().trust.renewable && now().schedule.due().is_none());
    ours.replace_bundle(material.bundle().pem().as_bytes(), &material.authority());
    assert!(now().trust.error.contains("somebody else keeps the files"), "{}", now().trust.error);
    swap("again");
    ours.look();
    ours.look();
    assert_eq!(now().serial, new.certificate().serial);
}

#[test]
fn the_certificate_of_somebody_else_is_never_taken() {
    let bench = Bench::new();
    let folder = Folder::open(&bench.path("pki")).unwrap();
    let (now, out) = (SystemTime::now(), bench.path("out"));
    folder.issue_agent(("eu-2", "agent"), Some(&out), now, DAY).unwrap();
    for name in ["tls.crt", "tls.key"] {
        bench.put(name, &bench.text(&format!("out/{name}")));
    }
    let why = bench.credentials.reload().unwrap_err();
    assert!(why.contains("eu-2") && why.contains("this is agent"), "{why}");
    assert_eq!(bench.tls.generation(), 1);
}
