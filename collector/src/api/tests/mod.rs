//! The API over a few series in memory: golden answers of a real Prometheus 3.5.

mod memory;
mod remote;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;
use tributary_promql::feature::Features;

use super::remote::write::Push;
use super::view::{
    Alert, AlertState, AlertingRule, Cluster, Evaluation, Facts, Health, RecordingRule, Rule,
    RuleGroup, RuleType, Runtime, Target,
};
use super::{Api, router};
use crate::query::{Bounds, Queries};
use memory::Memory;

/// 2026-11-21T01:31:40.627Z
const NOW: Timestamp = Timestamp::from_millis(1_795_224_700_627);

struct Parts;

impl Facts for Parts {
    fn rule_groups(&self) -> Vec<RuleGroup> {
        let evaluation = |micros: u64| Evaluation {
            health: Health::Ok,
            last_error: String::new(),
            evaluation_time: Duration::from_nanos(micros),
            last_evaluation: Some(Timestamp::from_millis(1_795_224_696_496)),
        };
        let labels = |pairs: &[(&str, &str)]| Labels::from_pairs(pairs.iter().copied()).unwrap();
        let summary = |text: &str| [("summary".to_owned(), text.to_owned())].into();
        let alert = Alert {
            labels: labels(&[("alertname", "AlwaysFiring"), ("severity", "info")]),
            annotations: summary("hello 1"),
            state: AlertState::Firing,
            active_at: Some(Timestamp::from_millis(1_795_224_676_494)),
            keep_firing_since: None,
            value: 1.0,
        };
        vec![RuleGroup {
            name: "demo".to_owned(),
            file: "rules.yml".to_owned(),
            rules: vec![
                Rule::Recording(RecordingRule {
                    name: "job:up:sum".to_owned(),
                    query: "sum by (job) (up)".to_owned(),
                    labels: Labels::empty(),
                    evaluation: evaluation(318_728),
                    kind: RuleType::Recording,
                }),
                Rule::Alerting(AlertingRule {
                    state: AlertState::Firing,
                    name: "AlwaysFiring".to_owned(),
                    query: "vector(1)".to_owned(),
                    duration: Duration::ZERO,
                    keep_firing_for: Duration::ZERO,
                    labels: labels(&[("severity", "info")]),
                    annotations: summary("hello {{ $value }}"),
                    alerts: Some(vec![alert]),
                    evaluation: evaluation(201_453),
                    kind: RuleType::Alerting,
                }),
            ],
            interval: Duration::from_secs(5),
            limit: 0,
            evaluation_time: Duration::from_nanos(573_951),
            last_evaluation: Some(Timestamp::from_millis(1_795_224_696_496)),
        }]
    }

    fn clusters(&self) -> Vec<Cluster> {
        let cluster = |name: &str| Cluster {
            name: name.to_owned(),
            series: 2,
            last_sample: Some(NOW),
            samples: 6,
            samples_per_second: 0.5,
            refused: [].into(),
            agents: Vec::new(),
        };
        vec![cluster("eu-1"), cluster("us-1")]
    }

    fn newest(&self) -> Vec<(String, Timestamp)> {
        let before = |name: &str, minutes: u64| {
            (name.to_owned(), NOW.minus(Duration::from_secs(minutes * 60)))
        };
        vec![
            before("eu-1", 0),
            before("us-1", 0),
            before("us-2", 14),
            before("old", 3 * 1440),
            before("local", 60),
        ]
    }

    fn targets(&self) -> Vec<Target> {
        Vec::new()
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            started: NOW,
            reload_ok: true,
            config_read: NOW,
            retention: Duration::from_secs(15 * 86_400),
            corruptions: 0,
        }
    }

    fn config(&self) -> String {
        "cluster_label: cluster\n".to_owned()
    }
}

fn api() -> Router {
    with_push(None)
}

fn with_push(push: Option<Push>) -> Router {
    let bounds = Bounds {
        timeout: Duration::from_secs(120),
        max_concurrency: 20,
        max_samples: 50_000_000,
        lookback: Duration::from_secs(300),
        features: Features::default(),
    };
    router(Api {
        queries: Queries::new(Memory::new(), bounds),
        facts: Arc::new(Parts),
        cluster_label: "cluster".into(),
        local_cluster: "local".into(),
        push,
        clock: || NOW,
    })
}

async fn ask(request: Request<Body>) -> (Response<()>, String) {
    let (head, body) = api().oneshot(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
}

async fn get(path: &str) -> (u16, String) {
    let request = Request::get(path.replace(' ', "%20").replace('"', "%22")).body(Body::empty());
    let (head, body) = ask(request.unwrap()).await;
    (head.status().as_u16(), body)
}

async fn post(path: &str, form: &str) -> (u16, String) {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Body::from(form.to_owned()));
    let (head, body) = ask(request.unwrap()).await;
    (head.status().as_u16(), body)
}

const ANSWERS: &[(&str, &str)] = &[
    (
        "/api/v1/query?query=time()&time=2026-11-21T00:00:00.5Z",
        r#"{"resultType":"scalar","result":[1795219200.5,"1795219200.5"]}"#,
    ),
    (
        r#"/api/v1/query?query="x\né"&time=1"#,
        "{\"resultType\":\"string\",\"result\":[1,\"x\\né\"]}",
    ),
    (
        "/api/v1/query?query=up{cluster=\"eu-1\"}",
        r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","cluster":"eu-1","job":"prometheus"},"value":[1795224700.627,"1"]}]}"#,
    ),
    ("/api/v1/query?query=nothing", r#"{"resultType":"vector","result":[]}"#),
    (
        "/api/v1/query?query=up{cluster=\"eu-1\"}[15s]",
        r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","cluster":"eu-1","job":"prometheus"},"values":[[1795224685.719,"1"],[1795224690.719,"1"],[1795224695.731,"1"]]}]}"#,
    ),
    (
        "/api/v1/query_range?query=sum(up)&start=1795224690&end=1795224700&step=5",
        r#"{"resultType":"matrix","result":[{"metric":{},"values":[[1795224690,"1"],[1795224695,"1"],[1795224700,"1"]]}]}"#,
    ),
    ("/api/v1/label/job/values", r#"["prometheus"]"#),
    ("/api/v1/label/U__job/values", r#"["prometheus"]"#),
    ("/api/v1/label/a-b/values", "[]"),
    ("/api/v1/labels?start=5&end=1", "[]"),
    ("/api/v1/labels?match[]=up", r#"["__name__","cluster","job"]"#),
    (
        "/api/v1/series?match[]=go_goroutines",
        r#"[{"__name__":"go_goroutines","cluster":"eu-1","job":"prometheus"}]"#,
    ),
    (
        "/api/v1/metadata?metric=go_goroutines",
        r#"{"go_goroutines":[{"type":"gauge","unit":"","help":"Number of goroutines that currently exist."}]}"#,
    ),
    (
        "/api/v1/metadata?limit=1",
        r#"{"a_total":[{"type":"counter","unit":"","help":"a \u003c b"}]}"#,
    ),
    ("/api/v1/metadata?limit=0", "{}"),
    ("/api/v1/query_exemplars?query=test&start=1795222900000&end=1795224700000", "[]"),
    ("/api/v1/format_query?query=sum(rate(foo[5m]))by(job)", r#""sum by (job) (rate(foo[5m]))""#),
    ("/api/v1/rules?rule_name[]=nope", r#"{"groups":[]}"#),
    (
        "/api/v1/rules?type=alert&exclude_alerts=true",
        r#"{"groups":[{"name":"demo","file":"rules.yml","rules":[{"state":"firing","name":"AlwaysFiring","query":"vector(1)","duration":0,"keepFiringFor":0,"labels":{"severity":"info"},"annotations":{"summary":"hello {{ $value }}"},"alerts":null,"health":"ok","evaluationTime":0.000201453,"lastEvaluation":"2026-11-21T01:31:36.496Z","type":"alerting"}],"interval":5,"limit":0,"evaluationTime":0.000573951,"lastEvaluation":"2026-11-21T01:31:36.496Z"}]}"#,
    ),
    (
        "/api/v1/rules?type=record",
        r#"{"groups":[{"name":"demo","file":"rules.yml","rules":[{"name":"job:up:sum","query":"sum by (job) (up)","health":"ok","evaluationTime":0.000318728,"lastEvaluation":"2026-11-21T01:31:36.496Z","type":"recording"}],"interval":5,"limit":0,"evaluationTime":0.000573951,"lastEvaluation":"2026-11-21T01:31:36.496Z"}]}"#,
    ),
    (
        "/api/v1/alerts",
        r#"{"alerts":[{"labels":{"alertname":"AlwaysFiring","severity":"info"},"annotations":{"summary":"hello 1"},"state":"firing","activeAt":"2026-11-21T01:31:16.494Z","value":"1e+00"}]}"#,
    ),
    ("/api/v1/alertmanagers", r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#),
    (
        "/api/v1/targets?state=active",
        r#"{"activeTargets":[],"droppedTargets":[],"droppedTargetCounts":null}"#,
    ),
    ("/api/v1/scrape_pools", r#"{"scrapePools":[]}"#),
    ("/api/v1/status/config", r#"{"yaml":"cluster_label: cluster\n"}"#),
];

#[tokio::test]
async fn answers_are_those_of_prometheus() {
    for (path, answer) in ANSWERS {
        let expected = format!(r#"{{"status":"success","data":{answer}}}"#);
        assert_eq!(get(path).await, (200, expected), "{path}");
    }
}

#[tokio::test]
async fn notes_ride_along() {
    for (path, answer) in [
        (
            "/api/v1/labels?limit=1",
            r#"{"status":"success","data":["__name__"],"warnings":["results truncated due to limit"]}"#,
        ),
        (
            "/api/v1/series?match[]=up&limit=1",
            r#"{"status":"success","data":[{"__name__":"up","cluster":"eu-1","job":"prometheus"}],"warnings":["results truncated due to limit"]}"#,
        ),
        (
            "/api/v1/query?query=sort_desc(up)&limit=1&time=1795224700",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","cluster":"eu-1","job":"prometheus"},"value":[1795224700,"1"]}]},"warnings":["results truncated due to limit"]}"#,
        ),
        (
            "/api/v1/query?query=rate(up{cluster=\"eu-1\"}[1m])",
            r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"cluster":"eu-1","job":"prometheus"},"value":[1795224700.627,"0"]}]},"infos":["PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"up\" (1:6)"]}"#,
        ),
    ] {
        assert_eq!(get(path).await, (200, answer.to_owned()), "{path}");
    }
    let (_, answer) = get("/api/v1/query?query=1&stats=all").await;
    assert!(answer.contains(r#""1"],"stats":{"timings":{"evalTotalTime":"#), "{answer}");
}

#[tokio::test]
async fn clusters_that_are_behind_are_told_where_they_are_read() {
    let behind = r#""warnings":["cluster us-2 is 14 min behind"]"#;
    for (path, warned) in [
        ("/api/v1/query?query=late", true),
        ("/api/v1/query?query=1%2Bscalar(sum({job=\"prometheus\"}))", true),
        ("/api/v1/query_range?query=late&start=1795224690&end=1795224700&step=5", true),
        ("/cluster/us-2/api/v1/query?query=late", true),
        ("/cluster/us-1/api/v1/query?query=late", false),
        ("/api/v1/query?query=up", false),
        ("/api/v1/query?query=late{cluster=\"us-1\"}", false),
        ("/api/v1/query?query=1", false),
        // Five minutes later nothing was missing yet.
        ("/api/v1/query?query=late&time=1795224160", false),
    ] {
        let path = path.replace('{', "%7B").replace('}', "%7D");
        let (status, answer) = get(&path).await;
        assert_eq!((status, answer.contains(behind)), (200, warned), "{path}: {answer}");
    }
}

const FAULTS: &[(&str, u16, &str, &str)] = &[
    (
        "query?query=sum(",
        400,
        "bad_data",
        r#"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"#,
    ),
    (
        "query",
        400,
        "bad_data",
        r#"invalid parameter \"query\": unknown position: parse error: no expression found in input"#,
    ),
    (
        "query?query=up&time=abc",
        400,
        "bad_data",
        r#"invalid parameter \"time\": invalid time value for 'time': cannot parse \"abc\" to a valid timestamp"#,
    ),
    (
        "query?query=up&timeout=0.0001ms",
        400,
        "bad_data",
        r#"invalid parameter \"timeout\": cannot parse \"0.0001ms\" to a valid duration"#,
    ),
    (
        "query?query=up&lookback_delta=x",
        400,
        "bad_data",
        r#"error parsing lookback delta duration: cannot parse \"x\" to a valid duration"#,
    ),
    (
        "query?query=up&limit=-1",
        400,
        "bad_data",
        r#"invalid parameter \"limit\": limit must be non-negative"#,
    ),
    (
        "query?query={__name__=~\".*\"}",
        400,
        "bad_data",
        r#"invalid parameter \"query\": 1:1: parse error: vector selector must contain at least one non-empty matcher"#,
    ),
    (
        "query_range?query=up",
        400,
        "bad_data",
        r#"invalid parameter \"start\": cannot parse \"\" to a valid timestamp"#,
    ),
    (
        "query_range?query=up&start=0&end=10&step=0",
        400,
        "bad_data",
        r#"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"#,
    ),
    (
        "query_range?query=up&start=0&end=20000&step=1",
        400,
        "bad_data",
        "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
    ),
    (
        "query_range?query=up&start=10&end=1&step=1",
        400,
        "bad_data",
        r#"invalid parameter \"end\": end timestamp must not be before start time"#,
    ),
    (
        "query_range?query=up[5m]&start=0&end=1&step=1",
        400,
        "bad_data",
        r#"invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"#,
    ),
    (
        "query?query=up*on(job)group_left()up&time=1795224700",
        422,
        "execution",
        r#"found duplicate series for the match group {job=\"prometheus\"} on the right hand-side of the operation: [{__name__=\"up\", cluster=\"eu-1\", job=\"prometheus\"}, {__name__=\"up\", cluster=\"us-1\", job=\"prometheus\"}];many-to-many matching not allowed: matching labels must be unique on one side"#,
    ),
    ("series", 400, "bad_data", "no match[] parameter provided"),
    (
        "series?match[]={}",
        400,
        "bad_data",
        r#"invalid parameter \"match[]\": match[] must contain at least one non-empty matcher"#,
    ),
    (
        "labels?match[]=up{",
        400,
        "bad_data",
        "1:4: parse error: unexpected end of input inside braces",
    ),
    ("metadata?limit=x", 400, "bad_data", "limit must be a number"),
    (
        "query_exemplars?query=up&start=3&end=2",
        400,
        "bad_data",
        "end timestamp must not be before start timestamp",
    ),
    ("rules?type=x", 400, "bad_data", r#"invalid parameter \"type\": not supported value \"x\""#),
];

#[tokio::test]
async fn faults_are_those_of_prometheus() {
    for (path, code, kind, error) in FAULTS {
        let expected = format!(r#"{{"status":"error","errorType":"{kind}","error":"{error}"}}"#);
        let path = path.replace('{', "%7B").replace('}', "%7D");
        assert_eq!(get(&format!("/api/v1/{path}")).await, (*code, expected), "{path}");
    }
}

#[tokio::test]
async fn everything_takes_posted_forms_and_the_body_wins() {
    let scalar = |text: &str| {
        format!(r#"{{"status":"success","data":{{"resultType":"scalar","result":{text}}}}}"#)
    };
    assert_eq!(post("/api/v1/query", "query=1%2B1&time=4").await, (200, scalar(r#"[4,"2"]"#)));
    let both = post("/api/v1/query?query=2&time=5", "query=1&time=1").await;
    assert_eq!(both, (200, scalar(r#"[1,"1"]"#)));
    for path in ["status/buildinfo", "labels", "metadata", "rules", "alerts"] {
        assert_eq!(post(&format!("/api/v1/{path}"), "").await.0, 200, "{path}");
    }
    let huge = "query=".to_owned() + &"1".repeat(super::MAX_BODY_BYTES);
    assert_eq!(post("/api/v1/query", &huge).await.0, 413);
}

#[tokio::test]
async fn a_clusters_path_sees_only_the_cluster() {
    for (path, expected) in [
        (
            "query?query=count(up)&time=1795224700",
            r#"{"resultType":"vector","result":[{"metric":{},"value":[1795224700,"1"]}]}"#,
        ),
        ("query?query=up{cluster=\"us-1\"}", r#"{"resultType":"vector","result":[]}"#),
        (
            "query?query=scalar(up{cluster=\"us-1\"})&time=1795224700",
            r#"{"resultType":"scalar","result":[1795224700,"NaN"]}"#,
        ),
        ("label/cluster/values", r#"["eu-1"]"#),
        ("labels?match[]=up{cluster=\"us-1\"}", "[]"),
        (
            "tributary/clusters",
            r#"[{"cluster":"eu-1","series":2,"last_sample":"2026-11-21T01:31:40.627Z","samples":6,"samples_per_second":0.5,"refused":{},"agents":[]}]"#,
        ),
        (
            "tributary/gaps",
            r#"[{"cluster":"eu-1","instance":"agent","from":"2026-11-21T01:30:40.627Z","to":"2026-11-21T01:31:40.627Z","cause":"spool_full","samples":7}]"#,
        ),
        ("alerts", r#"{"alerts":[]}"#),
        ("metadata?metric=a_total", "{}"),
    ] {
        let path = path.replace('{', "%7B").replace('}', "%7D");
        let answer = get(&format!("/cluster/eu-1/api/v1/{path}")).await;
        assert_eq!(answer.1, format!(r#"{{"status":"success","data":{expected}}}"#), "{path}");
    }
    assert_eq!(get("/cluster/..%2Feu-1/api/v1/labels").await.0, 404);
}

#[tokio::test]
async fn pages_beside_the_api() {
    assert_eq!(get("/").await.0, 200);
    assert_eq!(get("/version").await.0, 200);
    assert_eq!(get("/api/v1/nope").await, (404, "404 page not found\n".to_owned()));
    assert_eq!(get("/federate").await, (200, String::new()));
    let federated = "# TYPE go_goroutines untyped\ngo_goroutines{cluster=\"eu-1\",job=\"prometheus\"} 32 1795224695731\n";
    assert_eq!(get("/federate?match[]=go_goroutines").await, (200, federated.to_owned()));
    let put = Request::put("/api/v1/query").body(Body::empty()).unwrap();
    let (head, body) = ask(put).await;
    assert_eq!((head.status().as_u16(), body.as_str()), (405, "Method Not Allowed\n"));
    let build = get("/api/v1/status/buildinfo").await.1;
    assert!(build.contains(r#""version":"3.5.0""#) && !build.contains("features"), "{build}");
}

#[tokio::test]
async fn cors_only_with_an_origin_and_compression_only_on_request() {
    let request = |method: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri("/api/v1/query?query=up");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    };
    let (plain, _) = ask(request("GET", &[])).await;
    assert_eq!(plain.headers()["vary"], "Origin");
    assert!(!plain.headers().contains_key("access-control-allow-origin"));
    let (options, body) = ask(request("OPTIONS", &[("origin", "http://x")])).await;
    assert_eq!((options.status().as_u16(), body.as_str()), (204, ""));
    assert_eq!(options.headers()["access-control-allow-origin"], "http://x");
    assert_eq!(options.headers()["access-control-allow-methods"], "GET, POST, OPTIONS");
    for encoding in ["gzip", "deflate", "br"] {
        let all = [("accept-encoding", encoding)];
        let response = api().oneshot(request("GET", &all)).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], encoding);
    }
}
