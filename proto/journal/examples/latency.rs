//! Measures what an acknowledgement waits for: append and sync through the journal, beside bare `fdatasync` of files
//! that grow, that were allocated in advance, and that were filled with zeros.
//!
//! `cargo run --release -p tributary-journal --example latency -- FOLDER [ROUNDS]`; the folder must be on the disk that
//! is meant, and is left as it was. `… --example latency -- FOLDER open [MEGABYTES]` measures opening instead.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate};
use tributary_journal::{Journal, Options, Position};

type Failure = Box<dyn std::error::Error>;

/// Syncs of each kind, unless the command line says another number.
const ROUNDS: usize = 1_000;
/// Syncs of one kind behind each other, before it is the next one's turn.
const TURN: usize = 25;
/// Bytes of the records: a frame of a small agent, and one of a large agent.
const SIZES: [usize; 2] = [2 << 10, 20 << 10];
/// Bytes taken in advance where that is measured.
const AHEAD: u64 = 64 << 20;
/// Length of the journal's segments.
const SEGMENT: u64 = 32 << 20;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        [dir] => latency(Path::new(dir), ROUNDS),
        [dir, "open"] => opening(Path::new(dir), 1_024),
        [dir, "open", megabytes] => opening(Path::new(dir), megabytes.parse()?),
        [dir, rounds] => latency(Path::new(dir), rounds.parse()?),
        _ => Err("usage: latency FOLDER [ROUNDS] | latency FOLDER open [MEGABYTES]".into()),
    }
}

/// All kinds take turns, so that whatever else the machine does meets them alike.
fn latency(dir: &Path, rounds: usize) -> Result<(), Failure> {
    println!("what                  bytes   p50 µs   p90 µs   p99 µs   max µs");
    for size in SIZES {
        let payload = noise(size);
        let folder = dir.join("latency.journal");
        let options = Options { dir: folder.clone(), segment_bytes: SEGMENT };
        let (mut journal, _) = Journal::open(options)?;
        let mut subjects: Vec<(&str, Subject<'_>)> = Vec::new();
        for (name, prepare) in BARE {
            let path = folder.join(name);
            let file = OpenOptions::new().create_new(true).write(true).open(path)?;
            prepare(&file)?;
            file.sync_all()?;
            let mut at = 0;
            let payload = &payload;
            let write = move || {
                file.write_all_at(payload, at)?;
                at += payload.len() as u64;
                Ok(file.sync_data()?)
            };
            subjects.push((name, Box::new(write)));
        }
        let append = || {
            journal.append(1, &payload)?;
            Ok(journal.sync()?)
        };
        subjects.push(("journal", Box::new(append)));
        let mut times = vec![Vec::with_capacity(rounds); subjects.len()];
        for _ in 0..rounds.div_ceil(TURN) {
            for ((_, round), times) in subjects.iter_mut().zip(&mut times) {
                for _ in 0..TURN {
                    let begun = Instant::now();
                    round()?;
                    times.push(begun.elapsed());
                }
            }
        }
        for ((name, _), times) in subjects.iter().zip(times) {
            print(name, size, times);
        }
        drop(subjects);
        drop(journal);
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// One write and one sync.
type Subject<'a> = Box<dyn FnMut() -> Result<(), Failure> + 'a>;

/// How a bare file is made ready before it is measured.
type Prepare = fn(&File) -> io::Result<()>;

const BARE: [(&str, Prepare); 4] = [
    ("growing", |_| Ok(())),
    ("allocated", |file| Ok(fallocate(file, FallocateFlags::empty(), 0, AHEAD)?)),
    ("allocated, size kept", |file| Ok(fallocate(file, FallocateFlags::KEEP_SIZE, 0, AHEAD)?)),
    ("zeros", |file| {
        let zeros = vec![0; 1 << 20];
        (0..AHEAD).step_by(zeros.len()).try_for_each(|at| file.write_all_at(&zeros, at))
    }),
];

fn opening(dir: &Path, megabytes: usize) -> Result<(), Failure> {
    let folder = dir.join("latency.journal");
    let options = || Options { dir: folder.clone(), segment_bytes: SEGMENT };
    let (mut journal, _) = Journal::open(options())?;
    let payload = noise(8 << 10);
    for i in 0..megabytes << 20 >> 13 {
        journal.append(1, &payload)?;
        if i % 128 == 0 {
            journal.sync()?;
        }
    }
    journal.sync()?;
    drop(journal);
    for _ in 0..3 {
        let begun = Instant::now();
        let (journal, recovery) = Journal::open(options())?;
        let opened = begun.elapsed();
        let mut cursor = journal.read(Position::default())?;
        let (mut records, mut bytes) = (0u64, 0u64);
        while let Some(record) = cursor.next()? {
            records += 1;
            bytes += record.payload.len() as u64;
        }
        let read = begun.elapsed().saturating_sub(opened);
        let clean = recovery.cut.is_none() && recovery.damaged.is_empty();
        println!(
            "{} segments, {records} records, {} MB: open {opened:?}, read {read:?}, clean: {clean}",
            journal.segments().len(),
            bytes >> 20
        );
    }
    Ok(fs::remove_dir_all(folder)?)
}

fn print(name: &str, size: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| {
        let place = (times.len() * percent / 100).min(times.len().saturating_sub(1));
        times.get(place).map_or(0, Duration::as_micros)
    };
    let (p50, p90, p99, max) = (at(50), at(90), at(99), at(100));
    println!("{name:<20} {size:>6} {p50:>8} {p90:>8} {p99:>8} {max:>8}");
}

/// Bytes that no file system stores as a hole.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(next).collect()
}
