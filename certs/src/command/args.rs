//! The command line: what can be asked, and the help texts that teach it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tributary_certs::bundle::COLLECTOR;
use tributary_certs::identity::{DEFAULT_INSTANCE, DEFAULT_TRUST_DOMAIN};
use tributary_certs::rotate::Step;

const MAX_DAYS: i64 = 3650;

/// Makes, replaces and ends the certificates that agents and the collector know
/// each other by.
///
/// The authority's folder is made once:
///     tributary-certs init --dir pki --host collector.example.org
///
/// Then each agent gets a certificate; the cluster in it is what its series will
/// carry. Either the agent asks for it with a one-time token, from the collector
/// that has this folder as pki.dir, and its key never leaves it:
///     tributary-collector clusters add eu-1
/// or it is issued here, and pki/eu-1 is given to the agent:
///     tributary-certs issue eu-1 --dir pki
/// Give pki/collector to the collector; keep pki/ca.key to yourself.
///
/// Certificates live 30 days and renew themselves while the agent has a stream.
/// The authority lives 10 years and is replaced without interrupting anybody:
///     tributary-certs rotate --ca --dir pki
/// If its key is in the wrong hands:
///     tributary-certs rotate --emergency --dir pki
#[derive(Parser)]
#[command(name = "tributary-certs", version, verbatim_doc_comment)]
pub struct Command {
    #[command(subcommand)]
    pub action: Action,
}

/// What to do.
#[derive(Subcommand)]
pub enum Action {
    /// Make an authority and the collector's certificate.
    ///
    /// Writes ca.crt and ca.key (valid 10 years), collector/{tls.crt,tls.key,ca.crt}, and state.json.
    Init(InitArgs),
    /// Issue a certificate for a cluster's agent, or issue it again.
    ///
    /// Writes NAME/{tls.crt,tls.key,ca.crt}: the names of a Kubernetes TLS secret. The name "collector" issues
    /// the collector's certificate again, with the hosts it has.
    Issue(IssueArgs),
    /// Show every certificate, in the folder and at agents.
    ///
    /// Exit code 1 if one is expired or broken.
    Status {
        #[command(flatten)]
        folder: FolderArg,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Show what one certificate file says.
    Inspect {
        /// A PEM file.
        file: PathBuf,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Check certificate files as the other side of a connection would.
    ///
    /// Each must be valid now, be signed by an authority of the bundle, carry one identity, and not be revoked; a
    /// private key beside it (tls.key beside tls.crt) must belong to it. Exit code 1 if one fails.
    Verify {
        /// PEM files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        folder: FolderArg,
        /// Check against the authorities in this file instead of the folder's.
        #[arg(long, value_name = "FILE")]
        ca: Option<PathBuf>,
    },
    /// Show the authorities that everybody should trust.
    ///
    /// One, or two while a rotation goes on.
    /// "-o pem" prints them as the ca.crt that agents have; the hashes are what "tributary-agent join --ca-hash" takes.
    Bundle {
        #[command(flatten)]
        folder: FolderArg,
        /// How to print.
        #[arg(short, long, value_enum, default_value_t = BundleOutput::Table)]
        output: BundleOutput,
    },
    /// Refuse certificates from now on, before they run out
    ///
    /// Their keys go onto the deny-list in state.json. A collector with pki.dir on
    /// this folder ends their streams within a second and refuses them from then on.
    ///
    ///     tributary-certs revoke eu-1                every agent of the cluster
    ///     tributary-certs revoke eu-1/prometheus-0   one of them
    ///     tributary-certs revoke --serial 5c01a7     one certificate
    #[command(verbatim_doc_comment)]
    Revoke(RevokeArgs),
    /// Replace certificates, or the authority itself, while everything runs
    ///
    ///     tributary-certs rotate --ca               the authority and all certificates
    ///     tributary-certs rotate --leaf eu-1        the certificates of one cluster
    ///     tributary-certs rotate --leaf collector   the collector's own
    ///     tributary-certs rotate --all              all certificates, same authority
    ///     tributary-certs rotate --status           what each agent still lacks
    ///     tributary-certs rotate                    go on with the one that was begun
    ///
    /// The command writes a plan into the folder and follows it; a running collector
    /// with pki.dir on this folder carries it out over its streams. Interrupting the
    /// command, the collector or an agent does no harm: run it again.
    ///
    /// The steps of --ca are preflight, prepare, publish, wait, activate, drain, prove,
    /// taint and retire. Until "activate" it can be taken back with --withdraw.
    /// ROTATION.md tells the whole procedure.
    #[command(verbatim_doc_comment)]
    Rotate(Box<RotateArgs>),
    /// Print a leaf folder in another form
    ///
    ///     tributary-certs export eu-1 --namespace monitoring | kubectl apply -f -
    ///
    /// The output holds the private key.
    #[command(verbatim_doc_comment)]
    Export {
        /// The cluster's name, or "collector".
        name: String,
        #[command(flatten)]
        folder: FolderArg,
        /// Which form.
        #[arg(long, value_enum, default_value_t = Format::K8sSecret)]
        format: Format,
        /// The Secret's namespace.
        #[arg(long)]
        namespace: Option<String>,
        /// The Secret's name [default: tributary-agent-tls, or tributary-collector-tls].
        #[arg(long)]
        secret_name: Option<String>,
    },
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Where the folder is.
#[derive(Args)]
pub struct FolderArg {
    /// The PKI folder.
    #[arg(long, default_value = "pki")]
    pub dir: PathBuf,
}

/// `init`
#[derive(Args)]
pub struct InitArgs {
    /// The folder to make.
    #[arg(long, default_value = "pki")]
    pub dir: PathBuf,
    /// A host name or address the collector is reached under; repeat for several.
    #[arg(long = "host", required = true, value_name = "HOST")]
    pub hosts: Vec<String>,
    /// The name of this installation; certificates of another one are refused.
    #[arg(long, default_value = DEFAULT_TRUST_DOMAIN)]
    pub trust_domain: String,
    /// The collector's name.
    #[arg(long = "name", default_value = COLLECTOR)]
    pub collector: String,
    /// Days until the collector's certificate ends.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    pub days: u32,
    /// Sign with an authority of your own, or an intermediate one of your company's: its certificate and its key.
    #[arg(long, value_name = "CRT,KEY", value_parser = pair)]
    pub from_ca: Option<(PathBuf, PathBuf)>,
    /// Replace an authority that is there. Every certificate it issued stops working.
    #[arg(long)]
    pub force: bool,
}

/// `issue`
#[derive(Args)]
pub struct IssueArgs {
    /// The cluster's name: 1 to 63 of a-z, 0-9 and '-'.
    pub name: String,
    #[command(flatten)]
    pub folder: FolderArg,
    /// Which of the cluster's agents it is for, where there are several.
    #[arg(long, default_value = DEFAULT_INSTANCE)]
    pub instance: String,
    /// Days until it ends.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
    pub days: u32,
    /// Write into this folder instead of <dir>/<name>.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// With the name "collector": the host names and addresses it is reached under from now on.
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
}

/// `revoke`
#[derive(Args)]
#[group(id = "whose", required = true, multiple = false, args = ["name", "serial", "spki"])]
pub struct RevokeArgs {
    /// A cluster, or CLUSTER/INSTANCE: all its certificates; its open tokens are void, too.
    pub name: Option<String>,
    /// The certificate with this serial number; its first digits are enough.
    #[arg(long)]
    pub serial: Option<String>,
    /// The certificates with this key: the SHA-256 of its SPKI ("key sha256" of "inspect").
    #[arg(long, value_name = "SHA256", value_parser = hash)]
    pub spki: Option<[u8; 32]>,
    #[command(flatten)]
    pub folder: FolderArg,
    /// The reason, for whoever reads the deny-list later.
    #[arg(long, default_value = "revoked by the operator")]
    pub why: String,
}

/// `rotate`
#[derive(Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
#[group(id = "what", multiple = false, args = ["ca", "leaf", "all", "emergency", "status", "withdraw"])]
pub struct RotateArgs {
    /// The authority, and with it every certificate.
    #[arg(long)]
    pub ca: bool,
    /// The certificates of a cluster, of CLUSTER/INSTANCE, or of "collector"; repeat for several.
    #[arg(long, value_name = "NAME")]
    pub leaf: Vec<String>,
    /// All certificates, by the same authority.
    #[arg(long)]
    pub all: bool,
    /// The authority's key is stolen: a new authority at once, the old one trusted no more, every stream ended; prints
    /// the command with which each agent enrols again.
    #[arg(long)]
    pub emergency: bool,
    /// Show how far it is.
    #[arg(long)]
    pub status: bool,
    /// Take it back: possible as long as the next authority has signed nothing.
    #[arg(long)]
    pub withdraw: bool,
    /// Show the plan and who is ready, and change nothing.
    #[arg(long, conflicts_with_all = ["emergency", "status", "withdraw"])]
    pub dry_run: bool,
    #[command(flatten)]
    pub folder: FolderArg,
    /// Wait for agents that are away, however long; the old authority signs until all of them are back.
    #[arg(long)]
    pub wait: bool,
    /// Leave this cluster or CLUSTER/INSTANCE behind: it must enrol again later; repeat for several.
    #[arg(long, value_name = "NAME")]
    pub skip: Vec<String>,
    /// Stop after this step; run the command again to go on.
    #[arg(long, value_name = "STEP", value_parser = step)]
    pub until: Option<Step>,
    /// How long to watch whether somebody still uses the old authority before it is trusted no more: 30s, 10m, 2h, 7d.
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    pub grace: Duration,
    /// With --ca: the next authority, instead of one made here.
    #[arg(long, value_name = "CRT,KEY", value_parser = pair, requires = "ca")]
    pub from_ca: Option<(PathBuf, PathBuf)>,
    /// With --emergency: where agents reach the collector [default: the first host of its certificate, port 9391].
    #[arg(long, value_name = "HOST:PORT", requires = "emergency")]
    pub address: Option<String>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How to print.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs; stable keys, times in RFC 3339.
    Json,
}

/// How to print authorities.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BundleOutput {
    /// For people.
    Table,
    /// For programs; stable keys, times in RFC 3339.
    Json,
    /// As certificates.
    Pem,
}

/// What to export as.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// The manifest of a Kubernetes Secret of type kubernetes.io/tls, with ca.crt.
    K8sSecret,
}

fn pair(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (cert, key) = text.split_once(',').ok_or("give both files: CRT,KEY")?;
    Ok((cert.into(), key.into()))
}

fn hash(text: &str) -> Result<[u8; 32], String> {
    tributary_certs::digest::parse_hex(text).ok_or_else(|| "give 64 hexadecimal digits".to_owned())
}

fn step(text: &str) -> Result<Step, String> {
    let known = Step::ALL.into_iter().filter(|step| *step != Step::Done);
    let names: Vec<&str> = known.clone().map(Step::as_str).collect();
    known
        .into_iter()
        .find(|step| step.as_str() == text)
        .ok_or(format!("one of {}", names.join(", ")))
}

fn duration(text: &str) -> Result<Duration, String> {
    let wanted = "give a number and a unit: 30s, 10m, 2h, 7d";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let seconds = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3600,
        Some("d") => 86_400,
        _ => return Err(wanted.to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| wanted.to_owned())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(|| wanted.to_owned())
}
