//! The tree that decides which receivers an alert goes to, and how it is grouped there.

use std::collections::BTreeSet;
use std::time::Duration;

use tributary_model::label::Labels;
use tributary_model::matcher::Matcher;

/// A node of the tree, with what it inherits filled in.
#[derive(Debug, Clone)]
pub struct Route {
    /// Whom it notifies.
    pub receiver: String,
    /// All must match; none: every alert.
    pub matchers: Vec<Matcher>,
    /// Whether the siblings after this one are asked as well.
    pub goes_on: bool,
    /// Asked first; the first that matches decides.
    pub routes: Vec<Route>,
    /// When its groups are notified.
    pub timing: Timing,
    /// What makes alerts one group.
    pub group_by: GroupBy,
    /// The matchers from the root to here; part of what identifies a group.
    pub key: String,
}

/// When groups are notified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long a new group gathers alerts before its first mail.
    pub group_wait: Duration,
    /// The least time between two mails about a changing group.
    pub group_interval: Duration,
    /// When an unchanged group is mailed again.
    pub repeat_interval: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            group_wait: Duration::from_secs(30),
            group_interval: Duration::from_secs(5 * 60),
            repeat_interval: Duration::from_secs(4 * 3600),
        }
    }
}

/// What makes alerts one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// Equal values of these labels.
    Labels(BTreeSet<String>),
    /// Every label: each alert is its own group.
    Everything,
}

impl GroupBy {
    /// The labels of the group that an alert belongs to.
    pub fn group(&self, labels: &Labels) -> Labels {
        match self {
            Self::Labels(names) => labels.filter(|label| names.contains(&*label.name)),
            Self::Everything => labels.clone(),
        }
    }
}

impl Route {
    /// The routes that take an alert: the deepest match, and more of them after one with `continue`.
    pub fn matching<'a>(&'a self, labels: &Labels) -> Vec<&'a Self> {
        let mut found = Vec::new();
        self.collect(labels, &mut found);
        found
    }

    fn collect<'a>(&'a self, labels: &Labels, found: &mut Vec<&'a Self>) -> bool {
        if !Matcher::all_match(&self.matchers, labels) {
            return false;
        }
        let before = found.len();
        for route in &self.routes {
            if route.collect(labels, found) && !route.goes_on {
                break;
            }
        }
        if found.len() == before {
            found.push(self);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::config::Config;
    use super::*;

    #[test]
    fn the_first_match_decides_unless_it_goes_on() {
        let text = "
route:
  receiver: root
  routes:
    - { matchers: [a=1], receiver: one, continue: true, routes: [{ matchers: [b=1], receiver: deep }] }
    - { matchers: [a=~1|2], receiver: two }
    - { matchers: [a=2], receiver: never }
receivers: [{ name: root }, { name: one }, { name: deep }, { name: two }, { name: never }]
";
        let config = Config::parse("f", Path::new(""), text).unwrap();
        for (labels, expected) in [
            (vec![("x", "1")], "root"),
            (vec![("a", "1")], "one two"),
            (vec![("a", "1"), ("b", "1")], "deep two"),
            (vec![("a", "2")], "two"),
        ] {
            let labels = Labels::from_pairs(labels).unwrap();
            let found = config.route.matching(&labels);
            let names: Vec<&str> = found.iter().map(|r| r.receiver.as_str()).collect();
            assert_eq!(names.join(" "), expected);
        }
    }

    #[test]
    fn groups_are_by_label_or_by_everything() {
        let labels = Labels::from_pairs([("a", "1"), ("b", "2")]).unwrap();
        let by_a = GroupBy::Labels(["a".to_owned(), "c".to_owned()].into());
        assert_eq!(by_a.group(&labels).to_string(), r#"{a="1"}"#);
        assert_eq!(GroupBy::Everything.group(&labels), labels);
    }
}
