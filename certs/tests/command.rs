//! The command as people and scripts meet it: what it prints, what it refuses, and how it ends.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;
use tributary_certs::rotate::{self, Fleet, Policy, Seen};
use tributary_certs::state::State;

struct World {
    dir: TempDir,
}

impl World {
    /// A folder with an authority, the collector's certificate, and those of two clusters.
    fn new() -> Self {
        let world = Self { dir: TempDir::new().unwrap() };
        world.ok(&["init", "--host", "tools.example.org", "--host", "::1"]);
        world.ok(&["issue", "eu-1"]);
        world.ok(&["issue", "us-1", "--instance", "prometheus-0"]);
        world
    }

    fn pki(&self) -> PathBuf {
        self.dir.path().join("pki")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tributary-certs"));
        command.args(arguments).current_dir(self.dir.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A collector that carries out what the folder asks, with agents that do at once what is desired of them.
struct Collector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    fn start(pki: PathBuf, connected: &[&str]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let names: Vec<String> = connected.iter().map(|name| (*name).to_owned()).collect();
        let thread = thread::spawn(move || {
            let mut authority = rotate::desired(&pki).unwrap().authority;
            let mut bundle = None;
            while !stopped.load(Ordering::Relaxed) {
                let now = SystemTime::now();
                let agent = |name: &String| Seen {
                    identity: name.clone(),
                    connected: true,
                    last_seen: Some(now),
                    clock_skew_ms: 0,
                    renewable: true,
                    bundle,
                    leaf_authority: Some(authority),
                    leaf_spki: None,
                    collector_authority: Some(authority),
                    trust_error: String::new(),
                };
                let agents = names.iter().map(agent).collect();
                let fleet = Fleet { agents, collector_authority: authority };
                let policy = Policy { leaf_lifetime: Duration::from_secs(30 * 86_400) };
                let desired = rotate::advance(&pki, &fleet, &policy, now).unwrap().desired;
                bundle = Some(desired.bundle.digest());
                if desired.reconnect {
                    authority = desired.authority;
                }
                thread::yield_now();
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn every_command_has_help_that_says_what_it_does() {
    let world = World { dir: TempDir::new().unwrap() };
    let top = world.ok(&["--help"]);
    for name in
        ["init", "issue", "status", "inspect", "verify", "bundle", "revoke", "rotate", "export"]
    {
        assert!(top.contains(&format!("\n  {name} ")), "{name}: {top}");
        assert!(world.ok(&[name, "--help"]).lines().count() > 8, "{name}");
    }
    assert!(world.ok(&["completions", "bash"]).contains("complete"));
}

#[test]
fn what_cannot_be_done_is_refused_with_the_next_step() {
    let world = World::new();
    let cases: &[(&[&str], i32, &str)] = &[
        (&["init", "--host", "a"], 2, "use another --dir, or --force"),
        (&["init", "--dir", "x", "--host", "a b"], 2, "\"a b\" is neither a host name nor"),
        (&["init", "--dir", "x", "--host", "a", "--from-ca", "y"], 2, "give both files: CRT,KEY"),
        (&["issue", "EU"], 2, "is not a cluster name"),
        (&["issue", "next"], 2, "give the cluster another name"),
        (&["issue", "eu-1", "--instance", "b"], 2, "write the new one elsewhere with --out"),
        (&["issue", "eu-1", "--host", "x"], 2, "agents are known by identity"),
        (&["issue", "eu-1", "--dir", "x"], 2, "make one: tributary-certs init --dir x"),
        (&["status", "--dir", "x"], 2, "make one: tributary-certs init --dir x"),
        (&["bundle", "--dir", "x"], 2, "make one: tributary-certs init --dir x"),
        (&["inspect", "pki/ca.key"], 1, "holds no CERTIFICATE block"),
        (&["verify"], 2, "<FILE>"),
        (&["revoke"], 2, "--spki"),
        (&["revoke", "eu-1", "--serial", "00"], 2, "cannot be used with"),
        (&["revoke", "eu-2"], 2, "tributary-certs status shows what was issued"),
        (&["revoke", "../x"], 2, "is not a cluster name"),
        (&["revoke", "collector"], 2, "rotate --leaf collector"),
        (&["revoke", "--serial", "ffffff"], 2, "or it has run out"),
        (&["revoke", "--spki", "12"], 2, "64 hexadecimal digits"),
        (&["rotate"], 2, "say what to rotate with --ca"),
        (&["rotate", "--ca", "--all"], 2, "cannot be used with"),
        (&["rotate", "--ca", "--until", "done"], 2, "one of preflight, prepare"),
        (&["rotate", "--ca", "--grace", "5"], 2, "30s, 10m, 2h, 7d"),
        (&["rotate", "--ca", "--skip", "eu-2"], 2, "there are: collector, eu-1, us-1"),
        (&["rotate", "--leaf", "eu-2"], 2, "there are: collector, eu-1, us-1"),
        (
            &["rotate", "--ca", "--from-ca", "pki/ca.crt,pki/ca.key"],
            2,
            "the key of the present one",
        ),
        (&["export", "eu-2"], 1, "no certificate here"),
        (&["export", "eu-1", "--namespace", "A"], 1, "not a name in Kubernetes"),
    ];
    for (arguments, code, text) in cases {
        let output = world.run(arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(*code), "{arguments:?}: {said}");
        assert!(said.contains(text), "{arguments:?}: {said}");
        assert!(said.starts_with("error: "), "{arguments:?}: {said}");
    }
    assert_eq!(State::read(&world.pki()).unwrap().rotation, None);
}

#[test]
fn what_is_issued_is_on_record() {
    let world = World::new();
    let state = State::read(&world.pki()).unwrap();
    let how: Vec<_> =
        state.issued.iter().map(|(name, keys)| (name.as_str(), keys[0].how.as_str())).collect();
    assert_eq!(
        how,
        [("collector/collector", "init"), ("eu-1/agent", "issue"), ("us-1/prometheus-0", "issue")]
    );
    let shown = world.json(&["inspect", "pki/eu-1/tls.crt", "-o", "json"]);
    assert_eq!(shown["serial"], state.issued["eu-1/agent"][0].serial.as_str());
}

#[test]
fn verify_finds_what_is_wrong() {
    let world = World::new();
    let good = world.ok(&["verify", "pki/eu-1/tls.crt", "pki/collector/tls.crt", "pki/ca.crt"]);
    let shown: Vec<&str> = good.lines().map(|line| line.split(", until").next().unwrap()).collect();
    assert_eq!(
        shown,
        [
            "pki/eu-1/tls.crt: ok: agent \"agent\" of cluster \"eu-1\"",
            "pki/collector/tls.crt: ok: collector \"collector\"",
            "pki/ca.crt: ok: authority \"Tributary CA 1\"",
        ]
    );
    std::fs::copy(world.pki().join("eu-1/tls.key"), world.pki().join("us-1/tls.key")).unwrap();
    world.ok(&["init", "--dir", "other", "--host", "x"]);
    world.ok(&["revoke", "eu-1", "--why", "laptop stolen"]);
    let cases: &[(&[&str], &str)] = &[
        (&["verify", "pki/us-1/tls.crt"], "this private key does not belong to the certificate"),
        (&["verify", "other/collector/tls.crt"], "is not signed by an authority in our CA bundle"),
        (&["verify", "other/ca.crt"], "is not signed by an authority in our CA bundle"),
        (&["verify", "pki/eu-1/tls.crt"], "is revoked"),
        (&["verify", "pki/none.crt"], "pki/none.crt"),
    ];
    for (arguments, text) in cases {
        let output = world.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(stdout(&output).contains(text), "{arguments:?}: {}", stdout(&output));
    }
    world.ok(&["verify", "other/collector/tls.crt", "--ca", "other/ca.crt"]);
}

#[test]
fn a_revoked_certificate_is_on_the_deny_list_and_in_the_table() {
    let world = World::new();
    let serial = world.json(&["inspect", "pki/us-1/tls.crt", "-o", "json"])["serial"].clone();
    let first: String = serial.as_str().unwrap().chars().take(8).collect();
    let said = world.ok(&["revoke", "--serial", &first, "--why", "laptop stolen"]);
    assert!(said.starts_with("refused  us-1/prometheus-0  key "), "{said}");
    world.ok(&["revoke", "eu-1"]);
    world.ok(&["revoke", "--spki", &"ab".repeat(32)]);
    let state = State::read(&world.pki()).unwrap();
    let denied: Vec<(&str, &str)> =
        state.denied.iter().map(|denied| (denied.identity.as_str(), denied.why.as_str())).collect();
    let default = "revoked by the operator";
    assert_eq!(
        denied,
        [("us-1/prometheus-0", "laptop stolen"), ("eu-1/agent", default), ("", default)]
    );
    let table = world.ok(&["status"]);
    assert!(table.contains("REVOKED → laptop stolen"), "{table}");
}

#[test]
fn a_rotation_is_followed_to_its_end() {
    let world = World::new();
    let _collector = Collector::start(world.pki(), &["eu-1/agent", "us-1/prometheus-0"]);
    let said = world.ok(&["rotate", "--ca"]);
    let (last, steps) =
        said.lines().collect::<Vec<_>>().split_last().map(|(l, s)| (*l, s.to_vec())).unwrap();
    assert!(last.starts_with("done after "), "{said}");
    assert!(steps[0].starts_with("the plan is written"), "{said}");
    let table = stdout(&world.run(&["status"]));
    assert!(table.contains("Tributary CA 2"), "{table}");
    assert!(world.ok(&["rotate", "--status"]).contains("the last one (ca) ended"), "{said}");
    // Those copies are of no use any more: in this test nobody has renewed them.
    assert!(table.contains("its authority is trusted no more"), "{table}");
}

#[test]
fn it_stops_where_asked_and_goes_on_when_run_again() {
    let world = World::new();
    let _collector = Collector::start(world.pki(), &["eu-1/agent", "us-1/prometheus-0"]);
    let said = world.ok(&["rotate", "--ca", "--until", "wait"]);
    assert!(said.contains("stopped before \"activate\", as asked"), "{said}");
    let status = world.ok(&["rotate", "--status"]);
    assert!(status.contains("‖ activate"), "{status}");
    assert!(status.contains("us-1/prometheus-0  connected  nothing"), "{status}");
    let report = world.json(&["rotate", "--status", "-o", "json"]);
    assert_eq!(report["rotation"]["step"], "activate");
    assert_eq!(report["rotation"]["agents"][0]["agent"], "eu-1/agent");
    assert_eq!(world.ok(&["bundle"]).lines().count(), 2);
    assert!(world.ok(&["status"]).contains("next ca"));
    let refused = world.run(&["rotate", "--withdraw"]);
    assert!(stderr(&refused).contains("too late"), "{}", stderr(&refused));
    let busy = world.run(&["rotate", "--all"]);
    assert!(stderr(&busy).contains("a rotation (ca) is going on"), "{}", stderr(&busy));
    assert!(world.ok(&["rotate"]).contains("goes on from where it stood"));
    assert_eq!(world.ok(&["bundle"]).lines().count(), 1);
}

#[test]
fn whoever_is_not_ready_is_named_and_nothing_is_begun() {
    let world = World::new();
    let _collector = Collector::start(world.pki(), &["eu-1/agent"]);
    let output = world.run(&["rotate", "--ca"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("nothing was begun:\n  us-1/prometheus-0: is not connected"), "{said}");
    assert!(said.contains("--skip NAME"), "{said}");
    assert_eq!(State::read(&world.pki()).unwrap().rotation, None);
    let said = world.ok(&["rotate", "--ca", "--skip", "us-1"]);
    assert!(said.contains("left behind: us-1"), "{said}");
}

#[test]
fn a_killed_command_leaves_a_rotation_that_goes_on() {
    let world = World::new();
    let mut child = world.start(&["rotate", "--ca", "--wait"]);
    while State::read(&world.pki()).unwrap().rotation.is_none() {
        thread::yield_now();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(world.ok(&["rotate", "--status"]).contains("no collector has looked at it yet"));
    let _collector = Collector::start(world.pki(), &["eu-1/agent", "us-1/prometheus-0"]);
    let state = || State::read(&world.pki()).unwrap();
    while state().rotation.is_some() {
        thread::yield_now();
    }
    assert_eq!(state().history.len(), 1);
}

#[test]
fn without_a_collector_the_command_says_so() {
    let world = World::new();
    let output = world.run(&["rotate", "--ca"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no collector has worked on the plan"), "{}", stderr(&output));
    assert!(State::read(&world.pki()).unwrap().rotation.is_some(), "the plan stays");
    assert_eq!(world.ok(&["rotate", "--withdraw"]), "taken back\n");
}

#[test]
fn a_dry_run_changes_nothing() {
    let world = World::new();
    let before = std::fs::read(world.pki().join("state.json")).unwrap();
    let output = world.run(&["rotate", "--ca", "--dry-run"]);
    assert_eq!(output.status.code(), Some(1), "nobody is there");
    let said = stdout(&output);
    assert!(said.starts_with("would rotate the authority (Tributary CA 1 → a new one)"), "{said}");
    assert!(said.contains("eu-1/agent         never seen  is not connected"), "{said}");
    assert_eq!(std::fs::read(world.pki().join("state.json")).unwrap(), before);
    world.ok(&["rotate", "--ca", "--dry-run", "--skip", "eu-1", "--skip", "us-1"]);
}

#[test]
fn an_emergency_needs_nobody_and_prints_how_everybody_comes_back() {
    let world = World::new();
    let said = world.ok(&["rotate", "--emergency"]);
    let joins: Vec<&str> =
        said.lines().filter(|line| line.starts_with("tributary-agent join ")).collect();
    assert_eq!(joins.len(), 2, "{said}");
    let state = State::read(&world.pki()).unwrap();
    let folder = tributary_certs::bundle::Folder::open(&world.pki()).unwrap();
    let hash = tributary_certs::certificate::hex(&folder.authority().certificate().spki_sha256);
    for (join, token) in joins.iter().zip(&state.tokens) {
        let start =
            format!("tributary-agent join https://tools.example.org:9391 --token {}.", token.id);
        assert!(join.starts_with(&start), "{join}");
        assert!(join.contains(&format!("--ca-hash sha256:{hash}")), "{join}");
        assert!(token.replace);
    }
    assert!(!said.contains(&state.tokens[0].secret_sha256));
}

#[test]
fn a_secret_holds_the_three_files() {
    let world = World::new();
    let text = world.ok(&["export", "eu-1", "--format", "k8s-secret", "--namespace", "monitoring"]);
    let keys: Vec<&str> =
        text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "apiVersion:",
            "kind:",
            "metadata:",
            "name:",
            "namespace:",
            "labels:",
            "app.kubernetes.io/part-of:",
            "type:",
            "data:",
            "ca.crt:",
            "tls.crt:",
            "tls.key:",
        ]
    );
    let decoded = |name: &str| {
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        let mut child = Command::new("base64")
            .arg("-d")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let value = line.split(": ").nth(1).unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), value.as_bytes()).unwrap();
        child.wait_with_output().unwrap().stdout
    };
    for name in ["ca.crt", "tls.crt", "tls.key"] {
        let file = std::fs::read(Path::new(&world.pki()).join("eu-1").join(name)).unwrap();
        assert_eq!(decoded(name), file, "{name}");
    }
}
