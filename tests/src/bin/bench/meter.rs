//! What the machine says about a process, a folder and a disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tributary_tests::process::Process;
use tributary_tests::{PATIENCE, http};

/// The kernel counts CPU time in hundredths of a second on every Linux.
const TICK: Duration = Duration::from_millis(10);
/// `st_blocks` counts in these, whatever the file system's blocks are.
const BLOCK_BYTES: u64 = 512;
/// How often the disk is asked, and with how much.
const SYNCS: usize = 200;
const SYNC_BYTES: usize = 8 << 10;

/// A folder that has not changed for so long is at rest: longer than anybody keeps things in memory only.
pub const QUIET: Duration = Duration::from_secs(6);
/// The longest wait for that.
pub const AT_REST: Duration = Duration::from_secs(120);

/// What processes have used since they were started, or between two times.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu: Duration,
    /// Bytes that were sent to the disk.
    pub written: u64,
    /// The most memory that was ever resident.
    pub peak_bytes: u64,
}

impl Usage {
    /// Of one process.
    pub fn of(process: u32) -> anyhow::Result<Self> {
        let read = |name: &str| {
            let path = format!("/proc/{process}/{name}");
            fs::read_to_string(&path).with_context(|| format!("reading {path}"))
        };
        let stat = read("stat")?;
        // The second field is the program's name in parentheses, and may contain anything.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let [Some(user), Some(system)] = [11, 12].map(|i| fields.get(i)?.parse::<u32>().ok())
        else {
            bail!("/proc/{process}/stat is not what it should be: {stat}");
        };
        Ok(Self {
            cpu: TICK * (user + system),
            written: field(&read("io")?, "write_bytes:")?,
            peak_bytes: field(&read("status")?, "VmHWM:")? * 1024,
        })
    }

    /// Of several processes: sums, also of the memory.
    pub fn of_all(processes: impl IntoIterator<Item = u32>) -> anyhow::Result<Self> {
        let mut all = Self::default();
        for process in processes {
            let one = Self::of(process)?;
            all.cpu += one.cpu;
            all.written += one.written;
            all.peak_bytes += one.peak_bytes;
        }
        Ok(all)
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            written: self.written.saturating_sub(before.written),
            peak_bytes: self.peak_bytes,
        }
    }
}

fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("no {name} in\n{text}"))
}

/// Bytes that a folder occupies on its disk. Files that vanish meanwhile do not count.
pub fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(is) if is.is_dir() => disk_bytes(&entry.path()),
        Ok(is) => is.blocks() * BLOCK_BYTES,
        Err(_) => 0,
    });
    sizes.sum()
}

/// Waits until a folder's size is the same for so long, or the time is over.
pub async fn settled(folder: &Path, quiet: Duration, at_most: Duration) -> u64 {
    let end = Instant::now() + at_most;
    let (mut bytes, mut since) = (disk_bytes(folder), Instant::now());
    while since.elapsed() < quiet && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now = disk_bytes(folder);
        if now != bytes {
            (bytes, since) = (now, Instant::now());
        }
    }
    bytes
}

/// Waits until a process says that it is ready, more eagerly than stories do; returns how long that took.
pub async fn ready(url: &str, process: &mut Process) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let url = format!("{url}/-/ready");
    while start.elapsed() < PATIENCE {
        match http::get(&url).await {
            Ok(answer) if answer.status.is_success() => return Ok(start.elapsed()),
            _ if !process.is_running() => bail!("{url}: the process ended:\n{}", process.log()),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    bail!("{url} is not ready within {PATIENCE:?}:\n{}", process.log())
}

/// How long the disk of a folder takes to make appended bytes durable, asked many times.
pub fn sync_times(folder: &Path) -> anyhow::Result<Times> {
    let path = folder.join("fdatasync");
    let mut file = File::create(&path).with_context(|| format!("creating {}", path.display()))?;
    let mut times = Times::default();
    for _ in 0..SYNCS {
        let start = Instant::now();
        file.write_all(&[7; SYNC_BYTES])?;
        file.sync_data()?;
        times.push(start.elapsed());
    }
    fs::remove_file(path)?;
    Ok(times)
}

/// Many measured times.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    /// One more.
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// All of another's.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The time that the part `q` of them does not exceed, in milliseconds; no number if there are none.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let place = (last as f64 * q).round() as usize;
        sorted.get(place).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to() {
        let before = Usage::of(std::process::id()).unwrap();
        let start = Instant::now();
        let mut sum = 0_u64;
        let used = loop {
            for _ in 0..1_000_000 {
                sum = std::hint::black_box(sum.wrapping_mul(31).wrapping_add(7));
            }
            let used = Usage::of(std::process::id()).unwrap().since(before);
            // However busy the machine is, work costs time in the end.
            if used.cpu >= 3 * TICK {
                break used;
            }
            assert!(start.elapsed() < PATIENCE, "{used:?}");
        };
        assert!(used.cpu < 2 * start.elapsed() + 3 * TICK, "{used:?}");
        assert!(used.peak_bytes > 100_000, "{used:?}");
    }

    #[test]
    fn quantiles_are_members() {
        let mut times = Times::default();
        assert!(times.quantile_ms(0.5).is_nan());
        for ms in [5, 1, 3, 2, 4] {
            times.push(Duration::from_millis(ms));
        }
        assert_eq!([0.0, 0.5, 1.0].map(|q| times.quantile_ms(q)), [1.0, 3.0, 5.0]);
    }
}
