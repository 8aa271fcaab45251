//! Files that change, in whole or in part.

use std::path::PathBuf;

use tributary_certs::bundle::{self, COLLECTOR};

use super::*;
use crate::pki::testing::{MONTH, Pki};

/// Copies one file of the collector's folder of `from` over that of `to`.
fn copy(from: &Path, to: &Path, name: &str) {
    fs::copy(from.join(COLLECTOR).join(name), to.join(COLLECTOR).join(name)).unwrap();
}

fn issue_anew(pki: &Pki) {
    let folder = pki.folder();
    folder.issue_collector(&[], std::time::SystemTime::now(), MONTH).unwrap();
}

#[test]
fn a_new_pair_is_in_force_at_the_next_look_for_connections_and_streams() {
    let pki = Pki::new();
    let own = &pki.credentials;
    let (first, generation) = (own.certificate(), own.server().generation());
    own.look();
    assert_eq!(own.server().generation(), generation, "nothing changed");
    issue_anew(&pki);
    own.look();
    let second = own.certificate();
    assert_ne!(first.serial, second.serial);
    assert_eq!(own.server().generation(), generation + 1);
    assert_eq!(own.trust().terms().leaf, second.sha256);
    assert_eq!(pki.metrics.reloads_refused.get(), 0);
}

#[test]
fn files_that_do_not_fit_are_refused_once_each_and_the_old_stay() {
    let pki = Pki::new();
    let other = pki.other();
    let own = &pki.credentials;
    let first = own.certificate();
    let key = pki.dir.join(COLLECTOR).join("tls.key");
    let good = fs::read(&key).unwrap();
    let steps: [&dyn Fn(); 4] = [
        &|| copy(&other, &pki.dir, "tls.key"),
        &|| fs::write(&key, &good[..good.len() / 2]).unwrap(),
        &|| fs::write(&key, "").unwrap(),
        &|| fs::remove_file(&key).unwrap(),
    ];
    for (step, refused) in steps.iter().zip([1, 2, 3, 4]) {
        step();
        own.look();
        own.look();
        assert_eq!(pki.metrics.reloads_refused.get(), refused);
        assert_eq!(own.certificate(), first);
    }
    fs::write(&key, &good).unwrap();
    own.look();
    assert_eq!((own.certificate(), pki.metrics.reloads_refused.get()), (first, 4));
}

#[test]
fn a_swap_file_by_file_is_taken_when_it_is_whole() {
    let pki = Pki::new();
    let other = pki.other();
    for name in ["ca.crt", "tls.key", "tls.crt"] {
        copy(&other, &pki.dir, name);
        pki.credentials.look();
    }
    let wanted = bundle::leaf(&other.join(COLLECTOR).join("tls.crt")).unwrap();
    assert_eq!(pki.credentials.certificate(), wanted);
}

#[test]
fn a_folder_that_is_swapped_by_its_link_is_taken() {
    let pki = Pki::new();
    let data = |version: &str| pki.dir.join(version);
    let mounted: PathBuf = pki.dir.join("mounted");
    fs::create_dir(&mounted).unwrap();
    fs::rename(pki.dir.join(COLLECTOR), data("v1")).unwrap();
    std::os::unix::fs::symlink(data("v1"), mounted.join("..data")).unwrap();
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::os::unix::fs::symlink(Path::new("..data").join(name), mounted.join(name)).unwrap();
    }
    let files = bundle::files(&mounted);
    let loaded = Loaded::read(&files).unwrap();
    let own = Credentials::new(loaded, false, pki.metrics.clone()).unwrap();
    fs::rename(pki.other().join(COLLECTOR), data("v2")).unwrap();
    std::os::unix::fs::symlink(data("v2"), mounted.join("..new")).unwrap();
    fs::rename(mounted.join("..new"), mounted.join("..data")).unwrap();
    own.look();
    assert_eq!(own.certificate(), bundle::leaf(&data("v2").join("tls.crt")).unwrap());
}

#[test]
fn who_is_denied_is_denied_although_the_files_are_broken() {
    let pki = Pki::new();
    let own = &pki.credentials;
    fs::write(pki.dir.join(COLLECTOR).join("tls.crt"), "half").unwrap();
    own.look();
    let desired = tributary_certs::rotate::desired(&pki.dir).unwrap();
    own.govern([[7; 32]].into(), Some(desired)).unwrap();
    assert!(own.trust().terms().denied.contains(&[7; 32]));
}
