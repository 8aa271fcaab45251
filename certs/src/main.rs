//! `tributary-certs`: makes an authority, issues certificates, shows their state.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use tributary_certs::authority::AuthorityError;
use tributary_certs::bundle::{self, BundleError, COLLECTOR, Folder, Init, Written};
use tributary_certs::certificate::{Certificate, hex, rfc3339, utc};
use tributary_certs::identity::{DEFAULT_INSTANCE, DEFAULT_TRUST_DOMAIN};
use tributary_certs::status;
use tributary_certs::tls::TlsError;

const CHECK_FAILED: u8 = 1;
const USAGE: u8 = 2;
const MAX_DAYS: i64 = 3650;
const DAY: Duration = Duration::from_secs(86_400);

/// Makes the certificates that agents and the collector know each other by.
///
/// The authority's folder is made once:
///     tributary-certs init --dir pki --host collector.example.org
/// then each cluster gets a certificate; the cluster's name is what its series will carry:
///     tributary-certs issue eu-1 --dir pki
/// Give pki/eu-1 to the agent of cluster eu-1 and pki/collector to the collector; keep pki/ca.key to yourself.
#[derive(Parser)]
#[command(name = "tributary-certs", version, verbatim_doc_comment)]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Make an authority and the collector's certificate.
    ///
    /// Writes ca.crt and ca.key (valid 10 years), and collector/{tls.crt,tls.key,ca.crt}.
    Init {
        /// The folder to make.
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
        /// A host name or address the collector is reached under; repeat for several.
        #[arg(long = "host", required = true, value_name = "HOST")]
        hosts: Vec<String>,
        /// The name of this installation; certificates of another one are refused.
        #[arg(long, default_value = DEFAULT_TRUST_DOMAIN)]
        trust_domain: String,
        /// The collector's name.
        #[arg(long = "name", default_value = COLLECTOR)]
        collector: String,
        /// Days until the collector's certificate ends.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
        days: u32,
        /// Replace an authority that is there. Every certificate it issued stops working.
        #[arg(long)]
        force: bool,
    },
    /// Issue a certificate for a cluster's agent, or issue it again.
    ///
    /// Writes NAME/{tls.crt,tls.key,ca.crt}: the names of a Kubernetes TLS secret. The name "collector" issues
    /// the collector's certificate again, with the hosts it has.
    Issue {
        /// The cluster's name: 1 to 63 of a-z, 0-9 and '-'.
        name: String,
        /// The PKI folder.
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
        /// Which of the cluster's agents it is for, where there are several.
        #[arg(long, default_value = DEFAULT_INSTANCE)]
        instance: String,
        /// Days until it ends.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=MAX_DAYS))]
        days: u32,
        /// Write into this folder instead of <dir>/<name>.
        #[arg(long)]
        out: Option<PathBuf>,
        /// With the name "collector": the host names and addresses it is reached under from now on.
        #[arg(long = "host", value_name = "HOST")]
        hosts: Vec<String>,
    },
    /// Show every certificate of the folder; exit code 1 if one is expired or broken.
    Status {
        /// The PKI folder.
        #[arg(long, default_value = "pki")]
        dir: PathBuf,
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
    /// Print the completion script of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs; stable keys, times in RFC 3339.
    Json,
}

fn main() -> ExitCode {
    let command = Command::parse();
    let mut out = io::stdout().lock();
    match run(command.action, &mut out, SystemTime::now()) {
        Ok(code) => code,
        Err(error) => {
            // A reader that has gone away (`| head`) is nobody to report to.
            if is_broken_pipe(&error) {
                return ExitCode::SUCCESS;
            }
            let _ = write!(io::stderr().lock(), "{}", report(&error));
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(action: Action, out: &mut dyn Write, now: SystemTime) -> anyhow::Result<ExitCode> {
    match action {
        Action::Init { dir, hosts, trust_domain, collector, days, force } => {
            let init = Init {
                trust_domain: &trust_domain,
                collector: &collector,
                hosts: &hosts,
                lifetime: DAY * days,
                force,
            };
            let folder = Folder::init(&dir, &init, now)?;
            let ends = folder.authority().certificate().not_after;
            writeln!(out, "authority   {}  until {}", dir.join("ca.crt").display(), utc(ends))?;
            let own = dir.join(COLLECTOR);
            let ends = bundle::leaf(&own.join(bundle::LEAF_CERT))?.not_after;
            writeln!(out, "collector   {}  until {}", own.display(), utc(ends))?;
            writeln!(out, "next: tributary-certs issue CLUSTER --dir {}", dir.display())?;
        }
        Action::Issue { name, dir, instance, days, out: target, hosts } => {
            let folder = Folder::open(&dir)?;
            let lifetime = DAY * days;
            let written = if name == COLLECTOR && target.is_none() {
                folder.issue_collector(&hosts, now, lifetime)?
            } else if hosts.is_empty() {
                folder.issue_agent((&name, &instance), target.as_deref(), now, lifetime)?
            } else {
                return Err(anyhow!(
                    "--host is only for the name \"collector\": agents are known by identity"
                ));
            };
            print_written(out, &written)?;
        }
        Action::Status { dir, output } => {
            let rows = status::read(&dir, now)?;
            match output {
                Output::Table => write!(out, "{}", status::table(&rows))?,
                Output::Json => writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?,
            }
            if rows.iter().any(|row| row.status.is_failure()) {
                return Ok(ExitCode::from(CHECK_FAILED));
            }
        }
        Action::Inspect { file, output } => inspect(out, &file, output)?,
        Action::Completions { shell } => {
            clap_complete::generate(shell, &mut Command::command(), "tributary-certs", out);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_written(out: &mut dyn Write, written: &Written) -> io::Result<()> {
    let identity = written.certificate.uris.join(", ");
    let ends = utc(written.certificate.not_after);
    writeln!(out, "{identity}")?;
    writeln!(out, "written to {}  until {ends}", written.dir.display())
}

fn inspect(out: &mut dyn Write, file: &Path, output: Output) -> anyhow::Result<()> {
    let certificate = bundle::leaf(file)?;
    let facts = facts(&certificate);
    match output {
        Output::Table => {
            for (key, value) in &facts {
                writeln!(out, "{key:<14}{value}")?;
            }
        }
        Output::Json => {
            let object: serde_json::Map<String, serde_json::Value> = facts
                .into_iter()
                .map(|(key, value)| (key.replace(' ', "_"), value.into()))
                .collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&object)?)?;
        }
    }
    Ok(())
}

fn facts(certificate: &Certificate) -> Vec<(&'static str, String)> {
    let mut usages = Vec::new();
    if certificate.is_ca {
        usages.push("authority");
    }
    if certificate.client_auth {
        usages.push("client");
    }
    if certificate.server_auth {
        usages.push("server");
    }
    vec![
        ("subject", certificate.subject.clone()),
        ("identity", certificate.uris.join(", ")),
        ("hosts", certificate.hosts.join(", ")),
        ("usage", usages.join(", ")),
        ("serial", certificate.serial.clone()),
        ("issuer", certificate.issuer.clone()),
        ("not before", rfc3339(certificate.not_before)),
        ("not after", rfc3339(certificate.not_after)),
        ("key sha256", hex(&certificate.spki_sha256)),
    ]
}

/// The error, its causes where it does not tell them itself, and the next step where there is one.
fn report(error: &anyhow::Error) -> String {
    let mut lines = vec![format!("error: {error}")];
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !lines.iter().any(|line| line.contains(&cause)) {
            lines.push(format!("  because: {cause}"));
        }
    }
    if let Some(help) = error.downcast_ref::<BundleError>().and_then(help) {
        lines.push(format!("   = help: {help}"));
    }
    lines.join("\n") + "\n"
}

fn help(error: &BundleError) -> Option<String> {
    Some(match error {
        BundleError::Exists { path } => format!(
            "use another --dir, or --force to replace it; every certificate that {} issued then stops working",
            path.display()
        ),
        BundleError::NoAuthority { dir } => {
            format!("make one: tributary-certs init --dir {} --host HOST", dir.display())
        }
        BundleError::OtherIdentity { .. } => {
            "write the new one elsewhere with --out DIR, or move the present one away".to_owned()
        }
        BundleError::Reserved { .. } => "give the cluster another name".to_owned(),
        BundleError::Authority(AuthorityError::Lifetime { .. }) => {
            "ask for fewer --days".to_owned()
        }
        _ => return None,
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<BundleError>() {
        Some(
            BundleError::Malformed { .. }
            | BundleError::Disk { .. }
            | BundleError::Load { .. }
            | BundleError::Tls(TlsError::Pem { .. }),
        ) => CHECK_FAILED,
        _ => USAGE,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
