//! First certificates: who gets one, who does not and why, in both directions of dialling.

use std::path::Path;

use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::ReceiverStream;
use tributary_certs::bundle::Folder;
use tributary_certs::request::{Pending, Request as Csr};
use tributary_certs::state::{How, State};
use tributary_certs::tls::{self, Expect, Material};
use tributary_certs::token::{self, Grant, TokenError};
use tributary_certs::trust::Bundle;
use tributary_certs::{bundle, enrol};
use tributary_proto::v1::enrollee_server::{Enrollee, EnrolleeServer};
use tributary_proto::v1::enrolment_client::EnrolmentClient;

use super::*;
use crate::ingest::dial::{Target, channel};
use crate::ingest::metrics::IngestMetrics;
use crate::ingest::policy::Policies;
use crate::ingest::{Config, Ingest, testing};
use crate::pki::signer::Turn;
use crate::pki::testing::{MONTH, Pki};

const HOUR: Duration = Duration::from_secs(3600);
/// Requests of one key: with exactly the identity of eu-1/a, of another cluster, and with a name beside the identity.
const GRANTED: &[u8] = include_bytes!("../../../testdata/enrol/granted.csr");
const OTHER_CLUSTER: &[u8] = include_bytes!("../../../testdata/enrol/other-cluster.csr");
const COMMON_NAME: &[u8] = include_bytes!("../../../testdata/enrol/common-name.csr");

fn desk(pki: &Pki) -> Desk {
    let signer = Signer::new(pki.dir.clone(), MONTH, pki.metrics.clone(), Turn::default());
    Desk::new(Arc::new(signer), pki.metrics.clone())
}

/// A token for eu-1/a, made at `now`.
fn token(dir: &Path, replace: bool, now: SystemTime) -> String {
    let grant =
        Grant { cluster: "eu-1".to_owned(), instance: Some("a".to_owned()), ttl: HOUR, replace };
    let token = State::change(dir, |state| token::create(state, &grant, now));
    token.map_err(|error: TokenError| error.to_string()).unwrap().to_string()
}

fn request(token: &str) -> v1::EnrolRequest {
    v1::EnrolRequest {
        token: token.to_owned(),
        csr_der: GRANTED.into(),
        cluster: "eu-1".to_owned(),
        instance: "a".to_owned(),
        agent_version: "0.1.0".to_owned(),
        now_ms: millis(SystemTime::now()),
    }
}

async fn ask(desk: &Desk, request: v1::EnrolRequest) -> v1::EnrolResponse {
    desk.answer(request, ([192, 0, 2, 1], 5).into()).await
}

#[tokio::test]
async fn a_token_gives_one_certificate_for_its_identity() {
    let pki = Pki::new();
    let desk = desk(&pki);
    let token = token(&pki.dir, false, SystemTime::now());
    let unnamed = v1::EnrolRequest {
        cluster: String::new(),
        instance: String::new(),
        now_ms: 0,
        ..request(&token)
    };
    let answer = ask(&desk, unnamed).await;
    assert_eq!(answer.refused, "");
    assert_eq!((answer.cluster.as_str(), answer.instance.as_str()), ("eu-1", "a"));
    assert_eq!(Bundle::parse(&answer.ca_pem).unwrap(), pki.folder().bundle().unwrap());
    let state = State::read(&pki.dir).unwrap();
    let key = state.valid_keys("eu-1/a", SystemTime::now()).next().unwrap();
    assert_eq!(key.spki_sha256, Csr::parse(GRANTED).unwrap().spki_sha256());
    assert_eq!(key.how, How::Join);
    assert_eq!(pki.metrics.enrolments.get(), 1);
}

#[tokio::test]
async fn every_refusal_says_why_is_counted_and_leaves_the_token_unspent() {
    type Spoil = fn(&mut v1::EnrolRequest);
    let cases: [(Spoil, &str, &str); 11] = [
        (|r| r.token = "k".into(), "malformed", "this is not a token"),
        (|r| r.token.replace_range(..6, "aaaaaa"), "unknown", "no token has this id"),
        (|r| r.token.replace_range(7..17, "aaaaaaaaaa"), "wrong_secret", "secret is wrong"),
        (
            |r| r.cluster = "eu-2".into(),
            "other_cluster",
            "the token is for cluster \"eu-1\", not for \"eu-2\"",
        ),
        (|r| r.instance = "b".into(), "other_instance", "for the agent \"a\", not for \"b\""),
        (
            |r| r.csr_der = OTHER_CLUSTER.into(),
            "names",
            "asks for spiffe://tributary.internal/cluster/eu-2/agent/a, the token grants \
             spiffe://tributary.internal/cluster/eu-1/agent/a and nothing else",
        ),
        (|r| r.csr_der = COMMON_NAME.into(), "names", "asks for ../../eu-2, spiffe://"),
        (|r| r.csr_der = GRANTED[1..].into(), "request", "not well-formed PKCS#10"),
        (|r| r.csr_der = vec![0; 9 << 10].into(), "request", "longer than 8192 bytes"),
        (|r| r.now_ms -= 3_600_000, "clock", "the agent's clock says"),
        (|r| r.now_ms = i64::MAX, "clock", "the agent's clock says"),
    ];
    let pki = Pki::new();
    let token = token(&pki.dir, false, SystemTime::now());
    for (spoil, reason, says) in cases {
        let mut request = request(&token);
        spoil(&mut request);
        let before = pki.metrics.refused_for(reason);
        let answer = ask(&desk(&pki), request).await;
        assert!(answer.refused.contains(says), "{reason}: {}", answer.refused);
        assert!(answer.chain_pem.is_empty() && answer.now_ms > 0);
        assert_eq!(pki.metrics.refused_for(reason), before + 1, "{reason}");
    }
    let nine_minutes = |r: v1::EnrolRequest| v1::EnrolRequest { now_ms: r.now_ms - 540_000, ..r };
    assert_eq!(ask(&desk(&pki), nine_minutes(request(&token))).await.refused, "");
}

#[tokio::test]
async fn spent_expired_taken_and_revoked() {
    let pki = Pki::new();
    let now = SystemTime::now();
    let good = token(&pki.dir, false, now);
    let expired = token(&pki.dir, false, now - 2 * HOUR);
    let taken = token(&pki.dir, false, now);
    assert_eq!(ask(&desk(&pki), request(&good)).await.refused, "");
    for (token, reason, says) in [
        (&good, "spent", "the token was used already, at "),
        (&expired, "expired", "the token expired at "),
        (&taken, "already_enrolled", "eu-1/a is enrolled already"),
    ] {
        let answer = ask(&desk(&pki), request(token)).await;
        assert!(answer.refused.contains(says), "{reason}: {}", answer.refused);
        assert_eq!(pki.metrics.refused_for(reason), 1, "{reason}");
    }

    // Whoever takes the place has a new key, and the old one is denied.
    let replace = token(&pki.dir, true, now);
    let csr_der = Pending::new().unwrap().csr_der;
    let newcomer = v1::EnrolRequest { csr_der: csr_der.into(), ..request(&replace) };
    assert_eq!(ask(&desk(&pki), newcomer).await.refused, "");
    let old = Csr::parse(GRANTED).unwrap().spki_sha256();
    assert!(State::read(&pki.dir).unwrap().is_denied(&old));
    let again = token(&pki.dir, true, now);
    let answer = ask(&desk(&pki), request(&again)).await;
    assert!(answer.refused.contains("this key was revoked"), "{}", answer.refused);
    assert_eq!(pki.metrics.refused_for("revoked"), 1);
}

#[tokio::test]
async fn an_address_that_tries_tokens_has_to_wait() {
    let pki = Pki::new();
    let desk = desk(&pki);
    for _ in 0..FREE_REFUSALS {
        ask(&desk, request("aaaaaa.aaaaaaaaaaaaaaaaaaaaaaaaaa")).await;
    }
    let token = token(&pki.dir, false, SystemTime::now());
    let answer = ask(&desk, request(&token)).await;
    assert!(answer.refused.contains("wait 1s"), "{}", answer.refused);
    assert_eq!(pki.metrics.refused_for("too_many_refusals"), 1);
    let elsewhere = desk.answer(request(&token), ([192, 0, 2, 2], 5).into()).await;
    assert_eq!(elsewhere.refused, "");
}

/// The key, and a request for it.
fn pending(token: &str) -> (Pending, v1::EnrolRequest) {
    let pending = Pending::new().unwrap();
    let asked = v1::EnrolRequest { csr_der: pending.csr_der.clone().into(), ..request(token) };
    (pending, asked)
}

/// What the agent was given, as it would use it.
fn material(dir: &Path, pending: &Pending, answer: &v1::EnrolResponse) -> Material {
    assert_eq!(answer.refused, "");
    let bundle = Bundle::parse(&answer.ca_pem).unwrap();
    let key = pending.key_pem.as_bytes();
    Material::from_parts(&bundle::files(dir), &answer.chain_pem, key, bundle).unwrap()
}

fn ingest(pki: &Pki, store: &testing::Folder) -> Ingest {
    let credentials = &pki.credentials;
    Ingest::new(
        Config::new("cluster".to_owned(), Policies::default()),
        store.store().clone(),
        (credentials.server(), credentials.trust()),
        IngestMetrics::default(),
        HashMap::new(),
    )
}

#[tokio::test]
async fn an_agent_that_dials_enrols_and_then_connects() {
    let pki = Pki::new();
    let store = testing::Folder::new();
    let mut ingest = ingest(&pki, &store);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(desk(&pki).serve(ingest.enrolments(), stop.clone()));
    let port = tokio::spawn(ingest.run(listener, stop.clone()));

    let pins = [Folder::open(&pki.dir).unwrap().authority().certificate().spki_sha256];
    let (pending, asked) = pending(&token(&pki.dir, false, SystemTime::now()));
    let tcp = TcpStream::connect(address).await.unwrap();
    let wrong = enrol::dial(tcp, &[[0; 32]]).await.map(drop).unwrap_err();
    assert!(wrong.to_string().contains("sha256:"), "{wrong}");
    let tcp = TcpStream::connect(address).await.unwrap();
    let stream = enrol::dial(tcp, &pins).await.unwrap();
    let mut client = EnrolmentClient::new(channel(stream).await.unwrap());
    let answer = client.enrol(asked).await.unwrap().into_inner();

    let agent = tls::ClientTls::new(&material(&pki.dir, &pending, &answer)).unwrap();
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut stream = agent.connect(tcp, Expect::Collector).await.unwrap();
    // A refusal of our certificate would show at the first read; HTTP/2 begins with the server's settings.
    let mut first = [0; 9];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.unwrap();
    stop.cancel();
    serving.await.unwrap();
    drop((stream, client));
    port.await.unwrap();
}

/// An agent that waits: asks for a certificate when it is called, and hands on the answer.
struct Waiting {
    asked: v1::EnrolRequest,
    answered: mpsc::Sender<v1::EnrolResponse>,
}

#[tonic::async_trait]
impl Enrollee for Waiting {
    type EnrolStream = ReceiverStream<Result<v1::EnrolRequest, Status>>;

    async fn enrol(
        &self,
        request: Request<tonic::Streaming<v1::EnrolResponse>>,
    ) -> Result<Response<Self::EnrolStream>, Status> {
        let (ask, asked) = mpsc::channel(1);
        ask.send(Ok(self.asked.clone())).await.unwrap();
        let answered = self.answered.clone();
        tokio::spawn(async move {
            let answer = request.into_inner().message().await.unwrap().unwrap();
            answered.send(answer).await.unwrap();
            drop(ask);
        });
        Ok(Response::new(ReceiverStream::new(asked)))
    }
}

#[tokio::test]
async fn an_agent_that_waits_is_visited_while_its_token_is_open() {
    let pki = Pki::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = Target {
        cluster: "eu-1".parse().unwrap(),
        address: listener.local_addr().unwrap().to_string(),
    };
    let pins = [pki.folder().authority().certificate().spki_sha256];
    let (pending, mut asked) = pending(&token(&pki.dir, false, SystemTime::now()));
    asked.cluster = String::new();
    let (answered, mut answers) = mpsc::channel(1);
    let waiting = tokio::spawn(async move {
        let stream = enrol::wait(listener.accept().await.unwrap().0, &pins).await.unwrap();
        let service = TowerToHyperService::new(EnrolleeServer::new(Waiting { asked, answered }));
        let server = http2::Builder::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(stream), service).await
    });
    let stop = CancellationToken::new();
    let client = pki.credentials.client();
    let store = testing::Folder::new();
    let ingest = ingest(&pki, &store);
    let visitor = ingest.visitor(desk(&pki), client, vec![target], pki.dir.clone());
    let visiting = tokio::spawn(visitor.run(stop.clone()));
    let answer = answers.recv().await.unwrap();
    material(&pki.dir, &pending, &answer);
    assert_eq!(pki.metrics.enrolments.get(), 1);
    waiting.await.unwrap().unwrap();
    stop.cancel();
    visiting.await.unwrap();
}

#[test]
fn an_address_that_is_refused_again_and_again_waits_longer_and_longer() {
    let refusals = Refusals::default();
    let (address, start) = (IpAddr::from([192, 0, 2, 1]), Instant::now());
    for _ in 1..FREE_REFUSALS {
        refusals.count(address, start);
        assert_eq!(refusals.wait(address, start), None);
    }
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
        refusals.count(address, start);
        assert_eq!(refusals.wait(address, start), Some(Duration::from_secs(seconds)));
    }
    assert_eq!(refusals.wait(IpAddr::from([192, 0, 2, 2]), start), None);
    assert_eq!(refusals.wait(address, start + LONGEST_PAUSE), None);
    refusals.forgive(address);
    refusals.count(address, start);
    assert_eq!(refusals.wait(address, start), None);
}

#[test]
fn remembered_addresses_are_bounded() {
    let refusals = Refusals::default();
    let start = Instant::now();
    for n in 0..5_000_u32 {
        refusals.count(IpAddr::from(n.to_be_bytes()), start + Duration::from_millis(n.into()));
    }
    assert_eq!(refusals.0.lock().unwrap().len(), MAX_ADDRESSES);
}
