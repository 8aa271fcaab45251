//! Measures frames on recorded scrapes: bytes and time a sample, one frame a scrape, in one segment or in several.
//!
//! `cargo run --release -p tributary-proto --example frame_size -- FOLDER [SCRAPES_PER_SEGMENT]`, where the folder holds
//! answers of Prometheus' `/api/v1/query` to range selectors, as `NAME.json.gz`.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};
use tributary_proto::frame::{Content, Decoder, Encoder};
use tributary_proto::limits::Limits;

type Failure = Box<dyn std::error::Error>;
type Scrape = Vec<(Labels, Sample)>;

/// Each way is timed this often; the fastest counts.
const ROUNDS: usize = 3;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the folder with the samples is missing")?);
    let segment = match arguments.next() {
        Some(count) => count.to_str().ok_or("not a number")?.parse()?,
        None => usize::MAX,
    };
    println!("samples              count  B/sample  of it headers  encode ns  decode ns");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, Failure>>()?;
    files.sort();
    for file in files {
        if let Some(name) =
            file.file_name().and_then(|name| name.to_str()?.strip_suffix(".json.gz"))
        {
            measure(name, &scrapes(&file)?, segment)?;
        }
    }
    Ok(())
}

fn measure(name: &str, scrapes: &[Scrape], segment: usize) -> Result<(), Failure> {
    let count: usize = scrapes.iter().map(Vec::len).sum();
    let (mut encode, mut decode) = (Duration::MAX, Duration::MAX);
    let mut frames = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        frames = encoded(scrapes, segment)?;
        encode = encode.min(start.elapsed());
        let start = Instant::now();
        let mut decoder = Decoder::new(Limits::default());
        let mut samples = 0;
        for frame in &frames {
            samples += decoder.decode(frame)?.samples.len();
        }
        decode = decode.min(start.elapsed());
        if samples != count {
            return Err("not every sample came back".into());
        }
    }
    let bytes: usize = frames.iter().map(Vec::len).sum();
    let empty: Vec<Scrape> = scrapes.iter().map(|_| Vec::new()).collect();
    let headers: usize = encoded(&empty, segment)?.iter().map(Vec::len).sum();
    let each = |total: f64| total / count as f64;
    println!(
        "{name:18} {count:>7}  {:>8.4}  {:>13.4}  {:>9.1}  {:>9.1}",
        each(bytes as f64),
        each(headers as f64),
        each(encode.as_secs_f64() * 1e9),
        each(decode.as_secs_f64() * 1e9),
    );
    Ok(())
}

fn encoded(scrapes: &[Scrape], segment: usize) -> Result<Vec<Vec<u8>>, Failure> {
    let mut frames = Vec::with_capacity(scrapes.len());
    let mut encoder = Encoder::new(1 << 60, 1);
    for (seq, scrape) in (1..).zip(scrapes) {
        if frames.len() % segment == 0 {
            encoder = Encoder::new(1 << 60, seq);
        }
        let at = scrape.first().map_or(Timestamp::from_millis(0), |(_, sample)| sample.at);
        let content = Content { samples: scrape, ..Content::default() };
        frames.push(encoder.encode(seq, at, &content)?);
    }
    Ok(frames)
}

/// The scrapes in a file: samples of equal time.
fn scrapes(file: &Path) -> Result<Vec<Scrape>, Failure> {
    let text = flate2::read::GzDecoder::new(std::fs::File::open(file)?);
    let answer: Value = serde_json::from_reader(std::io::BufReader::new(text))?;
    let series = answer.pointer("/data/result").and_then(Value::as_array);
    let mut scrapes: BTreeMap<i64, Scrape> = BTreeMap::new();
    for series in series.ok_or("no series")? {
        let metric = series.get("metric").and_then(Value::as_object).ok_or("no labels")?;
        let pairs =
            metric.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)));
        let labels = Labels::from_pairs(pairs)?;
        for pair in series.get("values").and_then(Value::as_array).ok_or("no values")? {
            let at = pair.get(0).and_then(Value::as_f64).ok_or("no time")?;
            let value: f64 = pair.get(1).and_then(Value::as_str).ok_or("no value")?.parse()?;
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
            let millis = (at * 1e3).round() as i64;
            scrapes.entry(millis).or_default().push((labels.clone(), Sample::new(millis, value)));
        }
    }
    Ok(scrapes.into_values().collect())
}
