//! The configuration file as it is written: names and shapes of Alertmanager's file, nothing checked but those.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;
use tributary_model::diagnostic::{Diagnostic, Place};
use tributary_model::yaml;

/// Keys of Alertmanager's file that are known, and refused until they do something here.
const NOT_YET: &[&str] = &[
    "active_time_intervals",
    "auth_identity",
    "auth_secret",
    "auth_secret_file",
    "discord_configs",
    "http_config",
    "incidentio_configs",
    "inhibit_rules",
    "jira_api_url",
    "jira_configs",
    "max_version",
    "mattermost_configs",
    "min_version",
    "msteams_configs",
    "msteamsv2_configs",
    "mute_time_intervals",
    "opsgenie_api_key",
    "opsgenie_api_key_file",
    "opsgenie_api_url",
    "opsgenie_configs",
    "pagerduty_configs",
    "pagerduty_url",
    "pushover_configs",
    "rocketchat_configs",
    "slack_api_url",
    "slack_api_url_file",
    "slack_configs",
    "smtp_auth_identity",
    "smtp_auth_secret",
    "smtp_auth_secret_file",
    "sns_configs",
    "telegram_configs",
    "templates",
    "threading",
    "time_intervals",
    "tracing",
    "victorops_api_key",
    "victorops_api_url",
    "victorops_configs",
    "webex_configs",
    "webhook_configs",
    "wechat_api_corp_id",
    "wechat_api_secret",
    "wechat_api_url",
    "wechat_configs",
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) global: Global,
    pub(super) route: Option<Spanned<Route>>,
    #[serde(default)]
    pub(super) receivers: Vec<Receiver>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Global {
    /// Only for alerts that come without an end; those of the rules have one.
    pub(super) resolve_timeout: Option<Spanned<String>>,
    pub(super) smtp_smarthost: Option<Spanned<String>>,
    pub(super) smtp_from: Option<Spanned<String>>,
    pub(super) smtp_hello: Option<Spanned<String>>,
    pub(super) smtp_auth_username: Option<String>,
    pub(super) smtp_auth_password: Option<String>,
    pub(super) smtp_auth_password_file: Option<String>,
    pub(super) smtp_require_tls: Option<bool>,
    pub(super) smtp_force_implicit_tls: Option<bool>,
    pub(super) smtp_tls_config: Option<Tls>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    pub(super) ca_file: Option<String>,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) server_name: Option<String>,
    pub(super) insecure_skip_verify: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Route {
    pub(super) receiver: Option<Spanned<String>>,
    pub(super) group_by: Option<Vec<Spanned<String>>>,
    pub(super) group_wait: Option<Spanned<String>>,
    pub(super) group_interval: Option<Spanned<String>>,
    pub(super) repeat_interval: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) matchers: Vec<Spanned<String>>,
    #[serde(default, rename = "match")]
    pub(super) equal: BTreeMap<String, String>,
    #[serde(default, rename = "match_re")]
    pub(super) regex: BTreeMap<String, Spanned<String>>,
    #[serde(default, rename = "continue")]
    pub(super) goes_on: bool,
    #[serde(default)]
    pub(super) routes: Vec<Spanned<Route>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Receiver {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) email_configs: Vec<Spanned<Email>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Email {
    #[serde(default)]
    pub(super) send_resolved: bool,
    pub(super) to: Spanned<String>,
    pub(super) from: Option<Spanned<String>>,
    pub(super) smarthost: Option<Spanned<String>>,
    pub(super) hello: Option<Spanned<String>>,
    pub(super) auth_username: Option<String>,
    pub(super) auth_password: Option<String>,
    pub(super) auth_password_file: Option<String>,
    pub(super) require_tls: Option<bool>,
    pub(super) force_implicit_tls: Option<bool>,
    pub(super) tls_config: Option<Tls>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, Spanned<String>>,
    pub(super) html: Option<Spanned<String>>,
    pub(super) text: Option<Spanned<String>>,
}

/// Reads the file's shape; unknown, unsupported and repeated keys are refused with their place.
pub(super) fn read(file: &str, text: &str) -> Result<File, Box<Diagnostic>> {
    yaml::parse(text, file).map_err(|mut fault| {
        let field = fault.what.strip_prefix("unknown key \"").and_then(|w| w.strip_suffix('"'));
        if let Some(field) = field.filter(|field| NOT_YET.contains(field)) {
            fault.what = format!("\"{field}\" is not supported yet");
            fault.help = Some("remove the key: so far mail is sent by email_configs".to_owned());
        }
        fault
    })
}

/// Where a value stands.
pub(super) fn place(text: &str, at: serde_saphyr::Location, width: usize) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(1).max(1);
    Place::at_line(text, number(at.line()), number(at.column()), width)
}
