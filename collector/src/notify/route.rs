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
