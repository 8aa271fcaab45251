//! The configuration as each part wants it.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use tributary_model::label::Labels;
use tributary_model::sample::Timestamp;
use tributary_store::Store;

use crate::api::remote::write::Push;
use crate::api::view;
use crate::config::Config;
use crate::host::PushHost;
use crate::ingest::policy::Policies;
use crate::local::Writer;
use crate::query::store::StoreEngine;
use crate::query::{Bounds, Queries};
use crate::{notify, rules};

pub(super) fn queries(config: &Config, store: &Store) -> Queries {
    let bounds = Bounds {
        timeout: config.query.timeout,
        max_concurrency: config.query.max_concurrency,
        max_samples: config.query.max_samples,
        lookback: config.query.lookback,
        features: config.query.features,
    };
    Queries::new(StoreEngine(store.clone()), bounds)
}

/// Where pushed samples go, if the configuration lets anybody push.
pub(super) fn push(
    config: &Config,
    store: &Store,
    policies: Arc<ArcSwap<Policies>>,
    started: SystemTime,
) -> Option<Push> {
    let cluster = config.local_cluster.clone();
    let sink = PushHost {
        store: store.clone(),
        writer: Writer::of_pushed(store.clone(), cluster.clone(), started),
        cluster_label: config.cluster_label.clone(),
        cluster,
        policies,
    };
    let open = config.web.listen.ip().is_loopback();
    config.web.remote_write_receiver.then(|| Push { sink: Arc::new(sink), open })
}

pub(super) fn runtime(config: &Config, started: Timestamp) -> view::Runtime {
    view::Runtime {
        started,
        reload_ok: true,
        config_read: started,
        retention: config.storage.retention,
        corruptions: 0,
    }
}

pub(super) fn policies(config: &Config) -> Policies {
    Policies::new(config.clusters.iter().map(|(name, policy)| (name.clone(), *policy)))
}

pub(super) fn rule_settings(config: &Config) -> rules::Settings {
    rules::Settings {
        cluster_label: config.cluster_label.clone(),
        local_cluster: config.local_cluster.clone(),
        external_url: config.alerting.external_url.clone(),
        external_labels: Labels::empty(),
        builtin: config.alerting.builtin,
        features: config.query.features,
    }
}

pub(super) fn notify_settings(
    config: &Config,
    alerting: Option<notify::config::Config>,
) -> Option<notify::Settings> {
    let url = &config.alerting.external_url;
    alerting.map(|alerting| notify::Settings {
        config: Arc::new(alerting),
        sender: notify::message::Sender {
            external_url: (!url.is_empty()).then(|| url.clone()),
            cluster_label: config.cluster_label.clone(),
        },
    })
}
