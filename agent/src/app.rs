//! Puts the parts together, runs them, and stops them in order: sources, spool, last acknowledgement.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tributary_certs::identity::Identity;
use tributary_certs::tls::{ClientTls, Files, Material, ServerTls, TlsError};
use tributary_model::cluster::ClusterName;
use tributary_model::sample::Timestamp;
use tributary_proto::frame::{Gap, GapCause};

use crate::admin::{self, Admin};
use crate::allow::rules::{AllowlistError, Rules};
use crate::allow::{AllowMetrics, Allowlist, Screen};
use crate::config::{self, Config, ConfigError};
use crate::credentials::{Credentials, Tls};
use crate::handover::Handover;
use crate::link::{Link, chain};
use crate::metrics::{CertificateMetrics, LinkMetrics, ProcessMetrics, SpoolMetrics};
use crate::outlet::Outlet;
use crate::pipeline::Pipeline;
use crate::reload::Reloader;
use crate::session::{Session, Speaker};
use crate::source::{self, SourceMetrics, remote_write};
use crate::spool::{self, SharedSpool, SpoolError};

/// A pause shorter than this between the newest spooled sample and the start is no gap of its own.
const SHORT_PAUSE: Duration = Duration::from_secs(60);

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// `agent.yml`
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The certificate, its key or the authority.
    #[error("{text}\n   = help: {help}")]
    Tls {
        /// What is wrong, with its causes.
        text: String,
        /// What to do.
        help: String,
    },
    /// The certificate is somebody else's.
    #[error(
        "the certificate is for {certificate}, but the configuration says {key}: {wanted}\n  --> {path}\n   = help: \
         correct {key}, or issue a certificate with tributary-certs issue {wanted}"
    )]
    Identity {
        /// Whom it is for.
        certificate: String,
        /// The key that disagrees.
        key: &'static str,
        /// What it says.
        wanted: String,
        /// The certificate.
        path: PathBuf,
    },
    /// The certificate is a collector's.
    #[error(
        "the certificate is for {certificate}, but this is an agent\n  --> {path}\n   = help: issue one with \
         tributary-certs issue CLUSTER --dir pki"
    )]
    NotAgent {
        /// Whom it is for.
        certificate: String,
        /// The certificate.
        path: PathBuf,
    },
    /// The allowlist cannot be read.
    #[error(
        "{0}\n   = help: the file is allowlist_file in the configuration; nothing leaves that it does not list"
    )]
    NoAllowlist(String),
    /// The allowlist's text is at fault.
    #[error(transparent)]
    Allowlist(AllowlistError),
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// A target of `sources.scrape`.
    #[error("{0}")]
    Source(String),
    /// The spool.
    #[error("cannot open the spool {}\n   = help: {help}", path.display())]
    Spool {
        /// The folder.
        path: PathBuf,
        /// What to do.
        help: &'static str,
        /// Why not.
        source: SpoolError,
    },
    /// A port.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
    /// Signals, timers.
    #[error("the system refused")]
    System(#[from] std::io::Error),
}

/// What the files say, read and checked before a port is bound or the spool is touched.
pub(crate) struct Checked {
    pub(crate) config: Config,
    pub(crate) material: Material,
    pub(crate) speaker: Speaker,
    pub(crate) rules: Rules,
}

impl Checked {
    /// Reads certificate and allowlist.
    pub(crate) fn new(config: Config) -> Result<Self, StartError> {
        let material = load_material(&config.tls)?;
        let speaker = speaker(&config, &material)?;
        let rules = Rules::load(&config.allowlist_file).map_err(|error| match error {
            AllowlistError::Read { .. } => StartError::NoAllowlist(chain(&error)),
            fault @ AllowlistError::Fault(_) => StartError::Allowlist(fault),
        })?;
        Ok(Self { config, material, speaker, rules })
    }
}

fn load_material(files: &Files) -> Result<Material, StartError> {
    let fail = |error: &TlsError, help: String| StartError::Tls { text: chain(error), help };
    Material::load(files).map_err(|error| {
        let help = "make a certificate with tributary-agent join (the collector's clusters add prints the command) or \
                    tributary-certs issue CLUSTER --dir pki, and give its folder's tls.crt, tls.key and ca.crt in tls:";
        fail(&error, help.to_owned())
    })
}

/// The certificate decides who we are; the configuration may only agree.
fn speaker(config: &Config, material: &Material) -> Result<Speaker, StartError> {
    let identity = material.identity();
    let differs = |key, wanted: &str| StartError::Identity {
        certificate: identity.describe(),
        key,
        wanted: wanted.to_owned(),
        path: config.tls.cert_file.clone(),
    };
    let Identity::Agent { cluster, instance, .. } = identity else {
        return Err(StartError::NotAgent {
            certificate: identity.describe(),
            path: config.tls.cert_file.clone(),
        });
    };
    if let Some(wanted) = config.cluster.as_ref().filter(|wanted| wanted.as_str() != cluster) {
        return Err(differs("cluster", wanted.as_str()));
    }
    if let Some(wanted) = config.instance.as_ref().filter(|wanted| *wanted != instance) {
        return Err(differs("instance", wanted));
    }
    let cluster = cluster.parse::<ClusterName>().map_err(|_| differs("cluster", cluster))?;
    Ok(Speaker { cluster, instance: instance.clone(), run: rand::random_range(1..=u64::MAX) })
}

/// Runs until SIGTERM or SIGINT, and stops in order.
pub(crate) async fn run(checked: Checked) -> Result<(), StartError> {
    let mut registry = Registry::default();
    let mut signals = Signals::new()?;
    let app = App::build(checked, &mut registry).await?;
    app.run(registry, &mut signals).await
}

/// Everything, ready to run.
struct App {
    config: Config,
    speaker: Speaker,
    listener: TcpListener,
    spool: Arc<SharedSpool>,
    pipeline: Pipeline,
    sources: Vec<Source>,
    routes: Router,
    link: Way,
    handover: Arc<Handover>,
    reloader: Reloader,
}

/// How frames leave.
enum Way {
    Link(Link),
    Outlet(Outlet),
}

/// Our side of TLS, and where it is used.
enum Door {
    Dial(String, Arc<ClientTls>),
    Listen(TcpListener, Arc<ServerTls>),
}

impl Door {
    /// The one that the configuration says.
    async fn new(way: &config::Way, material: &Material) -> Result<Self, StartError> {
        let unusable = |error: TlsError| StartError::Tls {
            text: chain(&error),
            help: "issue a certificate for an agent with tributary-certs issue".to_owned(),
        };
        Ok(match way {
            config::Way::Dial(address) => {
                let tls = ClientTls::new(material).map_err(unusable)?;
                Self::Dial(address.clone(), Arc::new(tls))
            }
            config::Way::Listen(address) => {
                let tls = ServerTls::new(material).map_err(unusable)?;
                Self::Listen(bind(*address).await?, Arc::new(tls))
            }
        })
    }

    /// How people call the collector.
    fn collector(&self) -> String {
        match self {
            Self::Dial(address, _) => address.clone(),
            Self::Listen(..) => "dials us".to_owned(),
        }
    }

    fn tls(&self) -> Tls {
        match self {
            Self::Dial(_, tls) => Tls::Client(tls.clone()),
            Self::Listen(_, tls) => Tls::Server(tls.clone()),
        }
    }

    fn way(self, session: Session, handover: Arc<Handover>) -> Way {
        match self {
            Self::Dial(address, tls) => Way::Link(Link::new(address, tls, session, handover)),
            Self::Listen(listener, tls) => {
                Way::Outlet(Outlet::new(listener, tls, session, handover))
            }
        }
    }
}

impl Way {
    async fn run(self, drain: CancellationToken) {
        match self {
            Self::Link(link) => link.run(drain).await,
            Self::Outlet(outlet) => outlet.run(drain).await,
        }
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| StartError::Listen { address: address.to_string(), source })
}

/// A source that runs by itself.
enum Source {
    Scraper(source::scrape::Scraper),
    Federation(Box<source::federate::Federation>),
}

impl App {
    async fn build(checked: Checked, registry: &mut Registry) -> Result<Self, StartError> {
        let Checked { config, material, speaker, rules } = checked;
        let process = ProcessMetrics::new(registry);
        let spool_metrics = SpoolMetrics::new(registry, config.spool.max_bytes);
        let link_metrics = LinkMetrics::new(registry);
        let mut allow = Allowlist::new(rules, AllowMetrics::new(registry));
        let screen = allow.screen();
        let (sender, arrivals) = mpsc::channel(source::QUEUE_ARRIVALS);
        let parts = SourceParts { sender, screen, metrics: SourceMetrics::new(registry) };
        let sources = parts.sources(&config)?;
        let spool = open_spool(&config, spool_metrics.clone(), &mut allow)?;
        let listener = bind(config.listen).await?;
        let (to_pipeline, new_rules) = mpsc::channel(1);
        let door = Door::new(&config.way, &material).await?;
        let handover = Handover::new(door.collector(), link_metrics.clone());
        let credentials = Credentials::new(
            (config.tls.clone(), config.renew),
            &material,
            door.tls(),
            handover.clone(),
            CertificateMetrics::new(registry),
        );
        let session =
            Session::new(spool.clone(), speaker.clone(), credentials.clone(), link_metrics);
        Ok(Self {
            pipeline: Pipeline::new(allow, spool.clone(), arrivals, new_rules, spool_metrics)
                .waiting(config.send),
            link: door.way(session, handover.clone()),
            handover,
            reloader: Reloader {
                credentials,
                allowlist: config.allowlist_file.clone(),
                rules: to_pipeline,
                metrics: process,
            },
            routes: parts.routes(&config),
            sources,
            config,
            speaker,
            listener,
            spool,
        })
    }

    async fn run(self, registry: Registry, signals: &mut Signals) -> Result<(), StartError> {
        let (sources_stop, drain) = (CancellationToken::new(), CancellationToken::new());
        let (reload, reloads) = mpsc::channel(1);
        let admin = Admin {
            cluster: self.speaker.cluster.to_string(),
            instance: self.speaker.instance.clone(),
            collector: self.config.way.to_string(),
            spool: self.spool.clone(),
            link: self.handover.watch(),
            certificate: self.reloader.credentials.watch(),
            registry,
            reload: reload.clone(),
        };
        let router = admin::router(admin).merge(self.routes);
        let grace = self.config.shutdown_grace;
        tracing::info!(
            cluster = %self.speaker.cluster,
            instance = self.speaker.instance,
            listen = %self.config.listen,
            way = %self.config.way,
            version = env!("CARGO_PKG_VERSION"),
            "started"
        );
        let mut feeding = JoinSet::new();
        feeding.spawn(admin::serve(self.listener, router, sources_stop.clone()));
        for source in self.sources {
            let stop = sources_stop.clone();
            feeding.spawn(async move {
                match source {
                    Source::Scraper(scraper) => scraper.run(stop).await,
                    Source::Federation(federation) => federation.run(stop).await,
                }
            });
        }
        let mut rest = JoinSet::new();
        rest.spawn(self.reloader.run(reloads, sources_stop.clone()));
        let pipeline = rest.spawn(self.pipeline.run());
        let link = tokio::spawn(self.link.run(drain.clone()));
        signals.wait(&reload, &pipeline).await;

        tracing::info!(grace = ?grace, "stopping: sources first, then the last acknowledgement");
        let deadline = tokio::time::Instant::now() + grace;
        sources_stop.cancel();
        let _ = tokio::time::timeout_at(deadline, async {
            // A part that panicked has been heard of; the others still stop in order.
            while feeding.join_next().await.is_some() {}
            while rest.join_next().await.is_some() {}
        })
        .await;
        drain.cancel();
        if tokio::time::timeout_at(deadline, link).await.is_err() {
            let frames = self.spool.status().waiting();
            tracing::warn!(frames, "the grace period is over; what is left waits in the spool");
        }
        Ok(())
    }
}

/// What sources are made of.
struct SourceParts {
    sender: source::Sender,
    screen: Screen,
    metrics: SourceMetrics,
}

impl SourceParts {
    /// The sources that run by themselves.
    fn sources(&self, config: &Config) -> Result<Vec<Source>, StartError> {
        let parts = source::scrape::Parts {
            sender: self.sender.clone(),
            screen: self.screen.clone(),
            metrics: self.metrics.clone(),
            fetcher: Arc::new(source::http::Fetcher::new()),
        };
        let mut sources = Vec::new();
        if !config.sources.scrape.is_empty() {
            let scraper = source::scrape::Scraper::new(&config.sources.scrape, &parts);
            let scraper = scraper.map_err(|error| StartError::Source(chain(&error)))?;
            sources.push(Source::Scraper(scraper));
        }
        for federate in &config.sources.federate {
            let federation = source::federate::Federation::new(federate.clone(), parts.clone());
            sources.push(Source::Federation(Box::new(federation)));
        }
        Ok(sources)
    }

    /// What sources add to the HTTP port.
    fn routes(self, config: &Config) -> Router {
        if config.sources.remote_write {
            remote_write::router(self.sender, self.screen, self.metrics)
        } else {
            Router::new()
        }
    }
}

/// Opens the spool and takes up the merges that an earlier process left in it.
fn open_spool(
    config: &Config,
    metrics: SpoolMetrics,
    allow: &mut Allowlist,
) -> Result<Arc<SharedSpool>, StartError> {
    let options =
        spool::Options { dir: config.spool.path.clone(), max_bytes: config.spool.max_bytes };
    let fail = |source: SpoolError| {
        let help = if matches!(source, SpoolError::Journal(tributary_journal::Error::Locked { .. }))
        {
            "another agent runs with this folder: stop it, or give each its own spool.path"
        } else {
            "the folder must be writable by the agent; it is spool.path in the configuration"
        };
        StartError::Spool { path: config.spool.path.clone(), help, source }
    };
    let (spool, recovered) = SharedSpool::open(options, metrics).map_err(fail)?;
    for note in &recovered.notes {
        tracing::warn!("{note}");
    }
    let snapshot = recovered.snapshot.unwrap_or_default();
    if let Err(error) = allow.restore(&snapshot, &recovered.changes) {
        tracing::error!(%error, "merges start anew");
    }
    // Remote write brings what it could not deliver; nobody brings what was not scraped.
    let scrapes = !config.sources.federate.is_empty() || !config.sources.scrape.is_empty();
    let now = Timestamp::from(SystemTime::now());
    let away = recovered.newest.filter(|at| scrapes && now.since(*at) > SHORT_PAUSE);
    let gap = away.map(|from| Gap { from, to: now, cause: GapCause::AgentDown, samples: 0 });
    spool.with(|spool| spool.begin(allow, gap.as_slice())).map_err(fail)?;
    Ok(spool)
}

/// What the process is told from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the agent is to stop; passes on requests to reload.
    async fn wait(&mut self, reload: &admin::Reload, pipeline: &tokio::task::AbortHandle) {
        let mut alive = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => {
                    let (answer, _) = oneshot::channel();
                    let _ = reload.send(answer).await;
                }
                _ = alive.tick(), if !pipeline.is_finished() => {}
                () = std::future::ready(()), if pipeline.is_finished() => {
                    tracing::error!("the pipeline ended unexpectedly");
                    return;
                }
            }
        }
    }
}
