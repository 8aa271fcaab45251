//! The demonstration: three clusters on one machine, on real input.

pub mod files;
pub mod mailbox;
pub mod process;
pub mod table;
pub mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tributary_model::duration;
use tributary_model::sample::Timestamp;

use files::{ALERT, Addresses, CLUSTERS, Files, RECORDED};
use mailbox::{Mail, Mailbox};
use process::Children;
use table::Table;
use watch::{Cluster, Watch};

/// The collector's usual port; another one is taken if it is not free.
const WEB_PORT: u16 = 9390;
/// How long the collector may take to be ready.
const START_GRACE: Duration = Duration::from_secs(30);
/// How often the table is refreshed.
const REFRESH: Duration = Duration::from_secs(1);
/// Mails that wait to be shown.
const MAILS: usize = 16;

/// What `demo` can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// End after this time (like 60s); exit code 0 only if every cluster delivered, the rule recorded and the mail came
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub span: Option<Duration>,
    /// Work in this new folder and keep it; otherwise a temporary one that is removed
    #[arg(long, value_name = "FOLDER")]
    pub dir: Option<PathBuf>,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|e| e.to_string())
}

/// Runs the demonstration until its time is over or somebody stops it.
pub async fn command(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let binaries = match Binaries::beside_ourselves() {
        Ok(binaries) => binaries,
        Err(problem) => {
            writeln!(std::io::stderr(), "{problem}")?;
            return Ok(ExitCode::from(2));
        }
    };
    let temporary = if args.dir.is_none() {
        Some(tempfile::Builder::new().prefix("tributary-demo-").tempdir()?)
    } else {
        None
    };
    let root = match (&args.dir, &temporary) {
        (Some(dir), _) => {
            std::fs::create_dir(dir)
                .with_context(|| format!("making the new folder {}", dir.display()))?;
            dir.canonicalize()?
        }
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => anyhow::bail!("there is no folder to work in"),
    };
    let stop = CancellationToken::new();
    let (sender, mails) = mpsc::channel(MAILS);
    let mailbox = Mailbox::bind(sender).await.context("opening the demo's mail box")?;
    let prometheus = process::in_path("prometheus");
    let at = addresses(mailbox.address()?, prometheus.is_some())?;
    let post = tokio::spawn(mailbox.run(stop.clone()));
    let mut children = Children::new(temporary.as_ref().map(tempfile::TempDir::path))?;
    let mut demo = Demo {
        files: Files::new(&root),
        watch: Watch::new(at.web),
        at,
        table: Table::stdout(),
        seen: Seen::default(),
        mails,
    };
    let result = demo.run(&binaries, prometheus.as_deref(), &mut children, args.span).await;
    // A closed output must not keep the children alive.
    let _ = demo.table.say("Stopping…");
    children.stop().await;
    stop.cancel();
    post.await?;
    if let Some(temporary) = temporary {
        temporary.close().context("removing the demo's folder")?;
    }
    demo.verdict(result?, args.span.is_some())
}

/// How the demo ended.
enum End {
    /// Its time was over.
    Over,
    /// Somebody wanted it to end.
    Stopped,
    /// A child ended by itself, or did not start.
    Failed(String),
}

/// What has been seen to work.
#[derive(Default)]
struct Seen {
    delivered: BTreeSet<String>,
    recorded: bool,
    mailed: bool,
}

struct Demo {
    files: Files,
    watch: Watch,
    at: Addresses,
    table: Table<std::io::Stdout>,
    seen: Seen,
    mails: mpsc::Receiver<Mail>,
}

impl Demo {
    async fn run(
        &mut self,
        binaries: &Binaries,
        prometheus: Option<&Path>,
        children: &mut Children,
        span: Option<Duration>,
    ) -> anyhow::Result<End> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let work = async {
            self.prepare(binaries).await?;
            if let Some(problem) = self.start(binaries, prometheus, children).await? {
                return Ok(End::Failed(problem));
            }
            self.introduce(prometheus.is_some())?;
            self.follow(children, span).await
        };
        tokio::select! {
            end = work => end,
            _ = terminate.recv() => Ok(End::Stopped),
            _ = interrupt.recv() => Ok(End::Stopped),
        }
    }

    /// Certificates and configuration files.
    async fn prepare(&mut self, binaries: &Binaries) -> anyhow::Result<()> {
        let pki = self.files.path("pki").display().to_string();
        let init = ["init", "--dir", &pki, "--host", "127.0.0.1", "--host", "localhost"];
        process::run(&binaries.certs, &init).await?;
        for cluster in CLUSTERS {
            process::run(&binaries.certs, &["issue", cluster, "--dir", &pki]).await?;
        }
        self.files.write(&self.at).context("writing the demo's files")
    }

    /// Starts everything; returns what went wrong, if something did.
    async fn start(
        &mut self,
        binaries: &Binaries,
        prometheus: Option<&Path>,
        children: &mut Children,
    ) -> anyhow::Result<Option<String>> {
        let config = |path: PathBuf| format!("--config.file={}", path.display());
        let arguments = ["run".to_owned(), config(self.files.collector_config())];
        let log = self.files.path("collector.log");
        children.start("the collector", &binaries.collector, &arguments, log).await?;
        let deadline = Instant::now() + START_GRACE;
        while !self.watch.ready().await {
            if let Some(problem) = children.ended() {
                return Ok(Some(problem));
            }
            if Instant::now() > deadline {
                return Ok(Some(format!("the collector is not ready after {START_GRACE:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for (index, cluster) in CLUSTERS.into_iter().enumerate() {
            let arguments = ["run".to_owned(), config(self.files.agent_config(cluster))];
            let log = self.files.path(&format!("{cluster}.log"));
            let name = format!("the agent of {cluster}");
            children.start(&name, &binaries.agent, &arguments, log).await?;
            if let (Some(program), Some(address)) = (prometheus, self.at.prometheus.get(index)) {
                let arguments = [
                    config(self.files.prometheus_config(cluster)),
                    format!(
                        "--storage.tsdb.path={}",
                        self.files.path(cluster).join("tsdb").display()
                    ),
                    format!("--web.listen-address={address}"),
                ];
                let log = self.files.path(&format!("{cluster}-prometheus.log"));
                children
                    .start(&format!("the Prometheus of {cluster}"), program, &arguments, log)
                    .await?;
            }
        }
        Ok(None)
    }

    fn introduce(&mut self, prometheus: bool) -> anyhow::Result<()> {
        let web = self.at.web;
        let input = if prometheus {
            "each with a Prometheus beside it that writes to its agent"
        } else {
            "each agent scraping the running processes (no prometheus in PATH)"
        };
        let show = |path: &str, query: &str| {
            if query.is_empty() {
                format!("  curl -s http://{web}{path}")
            } else {
                format!("  curl -s http://{web}{path} --data-urlencode 'query={query}'")
            }
        };
        let lines = [
            format!("Tributary at http://{web} with three clusters over mutual TLS, {input}."),
            "Try:".to_owned(),
            show("/api/v1/query", "sum by (cluster) (up)"),
            show("/api/v1/query", RECORDED),
            show("/api/v1/tributary/clusters", ""),
            "Ctrl-C ends everything.".to_owned(),
        ];
        self.table.say(&lines.join("\n"))?;
        Ok(())
    }

    /// Looks again and again until the time is over or a child ends.
    async fn follow(
        &mut self,
        children: &mut Children,
        span: Option<Duration>,
    ) -> anyhow::Result<End> {
        let end = span.map(|span| Instant::now() + span);
        let mut refresh = tokio::time::interval(REFRESH);
        loop {
            tokio::select! {
                Some(mail) = self.mails.recv() => self.print(&mail)?,
                _ = refresh.tick() => {
                    if let Some(problem) = children.ended() {
                        return Ok(End::Failed(problem));
                    }
                    let now = Timestamp::from(std::time::SystemTime::now());
                    let clusters = self.watch.clusters(now).await;
                    self.note(&clusters).await?;
                    let footer = self.footer();
                    self.table.show(&clusters, &footer)?;
                    if end.is_some_and(|end| Instant::now() >= end) {
                        return Ok(End::Over);
                    }
                }
            }
        }
    }

    async fn note(&mut self, clusters: &BTreeMap<String, Cluster>) -> anyhow::Result<()> {
        let delivered = clusters.iter().filter(|(_, cluster)| cluster.samples > 0);
        self.seen.delivered.extend(delivered.map(|(name, _)| name.clone()));
        if !self.seen.recorded {
            // One target answers locally; the clusters send `up` too, and must not be counted.
            let values = self.watch.query(RECORDED).await;
            if values == [("local".to_owned(), "1".to_owned())] {
                self.seen.recorded = true;
                self.table.say(&format!("rule: {RECORDED} recorded for cluster local"))?;
            }
        }
        Ok(())
    }

    fn print(&mut self, mail: &Mail) -> anyhow::Result<()> {
        let subject = mail.header("Subject").unwrap_or_default();
        self.seen.mailed |= subject.contains(ALERT);
        let body = mail.body();
        let quoted: Vec<String> =
            body.trim_end().lines().map(|line| format!("  | {}", clean(line))).collect();
        let (to, subject) = (mail.to.join(", "), clean(&subject));
        self.table.say(&format!("mail to {to}: {subject}\n{}", quoted.join("\n")))?;
        Ok(())
    }

    fn footer(&self) -> String {
        let tick = |done: bool| if done { "yes" } else { "not yet" };
        format!(
            "  rule recorded: {}   alert mailed: {}",
            tick(self.seen.recorded),
            tick(self.seen.mailed)
        )
    }

    /// What is missing decides the exit code, if the demo was to prove something.
    fn verdict(&mut self, end: End, proof: bool) -> anyhow::Result<ExitCode> {
        let mut missing: Vec<String> = CLUSTERS
            .into_iter()
            .filter(|cluster| !self.seen.delivered.contains(*cluster))
            .map(|cluster| format!("cluster {cluster} delivered no samples"))
            .collect();
        if !self.seen.recorded {
            missing.push(format!("the rule {RECORDED} was not recorded"));
        }
        if !self.seen.mailed {
            missing.push(format!("the mail about {ALERT} did not come"));
        }
        match end {
            End::Failed(problem) => {
                self.table.say(&format!("error: {problem}"))?;
                return Ok(ExitCode::FAILURE);
            }
            End::Stopped => return Ok(ExitCode::SUCCESS),
            End::Over if missing.is_empty() => {
                self.table
                    .say("ok: every cluster delivered, the rule recorded, the alert was mailed")?;
            }
            End::Over => {
                self.table.say(&format!("failed: {}", missing.join("; ")))?;
            }
        }
        Ok(if missing.is_empty() || !proof { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The three programs.
struct Binaries {
    collector: PathBuf,
    agent: PathBuf,
    certs: PathBuf,
}

impl Binaries {
    /// Ourselves, and the other two in the same folder.
    fn beside_ourselves() -> anyhow::Result<Self> {
        let collector = std::env::current_exe().context("finding our own binary")?;
        let folder = collector.parent().unwrap_or(Path::new("")).to_owned();
        let find = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(anyhow::anyhow!(
                "error: {name} is not there\n  --> {}\n  = help: build it beside this program: cargo build --release -p tributary-agent -p tributary-certs",
                folder.display()
            ))
        };
        Ok(Self { agent: find("tributary-agent")?, certs: find("tributary-certs")?, collector })
    }
}

/// Free ports for everything.
fn addresses(mail: SocketAddr, prometheus: bool) -> anyhow::Result<Addresses> {
    // All are held until the last one is found, so that none is given out twice.
    let mut held = Vec::new();
    let mut free = |wanted: u16| -> anyhow::Result<SocketAddr> {
        let listener = TcpListener::bind(("127.0.0.1", wanted))
            .or_else(|_| TcpListener::bind(("127.0.0.1", 0)))
            .context("finding a free port")?;
        let address = listener.local_addr()?;
        held.push(listener);
        Ok(address)
    };
    let (web, ingest) = (free(WEB_PORT)?, free(0)?);
    let mut one_each = || CLUSTERS.map(|_| free(0)).into_iter().collect::<Result<Vec<_>, _>>();
    let agents = one_each()?;
    let prometheus = if prometheus { one_each()? } else { Vec::new() };
    Ok(Addresses { web, ingest, mail, agents, prometheus })
}

/// Text from a mail, safe to print on a terminal.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}
