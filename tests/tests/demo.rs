//! The README's first command: it proves that everything works, and leaves nothing behind however it ends.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};
use tributary_tests::eventually;
use tributary_tests::process::Process;
use tributary_tests::world::binary;

/// A demo takes the collector's usual port if it is free: there is one at a time.
static TURN: Mutex<()> = Mutex::const_new(());

async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// The demo, working below a folder of its own. Without a Prometheus, whatever this machine has.
fn demo(folder: &TempDir, arguments: &[&str]) -> Process {
    let temporary = folder.path().join("tmp");
    fs::create_dir(&temporary).unwrap();
    let environment = vec![
        ("TMPDIR".to_owned(), temporary.display().to_string()),
        ("PATH".to_owned(), "/usr/bin:/bin".to_owned()),
    ];
    let arguments = ["demo"].iter().chain(arguments).map(|a| (*a).to_owned()).collect();
    let log = folder.path().join("demo.log");
    Process::start_with(binary("tributary-collector"), arguments, environment, log)
}

async fn nothing_is_left(folder: &TempDir) {
    let temporary = folder.path().join("tmp");
    eventually("the demo's folder is gone", async || {
        fs::read_dir(&temporary).unwrap().next().is_none().then_some(())
    })
    .await;
    eventually("its processes are gone", async || (!running_below(&temporary)).then_some(())).await;
}

/// Whether a process has a path below `folder` on its command line.
fn running_below(folder: &Path) -> bool {
    let below = folder.display().to_string();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let mut lines = processes.filter_map(|p| fs::read(p.path().join("cmdline")).ok());
    lines.any(|line| String::from_utf8_lossy(&line).contains(&below))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_proves_that_everything_works() {
    let (_turn, folder) = (turn().await, tempfile::tempdir().unwrap());
    let mut demo = demo(&folder, &["--for", "25s"]);
    assert!(demo.ended().await.success(), "{}", demo.log());
    let log = demo.log();
    for said in [
        "eu-1: connected",
        "us-1: connected",
        "lab: connected",
        "rule: demo:targets_up:count recorded for cluster local",
        "mail to oncall@example.org: [FIRING:1] TargetDown lab",
        "curl -s http://127.0.0.1:",
        "ok: every cluster delivered",
    ] {
        assert!(log.contains(said), "{said:?} in:\n{log}");
    }
    nothing_is_left(&folder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_demo_cleans_up() {
    let (_turn, folder) = (turn().await, tempfile::tempdir().unwrap());
    let mut demo = demo(&folder, &[]);
    demo.logged("Ctrl-C ends everything").await;
    assert!(demo.terminate().await.success(), "{}", demo.log());
    nothing_is_left(&folder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_demo_is_cleaned_up_after() {
    let (_turn, folder) = (turn().await, tempfile::tempdir().unwrap());
    let mut demo = demo(&folder, &["--for", "5m"]);
    demo.logged("eu-1: connected").await;
    demo.kill();
    nothing_is_left(&folder).await;
}
