//! `tributary-agent join`: gets the first certificate for a token, whoever dials.

mod dial;
mod starter;
mod wait;

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tributary_certs::bundle;
use tributary_certs::certificate::utc;
use tributary_certs::digest::parse_hex;
use tributary_certs::identity::Identity;
use tributary_certs::pair::{self, New};
use tributary_certs::request::{Pending, RequestError};
use tributary_certs::tls::{Files, HandshakeError, Material, TlsError};
use tributary_certs::trust::{Bundle, TrustError};
use tributary_model::sample::Timestamp;
use tributary_proto::v1;

use crate::link::chain;
use starter::Starter;

/// Shown below the help.
pub(crate) const EXAMPLES: &str = "Examples:\n  tributary-agent join https://tools.example.org:9391 --token ab12cd.… \
    --ca-hash sha256:…\n  tributary-agent join --listen 0.0.0.0:9393 --token-file token --ca-hash sha256:… \
    --write-config agent.yml";

/// Longest message of an enrolment.
const MAX_MESSAGE_BYTES: usize = 512 << 10;
/// How long the collector may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// `tributary-agent join`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The collector to dial: https://HOST:PORT
    #[arg(value_name = "URL", required_unless_present = "listen", conflicts_with = "listen")]
    url: Option<String>,
    /// Wait here until the collector dials, where this machine must make no outbound call
    #[arg(long, value_name = "IP:PORT")]
    listen: Option<SocketAddr>,
    /// The token: good once
    #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The hash of the collector's authority; repeat it while the authority is being rotated
    #[arg(long, required = true, value_name = "sha256:HEX", value_parser = pin)]
    ca_hash: Vec<[u8; 32]>,
    /// The cluster this agent must become; otherwise the token decides
    #[arg(long, default_value = "")]
    cluster: String,
    /// Which agent of the cluster it becomes, where the token leaves it open
    #[arg(long, default_value = "")]
    instance: String,
    /// Where tls.crt, tls.key and ca.crt are kept
    #[arg(long, default_value = "tls")]
    dir: PathBuf,
    /// Enrol although there is a good certificate
    #[arg(long)]
    force: bool,
    /// Also write a configuration to start from, and allowlist.yml beside it, unless they are there
    #[arg(long, value_name = "FILE")]
    write_config: Option<PathBuf>,
    /// The Prometheus that the written configuration asks; otherwise it waits for remote writes
    #[arg(long, value_name = "URL", requires = "write_config")]
    prometheus: Option<String>,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
enum JoinError {
    #[error("\"{0}\" is no address of a collector: write https://HOST:PORT")]
    Url(String),
    #[error("{doing} {}", path.display())]
    Disk { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} cannot be written: certificates would be lost; the token was not used\n   = help: name another folder with --dir",
        .0.display()
    )]
    ReadOnly(PathBuf),
    #[error("{} holds a certificate of {present}\n   = help: name another folder with --dir, or replace it with --force", dir.display())]
    OtherIdentity { dir: PathBuf, present: String },
    #[error("cannot connect to {address}")]
    Connect { address: String, source: io::Error },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    #[error("the connection to the collector broke: {}", .0.message())]
    Stream(#[from] Box<tonic::Status>),
    #[error("the collector did not answer within {ANSWER_TIMEOUT:?}")]
    Silent,
    #[error(
        "the collector refuses: {0}\n   = help: tributary-collector clusters add makes another token"
    )]
    Refused(String),
    #[error("the collector's certificate for us {0}")]
    Answer(&'static str),
    #[error("the collector's certificate for us cannot be used")]
    Unusable(#[from] TlsError),
    #[error("the collector's bundle of authorities cannot be used")]
    Bundle(#[from] TrustError),
    #[error("making a key")]
    Key(#[from] RequestError),
}

impl JoinError {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Url(_) => 2,
            Self::Connect { .. }
            | Self::Listen { .. }
            | Self::Stream(_)
            | Self::Silent
            | Self::Handshake(
                HandshakeError::TimedOut { .. }
                | HandshakeError::Io { .. }
                | HandshakeError::NoPeer { .. },
            ) => 3,
            _ => 1,
        })
    }
}

/// Enrols, unless there is a good certificate already.
pub(crate) async fn command(args: Args) -> anyhow::Result<ExitCode> {
    match join(&args).await {
        Ok(done) => {
            write!(io::stdout(), "{done}")?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            writeln!(io::stderr(), "error: {}", chain(&error))?;
            Ok(error.exit_code())
        }
    }
}

/// What was done, for people.
async fn join(args: &Args) -> Result<String, JoinError> {
    let files = bundle::files(&args.dir);
    if !args.force
        && let Ok(material) = Material::load(&files)
    {
        return already(args, &material);
    }
    let token = args.token()?;
    fs::create_dir_all(&args.dir).map_err(|source| disk("making", &args.dir, source))?;
    if !pair::is_writable(&files) {
        return Err(JoinError::ReadOnly(args.dir.clone()));
    }
    let pending = Pending::new()?;
    let request = v1::EnrolRequest {
        token,
        csr_der: pending.csr_der.clone().into(),
        cluster: args.cluster.clone(),
        instance: args.instance.clone(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        now_ms: 0,
    };
    let (answer, authority) = match (&args.url, args.listen) {
        (Some(url), _) => dial::enrol(&address(url)?, &args.ca_hash, request).await?,
        (None, Some(address)) => wait::enrol(address, &args.ca_hash, request).await?,
        (None, None) => return Err(JoinError::Url(String::new())),
    };
    compare_clocks(answer.now_ms, SystemTime::now());
    let material = keep(args, &files, &pending, (&answer, &authority))?;
    let Identity::Agent { cluster, instance, .. } = material.identity() else {
        return Err(JoinError::Answer("is not an agent's"));
    };
    let mut text = format!(
        "enrolled: {} holds the certificate of agent {instance} of cluster {cluster}, good until {}\n",
        args.dir.display(),
        utc(material.not_after()),
    );
    if let Some(path) = &args.write_config {
        let starter = Starter { cluster, instance, files: &files, args };
        text += &starter.write(path)?;
    }
    Ok(text)
}

/// There is a certificate: the token stays as it is.
fn already(args: &Args, material: &Material) -> Result<String, JoinError> {
    let other = || JoinError::OtherIdentity {
        dir: args.dir.clone(),
        present: material.identity().describe(),
    };
    let Identity::Agent { cluster, instance, .. } = material.identity() else {
        return Err(other());
    };
    let fits = |wanted: &str, is: &str| wanted.is_empty() || wanted == is;
    if !fits(&args.cluster, cluster) || !fits(&args.instance, instance) {
        return Err(other());
    }
    Ok(format!(
        "{} already holds the certificate of agent {instance} of cluster {cluster}, good until {}; \
         the token was not used (--force replaces the certificate)\n",
        args.dir.display(),
        utc(material.not_after()),
    ))
}

/// Checks the answer as if a stranger had sent it, and keeps it.
fn keep(
    args: &Args,
    files: &Files,
    pending: &Pending,
    (answer, authority): (&v1::EnrolResponse, &[u8; 32]),
) -> Result<Material, JoinError> {
    if !answer.refused.is_empty() {
        return Err(JoinError::Refused(answer.refused.replace(char::is_control, " ")));
    }
    let bundle = Bundle::parse(&answer.ca_pem)?;
    if !bundle.contains(authority) {
        return Err(JoinError::Answer("comes with a bundle that leaves out its own authority"));
    }
    let (key_pem, ca_pem) = (pending.key_pem.as_str(), bundle.pem());
    let text = |_| JoinError::Answer("is not text");
    let chain_pem = str::from_utf8(&answer.chain_pem).map_err(text)?;
    let material = Material::from_parts(files, chain_pem.as_bytes(), key_pem.as_bytes(), bundle)?;
    let Identity::Agent { cluster, .. } = material.identity() else {
        return Err(JoinError::Answer("is not an agent's"));
    };
    if !args.cluster.is_empty() && args.cluster != *cluster {
        return Err(JoinError::Answer("is for another cluster"));
    }
    pair::install(files, &New { chain_pem, key_pem, ca_pem: Some(&ca_pem) })?;
    Ok(material)
}

impl Args {
    fn token(&self) -> Result<String, JoinError> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(token.trim().to_owned()),
            (None, Some(path)) => fs::read_to_string(path)
                .map(|text| text.trim().to_owned())
                .map_err(|source| disk("reading the token in", path, source)),
            (None, None) => Ok(String::new()),
        }
    }
}

/// The hash of an authority's key.
fn pin(text: &str) -> Result<[u8; 32], &'static str> {
    parse_hex(text).ok_or("it is \"sha256:\" and 64 hexadecimal digits")
}

/// `https://HOST:PORT` as `HOST:PORT`.
fn address(url: &str) -> Result<String, JoinError> {
    let bad = || JoinError::Url(url.escape_debug().to_string());
    let text = url.strip_prefix("https://").unwrap_or(url).trim_end_matches('/');
    let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
    let plain = |c: char| !c.is_whitespace() && c != '/';
    if host.is_empty() || !host.chars().all(plain) || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    Ok(text.to_owned())
}

/// A certificate is of little use where the clock is wrong.
fn compare_clocks(theirs_ms: i64, ours: SystemTime) {
    let apart = theirs_ms.saturating_sub(Timestamp::from(ours).as_millis());
    let theirs = SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_millis(theirs_ms.unsigned_abs()))
        .filter(|_| theirs_ms > 0 && Duration::from_millis(apart.unsigned_abs()) > TOO_FAR);
    if let Some(theirs) = theirs {
        note(format_args!(
            "warning: our clock says {}, the collector's {}: is one of the clocks wrong?",
            utc(ours),
            utc(theirs)
        ));
    }
}

/// Clocks that are further apart are worth a warning.
const TOO_FAR: Duration = Duration::from_secs(120);

fn note(text: fmt::Arguments<'_>) {
    // Without standard error there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

fn disk(doing: &'static str, path: &Path, source: io::Error) -> JoinError {
    JoinError::Disk { doing, path: path.to_owned(), source }
}

fn now_ms() -> i64 {
    Timestamp::from(SystemTime::now()).as_millis()
}

#[cfg(test)]
mod tests;
