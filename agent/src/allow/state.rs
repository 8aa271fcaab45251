//! The bytes in which merge state outlives the process: a snapshot, and the changes after it.
//!
//! Integers are LEB128 (signed ones zigzag), fingerprints 16 bytes, floats 8 bytes, all little endian; texts carry their
//! length. Both kinds begin with a version byte and the fingerprint of the rules in force. Timestamps of pushed samples
//! and of rounds' ends are differences to the pushed sample before in the same bytes. Integrity is the journal's business; still nothing here trusts
//! a length or an index. Of source series there are fingerprints, of outputs the labels that are sent anyway.

use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp};

use super::digest::{Digest, Key};
use super::group::{Group, Member, Waiting};
use super::merge::{Change, MAX_MEMBERS, Merges};
use super::rules::Merge;

/// The version of both encodings.
const VERSION: u8 = 1;

/// Why saved merge state cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    /// The bytes do not hold what they say.
    #[error("the saved merge state is damaged: {0}")]
    Damaged(&'static str),
    /// Another version wrote them.
    #[error("the saved merge state has version {0}; this agent reads version {VERSION}")]
    Version(u8),
}

/// What stands before the state proper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Preamble {
    /// The secret of all fingerprints.
    pub(crate) key: Key,
    /// The fingerprint of the rules in force.
    pub(crate) rules: u128,
}

/// Changes as they are executed, encoded.
#[derive(Debug, Default)]
pub(crate) struct Log {
    bytes: Vec<u8>,
    at: i64,
}

impl Log {
    /// Appends a change.
    pub(super) fn write(&mut self, change: &Change) {
        let out = &mut self.bytes;
        match change {
            Change::Group { group, digest, labels, merge, rises } => {
                out.push(1);
                number(out, (*group).into());
                out.extend_from_slice(&digest.0.to_le_bytes());
                write_labels(out, labels);
                out.push(merge_code(*merge));
                out.push((*rises).into());
            }
            Change::Rises { group, rises } => {
                out.push(2);
                number(out, (*group).into());
                out.push((*rises).into());
            }
            Change::Member { group, member, digest } => {
                out.push(3);
                number(out, (*group).into());
                number(out, (*member).into());
                out.extend_from_slice(&digest.0.to_le_bytes());
            }
            Change::Push { group, member, sample } => {
                out.push(4);
                number(out, (*group).into());
                number(out, (*member).into());
                let at = sample.at.as_millis();
                signed(out, at.wrapping_sub(self.at));
                self.at = at;
                out.extend_from_slice(&sample.value.to_bits().to_le_bytes());
            }
            Change::Close { group, end: Timestamp::MAX } => {
                out.push(10);
                number(out, (*group).into());
            }
            Change::Close { group, end } => {
                out.push(5);
                number(out, (*group).into());
                signed(out, end.as_millis().wrapping_sub(self.at));
            }
            Change::Forget { group, member } => {
                out.push(6);
                number(out, (*group).into());
                number(out, (*member).into());
            }
            Change::Drop { group } => {
                out.push(7);
                number(out, (*group).into());
            }
            Change::Own { output, owner } => {
                out.push(8);
                out.extend_from_slice(&output.0.to_le_bytes());
                out.extend_from_slice(&owner.0.to_le_bytes());
            }
            Change::Disown { output } => {
                out.push(9);
                out.extend_from_slice(&output.0.to_le_bytes());
            }
        }
    }

    /// What was written since the last call.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        self.at = 0;
        let bytes = std::mem::take(&mut self.bytes);
        (!bytes.is_empty()).then_some(bytes)
    }
}

/// The bytes of a set of changes: what [`Merges::take_log`] gave, under a preamble.
pub(crate) fn changes(preamble: Preamble, log: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(log.len() + 64);
    write_preamble(&mut out, preamble);
    out.extend_from_slice(log);
    out
}

/// Executes changes on `merges`.
pub(crate) fn replay(merges: &mut Merges, bytes: &[u8]) -> Result<Preamble, StateError> {
    let mut reader = Reader { rest: bytes };
    let preamble = reader.preamble()?;
    let mut at = 0;
    while !reader.rest.is_empty() {
        let change = reader.change(&mut at)?;
        merges.execute(change, None);
    }
    Ok(preamble)
}

/// The whole state.
pub(crate) fn snapshot(merges: &Merges, preamble: Preamble) -> Vec<u8> {
    let mut out = Vec::new();
    write_preamble(&mut out, preamble);
    number(&mut out, merges.owners.len() as u64);
    let mut owners: Vec<_> = merges.owners.iter().collect();
    owners.sort_unstable();
    for (output, owner) in owners {
        out.extend_from_slice(&output.0.to_le_bytes());
        out.extend_from_slice(&owner.0.to_le_bytes());
    }
    number(&mut out, merges.next_group.into());
    number(&mut out, merges.groups.len() as u64);
    let mut groups: Vec<_> = merges.groups.iter().collect();
    groups.sort_unstable_by_key(|(id, _)| **id);
    for (id, group) in groups {
        number(&mut out, (*id).into());
        write_group(&mut out, group);
    }
    out
}

/// The state of a snapshot.
pub(crate) fn restore(bytes: &[u8]) -> Result<(Merges, Preamble), StateError> {
    let mut reader = Reader { rest: bytes };
    let preamble = reader.preamble()?;
    let mut merges = Merges::default();
    for _ in 0..reader.number()? {
        let output = reader.digest()?;
        merges.owners.insert(output, reader.digest()?);
    }
    merges.next_group = reader.index()?;
    for _ in 0..reader.number()? {
        let id = reader.index()?;
        let group = reader.group()?;
        merges.insert(id, group);
    }
    if !reader.rest.is_empty() {
        return Err(StateError::Damaged("bytes follow its end"));
    }
    Ok((merges, preamble))
}

fn write_preamble(out: &mut Vec<u8>, preamble: Preamble) {
    out.push(VERSION);
    out.extend_from_slice(&preamble.key.0.to_le_bytes());
    out.extend_from_slice(&preamble.key.1.to_le_bytes());
    out.extend_from_slice(&preamble.rules.to_le_bytes());
}

fn write_group(out: &mut Vec<u8>, group: &Group) {
    out.extend_from_slice(&group.digest.0.to_le_bytes());
    write_labels(out, &group.labels);
    out.push(merge_code(group.merge));
    out.push(group.rises.into());
    out.extend_from_slice(&group.gone.to_bits().to_le_bytes());
    signed(out, group.emitted.as_millis());
    out.push(group.ended.into());
    number(out, group.next_member.into());
    number(out, group.members.len() as u64);
    for (id, member) in &group.members {
        number(out, (*id).into());
        out.extend_from_slice(&member.digest.0.to_le_bytes());
        out.push(member.last.is_some().into());
        if let Some(last) = member.last {
            out.extend_from_slice(&last.to_bits().to_le_bytes());
        }
        out.extend_from_slice(&member.base.to_bits().to_le_bytes());
        signed(out, member.newest.as_millis());
        out.push(member.live.into());
        number(out, member.queue.len() as u64);
        for waiting in &member.queue {
            signed(out, waiting.sample.at.as_millis());
            out.extend_from_slice(&waiting.sample.value.to_bits().to_le_bytes());
        }
    }
}

fn write_labels(out: &mut Vec<u8>, labels: &Labels) {
    number(out, labels.len() as u64);
    for label in labels {
        for text in [&label.name, &label.value] {
            number(out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn number(out: &mut Vec<u8>, mut n: u64) {
    loop {
        let [low, ..] = n.to_le_bytes();
        n >>= 7;
        if n == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn signed(out: &mut Vec<u8>, n: i64) {
    number(out, ((n << 1) ^ (n >> 63)).cast_unsigned());
}

const MERGES: [Merge; 7] =
    [Merge::Refuse, Merge::Sum, Merge::Min, Merge::Max, Merge::Avg, Merge::Count, Merge::Last];

fn merge_code(merge: Merge) -> u8 {
    match merge {
        Merge::Refuse => 0,
        Merge::Sum => 1,
        Merge::Min => 2,
        Merge::Max => 3,
        Merge::Avg => 4,
        Merge::Count => 5,
        Merge::Last => 6,
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

type Read<T> = Result<T, StateError>;
const CUT: StateError = StateError::Damaged("it ends early");

impl Reader<'_> {
    fn preamble(&mut self) -> Read<Preamble> {
        match self.byte()? {
            VERSION => {}
            other => return Err(StateError::Version(other)),
        }
        let key = Key(self.u64()?, self.u64()?);
        Ok(Preamble { key, rules: self.digest()?.0 })
    }

    fn change(&mut self, at: &mut i64) -> Read<Change> {
        Ok(match self.byte()? {
            1 => Change::Group {
                group: self.index()?,
                digest: self.digest()?,
                labels: self.labels()?,
                merge: self.merge()?,
                rises: self.flag()?,
            },
            2 => Change::Rises { group: self.index()?, rises: self.flag()? },
            3 => Change::Member {
                group: self.index()?,
                member: self.index()?,
                digest: self.digest()?,
            },
            4 => {
                let (group, member) = (self.index()?, self.index()?);
                *at = at.wrapping_add(self.signed()?);
                let value = self.float()?;
                Change::Push { group, member, sample: Sample::new(*at, value) }
            }
            5 => {
                let group = self.index()?;
                let end = at.wrapping_add(self.signed()?);
                Change::Close { group, end: Timestamp::from_millis(end) }
            }
            10 => Change::Close { group: self.index()?, end: Timestamp::MAX },
            6 => Change::Forget { group: self.index()?, member: self.index()? },
            7 => Change::Drop { group: self.index()? },
            8 => Change::Own { output: self.digest()?, owner: self.digest()? },
            9 => Change::Disown { output: self.digest()? },
            _ => return Err(StateError::Damaged("an unknown kind of change")),
        })
    }

    fn group(&mut self) -> Read<Group> {
        let (digest, labels) = (self.digest()?, self.labels()?);
        let mut group = Group::new(digest, labels, self.merge()?, self.flag()?);
        group.gone = self.float()?;
        group.emitted = Timestamp::from_millis(self.signed()?);
        group.ended = self.flag()?;
        let next_member = self.index()?;
        let members = self.number()?;
        if members > MAX_MEMBERS as u64 {
            return Err(StateError::Damaged("too many members"));
        }
        for _ in 0..members {
            let (id, member) = (self.index()?, self.member()?);
            group.add(id, member);
        }
        group.next_member = group.next_member.max(next_member);
        Ok(group)
    }

    fn member(&mut self) -> Read<Member> {
        let digest = self.digest()?;
        let last = if self.flag()? { Some(self.float()?) } else { None };
        let base = self.float()?;
        let newest = Timestamp::from_millis(self.signed()?);
        let live = self.flag()?;
        let mut queue = std::collections::VecDeque::new();
        for _ in 0..self.number()? {
            let (at, value) = (self.signed()?, self.float()?);
            queue.push_back(Waiting::restored(Sample::new(at, value)));
        }
        let live = live || !queue.is_empty();
        Ok(Member { digest, last, base, newest, live, queue })
    }

    fn labels(&mut self) -> Read<Labels> {
        let count = self.number()?;
        let mut pairs = Vec::new();
        for _ in 0..count {
            pairs.push((self.text()?, self.text()?));
        }
        Labels::from_pairs(pairs).map_err(|_| StateError::Damaged("labels that are none"))
    }

    fn text(&mut self) -> Read<String> {
        let length = usize::try_from(self.number()?).map_err(|_| CUT)?;
        let bytes = self.take(length)?.to_vec();
        String::from_utf8(bytes).map_err(|_| StateError::Damaged("a text that is not UTF-8"))
    }

    fn merge(&mut self) -> Read<Merge> {
        let code = usize::from(self.byte()?);
        MERGES.get(code).copied().ok_or(StateError::Damaged("an unknown way to merge"))
    }

    fn digest(&mut self) -> Read<Digest> {
        self.array().map(|bytes| Digest(u128::from_le_bytes(bytes)))
    }

    fn float(&mut self) -> Read<f64> {
        self.u64().map(f64::from_bits)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn index(&mut self) -> Read<u32> {
        u32::try_from(self.number()?).map_err(|_| StateError::Damaged("an index is too large"))
    }

    fn flag(&mut self) -> Read<bool> {
        self.byte().map(|byte| byte != 0)
    }

    fn signed(&mut self) -> Read<i64> {
        let n = self.number()?;
        Ok((n >> 1).cast_signed() ^ -(n & 1).cast_signed())
    }

    fn number(&mut self) -> Read<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(StateError::Damaged("a number is too long"))
    }

    fn byte(&mut self) -> Read<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(CUT)?;
        self.rest = rest;
        Ok(*head)
    }

    fn take(&mut self, length: usize) -> Read<&[u8]> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(CUT)?;
        self.rest = rest;
        Ok(head)
    }
}
