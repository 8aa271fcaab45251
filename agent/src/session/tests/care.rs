//! What sessions say and hear about certificates.

use tributary_certs::tls::Material;

use super::*;
use crate::credentials::InForce;
use crate::metrics::Outcome;
use crate::testing::make_pki;

impl Bench {
    fn material_now(&self) -> Material {
        self.material("pki", "eu-1")
    }

    /// What a collector answers to a request.
    fn answer(&self, request: &v1::CertificateRequest, instance: &str) -> ToAgent {
        let chain_pem = self.sign("pki", &request.csr_der, instance).into();
        ToAgent::Certificate(v1::Certificate { chain_pem, refused: String::new() })
    }
}

impl Collector {
    async fn trust(&mut self) -> v1::Trust {
        match self.hear().await {
            Some(ToCollector::Trust(trust)) => trust,
            other => panic!("{other:?} is not what it trusts"),
        }
    }

    async fn request(&mut self) -> v1::CertificateRequest {
        match self.hear().await {
            Some(ToCollector::CertificateRequest(request)) => request,
            other => panic!("{other:?} is not a request for a certificate"),
        }
    }
}

#[tokio::test]
async fn a_bundle_is_kept_and_answered() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    let said = peer.welcome(0, false, 8).await.trust.unwrap();
    let old = bench.material_now();
    assert_eq!(said.bundle_sha256, old.bundle().digest().to_vec());
    assert_eq!(said.leaf_spki_sha256, old.certificate().spki_sha256.to_vec());
    assert!(said.renewable && said.error.is_empty());

    make_pki(&bench.path("next"));
    let both = old.bundle().with(bench.material("next", "eu-1").bundle()).unwrap();
    let ca_pem = both.pem().into_bytes();
    // The second time nothing changes, and it is answered all the same.
    for _ in 0..2 {
        peer.say(ToAgent::Bundle(v1::Bundle { ca_pem: ca_pem.clone().into() })).await;
        let trust = peer.trust().await;
        assert_eq!(
            (trust.bundle_sha256, trust.error),
            (both.digest().to_vec().into(), String::new())
        );
        assert_eq!(bench.material_now().bundle(), &both);
    }
    peer.say(ToAgent::Bundle(v1::Bundle { ca_pem: b"-".to_vec().into() })).await;
    let trust = peer.trust().await;
    assert_eq!(trust.bundle_sha256, both.digest().to_vec());
    assert!(trust.error.contains("no CERTIFICATE block"), "{}", trust.error);
    bench.append(1);
    assert_eq!(peer.frame().await, (1, true));
}

#[tokio::test]
async fn a_wish_for_a_renewal_is_fulfilled_with_a_new_key() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    let old = bench.material_now().certificate().spki_sha256;
    peer.say(ToAgent::Renew(v1::Renew { reason: "a new authority".into() })).await;
    let request = peer.request().await;
    peer.say(ToAgent::Renew(v1::Renew { reason: "again".into() })).await;
    peer.say(bench.answer(&request, "agent")).await;
    let trust = peer.trust().await;
    let new = bench.material_now().certificate().spki_sha256;
    assert_ne!(new, old);
    assert_eq!((trust.leaf_spki_sha256, trust.error), (new.to_vec().into(), String::new()));
    assert_eq!(bench.certificate.renewals(Outcome::renewed), 1);
    // A new connection is asked for, and this one goes on until then.
    crate::handover::Wishes::new(&bench.handover).next().await;
    bench.append(1);
    assert_eq!(peer.frame().await, (1, true));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again_later() {
    for answer in ["another instance", "refused", "silence"] {
        let bench = Bench::new();
        let mut peer = bench.connect();
        peer.welcome(0, false, 8).await;
        let old = bench.material_now().certificate().spki_sha256;
        peer.say(ToAgent::Renew(v1::Renew { reason: "now".into() })).await;
        let request = peer.request().await;
        let refused = v1::Certificate { refused: "not today".into(), ..Default::default() };
        match answer {
            "refused" => peer.say(ToAgent::Certificate(refused)).await,
            "silence" => {}
            _ => peer.say(bench.answer(&request, "another")).await,
        }
        let mut in_force = bench.credentials.watch();
        let later = |now: &InForce| now.schedule.due().unwrap() > SystemTime::now();
        in_force.wait_for(later).await.unwrap();
        assert_eq!(bench.certificate.renewals(Outcome::failed), 1, "{answer}");
        assert_eq!(bench.material_now().certificate().spki_sha256, old);
        assert!(!peer.running.is_finished());
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_with_the_trust_in_the_collector() {
    let bench = Bench::new();
    let mut expired = bench.peer();
    expired.not_after = SystemTime::now() + Duration::from_secs(9);
    let mut peer = bench.connect_as(expired);
    peer.welcome(0, false, 8).await;
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Expired)));

    // Somebody puts other certificates into the folder: an authority is gone.
    let mut peer = bench.connect();
    peer.welcome(0, false, 8).await;
    make_pki(&bench.path("next"));
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        std::fs::copy(bench.path("next/eu-1").join(name), bench.path("pki/eu-1").join(name))
            .unwrap();
    }
    bench.credentials.reload().unwrap();
    assert!(matches!(peer.running.await.unwrap(), Err(SessionError::Untrusted)));
}

#[tokio::test]
async fn clocks_are_compared() {
    let bench = Bench::new();
    let mut peer = bench.connect();
    peer.hello().await;
    let now_ms = now().as_millis() - 3_600_000;
    let welcome = v1::Welcome { protocol: 1, now_ms, ..v1::Welcome::default() };
    peer.say(ToAgent::Welcome(welcome)).await;
    bench.append(1);
    peer.frame().await;
    let ahead = bench.metrics.clock_ahead.get();
    assert!(ahead < -3_590.0 && ahead > -3_610.0, "{ahead}");
}
