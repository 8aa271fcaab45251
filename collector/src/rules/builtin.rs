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
    use tributary_model::sample::Timestamp;

    use super::*;
    use crate::rules::fake::{Fake, settings};
    use crate::rules::file::{RuleKind, RuleSpec};

    fn rules() -> Vec<RuleSpec> {
        let groups = groups(&settings()).unwrap();
        groups.into_iter().flat_map(|group| group.spec.rules).collect()
    }

    #[test]
    fn every_alert_sees_local_series_only_and_says_what_to_do() {
        for rule in rules() {
            assert!(rule.expr.to_string().contains("cluster=\"local\""), "{}", rule.expr);
            let RuleKind::Alerting { annotations, .. } = &rule.kind else { panic!("{rule:?}") };
            assert!(annotations.contains_key("summary") && annotations.contains_key("description"));
            assert!(rule.labels.contains_key("severity"));
        }
    }

    /// Which alerts there are at minute 30, with series (named without their prefix) and their values at minutes.
    fn alerts(series: &[(&str, &[(i64, f64)])]) -> Vec<String> {
        let fake = Fake::new();
        let at = |minute: i64| Timestamp::from_millis(1_700_000_040_000 + minute * 60_000);
        for (name, values) in series {
            let series =
                format!("tributary_collector_{}", name.replace('{', "{cluster=\"local\","));
            values.iter().for_each(|(minute, value)| fake.add(&series, at(*minute), *value));
        }
        let is_there = |rule: &RuleSpec| !fake.look(&rule.expr.to_string(), at(30)).is_empty();
        rules().into_iter().filter(is_there).map(|rule| rule.name).collect()
    }

    #[test]
    fn certificates_alert_when_their_renewal_is_late() {
        let day = 86_400.0;
        for (left, lifetime, late) in [
            (15.0, 30.0, false),
            (8.0, 30.0, false),
            (6.9, 30.0, true),
            (0.5, 1.0, false),
            (0.2, 1.0, true),
        ] {
            let found = alerts(&[
                ("certificate_seconds_left{certificate=\"agent\"}", &[(30, left * day)]),
                ("certificate_lifetime_seconds{certificate=\"agent\"}", &[(30, lifetime * day)]),
            ]);
            assert_eq!(
                found == ["CertificateExpiresSoon"],
                late,
                "{left} of {lifetime}: {found:?}"
            );
        }
        let authority = ("certificate_seconds_left{certificate=\"ca\"}", &[(30, 80.0 * day)][..]);
        assert_eq!(alerts(&[authority]), ["AuthorityExpiresSoon"]);
    }

    #[test]
    fn events_alert_the_first_time_and_again_but_not_for_ever() {
        let minutes = |from: i64, value: f64| (from..=30).map(move |minute| (minute, value));
        for (series, alert) in [
            ("ingest_tainted_uses_total{exported_cluster=\"eu-1\"}", "OldAuthorityUsed"),
            ("ingest_agents_fenced_total{exported_cluster=\"eu-1\"}", "TwoAgentsUseOneCertificate"),
            ("enrolments_refused_total{reason=\"spent\"}", "EnrolmentTokenReused"),
        ] {
            let first: Vec<_> = minutes(29, 1.0).collect();
            assert_eq!(alerts(&[(series, &first)]), [alert]);
            let again: Vec<_> = minutes(-100, 1.0).take(130).chain([(30, 2.0)]).collect();
            assert_eq!(alerts(&[(series, &again)]), [alert]);
            let long_ago: Vec<_> = minutes(-100, 1.0).collect();
            assert_eq!(alerts(&[(series, &long_ago)]), [""; 0]);
        }
    }
}
