//! Opens journals with damaged, cut, mixed up and hostile segments for a while, and wants no panic, no record that was
//! never written, and a clean journal afterwards.
//!
//! `cargo run --release -p tributary-journal --example damage -- FOLDER SECONDS SEED`; a folder in memory (`/dev/shm`) makes
//! it many times faster. The same seed makes the same journals; a failure names the seed that makes its journal alone.

#![expect(clippy::print_stdout, reason = "a program that prints what it did")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tributary_journal::{Journal, Options, Position};

type Failure = Box<dyn std::error::Error>;
type Records = BTreeMap<Position, (u8, Vec<u8>)>;

/// Bytes of a segment's two header copies, and of a record's header.
const HEADERS: usize = 64;
const RECORD_HEADER: usize = 20;
/// Most memory: a few windows, records of the made-up sizes, and the program itself.
const MAX_RESIDENT_KIB: u64 = 128 << 10;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, seconds, seed] = arguments.as_slice() else {
        return Err("usage: damage FOLDER SECONDS SEED".into());
    };
    let (time, first): (_, u64) = (Duration::from_secs(seconds.parse()?), seed.parse()?);
    let dir = Path::new(dir).join(format!("damage-{}", std::process::id()));
    let begun = Instant::now();
    let (mut journals, mut written, mut read) = (0u64, 0, 0);
    for seed in first.. {
        let done = std::panic::catch_unwind(|| one(&dir, seed));
        let failed = |what: String| format!("{what}; again with 0 seconds and seed {seed}");
        let done = done.map_err(|_| failed("a panic".to_owned()))?;
        let (wrote, found) = done.map_err(|e| failed(e.to_string()))?;
        (journals, written, read) = (journals + 1, written + wrote, read + found);
        if begun.elapsed() >= time {
            break;
        }
    }
    let peak = peak_kib()?;
    println!("{journals} journals: {written} records written, {read} read after the damage");
    println!("most memory: {} MiB", peak >> 10);
    if peak > MAX_RESIDENT_KIB {
        return Err("that is too much".into());
    }
    Ok(())
}

/// Makes a journal, damages it, and opens it. Returns how many records were written and read.
fn one(dir: &Path, seed: u64) -> Result<(usize, usize), Failure> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    let options = |random: &mut Random| Options {
        dir: dir.to_owned(),
        segment_bytes: 200 + random.below(4_000) as u64,
    };
    let (mut journal, _) = Journal::open(options(&mut random))?;
    for _ in 0..random.below(30) {
        let length = if random.below(20) == 0 { random.below(600_000) } else { random.below(300) };
        journal.append(random.byte(), &random.bytes(length))?;
        if random.below(3) == 0 {
            journal.sync()?;
        }
    }
    journal.sync()?;
    let written = all(&journal)?;
    drop(journal);
    let honest = damage(dir, &mut random)?;
    let (mut journal, _) = match Journal::open(options(&mut random)) {
        Ok(opened) => opened,
        // Only a header that was made anew, with its checksum, can say so.
        Err(tributary_journal::Error::Version { .. }) if !honest => return Ok((written.len(), 0)),
        Err(e) => return Err(e.into()),
    };
    let found = all(&journal)?;
    if honest
        && let Some((at, _)) = found.iter().find(|(at, record)| written.get(at) != Some(record))
    {
        return Err(format!("the record at {at:?} was never written").into());
    }
    let at = journal.append(7, b"afterwards")?;
    journal.sync()?;
    drop(journal);
    let (journal, recovery) = Journal::open(options(&mut random))?;
    if recovery.cut.is_some() {
        return Err(format!("torn after it was mended: {recovery:?}").into());
    }
    let mut expected = found.clone();
    expected.insert(at, (7, b"afterwards".to_vec()));
    if all(&journal)? != expected {
        return Err(
            "what was appended after the damage is not there, or other things are not".into()
        );
    }
    Ok((written.len(), found.len()))
}

fn all(journal: &Journal) -> Result<Records, Failure> {
    let mut cursor = journal.read(Position::default())?;
    let mut out = Records::new();
    while let Some(record) = cursor.next()? {
        out.insert(record.position, (record.kind, record.payload));
    }
    Ok(out)
}

/// Damages some segments. Returns whether no checksum was made anew.
fn damage(dir: &Path, random: &mut Random) -> Result<bool, Failure> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, Failure>>()?;
    files.retain(|path| path.extension().is_some_and(|e| e == "journal"));
    files.sort();
    let mut honest = true;
    for _ in 0..=random.below(3) {
        let Some(path) = files.get(random.below(files.len())) else { break };
        let Ok(mut bytes) = fs::read(path) else { continue };
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len());
            let to = (at + random.below(200)).min(bytes.len());
            match random.below(9) {
                0 => bytes.truncate(at),
                1 | 2 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << random.below(8);
                    }
                }
                3 => drop(bytes.drain(at..to)),
                4 => drop(bytes.splice(at..at, random.bytes(to - at))),
                5 => bytes.get_mut(at..to).unwrap_or_default().fill(0),
                6 => bytes.resize(bytes.len() + random.below(5_000), 0),
                7 => {
                    let again = bytes.get(at..to).unwrap_or_default().to_vec();
                    bytes.extend(again);
                }
                _ => honest &= !reseal(&mut bytes, random),
            }
        }
        match random.below(20) {
            0 => fs::remove_file(path)?,
            1 => {
                // The same bytes under another number.
                let other = files.get(random.below(files.len())).unwrap_or(path);
                fs::write(other, bytes)?;
            }
            _ => fs::write(path, bytes)?,
        }
    }
    Ok(honest)
}

/// Changes a record's header or the segment's, and makes its checksums right again. Returns whether it did.
fn reseal(bytes: &mut [u8], random: &mut Random) -> bool {
    if random.below(4) == 0 {
        let Some((first, second)) =
            bytes.get_mut(..HEADERS).map(|both| both.split_at_mut(HEADERS / 2))
        else {
            return false;
        };
        let (place, byte) = (8 + random.below(20), random.byte());
        for copy in [first, second] {
            if let Some(at) = copy.get_mut(place) {
                *at = byte;
            }
            let Some((body, checksum)) = copy.split_last_chunk_mut::<4>() else { return false };
            *checksum = crc32c::crc32c(body).to_le_bytes();
        }
        return true;
    }
    let Some(salt) = bytes.get(20..28).map(<[u8]>::to_vec) else { return false };
    let at = HEADERS + if random.below(2) == 0 { 0 } else { random.below(bytes.len()) };
    let offset = (at as u64).to_le_bytes();
    let length =
        u32::try_from(if random.below(2) == 0 { random.below(400) } else { random.below(1 << 25) });
    let payload = crc32c::crc32c(bytes.get(at + RECORD_HEADER..).unwrap_or_default());
    let Some(header) = bytes.get_mut(at..at + RECORD_HEADER) else { return false };
    let mut made = vec![0xD7, 0x4A, 0xE1, 0x93];
    made.extend(length.unwrap_or(0).to_le_bytes());
    made.extend(payload.to_le_bytes());
    made.extend([random.byte(), 0, 0, 0]);
    let checksum =
        [&salt[..], &offset, &made].iter().fold(0, |crc, part| crc32c::crc32c_append(crc, part));
    made.extend(checksum.to_le_bytes());
    header.copy_from_slice(&made);
    true
}

fn peak_kib() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    Ok(line.ok_or("no VmHWM")?.trim().trim_end_matches(" kB").parse()?)
}

/// Numbers that look random and are the same for the same seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0xd6e8_feb8_6659_fd93) >> 11
    }

    /// Below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    /// Noise, zeros, or markers of records.
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        match self.below(4) {
            0 => vec![0; length],
            1 => [0xD7, 0x4A, 0xE1, 0x93].into_iter().cycle().take(length).collect(),
            _ => (0..length).map(|_| self.byte()).collect(),
        }
    }
}
