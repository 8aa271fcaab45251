//! The HTTP API as clients see it, and errors as people see them.

use http::Method;
use tributary_tests::http::{get, post_form, send};
use tributary_tests::prometheus::{body, deliver, write};
use tributary_tests::world::{EVERYTHING, World, aligned, free_port, run, text};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_a_grafana_data_source_are_answered() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let at = aligned(1000, 60_000);
    let labels = [("__name__", "http_requests_total"), ("code", "200")];
    deliver(&agent.write_url(), &[(&labels, vec![(at, 1.0), (at + 15_000, 2.5)])]).await;
    collector.value("http_requests_total", "2.5").await;
    let api = format!("{}/api/v1", collector.url);

    let saved =
        post_form(&format!("{api}/query"), &[("query", "1+1"), ("time", "4")]).await.unwrap();
    assert_eq!(
        saved.text(),
        r#"{"status":"success","data":{"resultType":"scalar","result":[4,"2"]}}"#
    );
    let build = get(&format!("{api}/status/buildinfo")).await.unwrap().json();
    assert!(build["data"]["version"].is_string() && build["data"].get("features").is_none());

    let (start, end) = ((at / 1000).to_string(), (at / 1000 + 15).to_string());
    let fields =
        [("query", "http_requests_total"), ("start", &*start), ("end", &*end), ("step", "15")];
    let range = post_form(&format!("{api}/query_range"), &fields).await.unwrap().json();
    assert_eq!(range["data"]["resultType"], "matrix");
    let seconds = at / 1000;
    assert_eq!(
        range["data"]["result"][0]["values"],
        serde_json::json!([[seconds, "1"], [seconds + 15, "2.5"]])
    );

    let names = get(&format!("{api}/label/__name__/values")).await.unwrap().json();
    assert!(names["data"].as_array().unwrap().contains(&"http_requests_total".into()), "{names}");
    let labels = get(&format!("{api}/labels?match[]=http_requests_total")).await.unwrap().json();
    assert_eq!(labels["data"], serde_json::json!(["__name__", "cluster", "code"]));
    let series =
        post_form(&format!("{api}/series"), &[("match[]", "{code=\"200\"}")]).await.unwrap().json();
    assert_eq!(series["data"][0]["cluster"], "eu-1");

    let fault = get(&format!("{api}/query?query=sum(")).await.unwrap();
    assert_eq!(
        (fault.status.as_u16(), fault.json()["errorType"].as_str()),
        (400, Some("bad_data"))
    );
    assert_eq!(get(&format!("{api}/nothing")).await.unwrap().status, 404);
    let federated = get(&format!("{}/federate?match[]=http_requests_total", collector.url))
        .await
        .unwrap()
        .text();
    assert!(federated.contains("http_requests_total{"), "{federated}");
    let clusters = get(&format!("{api}/tributary/clusters")).await.unwrap().json();
    assert_eq!(clusters["data"][0]["cluster"], "eu-1", "{clusters}");
    let only =
        get(&format!("{}/cluster/us-1/api/v1/query?query=http_requests_total", collector.url))
            .await
            .unwrap();
    assert_eq!(
        only.json()["data"]["result"],
        serde_json::json!([]),
        "the cluster's path sees only the cluster"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn basic_auth_guards_everything() {
    let world = World::new();
    // bcrypt of "correct horse", cost 4.
    world.write(
        "web.yml",
        "basic_auth_users:\n  ana: $2y$04$TlWANHg1RREaQ2ogHuSVNeFBk5T1ctYkGeeyc6DPcARFQXLVZEyw2\n",
    );
    let port = free_port();
    let config = format!("web: {{ listen: 127.0.0.1:{port}, config_file: web.yml }}\n");
    let _ = config;
    let output = run("tributary-collector", &["check", "web-config", "web.yml"], &world.path(""));
    assert!(output.status.success(), "{}", text(&output));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_bodies_are_refused_with_a_reason() {
    let world = World::new();
    let collector = world.collector("").await;
    let agent = world.agent("eu-1", collector.ingest, EVERYTHING, "").await;
    let good = body(&[(&[("__name__", "x")], vec![(aligned(1000, 1000), 1.0)])]);
    let garbage = write(&agent.write_url(), b"garbage".to_vec()).await.unwrap();
    assert_eq!(garbage.status, 400, "{}", garbage.text());
    assert!(garbage.text().contains("snappy"), "{}", garbage.text());
    let bomb = write(&agent.write_url(), vec![0xff, 0xff, 0xff, 0xff, 0x0f]).await.unwrap();
    assert!(bomb.status.is_client_error(), "{}", bomb.text());
    let plain = send(Method::POST, &agent.write_url(), &[("content-type", "text/plain")], good)
        .await
        .unwrap();
    assert_eq!(plain.status, 415, "{}", plain.text());
    assert_eq!(get(&agent.write_url()).await.unwrap().status, 405);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_to_the_collector_is_local_and_stays() {
    let world = World::new();
    let mut collector = world.collector_with_web("remote_write_receiver: true", "").await;
    let url = format!("{}/api/v1/write", collector.url);
    let at = aligned(1000, 30_000);
    let labels: &[(&str, &str)] = &[("__name__", "backup_age_seconds"), ("cluster", "eu-9")];
    let push = async |value: f64| {
        write(&url, body(&[(labels, vec![(at, value)])])).await.unwrap().status.as_u16()
    };
    assert_eq!(push(7.0).await, 204);
    assert_eq!(push(7.0).await, 204, "the same again is a resend");
    assert_eq!(push(8.0).await, 400, "what was accepted stays");
    let stored = r#"backup_age_seconds{cluster="local",exported_cluster="eu-9"}"#;
    collector.value(stored, "7").await;
    let bad = write(&url, b"garbage".to_vec()).await.unwrap();
    assert_eq!(bad.status, 400, "{}", bad.text());
    collector.process.kill();
    collector.process.restart();
    collector.ready().await;
    collector.value(stored, "7").await;
    assert_eq!(push(7.0).await, 204, "a restart does not forget what is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_pushes_to_a_collector_that_has_no_receiver() {
    let world = World::new();
    let collector = world.collector("").await;
    let body = body(&[(&[("__name__", "x")], vec![(aligned(1000, 1000), 1.0)])]);
    let refused = write(&format!("{}/api/v1/write", collector.url), body).await.unwrap();
    assert_eq!(refused.status, 404);
    assert!(refused.text().contains("web.remote_write_receiver"), "{}", refused.text());
}
