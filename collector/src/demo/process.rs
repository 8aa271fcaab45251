//! The demo's child processes: started with a log each, and gone when the demo is, whatever becomes of it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

/// How long a child may take to end by itself.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// Lines shown of the log of a child that ended by itself.
const LOG_LINES: usize = 15;

/// Reads process ids until its input ends, which is when the demo does; kills them and removes the folder. The second
/// try is for what the dying still wrote.
const GUARD: &str = r#"while read -r pid; do pids="$pids $pid"; done
kill -9 $pids
[ -z "$1" ] || rm -rf "$1" || { sleep 1; rm -rf "$1"; }"#;

/// A running child.
pub struct Running {
    /// What it is.
    pub name: String,
    child: Child,
    log: PathBuf,
}

/// The children, and the guard that outlives a killed demo long enough to end them.
pub struct Children {
    running: Vec<Running>,
    guard: Child,
}

impl Children {
    /// No children yet. Should this process be killed, the guard kills them and removes `folder`, if there is one.
    pub fn new(folder: Option<&Path>) -> io::Result<Self> {
        let mut guard = Command::new("sh");
        guard
            .arg("-c")
            .arg(GUARD)
            .arg("tributary-demo-guard")
            .arg(folder.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0);
        Ok(Self { running: Vec::new(), guard: guard.spawn()? })
    }

    /// Starts a program with its output in `log`.
    pub async fn start(
        &mut self,
        name: &str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> io::Result<()> {
        let out = File::create(&log)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            // Ctrl-C is for the demo, which ends its children in order.
            .process_group(0)
            .kill_on_drop(true);
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("TRIBUTARY_") {
                command.env_remove(key);
            }
        }
        let child = command.spawn()?;
        if let (Some(pid), Some(stdin)) = (child.id(), self.guard.stdin.as_mut()) {
            stdin.write_all(format!("{pid}\n").as_bytes()).await?;
        }
        self.running.push(Running { name: name.to_owned(), child, log });
        Ok(())
    }

    /// The first child that has ended by itself: its name, how, and the end of its log.
    pub fn ended(&mut self) -> Option<String> {
        self.running.iter_mut().find_map(|running| {
            let status = running.child.try_wait().ok()??;
            let log = std::fs::read_to_string(&running.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default();
            Some(format!("{} ended ({status}); its last words:\n{}", running.name, tail.join("\n")))
        })
    }

    /// Ends the children, the last one started first: asks them, and kills those that do not listen.
    pub async fn stop(mut self) {
        for running in self.running.iter_mut().rev() {
            if let (Ok(None), Some(pid)) = (running.child.try_wait(), running.child.id()) {
                let pid = pid.to_string();
                let asked =
                    Command::new("sh").args(["-c", "kill -TERM \"$0\"", &pid]).status().await;
                if asked.is_ok()
                    && tokio::time::timeout(STOP_GRACE, running.child.wait()).await.is_ok()
                {
                    continue;
                }
            }
            let _ = running.child.kill().await;
        }
        let _ = self.guard.kill().await;
    }
}

/// Runs a program to its end; fails with what it said.
pub async fn run(program: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::bail!("{} {} failed:\n{said}", program.display(), arguments.join(" "))
}

/// The binary `name` in the folders of PATH.
pub fn in_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}
