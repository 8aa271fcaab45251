//! Groups against a collector in memory, in virtual time.

use super::*;
use crate::query::QueryError;
use crate::rules::alerting::State;
use crate::rules::fake::{Fake, group, settings};

fn at(minute: i64) -> Timestamp {
    Timestamp::from_millis(1_700_000_040_000 + minute * 60_000)
}

struct World {
    fake: Fake,
    group: Group,
    state: GroupState,
    metrics: Metrics,
}

impl World {
    fn new(scope: Scope, rules: &str) -> Self {
        let text = format!("groups:\n- name: g\n{rules}");
        let group = group(scope, &text);
        let (state, metrics) = (GroupState::default(), Metrics::default());
        Self { fake: Fake::new(), group, state, metrics }
    }

    async fn evaluate(&mut self, minute: i64) {
        let settings = settings();
        let context = Context { host: &self.fake, settings: &settings, metrics: &self.metrics };
        evaluate(&self.group, &mut self.state, &context, at(minute)).await;
    }

    fn errors(&self) -> Vec<String> {
        let rules = self.state.status(&self.group).rules;
        rules.into_iter().map(|rule| rule.last_error).filter(|e| !e.is_empty()).collect()
    }
}

fn three_clusters(fake: &Fake, minute: i64) {
    for (cluster, value) in [("local", 1.0), ("eu-1", 10.0), ("eu-2", 100.0)] {
        for job in ["a", "b"] {
            fake.add(&format!("x{{cluster=\"{cluster}\",job=\"{job}\"}}"), at(minute), value);
        }
    }
}

const SUMS: &str = "  rules:\n  - {record: sums, expr: 'sum(x)', labels: {kind: k}}\n  - {record: twice, expr: 'sums * 2'}\n";

#[tokio::test]
async fn a_local_rule_sees_only_local_series_and_its_output_is_stamped() {
    let mut world = World::new(Scope::Local, SUMS);
    three_clusters(&world.fake, 0);
    world.evaluate(0).await;
    assert_eq!(
        world.fake.look("{__name__=~\"sums|twice\"}", at(0)),
        [r#"sums{cluster="local", kind="k"} 2"#, r#"twice{cluster="local", kind="k"} 4"#]
    );
    assert_eq!(world.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn an_each_rule_is_evaluated_once_per_cluster() {
    let mut world = World::new(Scope::Each, SUMS);
    three_clusters(&world.fake, 0);
    world.evaluate(0).await;
    assert_eq!(
        world.fake.look("twice", at(0)),
        [r#"twice{cluster="eu-1", kind="k"} 40"#, r#"twice{cluster="eu-2", kind="k"} 400"#]
    );
}

#[tokio::test]
async fn a_global_rule_sees_everything_and_is_not_stamped() {
    let mut world = World::new(Scope::Global, SUMS);
    three_clusters(&world.fake, 0);
    world.evaluate(0).await;
    assert_eq!(world.fake.look("sums", at(0)), [r#"sums{kind="k"} 222"#]);
}

#[tokio::test]
async fn output_that_vanishes_ends_with_a_staleness_marker() {
    let mut world = World::new(Scope::Local, "  rules:\n  - {record: r, expr: 'x > 1'}\n");
    world.fake.add(r#"x{cluster="local"}"#, at(0), 2.0);
    world.evaluate(0).await;
    assert_eq!(world.fake.look("r", at(0)).len(), 1);
    world.fake.add(r#"x{cluster="local"}"#, at(1), 0.0);
    world.evaluate(1).await;
    assert_eq!(world.fake.look("r", at(1)), Vec::<String>::new());
    // Once is enough.
    world.evaluate(2).await;
    let memory = world.fake.memory.lock().unwrap();
    let recorded = memory.series().find(|(labels, _)| labels.metric_name() == "r").unwrap();
    assert_eq!(recorded.1.len(), 2);
}

const ALERT: &str = "  rules:\n  - alert: High\n    expr: x > 1\n    for: 2m\n    labels: {severity: '{{ $labels.job }}-page'}\n    annotations: {summary: '{{ $value }} of {{ query \"sum(x)\" | first | value }} in {{ $labels.cluster }}'}\n  - {record: alerting, expr: 'count(ALERTS{alertstate=\"firing\"})'}\n";

#[tokio::test]
async fn alerts_pend_fire_resolve_and_leave_series() {
    let mut world = World::new(Scope::Local, ALERT);
    let mut log = Vec::new();
    for (minute, value) in (0..).zip([5.0, 5.0, 5.0, 5.0, 0.0]) {
        three_clusters(&world.fake, minute);
        world.fake.add(r#"x{cluster="local",job="a"}"#, at(minute), value);
        world.evaluate(minute).await;
        let series = world.fake.look("ALERTS", at(minute));
        log.push((series.join(" "), world.fake.take_sent(at(minute)).join(" ")));
    }
    let series = |state: &str| {
        format!(
            r#"ALERTS{{alertname="High", alertstate="{state}", cluster="local", job="a", severity="a-page"}} 1"#
        )
    };
    let alert = r#"{alertname="High", cluster="local", job="a", severity="a-page"}"#;
    assert_eq!(
        log,
        [
            (series("pending"), String::new()),
            (series("pending"), String::new()),
            (series("firing"), format!("{alert} firing")),
            (series("firing"), String::new()),
            (String::new(), format!("{alert} resolved")),
        ]
    );
    assert_eq!(world.fake.look("alerting", at(3)), [r#"alerting{cluster="local"} 1"#]);
    assert_eq!(world.errors(), Vec::<String>::new());
}

#[tokio::test]
async fn notifications_say_what_prometheus_says() {
    let mut world = World::new(Scope::Local, ALERT);
    for minute in 0..3 {
        three_clusters(&world.fake, minute);
        world.fake.add(r#"x{cluster="local",job="a"}"#, at(minute), 1e6);
        world.evaluate(minute).await;
    }
    let sent = world.fake.sent.lock().unwrap();
    let alert = sent.first().unwrap();
    assert_eq!(alert.annotations["summary"], "1e+06 of 1.000001e+06 in local");
    assert_eq!((alert.starts_at, alert.ends_at), (at(2), at(6)));
    assert_eq!(
        alert.generator_url,
        "http://t.example.org/graph?g0.expr=x%7Bcluster%3D%22local%22%7D+%3E+1&g0.tab=1"
    );
    let status = world.state.status(&world.group);
    let alerting = status.rules[0].alerting.as_ref().unwrap();
    assert_eq!((alerting.state, alerting.alerts[0].active_at), (State::Firing, at(0)));
}

#[tokio::test]
async fn a_restart_changes_nothing() {
    let mut world = World::new(Scope::Each, ALERT);
    let mut log: Vec<Vec<String>> = Vec::new();
    for (minute, value) in (0..).zip([5.0, 5.0, 5.0, 5.0, 0.0]) {
        world.fake.add(r#"x{cluster="eu-1",job="a"}"#, at(minute), value);
        // Each evaluation is the first one of a new process.
        world.state = GroupState::default();
        world.evaluate(minute).await;
        let sent = world.fake.take_sent(at(minute));
        log.push(sent.iter().map(|alert| alert.rsplit(' ').next().unwrap().to_owned()).collect());
    }
    let expected: [Vec<&str>; 5] = [vec![], vec![], vec!["firing"], vec![], vec!["resolved"]];
    assert_eq!(log, expected);
    assert_eq!(world.fake.look("ALERTS", at(4)), Vec::<String>::new());
}

#[tokio::test]
async fn a_failing_query_leaves_alerts_as_they_are() {
    let mut world = World::new(Scope::Local, "  rules:\n  - {alert: A, expr: 'x > 1'}\n");
    world.fake.add(r#"x{cluster="local"}"#, at(0), 2.0);
    world.evaluate(0).await;
    world.fake.take_sent(at(0));
    *world.fake.broken.lock().unwrap() = Some(QueryError::Timeout("expression evaluation"));
    world.evaluate(3).await;
    assert_eq!(world.errors(), ["query timed out in expression evaluation"]);
    assert_eq!(world.fake.take_sent(at(3)), Vec::<String>::new());
    let status = world.state.status(&world.group);
    assert_eq!(status.rules[0].health, Health::Err);
    assert_eq!(status.rules[0].alerting.as_ref().unwrap().state, State::Firing);
}

#[tokio::test]
async fn limits_duplicates_and_kinds_are_errors_of_the_rule() {
    let rules = "  limit: 1\n  rules:\n  - {record: r, expr: x}\n  - {alert: A, expr: x}\n  - {record: same, expr: 'label_replace(x, \"job\", \"\", \"\", \"\")'}\n  - {record: text, expr: '\"a\"'}\n  - {record: number, expr: 1 + 1}\n";
    let mut world = World::new(Scope::Local, rules);
    three_clusters(&world.fake, 0);
    world.evaluate(0).await;
    let errors = world.errors();
    assert_eq!(errors[0], "exceeded limit of 1 with 2 series");
    assert_eq!(errors[1], "exceeded limit of 1 with 2 alerts");
    assert!(
        errors[2].contains("the same labelset") || errors[2].contains("exceeded"),
        "{errors:?}"
    );
    assert_eq!(errors[3], "rule result is not a vector or scalar");
    assert_eq!(world.fake.look("number", at(0)), [r#"number{cluster="local"} 2"#]);
}

#[tokio::test]
async fn an_offset_evaluates_the_past() {
    let mut world =
        World::new(Scope::Global, "  query_offset: 1m\n  rules:\n  - {record: r, expr: x}\n");
    world.fake.add("x", at(0), 1.0);
    world.fake.add("x", at(1), 2.0);
    world.evaluate(1).await;
    let memory = world.fake.memory.lock().unwrap();
    let recorded = memory.series().find(|(labels, _)| labels.metric_name() == "r").unwrap();
    assert_eq!(recorded.1, [Sample { at: at(0), value: 1.0 }]);
}

#[tokio::test]
async fn a_template_cannot_ask_for_another_cluster() {
    let rules = "  rules:\n  - alert: A\n    expr: x > 0\n    annotations: {leak: '{{ query \"x{cluster=\\\"eu-1\\\"}\" | first | value }}', count: '{{ query \"count(x)\" | first | value }}'}\n";
    let mut world = World::new(Scope::Local, rules);
    three_clusters(&world.fake, 0);
    world.evaluate(0).await;
    let sent = world.fake.sent.lock().unwrap();
    assert_eq!(sent[0].annotations["count"], "2");
    let leak = &sent[0].annotations["leak"];
    assert!(
        leak.starts_with("<error expanding template: ") && leak.contains("already selects"),
        "{leak}"
    );
}

#[test]
fn slots_are_regular_and_spread() {
    let world = World::new(Scope::Local, "  interval: 30s\n  rules: []\n");
    let slot = world.group.slot(at(0));
    assert!(slot <= at(0) && at(0).since(slot) < Duration::from_secs(30));
    assert_eq!(world.group.slot(slot), slot);
    assert_eq!(world.group.slot(slot.plus(Duration::from_millis(29_999))), slot);
    let next = slot.plus(Duration::from_secs(30));
    assert_eq!(world.group.slot(next), next);
    let early = Timestamp::from_millis(-1);
    assert!(world.group.slot(early) <= early);
}
