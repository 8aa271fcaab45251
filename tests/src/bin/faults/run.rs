//! Runs the writer under strace, ends it, and asks the check what is left.

use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::text;
use crate::trace::{self, Seen};

/// How often a running writer is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// The program, and how far it may go.
#[derive(Debug)]
pub struct Subject {
    pub example: PathBuf,
    pub extra: Vec<String>,
    pub rounds: usize,
    pub patience: Duration,
    pub scratch: PathBuf,
}

/// What became of one run.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the fault came to be.
    pub fired: bool,
    /// How the writer ended.
    pub end: End,
    /// What the check says, if it does not find every acknowledged round.
    pub lost: Option<String>,
    /// Why a person would not know what happened.
    pub unclear: Option<String>,
    /// Rounds acknowledged after a failed sync of the journal.
    pub late: usize,
}

/// How a writer ended.
#[derive(Debug)]
pub enum End {
    /// It wrote all rounds, and was ended.
    WentOn,
    /// It ended by itself.
    Ended(ExitStatus, String),
    /// It neither wrote nor ended.
    Stuck(String),
}

impl End {
    pub fn went_on(&self) -> bool {
        matches!(self, Self::WentOn)
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Ended(status, _) if status.code().is_some())
    }

    pub fn is_kill(&self) -> bool {
        matches!(self, Self::Ended(status, _) if status.signal() == Some(9))
    }

    /// Why the end is not clear, if it is not.
    fn unclear(&self, fault: &str) -> Option<String> {
        match self {
            Self::WentOn => None,
            Self::Stuck(said) => Some(format!("it neither went on nor ended; it said {said:?}")),
            Self::Ended(..) if fault == "KILL" && self.is_kill() => None,
            Self::Ended(status, said) if said.contains("panicked") || !self.is_error() => {
                Some(format!("{status}: {said:?}"))
            }
            Self::Ended(status, said) if said.trim().is_empty() || status.success() => {
                Some(format!("it ended with {status} and said {said:?}"))
            }
            Self::Ended(..) => None,
        }
    }
}

/// The files of one run.
struct Place {
    store: PathBuf,
    log: PathBuf,
    trace: PathBuf,
    said: PathBuf,
    _dir: TempDir,
}

impl Subject {
    /// A run without faults.
    pub fn watch(&self, calls: &[String]) -> anyhow::Result<Seen> {
        let place = self.place()?;
        // strace knows a call by name even where the machine's architecture has no such call.
        let calls: Vec<String> = calls.iter().map(|call| format!("?{call}")).collect();
        let end = self.write(&place, &["-e".into(), format!("trace={}", calls.join(","))])?;
        if !end.went_on() {
            bail!("without faults the writer ended: {end:?}");
        }
        if let Some(said) = self.check(&place)? {
            bail!("without faults, after SIGKILL: {said}");
        }
        let folder = text(&place.store)?;
        let mut seen = trace::seen(&fs::read_to_string(&place.trace)?, &folder);
        // Names below the folder, since every run has a folder of its own.
        for path in &mut seen.paths {
            *path = path.strip_prefix(&folder).unwrap_or_default().to_owned();
        }
        Ok(seen)
    }

    /// A run in which the `nth` of these calls on these files fails.
    pub fn fail(
        &self,
        paths: &[String],
        call: &str,
        fault: &str,
        nth: usize,
    ) -> anyhow::Result<Outcome> {
        let place = self.place()?;
        let (store, log) = (text(&place.store)?, text(&place.log)?);
        let action = if fault == "KILL" { "signal=KILL".into() } else { format!("error={fault}") };
        let mut options = vec![
            "-e".to_owned(),
            format!("trace={call},write"),
            "-e".to_owned(),
            format!("inject={call}:{action}:when={nth}"),
        ];
        // Only calls on these files are counted and fail. The log's own writes must not, but are wanted for syncs.
        for path in paths {
            options.extend(["-P".to_owned(), format!("{store}{path}")]);
        }
        if call != "write" {
            options.extend(["-P".to_owned(), log.clone()]);
        }
        let end = self.write(&place, &options)?;
        let found = trace::faulty(&fs::read_to_string(&place.trace)?, &log);
        let fired = if fault == "KILL" { end.is_kill() } else { found.injected > 0 };
        let unclear = if fired { end.unclear(fault) } else { None };
        let lost = self.check(&place)?;
        if !fired && !end.went_on() {
            bail!("the fault did not come, but the writer ended: {end:?}");
        }
        Ok(Outcome { fired, end, lost, unclear, late: found.late })
    }

    fn place(&self) -> anyhow::Result<Place> {
        let dir = TempDir::with_prefix_in("faults-", &self.scratch)?;
        let at = |name: &str| dir.path().join(name);
        let (store, log, trace, said) = (at("store"), at("log"), at("trace"), at("said"));
        fs::create_dir(&store)?;
        File::create(&log)?;
        Ok(Place { store, log, trace, said, _dir: dir })
    }

    /// Runs the writer under strace until it has written all rounds, ends, or is stuck.
    fn write(&self, place: &Place, options: &[String]) -> anyhow::Result<End> {
        let mut command = Command::new("strace");
        // Faster: only these calls stop. But at such a stop the system does not let a signal in.
        if !options.iter().any(|option| option.contains("signal=")) {
            command.arg("--seccomp-bpf");
        }
        command
            .args(["-f", "-qq", "-y", "-s", "16", "-o"])
            .arg(&place.trace)
            .args(options)
            .arg(&self.example)
            .args(["write".as_ref(), place.store.as_os_str(), place.log.as_os_str()])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&place.said)?)
            .process_group(0);
        let mut child = command.spawn().context("starting strace")?;
        let begun = Instant::now();
        let ended = loop {
            if let Some(status) = child.try_wait()? {
                break Some(status);
            }
            if noted(&place.log)? >= self.rounds || begun.elapsed() > self.patience {
                break None;
            }
            std::thread::sleep(LOOK);
        };
        let went_on = noted(&place.log)? >= self.rounds;
        end_group(&mut child)?;
        let said = fs::read_to_string(&place.said)?;
        Ok(match ended {
            Some(status) => End::Ended(status, said),
            None if went_on => End::WentOn,
            None => End::Stuck(said),
        })
    }

    /// What the check says if it is not content.
    fn check(&self, place: &Place) -> anyhow::Result<Option<String>> {
        let said = File::create(&place.said)?;
        let mut child = Command::new(&self.example)
            .args(["check".as_ref(), place.store.as_os_str(), place.log.as_os_str()])
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(said)
            .process_group(0)
            .spawn()
            .context("starting the check")?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                let said = fs::read_to_string(&place.said)?;
                return Ok((!status.success()).then(|| format!("{status}: {said:?}")));
            }
            if begun.elapsed() > self.patience {
                end_group(&mut child)?;
                return Ok(Some("the check does not end".to_owned()));
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// Acknowledged rounds.
fn noted(log: &Path) -> anyhow::Result<usize> {
    Ok(fs::read(log)?.iter().filter(|byte| **byte == b'\n').count())
}

/// Ends strace and the writer at once, since strace alone would let go of it, and waits until both are gone: a writer that
/// is being ended still holds its locks.
fn end_group(child: &mut Child) -> anyhow::Result<()> {
    let group = format!("-{}", child.id());
    let signal = |signal: &str| {
        let mut kill = Command::new("kill");
        kill.args([signal, "--", &group]).stderr(Stdio::null()).status()
    };
    if child.try_wait()?.is_none() {
        signal("-KILL")?;
    }
    child.wait()?;
    let begun = Instant::now();
    while signal("-0")?.success() {
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("process group {group} does not end");
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
