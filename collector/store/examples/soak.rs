//! Runs a store through months in minutes, and says what it takes.
//!
//! `soak retention DIR` keeps 7 of 30 days, with series that come and go, and prints the bytes on disk at the end of each
//! day. `soak churn DIR [DEAD]` asks the same question with and without a million series that ended a month ago.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Numbers, Sample, Timestamp};
use tributary_store::{Batch, Options, Replay, ReplayError, Resolver, SeriesId, Store, StreamKey};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// The first sample's time, the start of a day.
const BEGIN: i64 = 19_675 * DAY;
const DAY: i64 = 86_400_000;
/// A plateau may be passed by this.
const BOUND: f64 = 1.3;
/// Questions asked of each store.
const QUESTIONS: usize = 41;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["retention", dir] => retention(Path::new(dir)),
        ["churn", dir] => churn(Path::new(dir), 1_000_000),
        ["churn", dir, dead] => {
            dead.parse().map_err(Into::into).and_then(|d| churn(Path::new(dir), d))
        }
        _ => Err("usage: soak retention|churn DIR [DEAD]".into()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            println!("{e}");
            ExitCode::from(2)
        }
    }
}

/// What the journal has is of no interest here.
struct Nothing;

impl Replay for Nothing {
    fn replay(&mut self, _: &Resolver, _: &[u8]) -> Result<Batch, ReplayError> {
        Err(ReplayError("not read back".to_owned()))
    }
}

struct Soak {
    store: Store,
    cluster: ClusterName,
    seq: u64,
}

impl Soak {
    fn new(dir: &Path, retention: Duration) -> Outcome<Self> {
        let options = Options { path: dir.to_owned(), retention, ..Options::default() };
        let (store, _) = Store::open(options, &mut [Nothing])?;
        Ok(Self { store, cluster: "eu-1".parse()?, seq: 0 })
    }

    fn series(&self, metric: &str, pod: &str) -> Outcome<SeriesId> {
        let pairs = [("__name__", metric), ("cluster", "eu-1"), ("pod", pod), ("job", "app")];
        Ok(self.store.resolve(&self.cluster, &Labels::from_pairs(pairs)?))
    }

    fn send(&mut self, at: i64, samples: Vec<(SeriesId, Sample)>) -> Outcome<u64> {
        self.seq += 1;
        let at = Timestamp::from_millis(at);
        let batch = Batch {
            stream: StreamKey { cluster: self.cluster.clone(), instance: "a".to_owned() },
            epoch: 1,
            seq: self.seq,
            starts_segment: true,
            state_only: false,
            received_at: at,
            complete_until: at,
            samples,
            metadata: Vec::new(),
            histograms: Vec::new(),
            gaps: Vec::new(),
        };
        // As long as a frame of these samples would be.
        let payload = vec![0; batch.samples.len()];
        let (reply, answer) = channel();
        let done = Box::new(move |done| {
            let _ = reply.send(done);
        });
        self.store.append(payload, batch, done);
        Ok(u64::from(answer.recv()??.stored))
    }
}

/// Bytes of every file below a folder.
fn disk(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.filter_map(Result::ok).map(bytes).sum()
}

/// 2,000 series every minute, a twentieth of which are others after an hour, for 30 days of which 7 are kept.
fn retention(dir: &Path) -> Outcome<bool> {
    const SERIES: i64 = 2_000;
    let mut soak = Soak::new(dir, Duration::from_secs(7 * 86_400))?;
    let mut plateau = 0;
    let (mut most, mut series) = (0, 0);
    println!("day  bytes on disk  of it blocks  journal  series  samples kept");
    for day in 0..30 {
        let mut kept = 0;
        for minute in 0..24 * 60 {
            let at = BEGIN + day * DAY + minute * 60_000;
            let hour = at / 3_600_000;
            let mut samples = Vec::with_capacity(2_000);
            for number in 0..SERIES {
                let life = (hour + number) / 20;
                let id =
                    soak.series(&format!("metric_{}", number % 40), &format!("{number}-{life}"))?;
                let value = (at / 1000 * (number % 7) + (at / 60_000 * number) % 11) as f64;
                samples.push((id, Sample::new(at, value)));
            }
            kept += soak.send(at, samples)?;
            soak.store.maintain(Timestamp::from_millis(at))?;
        }
        let (bytes, stats) = (disk(dir), soak.store.stats());
        println!(
            "{day:>3}  {bytes:>13}  {:>12}  {:>7}  {:>6}  {kept:>12}",
            stats.block_bytes, stats.journal_bytes, stats.series
        );
        // Eight days, of which one is being dropped, are the plateau.
        if day == 8 {
            (plateau, series) = (bytes, stats.series);
        }
        if day > 8 {
            most = most.max(bytes);
        }
    }
    let ratio = most as f64 / plateau as f64;
    println!("at most {ratio:.3} of the plateau after 9 days ({series} series then)");
    Ok(ratio <= BOUND)
}

/// 20,000 series live; how long an instant query's reading takes without and with `dead` ones of the same metrics.
fn churn(dir: &Path, dead: u32) -> Outcome<bool> {
    let mut times = Vec::new();
    for (name, dead) in [("live", 0), ("dead", dead)] {
        let mut soak = Soak::new(&dir.join(name), Duration::from_secs(400 * 86_400))?;
        for first in (0..dead).step_by(20_000) {
            let day = i64::from(first / 20_000);
            let mut samples = Vec::new();
            for number in first..dead.min(first + 20_000) {
                let id =
                    soak.series(&format!("metric_{}", number % 40), &format!("dead-{number}"))?;
                samples.push((id, Sample::new(BEGIN + day * DAY, 1.0)));
            }
            soak.send(BEGIN + day * DAY, samples)?;
            soak.store.maintain(Timestamp::from_millis(BEGIN + day * DAY + DAY / 2))?;
        }
        let now = BEGIN + 90 * DAY;
        for minute in 0..10 {
            let at = now + minute * 60_000;
            let mut samples = Vec::new();
            for number in 0..20_000 {
                let id =
                    soak.series(&format!("metric_{}", number % 40), &format!("live-{number}"))?;
                samples.push((id, Sample::new(at, f64::from(number) + minute as f64)));
            }
            soak.send(at, samples)?;
        }
        let now = now + 600_000;
        soak.store.maintain(Timestamp::from_millis(now))?;
        let (equal, pattern) = (ask(&soak.store, now, false)?, ask(&soak.store, now, true)?);
        let stats = soak.store.stats();
        println!(
            "{:>7} series, {} active: metric of 500 live series {:.3} ms, with a pattern of pods {:.3} ms",
            stats.series,
            stats.active_series,
            equal.as_secs_f64() * 1e3,
            pattern.as_secs_f64() * 1e3
        );
        times.push((equal, pattern));
    }
    let ratio = |a: Duration, b: Duration| b.as_secs_f64() / a.as_secs_f64();
    let [(equal, pattern), (equal_dead, pattern_dead)] = times.as_slice() else { return Ok(false) };
    let ratios = (ratio(*equal, *equal_dead), ratio(*pattern, *pattern_dead));
    println!("with dead series {:.2} and {:.2} times as long", ratios.0, ratios.1);
    Ok(ratios.0 <= 1.2 && ratios.1 <= 1.2)
}

/// The median time of selecting and reading what an instant query reads.
fn ask(store: &Store, now: i64, pattern: bool) -> Outcome<Duration> {
    let mut matchers = vec![Matcher::equal("__name__", "metric_7")];
    if pattern {
        matchers.push(Matcher::new("pod", MatchOp::Match, "live-.*7")?);
    }
    let (from, to) = (Timestamp::from_millis(now - 300_000), Timestamp::from_millis(now));
    let mut times = Vec::new();
    let mut samples = Numbers::default();
    for _ in 0..QUESTIONS {
        let begun = Instant::now();
        samples.clear();
        let found = store.select(&matchers, from, to)?;
        for series in &found {
            series.read(from, to, &mut samples, &mut Vec::new())?;
        }
        times.push(begun.elapsed());
        if found.is_empty() || samples.len() < found.len() {
            return Err("nothing was found".into());
        }
    }
    times.sort_unstable();
    times.get(QUESTIONS / 2).copied().ok_or_else(|| "no question was asked".into())
}
