//! Mistakes that people make, and what they are told: what, where, why, and the next step, with the right exit code.

use std::net::TcpListener;

use tributary_tests::world::{World, free_port, run, text};

const COLLECTOR: &str = "ingest: { listen: 127.0.0.1:INGEST, tls: { cert_file: pki/collector/tls.crt, key_file: pki/collector/tls.key, ca_file: pki/collector/ca.crt } }
web: { listen: 127.0.0.1:WEB }
";

const AGENT: &str = "cluster: eu-1
instance: agent
collector: { address: 127.0.0.1:1 }
tls: { cert_file: pki/eu-1/tls.crt, key_file: pki/eu-1/tls.key, ca_file: pki/eu-1/ca.crt }
sources: { remote_write: { listen: 127.0.0.1:WEB } }
allowlist_file: allowlist.yml
";

struct Case {
    what: &'static str,
    binary: &'static str,
    /// Changes of the good configuration: from, to.
    change: (&'static str, &'static str),
    code: i32,
    /// Everything that the error must contain.
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        what: "an unknown key",
        binary: "tributary-collector",
        change: ("web: {", "web: { lisen: x,"),
        code: 2,
        says: &["unknown key \"lisen\"", "collector.yml:2:8", "^^^^^", "did you mean \"listen\"?"],
    },
    Case {
        what: "broken YAML",
        binary: "tributary-collector",
        change: ("web: {", "web: {{"),
        code: 2,
        says: &["collector.yml:"],
    },
    Case {
        what: "a missing certificate",
        binary: "tributary-collector",
        change: ("pki/collector/tls.crt", "pki/nowhere/tls.crt"),
        code: 2,
        says: &["pki/nowhere/tls.crt", "help"],
    },
    Case {
        what: "a key of another certificate",
        binary: "tributary-collector",
        change: ("pki/collector/tls.key", "pki/eu-1/tls.key"),
        code: 2,
        says: &["pki/eu-1/tls.key"],
    },
    Case {
        what: "bad PromQL in a rule",
        binary: "tributary-collector",
        change: ("web: {", "rules: [ { files: [rules.yml], scope: local } ]\nweb: {"),
        code: 2,
        says: &["rules.yml:5", "^"],
    },
    Case {
        what: "an unknown key of the agent",
        binary: "tributary-agent",
        change: ("sources: {", "sources: { remotewrite: {},"),
        code: 2,
        says: &["unknown key \"remotewrite\"", "agent.yml:5:12", "did you mean \"remote_write\"?"],
    },
    Case {
        what: "a cluster that is not the certificate's",
        binary: "tributary-agent",
        change: ("cluster: eu-1", "cluster: us-1"),
        code: 2,
        says: &["eu-1", "us-1", "certificate"],
    },
    Case {
        what: "an allowlist with a broken selector",
        binary: "tributary-agent",
        change: ("allowlist.yml", "broken.yml"),
        code: 2,
        says: &["rule 1", "{job=}", "expected a quoted value at column 6"],
    },
    Case {
        what: "an allowlist that is not there",
        binary: "tributary-agent",
        change: ("allowlist.yml", "missing.yml"),
        code: 2,
        says: &["missing.yml", "No such file"],
    },
];

#[test]
fn mistakes_are_explained_and_nothing_starts() {
    let world = World::new();
    world.issue("eu-1");
    world.write("allowlist.yml", "rules: [ { match: up } ]\n");
    world.write("broken.yml", "rules:\n  - match: '{job=}'\n");
    world.write(
        "rules.yml",
        "groups:\n  - name: g\n    rules:\n      - record: a:b\n        expr: sum(up\n",
    );
    for case in CASES {
        let (good, file) = match case.binary {
            "tributary-agent" => (AGENT, "agent.yml"),
            _ => (COLLECTOR, "collector.yml"),
        };
        let (from, to) = case.change;
        assert!(good.contains(from), "{}", case.what);
        let config = good
            .replacen(from, to, 1)
            .replace("INGEST", &free_port().to_string())
            .replace("WEB", &free_port().to_string());
        let path = world.write(file, &config);
        let output =
            run(case.binary, &["run", "--config.file", path.to_str().unwrap()], &world.path(""));
        let said = text(&output);
        assert_eq!(output.status.code(), Some(case.code), "{}: {said}", case.what);
        assert!(said.starts_with("error: "), "{}: {said}", case.what);
        for part in case.says {
            assert!(said.contains(part), "{}: no {part:?} in\n{said}", case.what);
        }
    }
}

#[test]
fn a_taken_port_is_named() {
    let world = World::new();
    world.issue("eu-1");
    world.write("allowlist.yml", "rules: [ { match: up } ]\n");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (binary, good, file) in [
        ("tributary-collector", COLLECTOR, "collector.yml"),
        ("tributary-agent", AGENT, "agent.yml"),
    ] {
        let config = good.replace("INGEST", &free_port().to_string()).replace("WEB", &port);
        let path = world.write(file, &config);
        let output =
            run(binary, &["run", "--config.file", path.to_str().unwrap()], &world.path(""));
        let said = text(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("in use"), "{said}");
    }
}

#[test]
fn help_and_versions_are_there() {
    for binary in ["tributary-collector", "tributary-agent", "tributary-certs"] {
        let folder = std::env::temp_dir();
        let help = run(binary, &["--help"], &folder);
        assert!(help.status.success() && text(&help).contains("Usage"), "{}", text(&help));
        let version = run(binary, &["--version"], &folder);
        assert!(text(&version).starts_with(binary), "{}", text(&version));
        let usage = run(binary, &["no-such-command"], &folder);
        assert_eq!(usage.status.code(), Some(2), "{}", text(&usage));
    }
}
