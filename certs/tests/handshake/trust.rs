//! Trust that changes: a replaced bundle, a denied key, and no way round either.

use std::collections::HashSet;
use std::sync::Arc;

use rcgen::ExtendedKeyUsagePurpose;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tributary_certs::authority::Issued;
use tributary_certs::tls::{ClientTls, Expect, Material, ServerTls};
use tributary_certs::trust::Bundle;

use crate::bench::{
    Pki, knock, listener, meet, odd_leaf, raw_client, raw_client_config, raw_server,
};

#[tokio::test]
async fn a_replaced_bundle_shuts_the_old_authority_out_at_once() {
    let (old, new) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let server = ServerTls::new(&old.material(&old.collector())).unwrap();
    let client = ClientTls::new(&old.material(&old.agent("eu-1"))).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    let (mut answered, mut dialled) = (answered.unwrap(), dialled.unwrap());

    server.replace(&new.material(&new.collector())).unwrap();
    let (refused, _) = meet(&server, &client, Expect::Collector).await;
    assert!(refused.is_err());

    // The running stream is not touched.
    dialled.write_all(b"x").await.unwrap();
    dialled.flush().await.unwrap();
    assert_eq!(answered.read_u8().await.unwrap(), b'x');

    client.replace(&new.material(&new.agent("eu-1"))).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    assert!(answered.is_ok() && dialled.is_ok());
}

#[tokio::test]
async fn a_peer_is_known_by_its_authority_s_key_and_not_by_its_name() {
    // Both authorities have the same name.
    let (old, new) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let both = old.authority.pem().to_owned() + new.authority.pem();
    let trusting = |pki: &Pki, issued: Issued| pki.material_with(&issued, &both);
    let (key_old, key_new) =
        (old.authority.certificate().spki_sha256, new.authority.certificate().spki_sha256);

    let server = ServerTls::new(&trusting(&old, old.collector())).unwrap();
    let client = ClientTls::new(&trusting(&old, old.agent("eu-1"))).unwrap();
    for (collector, agent, generation) in
        [(key_old, key_old, 1), (key_new, key_old, 2), (key_new, key_new, 3)]
    {
        if generation == 2 {
            server.replace(&trusting(&new, new.collector())).unwrap();
        }
        if generation == 3 {
            server.replace(&trusting(&new, new.collector())).unwrap();
            client.replace(&trusting(&new, new.agent("eu-1"))).unwrap();
        }
        let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
        let (answered, dialled) = (answered.unwrap(), dialled.unwrap());
        assert_eq!(answered.peer().authority, agent);
        assert_eq!(answered.peer().local_authority, collector);
        assert_eq!(answered.peer().authority_name, "Tributary CA 1");
        assert_eq!(answered.peer().generation, generation);
        assert_eq!(server.generation(), generation);
        assert_eq!(dialled.peer().authority, collector);
        assert_eq!(dialled.peer().local_authority, agent);
        assert_eq!(dialled.peer().generation, client.generation());
    }
}

#[tokio::test]
async fn a_denied_key_is_refused_on_both_sides() {
    let pki = Pki::new("tributary.internal");
    let (bad, good) = (pki.agent("eu-1"), pki.agent("eu-1"));
    let denied = |keys: &[[u8; 32]]| Arc::new(keys.iter().copied().collect::<HashSet<_>>());
    let list = denied(&[bad.certificate.spki_sha256]);
    let collector = pki.collector();
    let server = ServerTls::new(&pki.material(&collector).with_denied(list)).unwrap();
    assert_eq!(
        knock(&server, raw_client(&bad.certificate_pem, &bad.key_pem)).await,
        "peer ADDRESS refused: its certificate is revoked"
    );
    let client = ClientTls::new(&pki.material(&bad)).unwrap();
    let (_, dialled) = meet(&server, &client, Expect::Collector).await;
    let told = dialled.unwrap().read_u8().await.unwrap_err().to_string();
    assert_eq!(told, "the peer ended the connection: our certificate is revoked");
    let said = knock(&server, raw_client(&good.certificate_pem, &good.key_pem)).await;
    assert_eq!(said, "spiffe://tributary.internal/cluster/eu-1/agent/a");

    let list = denied(&[collector.certificate.spki_sha256]);
    let client = ClientTls::new(&pki.material(&good).with_denied(list)).unwrap();
    let (answered, dialled) = meet(&server, &client, Expect::Collector).await;
    let refused = dialled.err().unwrap().to_string();
    assert!(refused.ends_with("its certificate is revoked"), "{refused}");
    let told = answered.err().unwrap().to_string();
    assert!(told.ends_with("ended the TLS handshake: our certificate is revoked"), "{told}");
}

#[tokio::test]
async fn an_intermediate_leads_to_its_root_and_can_be_denied_as_a_whole() {
    let pki = Pki::new("tributary.internal");
    let (ca, ca_key) = pki.intermediate();
    let uri = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    let usages = [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
    let (leaf, key) = odd_leaf((&ca, &ca_key), "eu-1", &[uri], &usages);
    let chain = leaf.clone() + &ca;
    let root = pki.authority.certificate().spki_sha256;

    let agent = pki.try_material(&chain, &key, pki.authority.pem()).unwrap();
    assert_eq!(agent.authority(), root);
    let server = ServerTls::new(&pki.material(&pki.collector())).unwrap();
    let client = ClientTls::new(&agent).unwrap();
    let (answered, _) = meet(&server, &client, Expect::Collector).await;
    let peer = answered.unwrap().peer().clone();
    assert_eq!((peer.authority, peer.issuer.as_str()), (root, "intermediate"));

    let denied = Bundle::parse(ca.as_bytes()).unwrap();
    let denied = denied.authorities().map(|authority| authority.spki_sha256).collect();
    let strict = pki.material(&pki.collector()).with_denied(Arc::new(denied));
    server.replace(&strict).unwrap();
    let refused = knock(&server, raw_client(&chain, &key)).await;
    assert_eq!(refused, "peer ADDRESS refused: its certificate is revoked");
    // Without the intermediate there is no way to the root.
    let refused = knock(&server, raw_client(&leaf, &key)).await;
    assert_eq!(
        refused,
        "peer ADDRESS refused: its certificate is not signed by an authority in our CA bundle"
    );
}

#[tokio::test]
async fn a_retired_authority_s_client_cannot_come_back_by_resumption() {
    let (old, new) = (Pki::new("tributary.internal"), Pki::new("tributary.internal"));
    let both = old.authority.pem().to_owned() + new.authority.pem();
    let agent = old.agent("eu-1");
    let mut config = raw_client_config(Some((&agent.certificate_pem, &agent.key_pem)), &[b"h2"]);
    config.resumption = Resumption::in_memory_sessions(16);
    let client = TlsConnector::from(Arc::new(config));

    // Somebody else's server hands out tickets, and they work there.
    let collector = old.collector();
    let generous = raw_server(&collector.certificate_pem, &collector.key_pem, b"h2");
    let generous = TlsAcceptor::from(Arc::new(generous));
    assert_eq!(resume(&generous, &client).await, HandshakeKind::Full);
    assert_eq!(resume(&generous, &client).await, HandshakeKind::Resumed);

    // Ours does the whole handshake with whoever offers one, and never hands one out.
    let server = ServerTls::new(&new.material_with(&new.collector(), &both)).unwrap();
    let uri = "spiffe://tributary.internal/cluster/eu-1/agent/a";
    assert_eq!(knock(&server, client.clone()).await, uri);
    assert_eq!(knock(&server, client.clone()).await, uri);

    server.replace(&new.material(&new.collector())).unwrap();
    for _ in 0..3 {
        assert_eq!(
            knock(&server, client.clone()).await,
            "peer ADDRESS refused: its certificate is not signed by an authority in our CA bundle"
        );
    }
}

/// How the handshake went, seen by a client that stays until it has its tickets.
async fn resume(server: &TlsAcceptor, client: &TlsConnector) -> HandshakeKind {
    let (listener, address) = listener().await;
    let answer = async {
        let mut stream = server.accept(listener.accept().await.unwrap().0).await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.flush().await.unwrap();
        let _ = stream.read_u8().await;
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        let mut stream = client.connect(name, tcp).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.get_ref().1.handshake_kind().unwrap()
    };
    tokio::join!(answer, dial).1
}

#[test]
fn material_is_checked_before_it_is_on_disk_just_the_same() {
    let pki = Pki::new("tributary.internal");
    let (agent, other) = (pki.agent("eu-1"), pki.agent("eu-1"));
    let files = tributary_certs::bundle::files("pki/eu-1".as_ref());
    let bundle = Bundle::parse(pki.authority.pem().as_bytes()).unwrap();
    let check = |key: &str, bundle: &Bundle| {
        let chain = agent.certificate_pem.as_bytes();
        Material::from_parts(&files, chain, key.as_bytes(), bundle.clone())
    };
    let material = check(&agent.key_pem, &bundle).unwrap();
    assert_eq!(material.bundle(), &bundle);
    assert_eq!(material.authority(), pki.authority.certificate().spki_sha256);
    let refused = check(&other.key_pem, &bundle).unwrap_err().to_string();
    assert!(refused.starts_with("pki/eu-1/tls.key: "), "{refused}");
    let nobody = bundle.without(&material.authority());
    let refused = check(&agent.key_pem, &nobody).unwrap_err().to_string();
    assert!(refused.starts_with("pki/eu-1/tls.crt: "), "{refused}");
}
