//! A look at the rules in force, for sources that can save themselves the work of series that no rule lists.

use std::sync::{Arc, PoisonError, RwLock};

use super::metrics::{AllowMetrics, Dropped};
use super::rules::Rules;

/// Which series are listed. Cheap to clone; follows reloads.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    shared: Arc<RwLock<View>>,
    metrics: AllowMetrics,
}

/// The rules at one moment.
#[derive(Debug, Clone)]
pub(crate) struct View {
    /// The rules.
    pub(crate) rules: Arc<Rules>,
    /// Grows with every change of the rules.
    pub(crate) generation: u64,
}

impl Screen {
    pub(super) fn new(rules: Arc<Rules>, metrics: AllowMetrics) -> Self {
        Self { shared: Arc::new(RwLock::new(View { rules, generation: 0 })), metrics }
    }

    /// The rules now in force.
    pub(crate) fn view(&self) -> View {
        self.shared.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every selector, as text: what a federation asks for.
    pub(crate) fn selectors(&self) -> Vec<String> {
        let view = self.view();
        view.rules.iter().flat_map(|rule| &rule.selectors).map(ToString::to_string).collect()
    }

    /// Counts samples that a source left out because no rule lists them.
    pub(crate) fn left_out(&self, samples: u64) {
        self.metrics.drop(Dropped::not_listed, samples);
    }

    pub(super) fn replace(&self, rules: Arc<Rules>) {
        let mut view = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        view.rules = rules;
        view.generation += 1;
    }
}
