//! The journal records of the store: what was received, and what was decided about it.
//!
//! Decisions are recorded, not taken again at the next start: a changed option or clock changes nothing afterwards.

use tributary_model::cluster::ClusterName;
use tributary_model::fields::{Fields, Malformed, put_bytes, put_signed, put_varint};
use tributary_model::sample::Timestamp;

use crate::batch::{Accepted, Batch, Reason, StreamKey};

/// A batch: head, decisions, and the collector's own payload.
pub(crate) const KIND_BATCH: u8 = 1;
/// Changes of the small state.
pub(crate) const KIND_STATE: u8 = 2;
/// The key-value store said that a checkpoint is on disk. Shows at the next start if it told the truth.
pub(crate) const KIND_CHECKPOINT: u8 = 3;

const FLAG_STARTS_SEGMENT: u8 = 1;
const FLAG_STATE_ONLY: u8 = 2;

/// What was decided about a batch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Decision {
    /// The counts.
    pub(crate) accepted: Accepted,
    /// Times of the oldest and newest sample stored.
    pub(crate) range: Option<(i64, i64)>,
    /// The samples not stored, by ascending index.
    pub(crate) exceptions: Vec<(u32, Reason)>,
}

/// All of a batch record but the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) stream: StreamKey,
    pub(crate) epoch: u64,
    pub(crate) seq: u64,
    pub(crate) starts_segment: bool,
    pub(crate) state_only: bool,
    pub(crate) received_at: Timestamp,
    pub(crate) complete_until: Timestamp,
    pub(crate) decision: Decision,
}

impl BatchHead {
    pub(crate) fn new(batch: &Batch, decision: Decision) -> Self {
        Self {
            stream: batch.stream.clone(),
            epoch: batch.epoch,
            seq: batch.seq,
            starts_segment: batch.starts_segment,
            state_only: batch.state_only,
            received_at: batch.received_at,
            complete_until: batch.complete_until,
            decision,
        }
    }

    /// Appends the record's bytes to `out`.
    pub(crate) fn encode(&self, payload: &[u8], out: &mut Vec<u8>) {
        put_bytes(out, self.stream.cluster.as_str().as_bytes());
        put_bytes(out, self.stream.instance.as_bytes());
        put_varint(out, self.epoch);
        put_varint(out, self.seq);
        let starts = if self.starts_segment { FLAG_STARTS_SEGMENT } else { 0 };
        let state = if self.state_only { FLAG_STATE_ONLY } else { 0 };
        out.push(starts | state);
        put_signed(out, self.received_at.as_millis());
        put_signed(out, self.complete_until.as_millis());
        let decision = &self.decision;
        put_varint(out, u64::from(decision.accepted.stored));
        if let Some((min, max)) = decision.range {
            put_signed(out, min);
            put_varint(out, max.abs_diff(min));
        }
        put_varint(out, decision.exceptions.len() as u64);
        let mut before = 0;
        for (index, reason) in &decision.exceptions {
            put_varint(out, u64::from(index - before));
            out.push(code(*reason));
            before = *index;
        }
        out.extend_from_slice(payload);
    }

    /// Reads a record and returns it with its payload.
    pub(crate) fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let mut fields = Fields(bytes);
        let cluster: ClusterName =
            fields.text()?.parse().map_err(|_| Malformed("a cluster's name is not valid"))?;
        let stream = StreamKey { cluster, instance: fields.text()?.to_owned() };
        let (epoch, seq, flags) = (fields.varint()?, fields.varint()?, fields.byte()?);
        let received_at = Timestamp::from_millis(fields.signed()?);
        let complete_until = Timestamp::from_millis(fields.signed()?);
        let mut decision = Decision::default();
        decision.accepted.stored = fields.small()?;
        if decision.accepted.stored > 0 {
            let min = fields.signed()?;
            decision.range = Some((min, min.wrapping_add(fields.varint()?.cast_signed())));
        }
        let mut index = 0u32;
        for _ in 0..fields.count()? {
            index = index
                .checked_add(fields.small()?)
                .ok_or(Malformed("a decision lies behind the batch"))?;
            let reason = reason(fields.byte()?)?;
            decision.accepted.add(reason);
            decision.exceptions.push((index, reason));
        }
        let head = Self {
            stream,
            epoch,
            seq,
            starts_segment: flags & FLAG_STARTS_SEGMENT != 0,
            state_only: flags & FLAG_STATE_ONLY != 0,
            received_at,
            complete_until,
            decision,
        };
        Ok((head, fields.0))
    }
}

fn code(reason: Reason) -> u8 {
    Reason::ALL.iter().zip(0u8..).find(|(r, _)| **r == reason).map_or(u8::MAX, |(_, code)| code)
}

fn reason(code: u8) -> Result<Reason, Malformed> {
    let reason = Reason::ALL.get(usize::from(code)).copied();
    reason.ok_or(Malformed("a decision has an unknown reason"))
}

/// Changes of the small state: keys with their new values, `None` to remove.
pub(crate) type StateChanges = Vec<(String, Option<Vec<u8>>)>;

/// The bytes of a state record.
pub(crate) fn encode_state(changes: &StateChanges) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, changes.len() as u64);
    for (key, value) in changes {
        put_bytes(&mut out, key.as_bytes());
        out.push(u8::from(value.is_some()));
        if let Some(value) = value {
            put_bytes(&mut out, value);
        }
    }
    out
}

/// Reads a state record.
pub(crate) fn decode_state(bytes: &[u8]) -> Result<StateChanges, Malformed> {
    let mut fields = Fields(bytes);
    let mut changes = Vec::new();
    for _ in 0..fields.count()? {
        let key = fields.text()?.to_owned();
        let value = match fields.byte()? {
            0 => None,
            1 => Some(fields.bytes()?.to_vec()),
            _ => return Err(Malformed("a state change is of an unknown kind")),
        };
        changes.push((key, value));
    }
    fields.end()?;
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip() {
        let mut accepted = Accepted { stored: 7, ..Accepted::default() };
        let exceptions: Vec<_> = (0u32..).zip(Reason::ALL).map(|(i, r)| (i * 200, r)).collect();
        for (_, reason) in &exceptions {
            accepted.add(*reason);
        }
        let head = BatchHead {
            stream: StreamKey { cluster: "eu-1".parse().unwrap(), instance: "a".into() },
            epoch: 3,
            seq: 1 << 40,
            starts_segment: true,
            state_only: false,
            received_at: Timestamp::from_millis(-5),
            complete_until: Timestamp::MAX,
            decision: Decision { accepted, range: Some((-9, i64::MAX - 9)), exceptions },
        };
        let mut bytes = Vec::new();
        head.encode(b"payload", &mut bytes);
        assert_eq!(BatchHead::decode(&bytes), Ok((head, &b"payload"[..])));
        for length in 0..bytes.len() - 7 {
            assert!(BatchHead::decode(&bytes[..length]).is_err(), "{length}");
        }
        let changes = vec![("a".to_owned(), Some(vec![1, 2])), ("b".to_owned(), None)];
        assert_eq!(decode_state(&encode_state(&changes)), Ok(changes));
    }
}
