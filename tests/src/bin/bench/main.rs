//! Measures this project beside Prometheus, VictoriaMetrics and vmagent, all on the same made-up fleet, and prints one
//! table.

mod feed;
mod loss;
mod measures;
mod meter;
mod ours;
mod peers;
mod queries;
mod report;
mod vmagent;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, ValueEnum};
use queries::Answers;
use report::{Report, System};
use tokio::signal::unix::{SignalKind, signal};
use tributary_tests::fleet_data::{Plan, Shape};
use tributary_tests::now_ms;
use tributary_tests::world::use_binaries;

/// Measures this project's collector and agents beside Prometheus, VictoriaMetrics and vmagent, on the same made-up fleet
/// and the same machine, and prints one table.
///
/// Every program is fed the same samples by remote write 1.0: one sample of each series in a scrape, 2,000 samples in a
/// request. Ours goes through one agent for each cluster, over mTLS, to one collector; the agents' series do not name
/// their cluster, as the collector adds that from the certificate. The newest sample is about as old as the run.
///
/// The programs run one after the other, so that nobody disturbs anybody. CPU time, memory and bytes written are the
/// whole process', as the kernel counts them. In the last column, 2× means: twice as good as the best of the others.
///
/// Rows that need a word: a server's CPU time counts until everything is on its disk; bytes written count until its folder
/// is at rest. Compacted is, for ours, after an ordered end; for Prometheus, a snapshot, which has everything in blocks;
/// for VictoriaMetrics, after a forced merge. All of the wire is counted between the agents and the server, in both
/// directions; vmagent is given one scrape after the other for that, so that it sends one block for each. Queries are
/// asked after a restart, VictoriaMetrics with nocache=1; ours must answer what Prometheus answers, to 1e-9.
///
/// The size that is compared with goals is --hours 12; the default is over in a minute or two. Folders are made below
/// $TMPDIR: point that at the disk that is meant. Everything ends with Ctrl-C.
///
/// Exit codes: 0 measured, 1 something failed, 2 usage.
#[derive(Debug, Parser)]
#[command(name = "tests/bench", version, after_help = EXAMPLES)]
pub struct Arguments {
    /// How many clusters; each has an agent of its own.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    clusters: usize,
    /// Series of each cluster.
    #[arg(long, value_name = "COUNT", default_value_t = 2_000)]
    series: usize,
    /// How much time the samples span.
    #[arg(long, default_value_t = 1.0)]
    hours: f64,
    /// Time between two scrapes.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    step: u32,
    /// Which metrics the fleet has.
    #[arg(long, value_enum, default_value_t = Shape::Fleet)]
    shape: Shape,
    /// Decides labels and values.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Send the last scrapes of ours at a pace of one a second and cluster, to see how fast they are acknowledged.
    #[arg(long, value_name = "SCRAPES", default_value_t = 10)]
    paced: u64,
    /// Ask everybody the same questions, too.
    #[arg(long)]
    queries: bool,
    /// Kill our collector so many times right after an acknowledgement, and the others once.
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    kills: u64,
    /// Whom to measure; by default ours and whatever is found of the others.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<System>,
    /// The folder with prometheus, victoria-metrics and vmagent, if they are not in PATH.
    #[arg(long, value_name = "DIR", env = "PEERS_DIR")]
    peers: Option<PathBuf>,
    /// The folder with our binaries, instead of building them.
    #[arg(long, value_name = "DIR", env = "STORIES_BIN_DIR")]
    bin_dir: Option<PathBuf>,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

const EXAMPLES: &str = "Examples:
  tests/bench                                               ours and what is in PATH, one hour
  tests/bench --peers ~/peers/bin --hours 12 --queries      the size that is compared with goals
  tests/bench --only ours --shape churn --hours 6           ours alone, pods come and go
  tests/bench --only ours --bin-dir target/release -o json  without a build, for a script";

/// How the result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// Aligned columns.
    Table,
    /// One JSON object.
    Json,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let plan = arguments.plan().unwrap_or_else(|error| {
        Arguments::command().error(ErrorKind::ValueValidation, format!("{error:#}")).exit()
    });
    match run(&arguments, &plan).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments, plan: &Plan) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // Whatever ends this ends the processes and folders, too: they are dropped with the future.
    let report = tokio::select! {
        report = measure(arguments, plan) => report?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
    };
    match arguments.output {
        Output::Table => print!("{}", report.table()),
        Output::Json => println!("{}", report.json()),
    }
    ensure!(report.is_well(), "what is marked with ! must not be");
    Ok(())
}

async fn measure(arguments: &Arguments, plan: &Plan) -> anyhow::Result<Report> {
    let own = std::env::current_exe().context("finding our own binaries")?;
    let folder = own.parent().map(PathBuf::from);
    let folder = arguments.bin_dir.clone().or(folder).context("no folder of binaries")?;
    // They are started in folders of their own.
    let absolute = folder.canonicalize();
    use_binaries(absolute.with_context(|| format!("no folder of binaries: {}", folder.display()))?);
    say(&format!(
        "{} clusters × {} series, {} scrapes: {} samples",
        plan.clusters,
        plan.series,
        plan.steps,
        plan.samples()
    ));
    let mut report = Report::default();
    let mut answers = Answers::default();
    let peers = arguments.peers.as_deref();
    if arguments.wants(System::Ours) {
        ours::measure(arguments, plan, &mut answers, &mut report).await?;
        if arguments.kills > 0 {
            loss::ours(plan, arguments.kills, &mut report).await?;
        }
    }
    for kind in [peers::PROMETHEUS, peers::VICTORIAMETRICS] {
        if arguments.wants(kind.system) {
            let peer = peers::measure(kind, peers, plan, &mut report).await?;
            if arguments.queries {
                queries::measure(peer.asked(), plan, &mut answers, &mut report).await?;
            }
            drop(peer);
            if arguments.kills > 0 {
                loss::peer(kind, peers, plan, &mut report).await?;
            }
        }
    }
    if arguments.wants(System::Vmagent) {
        vmagent::measure(peers, plan, &mut report).await?;
    }
    queries::compare(&answers, &mut report)?;
    Ok(report)
}

impl Arguments {
    fn plan(&self) -> anyhow::Result<Plan> {
        ensure!(self.clusters > 0 && self.series > 0, "a fleet has clusters with series");
        ensure!(
            !self.queries || self.shape == Shape::Fleet,
            "--queries asks for metrics that only --shape fleet has"
        );
        if let Some(absent) = self.only.iter().find(|system| !self.is_there(**system)) {
            bail!("the program of {} is neither in --peers nor in PATH", absent.name());
        }
        ensure!(self.step > 0, "time between scrapes is at least a second");
        let step_ms = i64::from(self.step) * 1000;
        let steps = (self.hours * 3600.0 / f64::from(self.step)).round() as u64;
        ensure!(
            steps > self.paced,
            "--hours {} is too short for --paced {}",
            self.hours,
            self.paced
        );
        let start_ms = now_ms() / step_ms * step_ms - i64::try_from(steps)? * step_ms;
        let (clusters, series) = (self.clusters, self.series);
        Ok(Plan { clusters, series, steps, step_ms, start_ms, shape: self.shape, seed: self.seed })
    }

    /// Whether somebody is to be measured.
    fn wants(&self, system: System) -> bool {
        if !self.only.is_empty() {
            return self.only.contains(&system);
        }
        self.is_there(system)
    }

    /// Whether somebody's program can be found.
    fn is_there(&self, system: System) -> bool {
        let found = |program| peers::find(program, self.peers.as_deref()).is_some();
        match system {
            System::Ours => true,
            System::Prometheus => found("prometheus"),
            System::Victoriametrics => found("victoria-metrics"),
            // It passes on to the other.
            System::Vmagent => found("vmagent") && found("victoria-metrics"),
        }
    }

    /// How long a paced scrape has.
    fn pace() -> Duration {
        Duration::from_secs(1)
    }
}

/// Says what is being done, beside the result.
fn say(text: &str) {
    eprintln!("bench: {text}");
}
