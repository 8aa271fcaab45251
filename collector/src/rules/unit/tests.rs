//! Test files and what is said about them.

use super::*;

const RULES: &str = r"groups:
- name: first
  rules:
  - record: job:x:sum
    expr: sum by (job) (x)
  - alert: High
    expr: job:x:sum > 5
    for: 2m
    labels: { severity: page, region: '{{ $externalLabels.region }}' }
    annotations: { summary: '{{ $labels.job }} at {{ $value }}, {{ $externalURL }}' }
- name: second
  rules:
  - record: twice
    expr: job:x:sum * 2
";

async fn run(test: &str, arguments: &[&str]) -> (bool, String, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rules.yml"), RULES).unwrap();
    let path = folder.path().join("test.yml");
    std::fs::write(&path, test).unwrap();
    let mut args = TestArgs {
        scope: ScopeName::Global,
        cluster: "local".into(),
        label: "cluster".into(),
        features: Vec::new(),
        run: arguments.iter().map(|a| (*a).to_owned()).collect(),
        files: vec![path],
    };
    if test.contains("# local") {
        args.scope = ScopeName::Local;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let passed = command(&args, Output { out: &mut out, err: &mut err }).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (passed, text(out), text(err).replace(&folder.path().display().to_string(), ""))
}

const HEAD: &str = "rule_files: [ rules.yml ]\nevaluation_interval: 1m\ngroup_eval_order: [ second, first ]\ntests:\n- name: some\n  external_labels: { region: eu }\n  external_url: http://x\n  input_series:\n  - { series: 'x{job=\"a\"}', values: '0+1x10' }\n";

#[tokio::test]
async fn what_is_right_passes() {
    let test = format!(
        "{HEAD}  alert_rule_test:\n  - {{ eval_time: 7m, alertname: High }}\n  - eval_time: 8m30s\n    alertname: High\n    exp_alerts:\n    - exp_labels: {{ job: a, severity: page, region: eu }}\n      exp_annotations: {{ summary: 'a at 8, http://x' }}\n  promql_expr_test:\n  - expr: job:x:sum\n    eval_time: 5m\n    exp_samples: [ {{ labels: 'job:x:sum{{job=\"a\"}}', value: 5 }} ]\n  - expr: count_over_time(twice[20m])\n    eval_time: 10m\n    exp_samples: [ {{ labels: '{{job=\"a\"}}', value: 10 }} ]\n  - {{ expr: x offset -5m, eval_time: 10m }}\n"
    );
    let (passed, out, err) = run(&test, &[]).await;
    assert!(passed, "{err}");
    assert_eq!((out.as_str(), err.as_str()), ("  SUCCESS\n\n", ""));
}

#[tokio::test]
async fn what_is_wrong_is_told_as_promtool_tells_it() {
    let test = format!(
        "{HEAD}  alert_rule_test:\n  - {{ eval_time: 8m, alertname: High, exp_alerts: [ {{ exp_labels: {{ job: b }} }}, {{}} ] }}\n  - {{ eval_time: 9m, alertname: High }}\n  promql_expr_test:\n  - {{ expr: x, eval_time: 90s }}\n  - {{ expr: nothing, exp_samples: [ {{ labels: 'a{{b=\"c\"}}', value: 1e9 }}, {{ value: 0.1 }} ] }}\n  - {{ expr: 'x[5m]', eval_time: 1m }}\n  - {{ expr: 'sum(', eval_time: 1m }}\n"
    );
    let (passed, out, err) = run(&test, &[]).await;
    assert!(!passed);
    assert_eq!(
        err,
        r#"  FAILED:
    name: some,
    alertname: High, time: 8m, 
        exp:[
            0:
              Labels:{alertname="High"}
              Annotations:{},
            1:
              Labels:{alertname="High", job="b"}
              Annotations:{}
            ], 
        got:[
            0:
              Labels:{alertname="High", job="a", region="eu", severity="page"}
              Annotations:{summary="a at 8, http://x"}
            ]
    name: some,
    alertname: High, time: 9m, 
        exp:[], 
        got:[
            0:
              Labels:{alertname="High", job="a", region="eu", severity="page"}
              Annotations:{summary="a at 9, http://x"}
            ]
    expr: "x", time: 1m30s,
        exp: nil
        got: {__name__="x", job="a"} 1E+00
    expr: "nothing", time: 0s,
        exp: {} 1E-01, {__name__="a", b="c"} 1E+09
        got: nil
    expr: "x[5m]", time: 1m, err: rule result is not a vector or scalar
    expr: "sum(", time: 1m, err: 1:5: parse error: unclosed left parenthesis
"#
    );
    assert_eq!(out, "\n".repeat(7));
}

#[tokio::test]
async fn tests_are_chosen_by_name_and_rules_keep_their_scope() {
    let failing = format!("{HEAD}  promql_expr_test: [ {{ expr: x }} ]\n");
    assert!(!run(&failing, &["om"]).await.0);
    assert!(run(&failing, &["other"]).await.0);
    let local = "# local\nrule_files: [ rules.yml ]\ntests:\n- input_series:\n  - { series: 'x{cluster=\"local\",job=\"a\"}', values: 1 }\n  - { series: 'x{cluster=\"eu-1\",job=\"a\"}', values: 2 }\n  promql_expr_test:\n  - expr: job:x:sum\n    exp_samples: [ { labels: 'job:x:sum{cluster=\"local\",job=\"a\"}', value: 1 } ]\n";
    let (passed, _, err) = run(local, &[]).await;
    assert!(passed, "{err}");
}

#[tokio::test]
async fn faults_of_files_are_told() {
    for (test, fault) in [
        ("foo: 1\n", "unknown key \"foo\""),
        ("group_eval_order: [ a, a ]\n", "group name repeated in evaluation order: a"),
        ("rule_files: [ other.yml ]\ntests: [ {} ]\n", "other.yml"),
        (
            "tests: [ { input_series: [ { series: 'x{', values: 1 } ] } ]\n",
            "series \"x{\": 1:3: parse error",
        ),
        ("tests: [ { input_series: [ { series: x, values: y } ] } ]\n", "\"y\" is not a value"),
    ] {
        let (passed, _, err) = run(test, &[]).await;
        assert!(!passed && err.contains(fault), "{err}");
    }
}

#[tokio::test]
async fn native_histograms_are_loaded_recorded_and_compared() {
    let test = |expected: &str| {
        format!(
            "rule_files: [ rules.yml ]\nevaluation_interval: 1m\ntests:\n- input_series:\n  - {{ series: 'x{{job=\"a\"}}', values: '{{{{schema:0 count:2 sum:3 buckets:[1 1]}}}}+{{{{schema:0 count:2 sum:1 buckets:[2]}}}}x4' }}\n  promql_expr_test:\n  - expr: job:x:sum\n    eval_time: 2m\n    exp_samples: [ {{ labels: 'job:x:sum{{job=\"a\"}}', histogram: '{expected}' }} ]\n  - expr: histogram_count(x)\n    eval_time: 4m\n    exp_samples: [ {{ labels: '{{job=\"a\"}}', value: 10 }} ]\n"
        )
    };
    let (passed, _, err) = run(&test("{{schema:0 count:6 sum:5 buckets:[5 1]}}"), &[]).await;
    assert!(passed, "{err}");
    let (passed, _, err) = run(&test("{{schema:0 count:6 sum:5 buckets:[5 2]}}"), &[]).await;
    assert!(!passed && err.contains("{{schema:0 count:6 sum:5 offset:0 buckets:[5 1]}}"), "{err}");
}
