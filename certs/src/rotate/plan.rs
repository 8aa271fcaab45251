//! A rotation as `state.json` keeps it.

use std::collections::{BTreeMap, HashSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Wish;
use crate::certificate::Certificate;
use crate::state::{at, hex32, maybe_at};

/// What is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The authority, and with it every leaf.
    Ca,
    /// The leaves of [`Rotation::targets`].
    Leaf,
    /// Every leaf.
    All,
    /// The authority, at once: its key is in the wrong hands.
    Emergency,
}

impl Kind {
    /// The word in `state.json` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Leaf => "leaf",
            Self::All => "all",
            Self::Emergency => "emergency",
        }
    }

    /// The steps it goes through, in order.
    pub fn steps(self) -> &'static [Step] {
        use Step as S;
        match self {
            Self::Ca => &Step::ALL,
            Self::Leaf | Self::All => &[S::Preflight, S::Activate, S::Drain, S::Prove, S::Done],
            Self::Emergency => &[S::Prepare, S::Activate, S::Retire, S::Done],
        }
    }

    /// What happens in a step, for people.
    pub fn explain(self, step: Step) -> &'static str {
        let leaves = matches!(self, Self::Leaf | Self::All);
        match step {
            Step::Preflight => "every agent is there, can renew, and its clock is right",
            Step::Prepare => "make the next authority",
            Step::Publish => "trust the old and the next authority, everywhere",
            Step::Wait => "every agent says that it trusts both",
            Step::Activate if leaves => "issue new certificates, the collector's own first",
            Step::Activate => "sign with the next authority from now on",
            Step::Drain => "every agent renews and opens its stream again",
            Step::Prove if leaves => "nobody uses an old certificate any more",
            Step::Prove => "nobody uses the old authority any more",
            Step::Taint => "watch for use of the old authority",
            Step::Retire => "trust the old authority no more",
            Step::Done => "over",
        }
    }
}

/// Where a rotation is: the step that is being carried out. [`Kind::explain`] says what each is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Is everybody there, able, and of one mind about the time?
    Preflight,
    /// Make the next authority.
    Prepare,
    /// Trust both authorities, here and everywhere.
    Publish,
    /// Until every agent says that it trusts both.
    Wait,
    /// Sign with the next authority.
    Activate,
    /// Renew the agents, and open their streams again.
    Drain,
    /// Until nobody uses the old authority any more.
    Prove,
    /// Watch for a while whether somebody still does.
    Taint,
    /// Trust the old authority no more.
    Retire,
    /// Over.
    Done,
}

impl Step {
    /// All of them, in order.
    pub const ALL: [Self; 10] = [
        Self::Preflight,
        Self::Prepare,
        Self::Publish,
        Self::Wait,
        Self::Activate,
        Self::Drain,
        Self::Prove,
        Self::Taint,
        Self::Retire,
        Self::Done,
    ];

    /// The word in `state.json`, on the command line and in tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Preflight => "preflight",
            Self::Prepare => "prepare",
            Self::Publish => "publish",
            Self::Wait => "wait",
            Self::Activate => "activate",
            Self::Drain => "drain",
            Self::Prove => "prove",
            Self::Taint => "taint",
            Self::Retire => "retire",
            Self::Done => "done",
        }
    }
}

/// The rotation that is going on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// What is rotated.
    pub kind: Kind,
    /// With [`Kind::Leaf`]: the clusters, `cluster/instance`s or `collector`.
    #[serde(default)]
    pub targets: Vec<String>,
    /// Wait for agents that are away, however long.
    #[serde(default)]
    pub wait: bool,
    /// Clusters or `cluster/instance`s that are left behind.
    #[serde(default)]
    pub skip: Vec<String>,
    /// The step that is being carried out.
    pub step: Step,
    /// Since when.
    #[serde(with = "at")]
    pub step_since: SystemTime,
    /// The step after which the operator wants it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Step>,
    /// Whether it has stopped there.
    #[serde(default)]
    pub paused: bool,
    /// Length of the step [`Step::Taint`].
    #[serde(default)]
    pub grace_seconds: u64,
    /// When it was begun.
    #[serde(with = "at")]
    pub started_at: SystemTime,
    /// When a collector last worked on it.
    #[serde(default, with = "maybe_at", skip_serializing_if = "Option::is_none")]
    pub carried_at: Option<SystemTime>,
    /// The old authority: hash of its public key.
    #[serde(with = "hex32")]
    pub from: [u8; 32],
    /// The old authority's name.
    pub from_name: String,
    /// The next authority, once there is one.
    #[serde(default, with = "maybe_hex32", skip_serializing_if = "Option::is_none")]
    pub to: Option<[u8; 32]>,
    /// The next authority's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_name: Option<String>,
    /// With [`Kind::Leaf`] and [`Kind::All`]: the keys that are to vanish.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub old_keys: Vec<Hash>,
    /// What each agent still lacks for the present step, by `cluster/instance`.
    #[serde(default)]
    pub agents: BTreeMap<String, Lack>,
}

impl Rotation {
    pub(super) fn begin(wish: &Wish, from: &Certificate, now: SystemTime) -> Self {
        let step = wish.kind.steps().first().copied().unwrap_or(Step::Done);
        Self {
            kind: wish.kind,
            targets: wish.targets.clone(),
            wait: wish.wait,
            skip: wish.skip.clone(),
            step,
            step_since: now,
            until: wish.until,
            paused: false,
            grace_seconds: wish.grace.as_secs(),
            started_at: now,
            carried_at: None,
            from: from.spki_sha256,
            from_name: from.subject.clone(),
            to: None,
            to_name: None,
            old_keys: Vec::new(),
            agents: BTreeMap::new(),
        }
    }

    /// The present step is done; the next one begins, or waits for the operator.
    pub(super) fn go_on(&mut self, now: SystemTime) {
        let done = self.step;
        let mut later = self.kind.steps().iter().copied().filter(|step| *step > done);
        self.step = later.next().unwrap_or(Step::Done);
        self.step_since = now;
        self.paused = self.until == Some(done) && self.step != Step::Done;
    }

    /// Whether a step is going on, or over.
    pub fn has_begun(&self, step: Step) -> bool {
        self.step > step || self.step == step && !self.paused
    }

    pub(super) fn set_old_keys(&mut self, keys: HashSet<[u8; 32]>) {
        self.old_keys = keys.into_iter().map(Hash).collect();
        self.old_keys.sort_unstable();
    }

    pub(super) fn is_old_key(&self, key: &[u8; 32]) -> bool {
        self.old_keys.contains(&Hash(*key))
    }

    pub(super) fn end(&self, result: Outcome, now: SystemTime) -> Past {
        Past {
            kind: self.kind,
            started_at: self.started_at,
            ended_at: now,
            result,
            from: self.from,
            to: self.to,
            skipped: self.skip.clone(),
        }
    }
}

/// How far an agent is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lack {
    /// Whether it has a stream.
    pub connected: bool,
    /// When it was last heard of, where it has none.
    #[serde(default, with = "maybe_at", skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<SystemTime>,
    /// Whether it was seen to use the new certificates only.
    #[serde(default)]
    pub proven: bool,
    /// Whether it is left behind.
    #[serde(default)]
    pub skipped: bool,
    /// What it lacks, for people; nothing: it is ready.
    #[serde(default)]
    pub lacks: Vec<String>,
}

/// What a collector saw of an agent when it last looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sighting {
    /// When the agent was last heard of.
    #[serde(with = "at")]
    pub at: SystemTime,
    /// Whether it had a stream.
    pub connected: bool,
    /// How far its clock is ahead of the collector's.
    pub clock_skew_ms: i64,
    /// Whether it can renew its certificate itself.
    pub renewable: bool,
}

/// A rotation that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Past {
    /// What was rotated.
    pub kind: Kind,
    /// When it was begun.
    #[serde(with = "at")]
    pub started_at: SystemTime,
    /// When it ended.
    #[serde(with = "at")]
    pub ended_at: SystemTime,
    /// How.
    pub result: Outcome,
    /// The old authority: hash of its public key.
    #[serde(with = "hex32")]
    pub from: [u8; 32],
    /// The new authority, where there is one.
    #[serde(default, with = "maybe_hex32", skip_serializing_if = "Option::is_none")]
    pub to: Option<[u8; 32]>,
    /// Who was left behind.
    #[serde(default)]
    pub skipped: Vec<String>,
}

/// How a rotation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All steps were done.
    Done,
    /// Taken back before anything was signed by the next authority.
    Withdrawn,
    /// An emergency came first.
    Superseded,
}

impl Outcome {
    /// The word in `state.json` and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Withdrawn => "withdrawn",
            Self::Superseded => "superseded",
        }
    }
}

/// The hash of a public key, 64 hexadecimal digits in `state.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash(#[serde(with = "hex32")] pub [u8; 32]);

/// A hash, or none.
mod maybe_hex32 {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Hash;

    #[expect(clippy::ref_option, reason = "serde wants this signature")]
    pub(super) fn serialize<S: Serializer>(
        hash: &Option<[u8; 32]>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        hash.map(Hash).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<[u8; 32]>, D::Error> {
        Ok(Option::<Hash>::deserialize(from)?.map(|Hash(hash)| hash))
    }
}
