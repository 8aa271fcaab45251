//! A made-up fleet: clusters of series with the labels and values that exporters have, the same for the same seed.

mod motion;
mod shape;
mod wire;

use bytes::Bytes;

use crate::random::Random;
use motion::Motion;
pub use shape::Shape;
use shape::{Family, Place};

/// Samples in one remote-write request at most; Prometheus' own default.
pub const REQUEST_SAMPLES: usize = 2_000;

/// One scrape in so many is some milliseconds late.
const LATE_ONE_IN: usize = 50;
const LATE_MS: usize = 40;

/// How long a pod lives where pods come and go.
const POD_LIFE_MS: i64 = 3_600_000;

/// What is made up.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many clusters.
    pub clusters: usize,
    /// Series in each.
    pub series: usize,
    /// Scrapes of each series.
    pub steps: u64,
    /// Time between two scrapes.
    pub step_ms: i64,
    /// No sample is older.
    pub start_ms: i64,
    /// Which metrics.
    pub shape: Shape,
    /// Decides labels and values.
    pub seed: u64,
}

impl Plan {
    /// How many samples that is.
    pub fn samples(&self) -> u64 {
        self.steps * (self.clusters * self.series) as u64
    }

    /// No sample is newer.
    pub fn end_ms(&self) -> i64 {
        self.start_ms + i64::try_from(self.steps).unwrap() * self.step_ms
    }

    /// The name of a cluster.
    pub fn cluster(&self, number: usize) -> String {
        let region = ["eu", "us", "ap", "lab"][number % 4];
        format!("{region}-{number:03}")
    }
}

/// One cluster's series, and how far they are.
#[derive(Debug)]
pub struct Cluster {
    step_ms: i64,
    start_ms: i64,
    step: u64,
    series: Vec<Series>,
}

/// One series.
#[derive(Debug)]
struct Series {
    made: Recipe,
    /// Which of a series of pods it belongs to; 0 for what stays.
    generation: u64,
    /// Its labels as a remote-write message has them.
    labels: Vec<u8>,
    motion: Motion,
    target: Target,
}

/// What a series is made from, at its beginning and when its pod is replaced.
#[derive(Debug)]
struct Recipe {
    family: &'static Family,
    /// Which of the family's series it is.
    number: usize,
    place: Place,
    /// Its pods are replaced.
    mortal: bool,
}

/// What is scraped at once: all its series have the same time.
#[derive(Debug, Clone, Copy)]
struct Target {
    key: u64,
    offset_ms: i64,
}

impl Cluster {
    /// The cluster of this number, before its first scrape. `label` names it in its series' `cluster` label, if it shall.
    pub fn new(plan: &Plan, number: usize, label: bool) -> Self {
        let key = Random::of(&[plan.seed, number as u64]).bits();
        let name = label.then(|| plan.cluster(number));
        let place = Place::new(key, number, plan.series, name);
        let churn = plan.shape == Shape::Churn;
        let families = plan.shape.families();
        let series = (0..plan.series).map(|i| {
            let (family, number) = shape::pick(families, i);
            let mortal = churn && family.is_about_a_pod();
            let made = Recipe { family, number, place: place.clone(), mortal };
            let target = Target::new(made.place.target(family, number), plan.step_ms);
            let motion = made.motion(0);
            Series { generation: 0, labels: made.labels(0), motion, target, made }
        });
        let series = series.collect();
        Self { step_ms: plan.step_ms, start_ms: plan.start_ms, step: 0, series }
    }

    /// The next scrape of everything: remote-write 1.0 bodies.
    pub fn scrape(&mut self) -> Vec<Bytes> {
        let start = self.start_ms + i64::try_from(self.step).unwrap() * self.step_ms;
        let life = u64::try_from(POD_LIFE_MS / self.step_ms).unwrap().max(1);
        let (step, series) = (self.step, &mut self.series);
        self.step += 1;
        let bodies = series.chunks_mut(REQUEST_SAMPLES).map(|part| {
            let mut body = wire::Body::default();
            for series in part {
                series.grow_up(step, life);
                let value = series.motion.next(step);
                body.push(&series.labels, value, start + series.target.after(step));
            }
            body.finish()
        });
        bodies.collect()
    }
}

impl Series {
    /// Goes over to the next pod when it is time.
    fn grow_up(&mut self, step: u64, life: u64) {
        if !self.made.mortal {
            return;
        }
        let generation =
            (step + self.made.place.age(self.made.family, self.made.number) % life) / life;
        if generation != self.generation {
            self.generation = generation;
            self.labels = self.made.labels(generation);
            self.motion = self.made.motion(generation);
        }
    }
}

impl Recipe {
    fn labels(&self, generation: u64) -> Vec<u8> {
        wire::labels(&self.place.labels(self.family, self.number, generation))
    }

    fn motion(&self, generation: u64) -> Motion {
        self.place.motion(self.family, self.number, generation)
    }
}

impl Target {
    fn new(key: u64, step_ms: i64) -> Self {
        let offset = Random::new(key).below(usize::try_from(step_ms).unwrap() - LATE_MS - 1);
        Self { key, offset_ms: i64::try_from(offset).unwrap() }
    }

    /// When in a step it is scraped.
    fn after(self, step: u64) -> i64 {
        let mut random = Random::of(&[self.key, step]);
        let late = if random.one_in(LATE_ONE_IN) { 1 + random.below(LATE_MS) } else { 0 };
        self.offset_ms + i64::try_from(late).unwrap()
    }
}

#[cfg(test)]
mod tests;
