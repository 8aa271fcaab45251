//! Lets listed series through, strips unlisted labels, and keeps the budget.
//!
//! What is decided about a series is remembered by the address of its labels, which sources keep the same from sample to
//! sample; everything that must outlive that (who owns an output, what counts towards a budget, what is merged) hangs on
//! the output's labels. No label that a rule removes is kept, logged or written anywhere: what has to be known again of a
//! source series is a keyed fingerprint.

pub(crate) mod digest;
mod group;
mod histograms;
pub(crate) mod merge;
mod metadata;
mod metrics;
mod output;
pub(crate) mod plan;
pub(crate) mod rules;
mod screen;
mod state;
mod tally;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::time::Duration;

use tributary_model::histogram::HistogramSample;
use tributary_model::label::{Labels, METRIC_NAME};
use tributary_model::sample::{Sample, Timestamp};
use tributary_model::series::Metadata;
use tributary_proto::limits::Limits;

use digest::{Digest, Key, Spread};
use merge::{Merges, Pushed};
use metadata::Catalogue;
pub(crate) use metrics::AllowMetrics;
use metrics::Dropped;
use output::{Judged, Output, Outputs, Owner};
use rules::{Merge, Rule, Rules};
pub(crate) use screen::Screen;
pub(crate) use state::StateError;
use tally::Tally;

/// Most series whose decision is remembered; one more, and all are decided on again.
const MAX_CACHED: usize = 300_000;
/// A series that sent nothing for so long frees its place in the budget.
const IDLE: Duration = Duration::from_secs(3600);
/// How often idle things are looked for.
const SWEEP: Duration = Duration::from_secs(60);
/// Sweeps after which the decision about an idle series is forgotten.
const CACHED_SWEEPS: u32 = 10;
/// Sweeps between searches for owners of outputs that are no more, left by a reload or an earlier process.
const OWNER_SWEEPS: u32 = 60;
/// The last millisecond of the year 9999.
const LAST: Timestamp = Timestamp::from_millis(253_402_300_799_999);

/// What the allowlist let through.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Samples under the labels they leave with.
    pub(crate) samples: Vec<(Labels, Sample)>,
    /// Native histograms in the same way.
    pub(crate) histograms: Vec<(Labels, HistogramSample)>,
    /// Metadata of metrics that leave.
    pub(crate) metadata: Vec<Metadata>,
}

/// The allowlist at work: the rules, and what is remembered between samples.
#[derive(Debug)]
pub(crate) struct Allowlist {
    rules: Arc<Rules>,
    uses: Vec<Use>,
    screen: Screen,
    metrics: AllowMetrics,
    limits: Limits,
    key: Key,
    cache: HashMap<usize, Cached, BuildHasherDefault<Spread>>,
    outputs: Outputs,
    merges: Merges,
    catalogue: Catalogue,
    sweeps: u32,
    swept: Option<Timestamp>,
}

/// What a rule is used for.
#[derive(Debug, Clone, Copy, Default)]
struct Use {
    outputs: usize,
    told_of_collision: bool,
    told_of_budget: bool,
}

/// A series that was decided on. Holding its labels keeps their address its own.
#[derive(Debug)]
struct Cached {
    _labels: Labels,
    decision: Decision,
    sweep: u32,
}

#[derive(Debug, Clone, Copy)]
enum Decision {
    Unlisted,
    /// Its rule's budget was used up.
    Full {
        rule: usize,
    },
    /// Another rule already sends a series with its labels.
    Taken,
    /// What is left of its labels is more than a frame may carry.
    Oversized,
    /// No further member can be remembered.
    Crowded,
    Direct {
        output: usize,
        source: Digest,
        stripped: bool,
    },
    Merged {
        group: u32,
        member: u32,
        output: usize,
    },
}

impl Allowlist {
    /// An allowlist that has seen nothing yet.
    pub(crate) fn new(rules: Rules, metrics: AllowMetrics) -> Self {
        let rules = Arc::new(rules);
        Self {
            uses: vec![Use::default(); rules.iter().count()],
            screen: Screen::new(rules.clone(), metrics.clone()),
            rules,
            metrics,
            limits: Limits::default(),
            key: Key::random(),
            cache: HashMap::default(),
            outputs: Outputs::default(),
            merges: Merges::default(),
            catalogue: Catalogue::default(),
            sweeps: 0,
            swept: None,
        }
    }

    /// Puts new rules in force. Budgets are counted anew as series come by; owners and merges go on.
    pub(crate) fn replace(&mut self, rules: Rules) {
        if rules.fingerprint() == self.rules.fingerprint() {
            return;
        }
        self.rules = Arc::new(rules);
        self.uses = vec![Use::default(); self.rules.iter().count()];
        self.screen.replace(self.rules.clone());
        self.forget_decisions();
        self.merges.doubt();
    }

    /// The rules in force, for sources.
    pub(crate) fn screen(&self) -> Screen {
        self.screen.clone()
    }

    /// Decides over samples. `now` is the wall clock.
    pub(crate) fn apply(
        &mut self,
        samples: Vec<(Labels, Sample)>,
        histograms: Vec<(Labels, HistogramSample)>,
        metadata: Vec<Metadata>,
        now: Timestamp,
    ) -> Kept {
        let (retyped, beyond) = self.catalogue.note(metadata);
        self.metrics.metadata_dropped.inc_by(beyond);
        if retyped {
            self.retype();
        }
        let mut kept = Kept { samples: Vec::with_capacity(samples.len()), ..Kept::default() };
        let mut tally = Tally::default();
        for (labels, sample) in samples {
            if sample.at < Timestamp::default() || sample.at > LAST {
                tally.drop(Dropped::timestamp);
                continue;
            }
            let decision = self.decision(labels, sample.at, now);
            self.pass(decision, sample, now, &mut kept, &mut tally);
        }
        for (labels, histogram) in histograms {
            self.pass_histogram(labels, histogram, now, &mut kept, &mut tally);
        }
        self.put_out(now, &mut kept, &mut tally);
        kept
    }

    /// Puts out merged samples that settle by the passing of time; call about once a second.
    pub(crate) fn tick(&mut self, now: Timestamp) -> Kept {
        let (mut kept, mut tally) = (Kept::default(), Tally::default());
        self.put_out(now, &mut kept, &mut tally);
        kept
    }

    /// Puts out all merged samples that still wait for members; call once, when the sources have stopped.
    pub(crate) fn finish(&mut self, now: Timestamp) -> Kept {
        let mut kept = self.tick(now);
        let before = kept.samples.len();
        self.merges.finish(&mut kept.samples);
        self.metrics.kept.inc_by((kept.samples.len() - before) as u64);
        kept
    }

    /// The oldest sample that was taken but waits for its merge: from there on nothing is complete.
    pub(crate) fn oldest_pending(&self) -> Option<Timestamp> {
        self.merges.oldest_waiting()
    }

    /// The whole state of merges and owners. Holds no label that is not sent.
    pub(crate) fn snapshot(&self) -> Vec<u8> {
        state::snapshot(&self.merges, self.preamble())
    }

    /// What changed since the last call, if anything. Write it *after* the frames with the samples of the same
    /// `apply`, `tick` or `finish`, and have both durable before the arrival is acknowledged.
    pub(crate) fn changes(&mut self) -> Option<Vec<u8>> {
        let preamble = self.preamble();
        self.merges.take_log().map(|log| state::changes(preamble, &log))
    }

    /// Takes up the state that is on disk, from an earlier process or from before a failure of the disk: the last snapshot
    /// (or nothing) and the changes written after it, in order. What is in memory and not in there is forgotten.
    pub(crate) fn restore(
        &mut self,
        snapshot: &[u8],
        changes: &[Vec<u8>],
    ) -> Result<(), StateError> {
        let (mut merges, mut preamble) = if snapshot.is_empty() {
            (Merges::default(), None)
        } else {
            let (merges, preamble) = state::restore(snapshot)?;
            (merges, Some(preamble))
        };
        for bytes in changes {
            preamble = Some(state::replay(&mut merges, bytes)?);
        }
        let Some(preamble) = preamble else { return Ok(()) };
        self.merges = merges;
        self.key = preamble.key;
        self.forget_decisions();
        self.uses = vec![Use::default(); self.rules.iter().count()];
        self.catalogue.repeat();
        if preamble.rules != self.rules.fingerprint() {
            self.merges.doubt();
        }
        Ok(())
    }

    fn preamble(&self) -> state::Preamble {
        state::Preamble { key: self.key, rules: self.rules.fingerprint() }
    }

    fn forget_decisions(&mut self) {
        self.cache.clear();
        self.outputs = Outputs::default();
    }

    /// What was or is now decided about a series.
    fn decision(&mut self, labels: Labels, at: Timestamp, now: Timestamp) -> Decision {
        let address = labels.iter().as_slice().as_ptr().addr();
        if let Some(cached) = self.cache.get_mut(&address) {
            cached.sweep = self.sweeps;
            let decision = cached.decision;
            let room = matches!(decision, Decision::Full { rule } if !self.is_full(rule));
            if !room {
                return decision;
            }
        }
        let decision = self.decide(&labels, at, now);
        if self.cache.len() >= MAX_CACHED {
            self.cache.clear();
        }
        self.cache.insert(address, Cached { _labels: labels, decision, sweep: self.sweeps });
        decision
    }

    fn decide(&mut self, labels: &Labels, at: Timestamp, now: Timestamp) -> Decision {
        let rules = self.rules.clone();
        let Some(rule) = rules.decide(labels) else { return Decision::Unlisted };
        let Some(found) = rules.rule(rule) else { return Decision::Unlisted };
        let left = found.strip(labels);
        if !self.limits.allow(&left) {
            return Decision::Oversized;
        }
        let stripped = left.len() < labels.len();
        let source = self.key.labels(labels);
        let output = match self.outputs.find(&left) {
            Some((_, output)) if output.rule != rule => {
                self.tell_of_collision(rule, labels);
                return Decision::Taken;
            }
            Some((place, _)) => place,
            None if self.is_full(rule) => {
                self.tell_of_budget(rule, labels);
                return Decision::Full { rule };
            }
            None => self.new_output(rule, found, &left, (source, at, now)),
        };
        // A rule that keeps all labels cannot make series equal.
        if found.merge == Merge::Refuse || found.keep.is_none() {
            return Decision::Direct { output, source, stripped };
        }
        let digest = self.key.labels(&left);
        let rises = found.merge == Merge::Sum && self.catalogue.rises(left.metric_name());
        let group = self.merges.group(digest, &left, found.merge, rises);
        match self.merges.member(group, source) {
            Some(member) => Decision::Merged { group, member, output },
            None => Decision::Crowded,
        }
    }

    fn new_output(
        &mut self,
        rule: usize,
        found: &Rule,
        left: &Labels,
        (source, at, now): (Digest, Timestamp, Timestamp),
    ) -> usize {
        if let Some(name) = left.find(METRIC_NAME) {
            self.catalogue.keep(&name.value);
        }
        if let Some(used) = self.uses.get_mut(rule) {
            used.outputs += 1;
        }
        let owner = (found.merge == Merge::Refuse || found.keep.is_none()).then(|| {
            let remembered = found.keep.is_some().then(|| self.key.labels(left));
            let owner = remembered.and_then(|output| self.merges.owner(output)).unwrap_or(source);
            if let Some(output) = remembered {
                self.merges.own(output, Some(owner));
            }
            // An owner of an earlier process counts from now on: it has not been silent yet.
            let newest = if owner == source { Timestamp::MIN } else { at };
            Owner { source: owner, newest, live: true, remembered }
        });
        self.outputs.insert(Output { labels: left.clone(), rule, seen: now, owner })
    }

    fn is_full(&self, rule: usize) -> bool {
        let limit = self.rules.rule(rule).and_then(|rule| rule.max_series);
        let used = self.uses.get(rule).map_or(0, |used| used.outputs);
        limit.is_some_and(|limit| used >= limit)
    }

    fn pass(
        &mut self,
        decision: Decision,
        sample: Sample,
        now: Timestamp,
        kept: &mut Kept,
        tally: &mut Tally,
    ) {
        if let Decision::Merged { group, member, output } = decision {
            if let Some(output) = self.outputs.at(output) {
                output.seen = now;
            }
            match self.merges.push(group, member, sample, now) {
                Pushed::Taken => tally.merged += 1,
                Pushed::Known => tally.drop(Dropped::repeated),
            }
        } else if let Some(labels) = self.admit(decision, sample, now, tally) {
            kept.samples.push((labels, sample));
        }
    }

    /// The labels that a sample leaves with, if it leaves as it is.
    fn admit(
        &mut self,
        decision: Decision,
        sample: Sample,
        now: Timestamp,
        tally: &mut Tally,
    ) -> Option<Labels> {
        let (output, source, stripped) = match decision {
            Decision::Direct { output, source, stripped } => (output, source, stripped),
            other => {
                tally.drop(match other {
                    Decision::Full { .. } => Dropped::budget,
                    Decision::Taken => Dropped::collision,
                    Decision::Oversized => Dropped::oversized,
                    Decision::Crowded => Dropped::members,
                    Decision::Merged { .. } => Dropped::histogram_merge,
                    Decision::Unlisted | Decision::Direct { .. } => Dropped::not_listed,
                });
                return None;
            }
        };
        let output = self.outputs.at(output)?;
        output.seen = now;
        let owner = output.owner.as_mut()?;
        match owner.judge(source, sample) {
            Judged::Refused => {
                let rule = output.rule;
                let labels = output.labels.clone();
                tally.drop(Dropped::collision);
                self.tell_of_collision(rule, &labels);
                return None;
            }
            Judged::Owner => {}
            Judged::NewOwner => {
                if let Some(output) = owner.remembered {
                    self.merges.own(output, Some(source));
                }
            }
        }
        tally.kept += 1;
        tally.stripped += u64::from(stripped);
        Some(output.labels.clone())
    }

    /// Settles merges, adds metadata, sweeps when it is time, and counts.
    fn put_out(&mut self, now: Timestamp, kept: &mut Kept, tally: &mut Tally) {
        let before = kept.samples.len();
        self.merges.settle(now, &mut kept.samples);
        tally.kept += (kept.samples.len() - before) as u64;
        kept.metadata = self.catalogue.due(now);
        // A clock that was set back must not stop the sweeps.
        if self.swept.is_none_or(|at| now >= at.plus(SWEEP) || now < at) {
            self.swept = Some(now);
            self.sweep(now);
        }
        self.metrics.kept.inc_by(tally.kept);
        self.metrics.stripped.inc_by(tally.stripped);
        self.metrics.merged.inc_by(tally.merged);
        for (reason, samples) in tally.dropped {
            if let Some(reason) = reason {
                self.metrics.drop(reason, samples);
            }
        }
    }

    fn sweep(&mut self, now: Timestamp) {
        self.sweeps += 1;
        let sweep = self.sweeps;
        self.cache.retain(|_, cached| {
            let passing = matches!(cached.decision, Decision::Taken | Decision::Crowded);
            !passing && cached.sweep + CACHED_SWEEPS >= sweep
        });
        for output in self.outputs.remove_idle(now.minus(IDLE)) {
            if let Some(used) = self.uses.get_mut(output.rule) {
                used.outputs = used.outputs.saturating_sub(1);
            }
            if let Some(remembered) = output.owner.and_then(|owner| owner.remembered) {
                self.merges.own(remembered, None);
            }
        }
        self.merges.sweep(now);
        if self.sweeps.is_multiple_of(OWNER_SWEEPS) {
            let outputs = self.outputs.places.iter().flatten();
            let owned = outputs.filter_map(|o| o.owner.as_ref()?.remembered).collect();
            self.merges.disown_all_but(&owned);
        }
        let names = self.outputs.by_labels.keys().filter_map(|labels| labels.find(METRIC_NAME));
        self.catalogue.keep_only(names.map(|label| &label.value));
        let gauge = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.series.set(gauge(self.outputs.by_labels.len()));
        self.metrics.members.set(gauge(self.merges.members()));
    }

    /// Tells the merges which of their members are counters, after a type has changed.
    fn retype(&mut self) {
        for (labels, place) in &self.outputs.by_labels {
            let rule = self.outputs.places.get(*place).and_then(Option::as_ref).map(|o| o.rule);
            let Some(rule) = rule.and_then(|rule| self.rules.rule(rule)) else { continue };
            if rule.merge == Merge::Sum && rule.keep.is_some() {
                let rises = self.catalogue.rises(labels.metric_name());
                self.merges.group(self.key.labels(labels), labels, Merge::Sum, rises);
            }
        }
    }

    fn tell_of_collision(&mut self, rule: usize, labels: &Labels) {
        let Some(used) = self.uses.get_mut(rule) else { return };
        if !std::mem::replace(&mut used.told_of_collision, true) {
            tracing::warn!(
                metric = labels.metric_name(),
                rule = rule + 1,
                "series become equal when unlisted labels are removed: the first is sent, the others are dropped; \
                 keep a label that tells them apart, or set merge"
            );
        }
    }

    fn tell_of_budget(&mut self, rule: usize, labels: &Labels) {
        self.metrics.budget_hits.inc();
        let Some(used) = self.uses.get_mut(rule) else { return };
        if !std::mem::replace(&mut used.told_of_budget, true) {
            tracing::warn!(
                metric = labels.metric_name(),
                rule = rule + 1,
                "max_series of the rule is reached: further new series are dropped, existing ones go on"
            );
        }
    }
}

#[cfg(test)]
mod tests;
