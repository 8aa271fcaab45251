//! Writes acknowledged rounds until it is killed, and checks what a power cut would have left.
//!
//! `powercut write DIR LOG` appends rounds of samples and notes each acknowledged round in LOG. Beside that it moves the
//! head into blocks, compacts days, drops what is older than the retention and makes snapshots, all the time.
//! `powercut check DIR LOG` opens DIR and wants every noted round whole that is within the retention. Run the first
//! under a tool that keeps a copy of what was synced, kill it, and run the second on the copy.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use tributary_model::cluster::ClusterName;
use tributary_model::label::Labels;
use tributary_model::sample::{Numbers, Sample, Timestamp};
use tributary_store::{Batch, Options, Replay, ReplayError, Resolver, Store, StreamKey};

/// Series in a round.
const SERIES: u32 = 100;
/// The first round's time, in milliseconds.
const BEGIN: i64 = 1_700_000_000_000;
/// Time between rounds: a window is full after a dozen.
const STEP: i64 = 600_000;
/// How long rounds are kept.
const RETENTION: Duration = Duration::from_secs(3 * 86_400);
/// A snapshot is made in every so manieth maintenance.
const SNAPSHOT: u32 = 5;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["write", dir, log] => write(Path::new(dir), Path::new(log)),
        ["check", dir, log] => check(Path::new(dir), Path::new(log)),
        _ => Err("usage: powercut write|check DIR LOG".into()),
    };
    match done {
        Ok(text) => {
            let _ = writeln!(std::io::stdout(), "{text}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "{e}");
            ExitCode::FAILURE
        }
    }
}

/// Payloads are the round's number.
struct Rounds;

impl Replay for Rounds {
    fn replay(&mut self, store: &Resolver, payload: &[u8]) -> Result<Batch, ReplayError> {
        let round = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        let round = round.ok_or_else(|| ReplayError("not a round".to_owned()))?;
        batch(round, |cluster, labels| store.resolve(cluster, labels))
            .map_err(|e| ReplayError(e.to_string()))
    }
}

fn batch(
    round: u32,
    mut resolve: impl FnMut(&ClusterName, &Labels) -> tributary_store::SeriesId,
) -> Outcome<Batch> {
    let cluster: ClusterName = "eu-1".parse()?;
    let at = BEGIN + i64::from(round) * STEP;
    let mut samples = Vec::new();
    for series in 0..SERIES {
        // Every series lives for a while, so that the catalogue grows.
        let life = (round + series) / 50;
        let number = format!("{series}.{life}");
        let metric = format!("metric_{}", series % 7);
        let pairs = [("__name__", metric.as_str()), ("cluster", "eu-1"), ("number", &number)];
        let value = f64::from(round) * 1.25 + f64::from(series).sqrt();
        samples.push((resolve(&cluster, &Labels::from_pairs(pairs)?), Sample::new(at, value)));
    }
    Ok(Batch {
        stream: StreamKey { cluster, instance: "a".to_owned() },
        epoch: 1,
        seq: u64::from(round) + 1,
        starts_segment: true,
        state_only: false,
        received_at: Timestamp::from_millis(at),
        complete_until: Timestamp::from_millis(at),
        samples,
        metadata: Vec::new(),
        histograms: Vec::new(),
        gaps: Vec::new(),
    })
}

fn open(dir: &Path) -> Outcome<Store> {
    let options = Options {
        path: dir.to_owned(),
        journal_segment_bytes: 16 << 10,
        out_of_order_window: Duration::from_secs(7200),
        retention: RETENTION,
        ..Options::default()
    };
    let (store, report) = Store::open(options, &mut [Rounds])?;
    if report.is_clean() { Ok(store) } else { Err(format!("{report:?}").into()) }
}

fn write(dir: &Path, log: &Path) -> Outcome<String> {
    let store = open(dir)?;
    let mut log = OpenOptions::new().create(true).append(true).open(log)?;
    let (keeper, folder) = (store.clone(), dir.join("snapshot"));
    let (tick, ticks) = channel::<Timestamp>();
    std::thread::spawn(move || {
        for (count, now) in (0u32..).zip(ticks) {
            if let Err(e) = keep(&keeper, &folder, count, now) {
                let _ = writeln!(std::io::stderr(), "maintenance: {e}");
            }
        }
    });
    let stream = batch(0, |cluster, labels| store.resolve(cluster, labels))?.stream;
    let next = store.stream(&stream).map_or(0, |state| state.last_seq);
    for round in u32::try_from(next)?.. {
        let batch = batch(round, |cluster, labels| store.resolve(cluster, labels))?;
        let now = batch.received_at;
        let (reply, answer) = channel();
        store.append(
            round.to_string().into_bytes(),
            batch,
            Box::new(move |done| {
                let _ = reply.send(done);
            }),
        );
        answer.recv()??;
        // In one write, so that a trace has one line for it.
        log.write_all(format!("{round}\n").as_bytes())?;
        if round % 12 == 11 {
            tick.send(now)?;
        }
    }
    Ok("out of rounds".to_owned())
}

/// One round of maintenance, with everything that a day has in it.
fn keep(store: &Store, snapshot: &Path, count: u32, now: Timestamp) -> Outcome<()> {
    store.flush_head_before(now.minus(Duration::from_secs(7200)))?;
    store.maintain(now)?;
    if count.is_multiple_of(SNAPSHOT) {
        if snapshot.exists() {
            std::fs::remove_dir_all(snapshot)?;
        }
        store.snapshot(snapshot)?;
    }
    Ok(())
}

fn check(dir: &Path, log: &Path) -> Outcome<String> {
    let log = std::fs::read_to_string(log)?;
    let noted: Result<Vec<i64>, _> = log.lines().map(str::parse).collect();
    let noted = noted?;
    let store = open(dir)?;
    let found = store.select(&[], Timestamp::MIN, Timestamp::MAX)?;
    let mut seen = std::collections::HashMap::new();
    for series in &found {
        let mut samples = Numbers::default();
        series.read(Timestamp::MIN, Timestamp::MAX, &mut samples, &mut Vec::new())?;
        for at in samples.times {
            *seen.entry(at).or_insert(0u32) += 1;
        }
    }
    let stats = store.stats();
    let whole = |round: &&i64| seen.get(&(BEGIN + **round * STEP)) == Some(&SERIES);
    let kept = i64::try_from(RETENTION.as_millis())? / STEP;
    let oldest = noted.iter().max().map_or(0, |newest| newest - kept + 1);
    let lost = noted.iter().filter(|round| **round >= oldest && !whole(round)).count();
    let verified = store.verify(&mut |_, _| {})?;
    if let Some(damaged) = verified.damaged.first() {
        return Err(format!("after {} rounds: {damaged}", noted.len()).into());
    }
    if lost == 0 {
        Ok(format!("{} rounds, all there; {} blocks, {stats:?}", noted.len(), stats.blocks))
    } else {
        Err(format!("{lost} of {} rounds are missing or not whole: {stats:?}", noted.len()).into())
    }
}
