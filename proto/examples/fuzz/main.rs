//! Feeds the frame decoder made-up, damaged and hostile frames for a while, and wants neither a panic nor memory beyond
//! the bounds.
//!
//! `cargo run --release -p tributary-proto --example fuzz -- --seconds N --seed S`; the same seed makes the same frames.
//! Build with `CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=true CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true` to notice
//! overflows too. A panic is printed with the seed that makes its segment alone: `--seconds 0 --seed THAT`.

#![expect(clippy::print_stdout, reason = "a program that prints what it did")]

mod make;
mod mutate;
mod random;

use std::time::{Duration, Instant};

use random::Random;
use tributary_proto::frame::{Decoder, Frame};
use tributary_proto::limits::{self, Limits};

type Failure = Box<dyn std::error::Error>;

/// Most bytes this process may have had in memory: the texts and symbols of a dictionary, the series' states, a section in
/// plain and as labels, the made-up frames, and the program itself. Hostile frames reach for gigabytes.
const MAX_RESIDENT_KIB: u64 = 512 << 10;
/// A decoder takes the frames of so many segments before it is replaced.
const SEGMENTS_PER_DECODER: u64 = 16;

fn main() -> Result<(), Failure> {
    let (mut seconds, mut seed) = (10, 1);
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().ok_or("an option without a value")?.parse()?;
        match name.as_str() {
            "--seconds" => seconds = value,
            "--seed" => seed = value,
            _ => return Err("usage: fuzz [--seconds N] [--seed S]".into()),
        }
    }
    let (begun, time) = (Instant::now(), Duration::from_secs(seconds));
    let mut counts = Counts::default();
    for round in 0.. {
        let seed: u64 = seed + round;
        let done = std::panic::catch_unwind(|| segments(seed));
        match done {
            Ok(done) => counts.add(&done?),
            Err(_) => return Err(format!("a panic; again with --seconds 0 --seed {seed}").into()),
        }
        if begun.elapsed() >= time {
            break;
        }
    }
    let Counts { frames, read, refused, samples } = counts;
    println!("{frames} frames: {read} read, {refused} refused, {samples} samples");
    println!("most memory: {} MiB", peak_kib()? >> 10);
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    frames: u64,
    read: u64,
    refused: u64,
    samples: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.frames += other.frames;
        self.read += other.read;
        self.refused += other.refused;
        self.samples += other.samples;
    }
}

/// One decoder, and some segments for it.
fn segments(seed: u64) -> Result<Counts, Failure> {
    let mut random = Random::new(seed);
    let mut decoder = Decoder::new(Limits::default());
    let mut counts = Counts::default();
    let mut known = 0;
    for _ in 0..SEGMENTS_PER_DECODER {
        let whole = make::segment(&mut random);
        for frame in mutate::frames(&whole, &mut random) {
            counts.frames += 1;
            match decoder.decode(&frame) {
                Ok(frame) => {
                    known = check(&frame, known)?;
                    counts.read += 1;
                    counts.samples += u64::from(frame.header.samples);
                }
                Err(error) => {
                    // Formatting it must not fail either.
                    counts.refused += u64::from(!error.to_string().is_empty());
                }
            }
        }
    }
    let peak = peak_kib()?;
    if peak > MAX_RESIDENT_KIB {
        return Err(format!("{} MiB of memory with --seconds 0 --seed {seed}", peak >> 10).into());
    }
    Ok(counts)
}

/// What a reader may rely on. Returns how many series the segment has now.
fn check(frame: &Frame, known: u32) -> Result<u32, Failure> {
    let known = if frame.header.starts_segment { 0 } else { known };
    let want = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    want(frame.first_new == known, "the first new series has the next number")?;
    let now = known + u32::try_from(frame.new_series.len())?;
    let limits = Limits::default();
    want(frame.new_series.iter().all(|labels| limits.allow(labels)), "series keep to the bounds")?;
    want(now as usize <= limits.max_series_per_segment, "the dictionary keeps to its bound")?;
    want(frame.samples.iter().all(|s| s.series < now), "samples have known series")?;
    want(frame.histograms.iter().all(|s| s.series < now), "histograms have known series")?;
    want(
        frame.histograms.iter().all(|s| s.sample.histogram.is_within_bounds()),
        "histograms keep to the bounds",
    )?;
    let count = frame.samples.len() + frame.histograms.len();
    want(count == frame.header.samples as usize, "the header counts")?;
    let of_histograms = || frame.histograms.iter().map(|s| s.sample.at);
    let times = || frame.samples.iter().map(|s| s.sample.at).chain(of_histograms());
    want(times().all(|at| frame.header.min_at <= at && at <= frame.header.max_at), "the times")?;
    let capacities = [
        (frame.samples.capacity(), limits::MAX_SAMPLES_PER_FRAME),
        (frame.histograms.capacity(), limits::MAX_SAMPLES_PER_FRAME),
        (frame.new_series.capacity(), limits::MAX_SERIES_PER_SEGMENT),
        (frame.metadata.capacity(), limits::MAX_ENTRIES_PER_FRAME),
        (frame.gaps.capacity(), limits::MAX_ENTRIES_PER_FRAME),
    ];
    want(capacities.iter().all(|(taken, limit)| taken <= limit), "no more room than allowed")?;
    Ok(now)
}

/// The most memory this process ever had.
fn peak_kib() -> Result<u64, Failure> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
}
