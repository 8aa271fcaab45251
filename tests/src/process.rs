//! One of the real binaries, running: its log, its ways to die.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::{eventually, patiently};

/// A running binary. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `binary`; its output goes to the end of the file `log`.
    pub fn start(binary: PathBuf, arguments: Vec<String>, log: PathBuf) -> Self {
        Self::start_with(binary, arguments, Vec::new(), log)
    }

    /// The same with environment variables.
    pub fn start_with(
        binary: PathBuf,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
        log: PathBuf,
    ) -> Self {
        let child = spawn(&binary, &arguments, &environment, &log);
        Self { binary, arguments, environment, log, child }
    }

    /// The number of the process that runs now.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it wrote so far, over all restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains `text`.
    pub async fn logged(&self, text: &str) {
        if patiently(async || self.log().contains(text).then_some(())).await.is_none() {
            panic!("no \"{text}\" in the log of {}:\n{}", self.binary.display(), self.log());
        }
    }

    /// SIGKILL, as a crash.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends a signal by name.
    pub fn signal(&self, name: &str) {
        // Every shell has `kill` built in; the program of this name is not on every machine.
        let kill = format!("kill -{name} {}", self.child.id());
        let done = Command::new("sh").args(["-c", &kill]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// Waits for the end.
    pub async fn ended(&mut self) -> ExitStatus {
        let name = self.binary.display().to_string();
        let child = std::cell::RefCell::new(&mut self.child);
        eventually(&format!("the end of {name}"), async || {
            child.borrow_mut().try_wait().ok().flatten()
        })
        .await
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Starts it again after it ended, with the same arguments.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.binary, &self.arguments, &self.environment, &self.log);
    }

    /// Resident memory, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(
    binary: &Path,
    arguments: &[String],
    environment: &[(String, String)],
    log: &Path,
) -> Child {
    let log = File::options().create(true).append(true).open(log).unwrap();
    Command::new(binary)
        .args(arguments)
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|e| {
            panic!("starting {}: {e} (cargo build --workspace --bins)", binary.display())
        })
}
