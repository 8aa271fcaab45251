//! Assembles the parts, starts them, and stops them in order: intake first, then mails, then the web.

mod certificates;
pub(crate) mod files;
mod settings;
mod stage;
mod storage;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tributary_model::sample::Timestamp;
use tributary_store::Store;

use self::certificates::Certificates;
use self::files::{Files, StartError};
use self::settings::{notify_settings, policies, push, queries, rule_settings, runtime};
use self::stage::{Signals, Stage, Wish};
use self::storage::Opened;
use crate::admin::{self, Admin, ReloadRequest};
use crate::api::serve::Port;
use crate::api::{self, Api, view};
use crate::config::Config;
use crate::facts::{AppFacts, Newest};
use crate::host::Host;
use crate::ingest::metrics::IngestMetrics;
use crate::ingest::policy::Policies;
use crate::ingest::{self, Ingest};
use crate::local::Writer;
use crate::metrics::{self, ProcessMetrics};
use crate::notify::{self, Notifier};
use crate::own::OwnMetrics;
use crate::pki::credentials::Credentials;
use crate::rules;
use crate::rules::engine::Engine;
use crate::scrape::Scraper;

/// Wishes to reload that wait. Full: the next one waits.
const RELOADS: usize = 4;

/// Runs the collector until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    certificates::renew_expired(&config, SystemTime::now())?;
    let files = Files::read(&config)?;
    let web = bind("web.listen", config.web.listen).await?;
    let ingest = bind("ingest.listen", config.ingest.listen).await?;
    let started = SystemTime::now();
    let opened = storage::open(&config).await?;
    let mut running = Running::start(config, files, Ports { web, ingest }, opened, started)?;
    running.until_stopped(&mut signals).await;
    running.stop(&mut signals).await
}

async fn bind(key: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, key, source })
}

struct Ports {
    web: TcpListener,
    ingest: TcpListener,
}

/// The running parts, in the three stages in which they stop.
struct Running {
    config: Config,
    intake: Stage,
    alerting: Stage,
    web: Stage,
    store: Store,
    ready: Arc<AtomicBool>,
    reloads: mpsc::Receiver<ReloadRequest>,
    reloadable: Reloadable,
    metrics: ProcessMetrics,
}

/// What a reload replaces.
struct Reloadable {
    credentials: Arc<Credentials>,
    policies: Arc<ArcSwap<Policies>>,
    port: Arc<Port>,
    alerting: Option<Arc<tokio::sync::watch::Sender<notify::Settings>>>,
    rules: Engine<Host>,
    runtime: Arc<Mutex<view::Runtime>>,
}

impl Running {
    fn start(
        config: Config,
        files: Files,
        ports: Ports,
        Opened { store, replayer }: Opened,
        started: SystemTime,
    ) -> anyhow::Result<Self> {
        let mut registry = metrics::registry();
        let metrics = ProcessMetrics::new(&mut registry);
        let (mut intake, mut alerting, mut web) =
            (Stage::default(), Stage::default(), Stage::default());
        files.port.register(&mut registry);
        let queries = queries(&config, &store);
        queries.register(&mut registry);
        let mut host = Host {
            store: store.clone(),
            queries: queries.clone(),
            writer: Writer::new(store.clone(), config.local_cluster.clone(), started),
            cluster_label: config.cluster_label.clone(),
            local_cluster: config.local_cluster.clone(),
            alerts: None,
        };
        let settings = notify_settings(&config, files.alerting);
        let notifier = settings.map(|settings| {
            Notifier::new(settings, host.clone(), notify::metrics::Metrics::register(&mut registry))
        });
        host.alerts = notifier.as_ref().map(Notifier::sender);

        let certificates = Certificates::new(&config, files.tls, &mut registry)?;
        let credentials = certificates.credentials.clone();
        let mut readers = replayer.into_readers();
        // What the collector itself has written comes from no agent.
        readers.retain(|key, _| key.cluster != config.local_cluster);
        let mut ingest = Ingest::new(
            ingest::Config::new(config.cluster_label.clone(), policies(&config)),
            store.clone(),
            (credentials.server(), credentials.trust()),
            IngestMetrics::new(&mut registry),
            readers,
        );
        certificates.start(&config, &mut ingest, &mut registry, &mut intake);
        let rule_metrics = rules::metrics::Metrics::register(&mut registry);
        let engine = Engine::new(rule_settings(&config), files.rules, host.clone(), rule_metrics);
        let scraper = Scraper::new(&config.scrape, host.clone());
        let runtime = Arc::new(Mutex::new(runtime(&config, started.into())));
        let facts = AppFacts {
            registry: ingest.registry(),
            trust: credentials.trust(),
            store: store.clone(),
            rules: engine.clone(),
            scraper: scraper.shown(),
            runtime: Arc::clone(&runtime),
            config: config.shown(),
            newest: Newest::default(),
        };
        let (reload, reloads) = mpsc::channel(RELOADS);
        let ready = Arc::new(AtomicBool::new(false));
        let registry = Arc::new(registry);
        let own = OwnMetrics::new(Arc::clone(&registry), host.clone());
        let admin = Admin { registry, ready: Arc::clone(&ready), reload };
        let api = Api {
            queries,
            facts: Arc::new(facts),
            cluster_label: config.cluster_label.as_str().into(),
            local_cluster: config.local_cluster.as_str().into(),
            push: push(&config, &store, ingest.policies(), started),
            clock: || SystemTime::now().into(),
        };
        let pages = admin::router(admin).merge(api::router(api));

        let dialler = ingest.dialler(credentials.client(), config.dial.clone());
        let reloadable = Reloadable {
            credentials,
            policies: ingest.policies(),
            port: Arc::clone(&files.port),
            alerting: notifier.as_ref().map(Notifier::settings),
            rules: engine.clone(),
            runtime,
        };
        if let Some(notifier) = notifier {
            alerting.spawn(|stop| async move {
                if let Err(error) = notifier.run(stop).await {
                    tracing::error!(%error, "the notifier ended");
                }
            });
        }
        intake.spawn(|stop| ingest.run(ports.ingest, stop));
        intake.spawn(|stop| dialler.run(stop));
        intake.spawn(|stop| scraper.run(stop));
        intake.spawn(|stop| own.run(stop));
        intake.spawn(|stop| engine.run(stop));
        web.spawn(|stop| files.port.serve(ports.web, pages, stop));
        web.spawn({
            let store = store.clone();
            |stop| storage::maintain(store, stop)
        });
        ready.store(true, Ordering::Relaxed);
        tracing::info!(web = %config.web.listen, ingest = %config.ingest.listen, "Tributary collector is ready");
        Ok(Self { config, intake, alerting, web, store, ready, reloads, reloadable, metrics })
    }

    /// Serves reloads until somebody wants the collector to stop.
    async fn until_stopped(&mut self, signals: &mut Signals) {
        loop {
            tokio::select! {
                wish = signals.next() => match wish {
                    Wish::Stop => return,
                    Wish::Reload => drop(self.reload()),
                },
                Some(request) = self.reloads.recv() => drop(request.send(self.reload())),
            }
        }
    }

    /// Re-reads the configuration and what it names. What is wrong is refused as a whole, and the old stays in force.
    fn reload(&mut self) -> Result<(), String> {
        let now = Timestamp::from(SystemTime::now());
        let reloaded = self.try_reload();
        let mut runtime = self.reloadable.runtime.lock().unwrap_or_else(PoisonError::into_inner);
        runtime.reload_ok = reloaded.is_ok();
        match &reloaded {
            Ok(()) => {
                runtime.config_read = now;
                self.metrics.reload_successful.set(1);
                self.metrics.reload_success_time.set(now.as_secs_f64());
                tracing::info!(
                    "the configuration was read again: certificates, policies, rules, alerting, web"
                );
            }
            Err(error) => {
                self.metrics.reload_successful.set(0);
                self.metrics.reloads_refused.inc();
                tracing::error!(%error, "the reload was refused; the old configuration stays in force");
            }
        }
        reloaded.map_err(|e| e.to_string())
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let config = Config::load(&self.config.file, std::env::vars())?;
        let files = Files::read(&config)?;
        let in_force = &self.reloadable;
        in_force.credentials.replace(files.tls)?;
        in_force.port.reload()?;
        in_force.policies.store(Arc::new(policies(&config)));
        let settings = notify_settings(&config, files.alerting);
        if let (Some(replace), Some(settings)) = (&in_force.alerting, settings) {
            replace.send_replace(settings);
        }
        in_force.rules.replace(rule_settings(&config), files.rules);
        for key in self.config.fixed_keys_that_differ(&config) {
            tracing::warn!(key, "this change takes a restart");
        }
        self.config = config;
        Ok(())
    }

    /// Stops intake, then mails, then the web; a second signal or the end of the grace cuts the rest off.
    async fn stop(mut self, signals: &mut Signals) -> anyhow::Result<ExitCode> {
        tracing::info!(grace = ?self.config.shutdown_grace, "stopping");
        self.ready.store(false, Ordering::Relaxed);
        let parts = async {
            self.intake.stop().await;
            self.alerting.stop().await;
            self.web.stop().await;
        };
        tokio::select! {
            () = parts => {}
            () = tokio::time::sleep(self.config.shutdown_grace) => tracing::warn!("the grace is over; what still ran was cut off"),
            () = signals.stop() => tracing::warn!("a second signal; what still ran was cut off"),
        }
        // Closing waits for the journal: what was taken is on disk.
        let store = self.store;
        tokio::task::spawn_blocking(move || drop(store)).await?;
        tracing::info!("stopped");
        Ok(ExitCode::SUCCESS)
    }
}
