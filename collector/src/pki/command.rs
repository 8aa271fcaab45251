//! `tributary-collector clusters`: who sends, and, on the PKI folder itself, who may.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tributary_certs::bundle::{self, COLLECTOR, Folder, LEAF_CERT};
use tributary_certs::certificate::{hex, utc};
use tributary_certs::enrol::pin_text;
use tributary_certs::revoke::{self, Whose};
use tributary_certs::state::{Denied, State};
use tributary_certs::token::{self, Grant, TokenError};
use tributary_model::duration;

use crate::api;
use crate::config::{Config, Pki};
use crate::ingest::dial::Target;

/// `tributary-collector clusters`
#[derive(Debug, Subcommand)]
pub enum ClustersAction {
    /// Who sends, how much, and how far behind
    List(api::clusters::ListArgs),
    /// What the agents of a cluster hold: certificates, bundle, clock. Exit code 1 if there is no such cluster
    Show(api::clusters::ShowArgs),
    /// Print the command that lets a new agent in: a token, good for one agent, once, for an hour
    #[command(
        after_help = "Example:\n  tributary-collector clusters add eu-1 --config.file collector.yml\n\
                            Run what it prints on the agent's machine. The agent makes its own key; restarts never need the token."
    )]
    Add(AddArgs),
    /// Revoke every certificate and token of a cluster and forget its name. What it sent stays
    Remove(RemoveArgs),
    /// Revoke every certificate of a cluster, or of one of its agents. Its streams end within a second
    Revoke(RevokeArgs),
}

/// Where the PKI folder is named.
#[derive(Debug, Args)]
struct Place {
    /// The collector's configuration; pki.dir in it is the folder to work on.
    #[arg(long = "config.file", value_name = "FILE", default_value = "collector.yml")]
    config_file: PathBuf,
}

/// `tributary-collector clusters add`
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The cluster's name: what its series are stamped with
    name: String,
    /// How long the token is good, like 1h; at most 24h
    #[arg(long, default_value = "1h", value_parser = duration::parse)]
    ttl: Duration,
    /// Which of the cluster's agents; without it the agent names itself
    #[arg(long)]
    instance: Option<String>,
    /// Let it take the place of an agent that is enrolled; all earlier certificates of that one are revoked
    #[arg(long)]
    replace: bool,
    /// Where the agent reaches the collector; default: the first host in the collector's certificate, the port of ingest.listen
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// `tributary-collector clusters remove`
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The cluster
    name: String,
    #[command(flatten)]
    place: Place,
}

/// `tributary-collector clusters revoke`
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// The cluster, or cluster/instance
    name: String,
    /// Why, for whoever asks later
    #[arg(long, default_value = "")]
    why: String,
    #[command(flatten)]
    place: Place,
}

/// Does it.
pub async fn clusters(action: ClustersAction) -> anyhow::Result<ExitCode> {
    match action {
        ClustersAction::List(args) => api::clusters::list(args).await?,
        ClustersAction::Show(args) => api::clusters::show(args).await?,
        ClustersAction::Add(args) => add(&args, SystemTime::now())?,
        ClustersAction::Remove(args) => remove(&args, SystemTime::now())?,
        ClustersAction::Revoke(args) => revoke(&args, SystemTime::now())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn add(args: &AddArgs, now: SystemTime) -> anyhow::Result<()> {
    let (config, pki) = args.place.read()?;
    anyhow::ensure!(pki.enrol, "pki.enrol is false in {}: nobody is let in", config.file.display());
    anyhow::ensure!(
        args.name != config.local_cluster.as_str(),
        "\"{}\" is the collector's own name (local_cluster)",
        args.name
    );
    let folder = Folder::open(&pki.dir)?;
    let bundle = folder.bundle()?;
    let pins: Vec<String> =
        bundle.authorities().map(|authority| pin_text(&authority.spki_sha256)).collect();
    let way = way(args, &config, &pki.dir)?;
    let grant = Grant {
        cluster: args.name.clone(),
        instance: args.instance.clone(),
        ttl: args.ttl,
        replace: args.replace,
    };
    let token = State::change(&pki.dir, |state| token::create(state, &grant, now));
    let token = token.map_err(|error| match error {
        TokenError::AlreadyEnrolled { .. } => anyhow::anyhow!(
            "{error}\n  = help: name another with --instance, or let it take that place with --replace"
        ),
        error => error.into(),
    })?;
    let mut out = std::io::stdout();
    // The agent whose place is taken may still have a certificate that looks good where it is.
    let force = if args.replace { " --force" } else { "" };
    writeln!(out, "{}{force}", join_command(&way, &token, &pins))?;
    let mut notes = std::io::stderr();
    writeln!(notes, "good for one agent, once, until {}", utc(now + args.ttl))?;
    Ok(())
}

/// Who dials whom.
#[derive(Debug)]
enum Way {
    /// The agent dials this address.
    Out(String),
    /// The agent waits on this port of its own.
    In(String),
}

/// A cluster that the collector dials does not dial out itself.
fn way(args: &AddArgs, config: &Config, dir: &Path) -> anyhow::Result<Way> {
    if let Some(address) = &args.address {
        return Ok(Way::Out(address.clone()));
    }
    let dialled = config.dial.iter().find(|target| target.cluster.as_str() == args.name);
    if let Some(Target { address, .. }) = dialled {
        return Ok(Way::In(address.rsplit_once(':').map_or("9393", |(_, port)| port).to_owned()));
    }
    let own = bundle::leaf(&dir.join(COLLECTOR).join(LEAF_CERT))?;
    let host = own
        .hosts
        .first()
        .context("the collector's certificate names no host: give --address HOST:PORT")?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    Ok(Way::Out(format!("{host}:{}", config.ingest.listen.port())))
}

/// Both authorities are named while a rotation goes on: either may be the one that the agent meets.
fn join_command(way: &Way, token: &str, pins: &[String]) -> String {
    let there = match way {
        Way::Out(address) => format!("https://{address}"),
        Way::In(port) => format!("--listen 0.0.0.0:{port}"),
    };
    let pins: Vec<String> = pins.iter().map(|pin| format!("--ca-hash {pin}")).collect();
    format!("tributary-agent join {there} --token {token} {}", pins.join(" "))
}

fn remove(args: &RemoveArgs, now: SystemTime) -> anyhow::Result<()> {
    let (_, pki) = args.place.read()?;
    let denied = revoke::remove(&pki.dir, &args.name, "the cluster was removed", now)?;
    tell(&args.name, &denied)?;
    writeln!(
        std::io::stdout(),
        "{} is removed; its series stay until they are too old",
        args.name
    )?;
    Ok(())
}

fn revoke(args: &RevokeArgs, now: SystemTime) -> anyhow::Result<()> {
    let (_, pki) = args.place.read()?;
    let whose = Whose::Name(args.name.clone());
    tell(&args.name, &revoke::revoke(&pki.dir, &whose, &args.why, now)?)
}

fn tell(name: &str, denied: &[Denied]) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    if denied.is_empty() {
        writeln!(out, "{name} holds no valid certificate")?;
    }
    for denied in denied {
        writeln!(out, "revoked: key {} of {}", hex(&denied.spki_sha256), denied.identity)?;
    }
    Ok(())
}

impl Place {
    fn read(&self) -> anyhow::Result<(Config, Pki)> {
        let config = Config::load(&self.config_file, std::env::vars())?;
        let pki = config.pki.clone().with_context(|| {
            format!(
                "{}: pki.dir is not set\n  = help: name the folder that tributary-certs init made, here and for the running collector",
                self.config_file.display()
            )
        })?;
        Ok((config, pki))
    }
}
