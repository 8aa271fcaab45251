//! The HTTP port: people and programs with certificates may come in, agents and collectors may not.

use std::fs;

use rcgen::ExtendedKeyUsagePurpose;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tributary_certs::bundle;
use tributary_certs::tls::WebTls;

use crate::bench::{Pki, listener, raw_client_alpn};

#[tokio::test]
async fn an_agent_s_certificate_gives_no_access() {
    let pki = Pki::new("tributary.internal");
    let dir = tempfile::tempdir().unwrap();
    let files = bundle::files(dir.path());
    let collector = pki.collector();
    fs::write(&files.cert_file, &collector.certificate_pem).unwrap();
    fs::write(&files.key_file, &*collector.key_pem).unwrap();
    fs::write(&files.ca_file, pki.authority.pem()).unwrap();
    let web = WebTls::new(&files.cert_file, &files.key_file, Some(&files.ca_file)).unwrap();

    let client = [ExtendedKeyUsagePurpose::ClientAuth];
    let (agent, other) = (pki.agent("eu-1"), Pki::new("tributary.internal"));
    let refused = |why: &str| format!("peer ADDRESS refused: its certificate {why}");
    let no_access = |who: &str| {
        refused(&format!(
            "is that of {who}; an agent's or a collector's certificate gives no access to the HTTP API"
        ))
    };
    let cases = [
        (Some(pki.odd_named("alice", &[], &client)), "in".to_owned()),
        (Some(pki.odd_named("ci", &["https://ci.example/job"], &client)), "in".to_owned()),
        (
            Some((agent.certificate_pem.clone(), agent.key_pem.to_string())),
            no_access("agent \"a\" of cluster \"eu-1\""),
        ),
        (
            Some((collector.certificate_pem.clone(), collector.key_pem.to_string())),
            no_access("collector \"c\""),
        ),
        (
            // Behind another name, and of a foreign installation.
            Some(pki.odd(&["https://x.example", "spiffe://td/cluster/eu-1/agent/a"], &client)),
            no_access("agent \"a\" of cluster \"eu-1\""),
        ),
        (
            Some(other.odd_named("mallory", &[], &client)),
            refused("is not signed by an authority in our CA bundle"),
        ),
        (None, refused("is missing: the peer presented none")),
    ];
    for (identity, expected) in cases {
        let identity = identity.as_ref().map(|(cert, key)| (cert.as_str(), key.as_str()));
        assert_eq!(knock(&web, identity).await, expected);
    }
}

async fn knock(web: &WebTls, identity: Option<(&str, &str)>) -> String {
    let (listener, address) = listener().await;
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::IpAddress(address.ip().into());
        let client = raw_client_alpn(identity, &[b"http/1.1"]);
        if let Ok(mut stream) = client.connect(name, tcp).await {
            let _ = stream.read_u8().await;
        }
    };
    let answer = async {
        let (tcp, from) = listener.accept().await.unwrap();
        match web.accept(tcp).await {
            Ok(_) => "in".to_owned(),
            Err(error) => error.to_string().replace(&from.to_string(), "ADDRESS"),
        }
    };
    tokio::join!(dial, answer).1
}
