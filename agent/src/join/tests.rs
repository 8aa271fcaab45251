//! Joining, in both directions, and every way in which it fails.

use std::sync::{Arc, Mutex};

use clap::Parser as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tributary_certs::bundle::Folder;
use tributary_certs::enrol::pin_text;
use tributary_certs::request::Request as SigningRequest;
use tributary_certs::tls::{Accepted, ClientTls, ServerTls};
use tributary_proto::v1::enrollee_client::EnrolleeClient;
use tributary_proto::v1::enrolment_server::{Enrolment, EnrolmentServer};

use super::*;
use crate::allow::rules::Rules;
use crate::config::{Config, Way};
use crate::connection::Connection;
use crate::testing::{DAY, make_pki};

#[derive(Debug, clap::Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// A folder for the agent beside the collector's PKI.
struct Bench {
    folder: tempfile::TempDir,
    desk: Desk,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        make_pki(&folder.path().join("pki"));
        let desk = Desk { pki: folder.path().join("pki"), ..Desk::default() };
        Self { folder, desk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn material(&self, name: &str) -> Material {
        Material::load(&bundle::files(&self.path(name))).unwrap()
    }

    /// What the command line means, with `--dir` and the hash of the real authority.
    fn args(&self, line: &[&str]) -> Args {
        let (dir, hash) = (self.path("tls"), pin_text(&self.material("pki/collector").authority()));
        let dir = dir.to_str().unwrap();
        let all = ["join", "--dir", dir, "--ca-hash", &hash];
        Cli::try_parse_from(all.iter().chain(line)).unwrap().args
    }

    /// A collector that enrols whoever dials; its URL.
    async fn collector(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let tls = ServerTls::new(&self.material("pki/collector")).unwrap().with_enrolment(true);
        let (accepted, connections) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                if let Ok(Accepted::Enrol(stream)) = tls.accept(tcp).await {
                    let _ = accepted.send(Ok::<_, io::Error>(Connection(stream))).await;
                }
            }
        });
        let server = Server::builder().add_service(EnrolmentServer::new(self.desk.clone()));
        tokio::spawn(server.serve_with_incoming(ReceiverStream::new(connections)));
        url
    }
}

/// The collector's side: signs what it is asked, or what a test wants instead.
#[derive(Clone, Default)]
struct Desk {
    pki: PathBuf,
    heard: Arc<Mutex<Vec<v1::EnrolRequest>>>,
    spoil: Option<Spoil>,
}

type Spoil = fn(&mut v1::EnrolResponse, &Folder);

impl Desk {
    fn answer(&self, asked: v1::EnrolRequest) -> v1::EnrolResponse {
        let folder = Folder::open(&self.pki).unwrap();
        let request = SigningRequest::parse(&asked.csr_der).unwrap();
        assert!(request.names().is_empty(), "{:?}", request.names());
        let now = SystemTime::now();
        let signed = folder.authority().sign_agent(&request, ("eu-1", "agent"), now, DAY).unwrap();
        let mut answer = v1::EnrolResponse {
            chain_pem: signed.chain_pem.into(),
            ca_pem: folder.authority().pem().to_owned().into(),
            cluster: "eu-1".into(),
            instance: "agent".into(),
            now_ms: now_ms(),
            ..v1::EnrolResponse::default()
        };
        if let Some(spoil) = self.spoil {
            spoil(&mut answer, &folder);
        }
        self.heard.lock().unwrap().push(asked);
        answer
    }
}

#[tonic::async_trait]
impl Enrolment for Desk {
    async fn enrol(
        &self,
        request: Request<v1::EnrolRequest>,
    ) -> Result<Response<v1::EnrolResponse>, Status> {
        Ok(Response::new(self.answer(request.into_inner())))
    }
}

#[tokio::test]
async fn an_agent_that_dials_gets_its_certificate_once() {
    let bench = Bench::new();
    let url = bench.collector().await;
    let token_file = bench.path("token");
    fs::write(&token_file, "ab12cd.secret\n").unwrap();
    let config = bench.path("etc/agent.yml");
    let (token_file, config_file) = (token_file.to_str().unwrap(), config.to_str().unwrap());
    let line = [&url, "--token-file", token_file, "--write-config", config_file];
    let args = bench.args(&line);
    let said = join(&args).await.unwrap();
    assert!(said.contains("certificate of agent agent of cluster eu-1"), "{said}");
    let asked = bench.desk.heard.lock().unwrap().remove(0);
    assert_eq!((asked.token.as_str(), asked.cluster.as_str()), ("ab12cd.secret", ""));
    assert!((now_ms() - asked.now_ms).abs() < 60_000);
    let first = bench.material("tls").certificate().clone();

    let written = Config::load(&config, std::iter::empty()).unwrap();
    assert_eq!(written.way, Way::Dial(url.trim_start_matches("https://").to_owned()));
    assert_eq!(Material::load(&written.tls).unwrap().certificate(), &first);
    Rules::load(&written.allowlist_file).unwrap();

    // As in a container that is started again: the token is gone.
    fs::remove_file(token_file).unwrap();
    let said = join(&args).await.unwrap();
    assert!(said.contains("already holds") && said.contains("the token was not used"), "{said}");
    let error = join(&bench.args(&[&url, "--token", "x", "--cluster", "us-1"])).await.unwrap_err();
    assert!(error.to_string().contains("holds a certificate of agent"), "{error}");
    assert!(bench.desk.heard.lock().unwrap().is_empty());

    join(&bench.args(&[&url, "--token", "x", "--force"])).await.unwrap();
    assert_ne!(bench.material("tls").certificate(), &first);
}

#[tokio::test]
async fn an_agent_that_waits_is_called_upon() {
    let bench = Bench::new();
    make_pki(&bench.path("other"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let args = bench.args(&["--listen", "127.0.0.1:1", "--token", "ab12cd.secret"]);
    let (pins, pending) = (args.ca_hash.clone(), Pending::new().unwrap());
    let csr_der = pending.csr_der.clone().into();
    let request = v1::EnrolRequest { csr_der, ..v1::EnrolRequest::default() };
    let waiting = tokio::spawn(async move { wait::accept(listener, &pins, request).await });
    // The collector of another authority is not told anything, and does not end the wait.
    for pki in ["other/collector", "pki/collector"] {
        let tls = ClientTls::new(&bench.material(pki)).unwrap();
        let tcp = TcpStream::connect(address).await.unwrap();
        let called = async {
            let stream = tls.enrol(tcp).await.ok()?;
            let (answer, answers) = mpsc::channel(1);
            let mut client = EnrolleeClient::new(crate::link::channel(stream));
            let called = client.enrol(ReceiverStream::new(answers)).await.ok()?;
            let mut requests = called.into_inner();
            let request = requests.message().await.ok()??;
            answer.send(bench.desk.answer(request)).await.unwrap();
            drop(answer);
            assert!(requests.message().await.unwrap().is_none(), "the agent has read the answer");
            Some(())
        };
        assert_eq!(called.await.is_some(), pki == "pki/collector");
    }
    let (answer, authority) = waiting.await.unwrap().unwrap();
    let files = bundle::files(&bench.path("tls"));
    fs::create_dir(bench.path("tls")).unwrap();
    keep(&args, &files, &pending, (&answer, &authority)).unwrap();
    assert_eq!(bench.material("tls").authority(), bench.material("pki/collector").authority());
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_not_kept() {
    let spoils: [(Spoil, &str); 6] = [
        (|answer, _| answer.refused = "the token was used already".into(), "was used already"),
        (|answer, _| answer.chain_pem = b"-".to_vec().into(), "no usable certificate"),
        (|answer, _| answer.ca_pem = b"-".to_vec().into(), "holds no CERTIFICATE block"),
        (|answer, _| answer.ca_pem = answer.chain_pem.clone(), "is not an authority's"),
        (
            |answer, folder| {
                let request = SigningRequest::parse(&Pending::new().unwrap().csr_der).unwrap();
                let now = SystemTime::now();
                let other = folder.authority().sign_agent(&request, ("eu-1", "agent"), now, DAY);
                answer.chain_pem = other.unwrap().chain_pem.into();
            },
            "does not belong to the certificate",
        ),
        (
            |answer, _| {
                let other = tempfile::tempdir().unwrap();
                make_pki(other.path());
                answer.ca_pem = fs::read(other.path().join("ca.crt")).unwrap().into();
            },
            "leaves out its own authority",
        ),
    ];
    for (spoil, why) in spoils {
        let mut bench = Bench::new();
        bench.desk.spoil = Some(spoil);
        let url = bench.collector().await;
        let error = join(&bench.args(&[&url, "--token", "x"])).await.unwrap_err();
        assert!(chain(&error).contains(why), "{}", chain(&error));
        assert_eq!(error.exit_code(), ExitCode::from(1));
        assert!(!bench.path("tls/tls.crt").exists());
    }
}

#[tokio::test]
async fn what_fails_says_why_and_keeps_the_token() {
    let bench = Bench::new();
    let url = bench.collector().await;
    let wrong = pin_text(&[7; 32]);
    let dir = bench.path("elsewhere");
    let line = ["join", &url, "--token", "x", "--ca-hash", &wrong, "--dir", dir.to_str().unwrap()];
    let wrong_pin = Cli::try_parse_from(line).unwrap().args;
    let cases = [
        (wrong_pin, 1, "not signed by the authority we were told to expect"),
        (bench.args(&["https://127.0.0.1:1", "--token", "x"]), 3, "Connection refused"),
        (bench.args(&["tools.example.org", "--token", "x"]), 2, "write https://HOST:PORT"),
        (bench.args(&[&url, "--token-file", "absent"]), 1, "reading the token in absent"),
        (bench.args(&["--listen", "192.0.2.1:1", "--token", "x"]), 3, "cannot listen on 192.0.2.1"),
    ];
    for (args, code, why) in cases {
        let error = join(&args).await.unwrap_err();
        assert!(chain(&error).contains(why), "{}", chain(&error));
        assert_eq!(error.exit_code(), ExitCode::from(code), "{error}");
    }
    assert!(bench.desk.heard.lock().unwrap().is_empty(), "nobody was told the token");
    let hash = pin_text(&[7; 32]);
    for line in [
        vec!["join", "--token", "x", "--ca-hash", &hash],
        vec!["join", "https://a:1", "--ca-hash", &hash],
        vec!["join", "https://a:1", "--token", "x"],
        vec!["join", "https://a:1", "--token", "x", "--ca-hash", "sha256:7"],
        vec!["join", "https://a:1", "--listen", "0.0.0.0:1", "--token", "x", "--ca-hash", &hash],
    ] {
        assert!(Cli::try_parse_from(&line).is_err(), "{line:?}");
    }
}
