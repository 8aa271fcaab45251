//! Measures stored chunks on recorded scrapes: bytes a sample, with and without their share of the clocks, and time.
//!
//! `cargo run --release -p tributary-store --example chunk_size -- FOLDER [SAMPLES_PER_CHUNK]`, where the folder holds
//! answers of Prometheus' `/api/v1/query` to range selectors, as `NAME.json.gz`.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

#[allow(dead_code, reason = "the codec as the store has it; this program needs a part")]
#[path = "../src/codec/mod.rs"]
mod codec;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use codec::{clock, values};
use serde_json::Value;

type Failure = Box<dyn std::error::Error>;
type Series = Vec<(i64, u64)>;

/// Chunks that are decoded at once, as the store does it.
const AT_ONCE: usize = 8;
/// Each way is timed this often; the fastest counts.
const ROUNDS: usize = 5;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args_os().skip(1);
    let folder = PathBuf::from(arguments.next().ok_or("the folder with the samples is missing")?);
    let length = match arguments.next() {
        Some(count) => count.to_str().ok_or("not a number")?.parse()?,
        None => 240,
    };
    println!(
        "samples              count  values B  +clocks B   kinds (share of chunks/bytes, %)            encode ns  decode ns"
    );
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, Failure>>()?;
    files.sort();
    for file in files {
        if let Some(name) =
            file.file_name().and_then(|name| name.to_str()?.strip_suffix(".json.gz"))
        {
            measure(name, &read(&file)?, length)?;
        }
    }
    Ok(())
}

fn front(slots: &mut [u64], count: usize) -> &mut [u64] {
    slots.get_mut(..count).unwrap_or_default()
}

fn measure(name: &str, series: &[Series], length: usize) -> Result<(), Failure> {
    let count: usize = series.iter().map(Vec::len).sum();
    let chunks = |series: &Series| -> Vec<(Vec<i64>, Vec<u64>)> {
        series.chunks(length).map(|part| part.iter().copied().unzip()).collect()
    };
    let chunks: Vec<(Vec<i64>, Vec<u64>)> = series.iter().flat_map(chunks).collect();
    let (mut encode, mut decode) = (Duration::MAX, Duration::MAX);
    let mut encoded: Vec<Vec<u8>> = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        encoded = chunks
            .iter()
            .map(|(_, bits)| {
                let mut out = Vec::new();
                values::encode(&mut out, bits);
                out
            })
            .collect();
        encode = encode.min(start.elapsed());
        let start = Instant::now();
        let mut back = vec![0; AT_ONCE * length];
        for group in encoded.iter().zip(&chunks).collect::<Vec<_>>().chunks(AT_ONCE) {
            let slots = back.chunks_mut(length);
            let parts = group.iter().zip(slots);
            values::decode_all(
                parts.map(|((bytes, (_, bits)), slots)| (&***bytes, front(slots, bits.len()))),
            )?;
            std::hint::black_box(&back);
        }
        decode = decode.min(start.elapsed());
    }
    let mut back = Vec::new();
    let mut kinds: BTreeMap<u8, (usize, usize)> = BTreeMap::new();
    for (bytes, (_, bits)) in encoded.iter().zip(&chunks) {
        back.resize(bits.len(), 0);
        values::decode(bytes, &mut back)?;
        if back != *bits {
            return Err("not every value came back".into());
        }
        let kind = kinds.entry(bytes.first().copied().unwrap_or(0) >> 5).or_default();
        kind.0 += 1;
        kind.1 += bytes.len();
    }
    let clocks: BTreeSet<Vec<u8>> = chunks
        .iter()
        .map(|(times, _)| {
            let mut out = Vec::new();
            clock::encode(&mut out, times.first().copied().unwrap_or(0), times);
            out
        })
        .collect();
    let bytes: usize = encoded.iter().map(Vec::len).sum();
    let with: usize = bytes + clocks.iter().map(Vec::len).sum::<usize>();
    let each = |total: f64| total / count as f64;
    let share = |part: usize, all: usize| 100.0 * part as f64 / all as f64;
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, (n, b))| {
            format!("{kind}:{:.1}/{:.1}", share(*n, encoded.len()), share(*b, bytes))
        })
        .collect();
    println!(
        "{name:18} {count:>7}  {:>8.4}  {:>9.4}   {:45} {:>8.1}  {:>9.2}",
        each(bytes as f64),
        each(with as f64),
        kinds.join(" "),
        each(encode.as_secs_f64() * 1e9),
        each(decode.as_secs_f64() * 1e9),
    );
    Ok(())
}

/// The series in a file.
fn read(file: &Path) -> Result<Vec<Series>, Failure> {
    let text = flate2::read::GzDecoder::new(std::fs::File::open(file)?);
    let answer: Value = serde_json::from_reader(std::io::BufReader::new(text))?;
    let found = answer.pointer("/data/result").and_then(Value::as_array).ok_or("no series")?;
    let mut out = Vec::new();
    for series in found {
        let mut samples = Vec::new();
        for pair in series.get("values").and_then(Value::as_array).ok_or("no values")? {
            let at = pair.get(0).and_then(Value::as_f64).ok_or("no time")?;
            let value: f64 = pair.get(1).and_then(Value::as_str).ok_or("no value")?.parse()?;
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
            samples.push(((at * 1e3).round() as i64, value.to_bits()));
        }
        out.push(samples);
    }
    Ok(out)
}
