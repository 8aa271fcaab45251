//! Merges series that became equal: rounds of their members' samples, each giving one sample of the output.
//!
//! A *group* is one output series, its *members* are the source series behind it, known by fingerprint only. A member's
//! samples wait in its queue until a *round* is closed; a round takes at most one sample of each member, and gives one
//! sample of the output, at the newest of their timestamps. A round is closed when every live member has reported, or
//! when its first sample has waited for [`SETTLE`], so samples of one scrape may arrive in several requests. Output
//! timestamps only grow; what arrives after its round changes the next value. A member's second waiting sample ends the
//! round before it, so members that are scraped at different moments share rounds and none falls behind. A member that sent a staleness marker or
//! nothing for [`SILENCE`] is not live; when the last member goes, the output gets a staleness marker.
//!
//! **Sums of counters.** Each member contributes what it has counted since it is known: its last value, plus what it had
//! before each reset. A member that leaves keeps its contribution (and takes up where it left when it returns); a day
//! later the contribution moves to the group, and the member is forgotten. So the sum never falls.
//!
//! **State.** Every change goes through [`Merges::execute`] as a [`Change`], and changes are written down as they are
//! executed. The owner stores them beside the frames that hold the merged samples (frames first) and acknowledges the
//! samples to their sender only after both are durable; after a crash it hands back the last snapshot and the changes
//! since. Samples that come a second time are known by their timestamps and ignored. So the merged value after a crash is
//! the one it would have been without.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};

use super::digest::Digest;
use super::group::{Group, Member, Waiting};
use super::rules::Merge;
use super::state::Log;

/// How long the first sample of a round waits for the other members.
pub(crate) const SETTLE: Duration = Duration::from_secs(10);
/// A member that is silent for so long (by the timestamps of its group) is not live any more.
pub(crate) const SILENCE: Duration = Duration::from_secs(5 * 60);
/// When a member that is not live is forgotten, and a group without samples dropped.
pub(crate) const FORGET: Duration = Duration::from_secs(24 * 3600);
/// Most samples a member may have waiting; one more closes a round.
pub(crate) const MAX_QUEUE: usize = 256;
/// Most members of all groups; the samples of further ones are dropped and counted.
pub(crate) const MAX_MEMBERS: usize = 500_000;

/// All groups.
#[derive(Debug, Default)]
pub(crate) struct Merges {
    pub(super) groups: HashMap<u32, Group>,
    pub(super) by_output: HashMap<Digest, u32>,
    pub(super) next_group: u32,
    /// Which source owns an output of a rule that refuses to merge.
    pub(super) owners: HashMap<Digest, Digest>,
    /// Groups with samples that wait.
    open: BTreeSet<u32>,
    members: usize,
    log: Log,
}

/// One step of the state; what is written down and executed again after a restart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// A new group, or one with another way to merge, which begins anew.
    Group { group: u32, digest: Digest, labels: Labels, merge: Merge, rises: bool },
    /// It became known whether a group's members are counters.
    Rises { group: u32, rises: bool },
    /// A new member.
    Member { group: u32, member: u32, digest: Digest },
    /// A sample of a member.
    Push { group: u32, member: u32, sample: Sample },
    /// A round is closed: every member's first waiting sample, if it is older than `end`.
    Close { group: u32, end: Timestamp },
    /// A member that left is forgotten.
    Forget { group: u32, member: u32 },
    /// A group is dropped.
    Drop { group: u32 },
    /// A source owns an output.
    Own { output: Digest, owner: Digest },
    /// An output has no owner any more.
    Disown { output: Digest },
}

/// What became of a member's sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It waits for its round.
    Taken,
    /// It is not newer than what the member had: a repetition.
    Known,
}

impl Merges {
    /// The group of an output, made if there is none. A group with another way to merge begins anew.
    pub(crate) fn group(
        &mut self,
        digest: Digest,
        labels: &Labels,
        merge: Merge,
        rises: bool,
    ) -> u32 {
        if let Some(&group) = self.by_output.get(&digest)
            && let Some(found) = self.groups.get_mut(&group)
            && found.merge == merge
        {
            found.confirmed = true;
            if found.rises != rises {
                self.change(Change::Rises { group, rises }, None);
            }
            return group;
        }
        if let Some(&group) = self.by_output.get(&digest) {
            self.change(Change::Drop { group }, None);
        }
        let group = self.next_group;
        let labels = labels.clone();
        self.change(Change::Group { group, digest, labels, merge, rises }, None);
        if let Some(made) = self.groups.get_mut(&group) {
            made.confirmed = true;
        }
        group
    }

    /// The member of a group, made if there is none; `None` when there are too many.
    pub(crate) fn member(&mut self, group: u32, digest: Digest) -> Option<u32> {
        let found = self.groups.get(&group)?;
        if let Some(&member) = found.by_digest.get(&digest) {
            return Some(member);
        }
        if self.members >= MAX_MEMBERS {
            return None;
        }
        let member = found.next_member;
        self.change(Change::Member { group, member, digest }, None);
        Some(member)
    }

    /// Takes a member's sample.
    pub(crate) fn push(
        &mut self,
        group: u32,
        member: u32,
        sample: Sample,
        now: Timestamp,
    ) -> Pushed {
        let newest = self.groups.get(&group).and_then(|g| g.members.get(&member)).map(|m| m.newest);
        if newest.is_none_or(|newest| sample.at <= newest) {
            return Pushed::Known;
        }
        self.change(Change::Push { group, member, sample }, Some(now));
        Pushed::Taken
    }

    /// Closes the rounds that are complete, have waited long enough, or have grown too long.
    pub(crate) fn settle(&mut self, now: Timestamp, out: &mut Vec<(Labels, Sample)>) {
        self.close_while(out, |group| group.due(now));
    }

    /// Closes every round.
    pub(crate) fn finish(&mut self, out: &mut Vec<(Labels, Sample)>) {
        self.close_while(out, |group| Some(group.look(Timestamp::MAX).end));
    }

    fn close_while(
        &mut self,
        out: &mut Vec<(Labels, Sample)>,
        mut due: impl FnMut(&mut Group) -> Option<Timestamp>,
    ) {
        let open: Vec<u32> = self.open.iter().copied().collect();
        for id in open {
            while let Some(group) = self.groups.get_mut(&id) {
                if group.waiting == 0 || !group.confirmed {
                    break;
                }
                let Some(end) = due(group) else { break };
                let labels = group.labels.clone();
                if let Some(sample) = self.change(Change::Close { group: id, end }, None) {
                    out.push((labels, sample));
                }
            }
        }
    }

    /// The oldest sample that waits.
    pub(crate) fn oldest_waiting(&self) -> Option<Timestamp> {
        let groups = self.open.iter().filter_map(|id| self.groups.get(id)).filter(|g| g.confirmed);
        groups.flat_map(|g| g.members.values()).filter_map(Member::first).map(|s| s.at).min()
    }

    /// Which source owns an output, by what was said last.
    pub(crate) fn owner(&self, output: Digest) -> Option<Digest> {
        self.owners.get(&output).copied()
    }

    /// Makes a source an output's owner, or (`None`) leaves the output without one.
    pub(crate) fn own(&mut self, output: Digest, owner: Option<Digest>) {
        if self.owner(output) != owner {
            let change =
                owner.map_or(Change::Disown { output }, |owner| Change::Own { output, owner });
            self.change(change, None);
        }
    }

    /// Leaves every other output without an owner.
    pub(crate) fn disown_all_but(&mut self, outputs: &HashSet<Digest>) {
        let others: Vec<_> =
            self.owners.keys().filter(|output| !outputs.contains(output)).copied().collect();
        for output in others {
            self.own(output, None);
        }
    }

    /// Members of all groups.
    pub(crate) fn members(&self) -> usize {
        self.members
    }

    /// Drops groups that nothing came for, and forgets members that left long before their group's newest sample.
    pub(crate) fn sweep(&mut self, now: Timestamp) {
        let old = now.minus(FORGET);
        let mut changes = Vec::new();
        for (&id, group) in &mut self.groups {
            let idle = *group.touched.get_or_insert(now) < old;
            if idle && (group.waiting == 0 || !group.confirmed) {
                changes.push(Change::Drop { group: id });
                continue;
            }
            let newest = group.members.values().map(|m| m.newest).max().unwrap_or(Timestamp::MIN);
            let old = newest.minus(FORGET);
            let left = group.members.iter().filter(|(_, m)| !m.live && m.newest < old);
            changes.extend(left.map(|(&member, _)| Change::Forget { group: id, member }));
        }
        for change in changes {
            self.change(change, None);
        }
    }

    /// After new rules: no group puts anything out before one of its members was decided on again.
    pub(crate) fn doubt(&mut self) {
        for group in self.groups.values_mut() {
            group.confirmed = false;
        }
    }

    /// What was changed since the last call, encoded.
    pub(crate) fn take_log(&mut self) -> Option<Vec<u8>> {
        self.log.take()
    }

    fn change(&mut self, change: Change, now: Option<Timestamp>) -> Option<Sample> {
        self.log.write(&change);
        self.execute(change, now)
    }

    /// Executes a change; a closed round may put out a sample. Changes that name what is not there do nothing.
    pub(super) fn execute(&mut self, change: Change, now: Option<Timestamp>) -> Option<Sample> {
        match change {
            Change::Group { group, digest, labels, merge, rises } => {
                self.next_group = self.next_group.max(group.saturating_add(1));
                self.by_output.insert(digest, group);
                self.groups.insert(group, Group::new(digest, labels, merge, rises));
            }
            Change::Rises { group, rises } => self.groups.get_mut(&group)?.set_rises(rises),
            Change::Member { group, member, digest } => {
                if self.groups.get_mut(&group)?.add(member, Member::new(digest)) {
                    self.members += 1;
                }
            }
            Change::Push { group, member, sample } => {
                let found = self.groups.get_mut(&group)?;
                found.touched = now;
                found.push(member, Waiting { sample, arrived: now });
                self.open.insert(group);
            }
            Change::Close { group, end } => {
                let found = self.groups.get_mut(&group)?;
                let sample = found.close(end);
                if found.waiting == 0 {
                    self.open.remove(&group);
                }
                return sample;
            }
            Change::Forget { group, member } => {
                if self.groups.get_mut(&group)?.forget(member) {
                    self.members -= 1;
                }
            }
            Change::Drop { group } => {
                let dropped = self.groups.remove(&group)?;
                self.members -= dropped.members.len();
                self.by_output.remove(&dropped.digest);
                self.open.remove(&group);
            }
            Change::Own { output, owner } => {
                self.owners.insert(output, owner);
            }
            Change::Disown { output } => {
                self.owners.remove(&output);
            }
        }
        None
    }

    /// Takes in a group of a snapshot.
    pub(super) fn insert(&mut self, id: u32, mut group: Group) {
        group.count();
        if group.waiting > 0 {
            self.open.insert(id);
        }
        self.members += group.members.len();
        self.by_output.insert(group.digest, id);
        self.groups.insert(id, group);
    }
}
