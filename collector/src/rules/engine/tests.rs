//! Loading, reloading and running of groups.

use std::time::Duration;

use super::*;
use crate::config::Scope;
use crate::rules::fake::{Fake, group, settings};

fn at(minute: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_040_000 + minute * 60_000)
}

#[test]
fn patterns_match_names() {
    for (pattern, name, fits) in [
        ("*.yml", "a.yml", true),
        ("*.yml", "a.yaml", false),
        ("a?c", "abc", true),
        ("a?c", "ac", false),
        ("*a*b*", "xaxbx", true),
        ("*a*b", "ab_a", false),
        ("**", "", true),
        ("*ab", "aab", true),
    ] {
        assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
    }
}

#[test]
fn all_files_and_all_faults_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("b.yml", "groups: [{name: b, rules: [{record: r, expr: 1}]}]");
    write("a.yml", "groups: [{name: a, rules: [{alert: r, expr: up}]}]");
    write(".hidden.yml", "nonsense");
    let sources = |pattern: &str| {
        [RuleFiles { files: vec![folder.path().join(pattern)], scope: Scope::Local }]
    };
    let groups = load(&sources("*.yml"), &settings()).unwrap();
    let names: Vec<_> = groups.iter().map(|group| group.spec.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    write("c.yml", "groups: [{name: c, rules: [{record: r, expr: bad(}]}]");
    write("d.yml", "grups: []");
    let faults = load(&sources("*.yml"), &settings()).unwrap_err().to_string();
    assert!(faults.contains("c.yml:1:") && faults.contains("did you mean \"groups\"?"), "{faults}");
    assert!(load(&sources("none.yml"), &settings()).unwrap_err().to_string().contains("none.yml"));
    assert_eq!(load(&sources("none*.yml"), &settings()).unwrap(), []);
}

const RULES: &str =
    "groups:\n- name: g\n  rules:\n  - {alert: A, expr: 'x > 1'}\n  - {record: r, expr: x}\n";

/// An engine over a group that was evaluated once, and the group's state.
async fn evaluated() -> (Engine<Fake>, HashMap<String, GroupState>) {
    let one = group(Scope::Local, RULES);
    let fake = Fake::new();
    fake.add(r#"x{cluster="local"}"#, at(0), 2.0);
    let clock = || at(1);
    let engine = Engine::with_clock(settings(), vec![one.clone()], fake, Metrics::default(), clock);
    let mut state = GroupState::default();
    let settings = settings();
    let (host, metrics) = (&engine.0.host, &engine.0.metrics);
    let context = Context { host, settings: &settings, metrics };
    group::evaluate(&one, &mut state, &context, at(0)).await;
    (engine, HashMap::from([(one.key(), state)]))
}

#[tokio::test]
async fn rules_that_stay_keep_their_state() {
    let (engine, mut states) = evaluated().await;
    let moved = "groups:\n- name: g\n  rules:\n  - {record: new, expr: 1}\n  - {alert: A, expr: 'x > 1'}\n  - {record: r, expr: x + 1}\n";
    let moved = group(Scope::Local, moved);
    engine.drop_leftovers(std::slice::from_ref(&moved), &mut states).await;
    let status = states[&moved.key()].status(&moved);
    assert_eq!(status.rules[1].alerting.as_ref().unwrap().alerts.len(), 1);
    assert_eq!(engine.0.host.look("r", at(1)).len(), 1);
    assert_eq!(engine.0.host.state.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn rules_that_go_end_their_series_and_are_forgotten() {
    let (engine, mut states) = evaluated().await;
    engine.drop_leftovers(&[], &mut states).await;
    assert!(states.is_empty());
    assert_eq!(engine.0.host.look("{__name__=~\"r|ALERTS.*\"}", at(1)), Vec::<String>::new());
    assert!(engine.0.host.state.lock().unwrap().is_empty());
}

#[tokio::test]
async fn missed_slots_are_counted() {
    let (engine, _) = evaluated().await;
    let one = group(Scope::Local, RULES);
    engine.count_missed(&one, at(1), at(1));
    engine.count_missed(&one, at(1), at(4));
    let labels = ByGroup { file: "rules.yml".into(), group: "g".into() };
    assert_eq!(engine.0.metrics.missed.get_or_create(&labels).get(), 3);
}

#[tokio::test]
async fn runs_until_the_stop_signal_and_over_a_replacement() {
    let fast = group(Scope::Global, &RULES.replace("name: g", "name: g\n  interval: 5ms"));
    let engine = Engine::new(settings(), vec![fast], Fake::new(), Metrics::default());
    let stop = CancellationToken::new();
    let mut evaluations = engine.0.host.evaluations.subscribe();
    let control = engine.clone();
    let drive = async {
        evaluations.wait_for(|count| *count >= 4).await.unwrap();
        assert!(control.snapshot()[0].last_evaluation.is_some());
        let other = group(
            Scope::Global,
            "groups:\n- name: h\n  interval: 5ms\n  rules: [{record: h, expr: 1}]\n",
        );
        control.replace(settings(), vec![other]);
        let so_far = *evaluations.borrow();
        evaluations.wait_for(|count| *count >= so_far + 6).await.unwrap();
        assert_eq!(control.snapshot()[0].name, "h");
        stop.cancel();
    };
    let all = async { tokio::join!(engine.clone().run(stop.clone()), drive) };
    tokio::time::timeout(Duration::from_secs(30), all).await.unwrap();
    assert!(!engine.0.host.look("h", Timestamp::from(std::time::SystemTime::now())).is_empty());
}
