//! The demo's folder: every configuration file, as a person would write it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The clusters, each with an agent.
pub const CLUSTERS: [&str; 3] = ["eu-1", "us-1", "lab"];
/// The cluster with a target that is down.
pub const BROKEN: &str = "lab";
/// What the recording rule writes.
pub const RECORDED: &str = "demo:targets_up:count";
/// The alert that fires.
pub const ALERT: &str = "TargetDown";

/// The addresses of everything that runs.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The collector's HTTP port.
    pub web: SocketAddr,
    /// The collector's gRPC port.
    pub ingest: SocketAddr,
    /// The mail box.
    pub mail: SocketAddr,
    /// Each agent's HTTP port, in the order of [`CLUSTERS`].
    pub agents: Vec<SocketAddr>,
    /// Each cluster's Prometheus, if there is one.
    pub prometheus: Vec<SocketAddr>,
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The files below `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A path below the root.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The collector's configuration.
    pub fn collector_config(&self) -> PathBuf {
        self.path("collector/collector.yml")
    }

    /// An agent's configuration.
    pub fn agent_config(&self, cluster: &str) -> PathBuf {
        self.path(&format!("{cluster}/agent.yml"))
    }

    /// A cluster's Prometheus configuration.
    pub fn prometheus_config(&self, cluster: &str) -> PathBuf {
        self.path(&format!("{cluster}/prometheus.yml"))
    }

    /// Writes everything.
    pub fn write(&self, at: &Addresses) -> io::Result<()> {
        self.put("collector/collector.yml", &collector(at))?;
        self.put("collector/alertmanager.yml", &alertmanager(at))?;
        self.put("collector/rules/local.yml", LOCAL_RULES)?;
        self.put("collector/rules/each.yml", EACH_RULES)?;
        for (index, (cluster, own)) in CLUSTERS.iter().zip(&at.agents).enumerate() {
            self.put(&format!("{cluster}/allowlist.yml"), ALLOWLIST)?;
            self.put(&format!("{cluster}/agent.yml"), &agent(cluster, *own, at))?;
            if let Some(prometheus) = at.prometheus.get(index) {
                let text = prometheus_yml(cluster, *prometheus, *own);
                self.put(&format!("{cluster}/prometheus.yml"), &text)?;
            }
        }
        Ok(())
    }

    fn put(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.path(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }
}

fn collector(at: &Addresses) -> String {
    let Addresses { web, ingest, .. } = at;
    format!(
        "storage: {{ path: data, retention: 3y }}
ingest:
  listen: {ingest}
  tls:
    cert_file: ../pki/collector/tls.crt
    key_file: ../pki/collector/tls.key
    ca_file: ../pki/collector/ca.crt
web: {{ listen: '{web}' }}
scrape:
  - job_name: collector
    scrape_interval: 2s
    static_configs: [ {{ targets: ['{web}'] }} ]
rules:
  - {{ files: [rules/local.yml], scope: local }}     # sees only the collector's own series
  - {{ files: [rules/each.yml], scope: each }}       # once per cluster
alerting: {{ config_file: alertmanager.yml, external_url: 'http://{web}' }}
"
    )
}

fn alertmanager(at: &Addresses) -> String {
    format!(
        "global:
  smtp_smarthost: '{}'
  smtp_from: Tributary <tributary@example.org>
  smtp_require_tls: false          # the demo's mail box is on this machine and asks for no password
route:
  receiver: oncall
  group_by: [alertname, cluster]
  group_wait: 1s
  group_interval: 10s
receivers:
  - name: oncall
    email_configs: [ {{ to: oncall@example.org, send_resolved: true }} ]
",
        at.mail
    )
}

/// Three clusters send `up` as well; this rule sees the collector's own only.
const LOCAL_RULES: &str = "groups:
  - name: local
    interval: 2s
    rules:
      - record: demo:targets_up:count
        expr: sum(up)
";

const EACH_RULES: &str = "groups:
  - name: each
    interval: 2s
    rules:
      - alert: TargetDown
        expr: up == 0
        for: 4s
        labels: { severity: page }
        annotations:
          summary: '{{ $labels.job }} on {{ $labels.instance }} in cluster {{ $labels.cluster }} does not answer'
";

/// `owner` is a label of every target: it never leaves, because no rule keeps it.
const ALLOWLIST: &str = "rules:
  - match: '{__name__=~\"up|scrape_duration_seconds|scrape_samples_scraped\"}'
    labels: [job, instance]
    why: is it there, and does it answer
  - match: '{__name__=~\"(process|go|prometheus|tributary_agent|tributary_collector)_.+\", __name__!~\".+_(bucket|created|info)\"}'
    labels: [job, instance]
    merge: sum
    max_series: 2000
    why: the health of what watches
";

fn agent(cluster: &str, own: SocketAddr, at: &Addresses) -> String {
    let sources = if at.prometheus.is_empty() {
        format!(
            "sources:
  scrape:
    - job_name: agent
      scrape_interval: 2s
      static_configs: [ {{ targets: ['{own}'], labels: {{ owner: alice@example.org }} }} ]
    - job_name: collector
      scrape_interval: 2s
      static_configs: [ {{ targets: ['{}'], labels: {{ owner: bob@example.org }} }} ]
{}web: {{ listen: '{own}' }}
",
            at.web,
            broken(cluster, "    "),
        )
    } else {
        format!("sources: {{ remote_write: {{ listen: '{own}' }} }}\n")
    };
    format!(
        "cluster: {cluster}
collector: {{ address: '{}' }}
tls:
  cert_file: ../pki/{cluster}/tls.crt
  key_file: ../pki/{cluster}/tls.key
  ca_file: ../pki/{cluster}/ca.crt
{sources}allowlist_file: allowlist.yml
spool: {{ path: spool, max_bytes: 64MiB }}
",
        at.ingest
    )
}

fn prometheus_yml(cluster: &str, own: SocketAddr, agent: SocketAddr) -> String {
    format!(
        "global: {{ scrape_interval: 2s }}
scrape_configs:
    - job_name: prometheus
      static_configs: [ {{ targets: ['{own}'], labels: {{ owner: alice@example.org }} }} ]
    - job_name: agent
      static_configs: [ {{ targets: ['{agent}'], labels: {{ owner: bob@example.org }} }} ]
{}remote_write:
  - url: http://{agent}/api/v1/write
    queue_config: {{ batch_send_deadline: 1s }}
",
        broken(cluster, "    "),
    )
}

/// One cluster has a target where nobody listens: the alert's reason.
fn broken(cluster: &str, indent: &str) -> String {
    if cluster != BROKEN {
        return String::new();
    }
    let target =
        "static_configs: [ { targets: ['127.0.0.1:9'], labels: { owner: carol@example.org } } ]";
    format!("{indent}- job_name: payments\n{indent}  scrape_interval: 2s\n{indent}  {target}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tributary_model::yaml;

    use super::*;
    use crate::notify::config::Config;

    fn addresses(prometheus: bool) -> Addresses {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Addresses {
            web: at(1),
            ingest: at(2),
            mail: at(3),
            agents: vec![at(4), at(5), at(6)],
            prometheus: if prometheus { vec![at(7), at(8), at(9)] } else { Vec::new() },
        }
    }

    #[test]
    fn every_file_is_yaml_and_rules_agree_with_their_names() {
        for prometheus in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let files = Files::new(folder.path());
            files.write(&addresses(prometheus)).unwrap();
            let mut count = 0;
            for sub in ["collector", "collector/rules", "eu-1", "us-1", "lab"] {
                for entry in fs::read_dir(files.path(sub)).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_file() {
                        let text = fs::read_to_string(&path).unwrap();
                        yaml::parse::<Value>(&text, &path.display().to_string()).unwrap();
                        count += 1;
                    }
                }
            }
            assert_eq!(count, if prometheus { 13 } else { 10 });
            let lab = fs::read_to_string(files.agent_config("lab")).unwrap();
            assert_eq!(lab.contains("payments"), !prometheus);
        }
        assert!(LOCAL_RULES.contains(RECORDED) && EACH_RULES.contains(ALERT));
        Config::parse("a", Path::new(""), &alertmanager(&addresses(false))).unwrap();
    }
}
