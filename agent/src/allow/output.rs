//! Series that leave: who may send them, and how many there are.

use std::collections::HashMap;

use tributary_model::label::Labels;
use tributary_model::sample::{Sample, Timestamp, is_stale};

use super::digest::Digest;
use super::merge::SILENCE;

/// A series that leaves.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) labels: Labels,
    pub(super) rule: usize,
    pub(super) seen: Timestamp,
    pub(super) owner: Option<Owner>,
}

/// The one source series of an output that is not merged.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) source: Digest,
    pub(super) newest: Timestamp,
    pub(super) live: bool,
    /// The output's fingerprint, where other sources could have the same labels.
    pub(super) remembered: Option<Digest>,
}

/// Outputs by place and by labels.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) places: Vec<Option<Output>>,
    free: Vec<usize>,
    pub(super) by_labels: HashMap<Labels, usize>,
}

/// Whose a sample is.
pub(super) enum Judged {
    /// The owner's.
    Owner,
    /// The owner's, since now.
    NewOwner,
    /// Another source's.
    Refused,
}

impl Owner {
    /// Whether a source may send this sample. An owner that ended or fell silent is succeeded by the next source.
    pub(super) fn judge(&mut self, source: Digest, sample: Sample) -> Judged {
        let stale = is_stale(sample.value);
        let judged = if source == self.source {
            Judged::Owner
        } else {
            let ended = !self.live && sample.at > self.newest;
            let silent = sample.at > self.newest.plus(SILENCE);
            if stale || !(ended || silent) {
                return Judged::Refused;
            }
            self.source = source;
            Judged::NewOwner
        };
        if sample.at >= self.newest {
            self.newest = sample.at;
            self.live = !stale;
        }
        judged
    }
}

impl Outputs {
    pub(super) fn find(&self, labels: &Labels) -> Option<(usize, &Output)> {
        let place = *self.by_labels.get(labels)?;
        Some((place, self.places.get(place)?.as_ref()?))
    }

    pub(super) fn at(&mut self, place: usize) -> Option<&mut Output> {
        self.places.get_mut(place)?.as_mut()
    }

    pub(super) fn insert(&mut self, output: Output) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            self.places.len() - 1
        });
        self.by_labels.insert(output.labels.clone(), place);
        if let Some(slot) = self.places.get_mut(place) {
            *slot = Some(output);
        }
        place
    }

    pub(super) fn remove_idle(&mut self, since: Timestamp) -> Vec<Output> {
        let mut removed = Vec::new();
        for (place, slot) in self.places.iter_mut().enumerate() {
            if let Some(output) = slot.take_if(|output| output.seen < since) {
                self.by_labels.remove(&output.labels);
                self.free.push(place);
                removed.push(output);
            }
        }
        removed
    }
}
