//! `tributary-collector storage`: looks at the data folder of a collector that is not running.

use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Subcommand;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::selector::Selector;
use tributary_store::Store;

use crate::config::Config;
use crate::ingest::replay::Replayer;

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum StorageAction {
    /// Print every sample, one a line: milliseconds, the value's 64 bits in hexadecimal, the labels as JSON.
    ///
    /// Staleness markers are shown like every other value: 7ff0000000000002.
    Dump {
        /// The collector's configuration file.
        #[arg(long = "config.file", value_name = "FILE", default_value = "collector.yml")]
        config_file: PathBuf,
        /// Only series that this selector matches.
        #[arg(long = "match", value_name = "SELECTOR")]
        selector: Option<Selector>,
    },
    /// Print how many series, samples' bytes and partitions there are.
    Stats {
        /// The collector's configuration file.
        #[arg(long = "config.file", value_name = "FILE", default_value = "collector.yml")]
        config_file: PathBuf,
    },
}

/// Does it.
pub fn command(action: StorageAction) -> anyhow::Result<ExitCode> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    match action {
        StorageAction::Dump { config_file, selector } => {
            let store = open(&config_file)?;
            dump(&store, selector.as_ref(), &mut out)?;
        }
        StorageAction::Stats { config_file } => {
            let stats = open(&config_file)?.stats();
            writeln!(out, "series            {}", stats.series)?;
            writeln!(out, "series in memory  {}", stats.active_series)?;
            writeln!(out, "journal bytes     {}", stats.journal_bytes)?;
            writeln!(out, "blocks            {}", stats.blocks)?;
            writeln!(out, "block bytes       {}", stats.block_bytes)?;
            writeln!(out, "catalogue bytes   {}", stats.kv_bytes)?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn open(config_file: &std::path::Path) -> anyhow::Result<Store> {
    let config = Config::load(config_file, std::env::vars())?;
    let (store, _) = Store::open(config.storage.options(), &mut Replayer::default())
        .context("opening the store (a running collector holds it: stop that first)")?;
    Ok(store)
}

fn dump(store: &Store, selector: Option<&Selector>, out: &mut impl Write) -> anyhow::Result<()> {
    let everything = [Matcher::new(METRIC_NAME, MatchOp::NotEqual, "\0")?];
    let matchers = selector.map_or(everything.as_slice(), Selector::matchers);
    let (from, to) = (Timestamp::MIN, Timestamp::MAX);
    let mut samples: Vec<Sample> = Vec::new();
    for series in store.select(matchers, from, to)? {
        samples.clear();
        series.read(from, to, &mut samples)?;
        let labels = json(&series.labels);
        for sample in &samples {
            writeln!(out, "{} {:016x} {labels}", sample.at, sample.value.to_bits())?;
        }
    }
    Ok(())
}

fn json(labels: &Labels) -> serde_json::Value {
    labels.iter().map(|l| (l.name.to_string(), serde_json::Value::from(&*l.value))).collect()
}
