//! How long every certificate in use lives yet: the collector's own, its authorities', and those of connected agents.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use super::credentials::Credentials;
use crate::ingest::registry::Registry;

/// Reads the clock when the metrics are asked for.
pub(crate) struct Expiry {
    credentials: Arc<Credentials>,
    registry: Registry,
}

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Whose {
    certificate: &'static str,
    cluster: String,
    instance: String,
}

/// A certificate's life.
struct Life {
    whose: Whose,
    from: SystemTime,
    until: SystemTime,
}

impl Expiry {
    /// Of the collector's `credentials` and the agents in `registry`.
    pub(crate) fn new(credentials: Arc<Credentials>, registry: Registry) -> Self {
        Self { credentials, registry }
    }

    fn lives(&self) -> Vec<Life> {
        let whose = |certificate, cluster: &str, instance: &str| Whose {
            certificate,
            cluster: cluster.to_owned(),
            instance: instance.to_owned(),
        };
        let own = self.credentials.certificate();
        let mut lives = vec![Life {
            whose: whose("collector", "", ""),
            from: own.not_before,
            until: own.not_after,
        }];
        let trusted = self.credentials.trust().terms().trusted.clone();
        lives.extend(trusted.authorities().map(|authority| Life {
            whose: whose("ca", "", &authority.subject),
            from: authority.not_before,
            until: authority.not_after,
        }));
        lives.extend(self.registry.snapshot(Instant::now()).into_iter().filter_map(|agent| {
            let connection = agent.connection?;
            Some(Life {
                whose: whose("agent", agent.cluster.as_str(), &agent.instance),
                from: connection.not_before,
                until: connection.not_after,
            })
        }));
        lives
    }
}

impl Collector for Expiry {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let lives = self.lives();
        let now = SystemTime::now();
        let left = |life: &Life| seconds_from(now, life.until);
        let all = |life: &Life| seconds_from(life.from, life.until);
        write(
            &mut encoder,
            "certificate_seconds_left",
            "Until a certificate in use expires.",
            &lives,
            left,
        )?;
        write(
            &mut encoder,
            "certificate_lifetime_seconds",
            "From a certificate's first second to its last.",
            &lives,
            all,
        )
    }
}

fn write(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    lives: &[Life],
    seconds: impl Fn(&Life) -> f64,
) -> fmt::Result {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for life in lives {
        ConstGauge::new(seconds(life)).encode(family.encode_family(&life.whose)?)?;
    }
    Ok(())
}

/// Negative once it is over.
fn seconds_from(from: SystemTime, until: SystemTime) -> f64 {
    match until.duration_since(from) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -Duration::as_secs_f64(&over.duration()),
    }
}

impl fmt::Debug for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expiry").finish_non_exhaustive()
    }
}
