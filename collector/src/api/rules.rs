//! `rules` and `alerts`.

use std::fmt::Write as _;

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;
use tributary_model::matcher::Matcher;

use super::envelope::{ApiError, success_value};
use super::params::{Params, integer};
use super::view::{Alert, Rule, RuleGroup, RuleType};
use super::{Api, Scope};

/// `rules`: the rule groups, filtered and in pages.
pub async fn rules(
    State(api): State<Api>,
    scope: Scope,
    params: Params,
) -> Result<Response, ApiError> {
    let filter = Filter::new(&params)?;
    let page = Page::new(&params)?;
    let mut groups = api.facts.rule_groups();
    groups.retain(|group| filter.keeps_group(group));
    for group in &mut groups {
        group.rules.retain(|rule| filter.keeps(rule) && scope.sees_rule(rule));
        for rule in &mut group.rules {
            if let Rule::Alerting(rule) = rule {
                match &mut rule.alerts {
                    Some(alerts) if !filter.exclude_alerts => {
                        alerts.retain(|alert| scope.sees(&alert.labels));
                    }
                    alerts => *alerts = None,
                }
            }
        }
    }
    groups.retain(|group| !group.rules.is_empty());
    Ok(success_value(&page.cut(groups)?))
}

/// `alerts`: every alert that is pending or firing.
pub async fn alerts(State(api): State<Api>, scope: Scope) -> Response {
    let rules = api.facts.rule_groups().into_iter().flat_map(|group| group.rules);
    let alerts = rules.filter_map(|rule| match rule {
        Rule::Alerting(rule) => rule.alerts,
        Rule::Recording(_) => None,
    });
    let alerts: Vec<Alert> = alerts.flatten().filter(|a| scope.sees(&a.labels)).collect();
    success_value(&Alerts { alerts })
}

#[derive(Serialize)]
struct Alerts {
    alerts: Vec<Alert>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Groups {
    groups: Vec<RuleGroup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group_next_token: Option<String>,
}

struct Filter {
    kind: Option<RuleType>,
    names: Vec<String>,
    groups: Vec<String>,
    files: Vec<String>,
    selectors: Vec<Vec<Matcher>>,
    exclude_alerts: bool,
}

impl Filter {
    fn new(params: &Params) -> Result<Self, ApiError> {
        let kind = match params.text("type").to_ascii_lowercase().as_str() {
            "" => None,
            "alert" => Some(RuleType::Alerting),
            "record" => Some(RuleType::Recording),
            other => {
                let why = format!("not supported value {}", tributary_model::quote::quote(other));
                return Err(ApiError::parameter("type", why));
            }
        };
        let all = |name| params.all(name).map(str::to_owned).collect();
        Ok(Self {
            kind,
            names: all("rule_name[]"),
            groups: all("rule_group[]"),
            files: all("file[]"),
            selectors: params.selectors()?,
            exclude_alerts: boolean(params, "exclude_alerts")?,
        })
    }

    fn keeps(&self, rule: &Rule) -> bool {
        let (name, kind, labels) = match rule {
            Rule::Alerting(rule) => (&rule.name, rule.kind, &rule.labels),
            Rule::Recording(rule) => (&rule.name, rule.kind, &rule.labels),
        };
        let selected = |set: &Vec<Matcher>| Matcher::all_match(set, labels);
        self.kind.is_none_or(|wanted| wanted == kind)
            && among(&self.names, name)
            && (self.selectors.is_empty() || self.selectors.iter().any(selected))
    }

    fn keeps_group(&self, group: &RuleGroup) -> bool {
        among(&self.groups, &group.name) && among(&self.files, &group.file)
    }
}

/// An empty list names everything.
fn among(wanted: &[String], name: &str) -> bool {
    wanted.is_empty() || wanted.iter().any(|w| w == name)
}

fn boolean(params: &Params, name: &str) -> Result<bool, ApiError> {
    match params.text(name) {
        "" | "0" | "f" | "F" | "false" | "False" | "FALSE" => Ok(false),
        "1" | "t" | "T" | "true" | "True" | "TRUE" => Ok(true),
        other => {
            let quoted = tributary_model::quote::quote(other);
            Err(ApiError::parameter(name, format!("{quoted} is not true or false")))
        }
    }
}

/// `group_limit` and `group_next_token`.
struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

impl Page {
    fn new(params: &Params) -> Result<Self, ApiError> {
        let limit = match params.text("group_limit") {
            "" => None,
            text => match integer(text).ok().and_then(|n| usize::try_from(n).ok()) {
                Some(limit) if limit > 0 => Some(limit),
                _ => {
                    return Err(ApiError::parameter("group_limit", "it must be a number above 0"));
                }
            },
        };
        let after = Some(params.text("group_next_token")).filter(|t| !t.is_empty());
        if after.is_some() && limit.is_none() {
            return Err(ApiError::bad(
                "group_limit needs to be provided in order to paginate over the groups",
            ));
        }
        Ok(Self { limit, after: after.map(str::to_owned) })
    }

    fn cut(self, mut groups: Vec<RuleGroup>) -> Result<Groups, ApiError> {
        if let Some(after) = self.after {
            let at = groups.iter().position(|group| token(group) == after);
            let Some(at) = at else {
                let why = "no group has this token: the rules may have been reloaded; start again without it";
                return Err(ApiError::parameter("group_next_token", why));
            };
            groups.drain(..at);
        }
        let group_next_token = self.limit.and_then(|limit| groups.get(limit)).map(token);
        groups.truncate(self.limit.unwrap_or(usize::MAX));
        Ok(Groups { groups, group_next_token })
    }
}

/// Names the group that the next page begins with.
fn token(group: &RuleGroup) -> String {
    let key = format!("{};{}", group.file, group.name);
    key.bytes().fold(String::new(), |mut token, byte| {
        let _ = write!(token, "{byte:02x}");
        token
    })
}
