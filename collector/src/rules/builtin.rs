//! The alerts that every collector has about itself; `alerting.builtin: false` switches them off.

use tributary_model::diagnostic::Diagnostic;

use super::Settings;
use super::file;
use super::group::Group;
use crate::config::Scope;

/// What stands for a file's path where rules are shown.
const FILE: &str = "built-in";

/// The groups, as a rule file of scope `local`: they see the collector's own series only.
pub(super) fn groups(settings: &Settings) -> Result<Vec<Group>, Vec<Diagnostic>> {
    let specs = file::parse(include_str!("builtin.yml"), FILE, &settings.scoping(Scope::Local))?;
    let group = |spec| Group { file: FILE.to_owned(), scope: Scope::Local, spec };
    Ok(specs.into_iter().map(group).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::fake::settings;
    use crate::rules::file::RuleKind;

    #[test]
    fn every_alert_sees_local_series_only_and_says_what_to_do() {
        let groups = groups(&settings()).unwrap();
        let rules: Vec<_> = groups.iter().flat_map(|group| &group.spec.rules).collect();
        assert!(!rules.is_empty());
        for rule in rules {
            assert!(rule.expr.to_string().contains("cluster=\"local\""), "{}", rule.expr);
            let RuleKind::Alerting { annotations, .. } = &rule.kind else { panic!("{rule:?}") };
            assert!(annotations.contains_key("summary") && annotations.contains_key("description"));
            assert!(rule.labels.contains_key("severity"));
        }
    }
}
