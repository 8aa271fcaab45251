//! `tributary-collector storage`: looks at the data folder of a collector that is not running, copies and checks it.

use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Numbers, Timestamp};
use tributary_model::selector::Selector;
use tributary_store::{OpenReport, Stats, Store};

use crate::config::Config;
use crate::ingest::replay::Replayer;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum StorageAction {
    /// Print every sample, one a line: milliseconds, the value's 64 bits in hexadecimal, the labels as JSON.
    ///
    /// Staleness markers are shown like every other value: 7ff0000000000002. Of a native histogram, there is an h and its
    /// bytes in place of the value.
    Dump {
        #[command(flatten)]
        place: Place,
        /// Only series that this selector matches.
        #[arg(long = "match", value_name = "SELECTOR")]
        selector: Option<Selector>,
    },
    /// Print how many series, samples in memory and bytes there are, and where
    Stats {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Form,
    },
    /// Read everything that is stored and check it. Exit code 1 if something is damaged
    #[command(
        after_help = "Damage costs only what is damaged: a page of some series for some hours, or a record of the journal. \
                            Everything else stays readable. Restore a snapshot to get it back."
    )]
    Verify {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Form,
    },
    /// Move everything into blocks of a day and free the journal. A running collector does this by itself, later
    Compact {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Form,
    },
    /// Copy the store to a folder that is not there yet. Blocks are linked where they can be, so it takes little space
    #[command(
        after_help = "Example:\n  tributary-collector storage snapshot /backup/monday --config.file collector.yml\n\
                            The result is a whole store: set storage.path to it, or put it back with storage restore."
    )]
    Snapshot {
        /// The folder to make
        to: PathBuf,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Form,
    },
    /// Put a snapshot where storage.path says. The folder there must be missing or empty
    Restore {
        /// The snapshot
        from: PathBuf,
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        output: Form,
    },
}

/// Where the configuration is.
#[derive(Debug, Args)]
pub struct Place {
    /// The collector's configuration; storage.path in it is the folder to work on
    #[arg(long = "config.file", value_name = "FILE", default_value = "collector.yml")]
    config_file: PathBuf,
}

/// How a result is printed.
#[derive(Debug, Args)]
pub struct Form {
    /// How the result is printed
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// The forms.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

/// Does it.
pub fn command(action: StorageAction) -> anyhow::Result<ExitCode> {
    match action {
        StorageAction::Dump { place, selector } => {
            let mut out = BufWriter::new(std::io::stdout().lock());
            dump(&place.open()?.0, selector.as_ref(), &mut out)?;
            out.flush()?;
        }
        StorageAction::Stats { place, output } => output.print(&stats(&place.open()?.0.stats()))?,
        StorageAction::Verify { place, output } => return verify(&place, &output),
        StorageAction::Compact { place, output } => {
            let (store, _) = place.open()?;
            let done = store.compact(SystemTime::now().into())?;
            output.print(&[
                ("samples_moved", json!(done.flushed_samples)),
                ("blocks_compacted", json!(done.compacted_blocks)),
                ("journal_bytes_freed", json!(done.journal_freed)),
                ("block_bytes", json!(store.stats().block_bytes)),
            ])?;
        }
        StorageAction::Snapshot { to, place, output } => {
            let done = place.open()?.0.snapshot(&to)?;
            output.print(&[
                ("snapshot", json!(to)),
                ("blocks", json!(done.blocks)),
                ("block_bytes", json!(done.block_bytes)),
                ("journal_bytes", json!(done.journal_bytes)),
            ])?;
        }
        StorageAction::Restore { from, place, output } => restore(&from, &place, &output)?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Place {
    fn config(&self) -> anyhow::Result<Config> {
        Ok(Config::load(&self.config_file, std::env::vars())?)
    }

    fn open(&self) -> anyhow::Result<(Store, OpenReport)> {
        let options = self.config()?.storage.options();
        let folder = options.path.clone();
        anyhow::ensure!(
            folder.is_dir(),
            "there is no store in {}: storage.path in {} is where the collector keeps it",
            folder.display(),
            self.config_file.display()
        );
        Store::open(options, &mut Replayer::several()).with_context(|| {
            let folder = folder.display();
            format!("opening the store in {folder} (a running collector holds it: stop that first)")
        })
    }
}

impl Form {
    /// Prints names and values.
    fn print(&self, fields: &[(&str, serde_json::Value)]) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => {
                let all: serde_json::Map<_, _> = fields
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), value.clone()))
                    .collect();
                writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
            }
            Output::Table => {
                let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
                for (name, value) in fields {
                    let name = name.replace('_', " ");
                    match value {
                        serde_json::Value::Array(lines) => {
                            for line in lines {
                                writeln!(
                                    out,
                                    "{name:width$}  {}",
                                    line.as_str().unwrap_or_default()
                                )?;
                            }
                        }
                        serde_json::Value::String(text) => writeln!(out, "{name:width$}  {text}")?,
                        value => writeln!(out, "{name:width$}  {value}")?,
                    }
                }
            }
        }
        Ok(())
    }
}

fn stats(stats: &Stats) -> [(&'static str, serde_json::Value); 8] {
    [
        ("series", json!(stats.series)),
        ("series_in_memory", json!(stats.active_series)),
        ("head_bytes", json!(stats.head_bytes)),
        ("journal_bytes", json!(stats.journal_bytes)),
        ("blocks", json!(stats.blocks)),
        ("block_bytes", json!(stats.block_bytes)),
        ("catalogue_bytes", json!(stats.kv_bytes)),
        ("poisoned", json!(stats.poisoned)),
    ]
}

fn verify(place: &Place, output: &Form) -> anyhow::Result<ExitCode> {
    let (store, report) = place.open()?;
    let shown = std::io::stderr().is_terminal();
    let mut percent = u64::MAX;
    let verified = store.verify(&mut |done, total| {
        let now = done.saturating_mul(100).checked_div(total).unwrap_or(100);
        if shown && now != percent {
            percent = now;
            // Nothing is lost if the terminal is gone.
            let _ = write!(std::io::stderr(), "\rreading blocks: {now} %");
        }
    })?;
    if shown && percent < u64::MAX {
        let _ = writeln!(std::io::stderr());
    }
    let mut damaged = verified.damaged;
    damaged.extend(report.damaged.iter().cloned());
    damaged.extend(report.journal.damaged.iter().map(|damage| {
        let (segment, offset, bytes) = (damage.segment, damage.offset, damage.bytes);
        format!("journal segment {segment} at byte {offset}, {bytes} bytes: {}", damage.why)
    }));
    if let Some((folder, why)) = &report.set_aside {
        damaged.push(format!("the key-value store, now in {}: {why}", folder.display()));
    }
    if report.lost_records > 0 {
        let why = report.lost_why.as_deref().unwrap_or("no reason given");
        damaged.push(format!("{} journal records: {why}", report.lost_records));
    }
    let whole = damaged.is_empty();
    output.print(&[
        ("journal_records", json!(report.records)),
        ("blocks", json!(verified.blocks)),
        ("bytes", json!(verified.bytes)),
        ("chunks", json!(verified.chunks)),
        ("samples", json!(verified.samples)),
        ("damaged", if whole { json!("nothing") } else { json!(damaged) }),
    ])?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn restore(from: &Path, place: &Place, output: &Form) -> anyhow::Result<()> {
    let mut options = place.config()?.storage.options();
    let to = std::mem::replace(&mut options.path, from.to_owned());
    let empty = match std::fs::read_dir(&to) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => true,
        Err(e) => return Err(e).with_context(|| format!("listing {}", to.display())),
    };
    anyhow::ensure!(
        empty,
        "there is something in {}: move it away first, nothing is overwritten",
        to.display()
    );
    anyhow::ensure!(
        from.join("journal").is_dir() && from.join("blocks").is_dir(),
        "{} is not a snapshot: it has no journal or no blocks",
        from.display()
    );
    let (store, report) = Store::open(options, &mut Replayer::several())
        .with_context(|| format!("opening the snapshot {}", from.display()))?;
    anyhow::ensure!(
        report.is_clean(),
        "the snapshot {} is damaged: look at it with storage verify first",
        from.display()
    );
    if to.is_dir() {
        std::fs::remove_dir(&to).with_context(|| format!("replacing {}", to.display()))?;
    }
    let done = store.snapshot(&to)?;
    output.print(&[
        ("restored", json!(to)),
        ("blocks", json!(done.blocks)),
        ("block_bytes", json!(done.block_bytes)),
        ("journal_bytes", json!(done.journal_bytes)),
    ])
}

fn dump(store: &Store, selector: Option<&Selector>, out: &mut impl Write) -> anyhow::Result<()> {
    let everything = [Matcher::new(METRIC_NAME, MatchOp::NotEqual, "\0")?];
    let matchers = selector.map_or(everything.as_slice(), Selector::matchers);
    let (from, to) = (Timestamp::MIN, Timestamp::MAX);
    let (mut samples, mut histograms) = (Numbers::default(), Vec::new());
    for series in store.select(matchers, from, to)? {
        samples.clear();
        histograms.clear();
        series.read(from, to, &mut samples, &mut histograms)?;
        let labels = labels_json(&series.labels);
        for sample in samples.iter() {
            writeln!(out, "{} {:016x} {labels}", sample.at, sample.value.to_bits())?;
        }
        for sample in &histograms {
            let mut bytes = Vec::new();
            sample.histogram.encode(None, &mut bytes);
            write!(out, "{} h", sample.at)?;
            for byte in bytes {
                write!(out, "{byte:02x}")?;
            }
            writeln!(out, " {labels}")?;
        }
    }
    Ok(())
}

fn labels_json(labels: &Labels) -> serde_json::Value {
    labels.iter().map(|l| (l.name.to_string(), serde_json::Value::from(&*l.value))).collect()
}
