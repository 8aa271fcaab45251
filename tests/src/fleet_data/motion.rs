//! How values move from scrape to scrape.

use crate::random::Random;

/// A counter of a process that starts again begins at zero; once in so many scrapes.
const RESTART_ONE_IN: usize = 8_000;

/// What a value does.
#[derive(Debug)]
pub(super) enum Motion {
    /// Stays.
    Still(f64),
    /// A whole-number counter with about `mean` events a scrape; fractions are chances of one event.
    Count {
        /// Decides.
        random: Random,
        /// Events a scrape.
        mean: f64,
        /// The value.
        total: f64,
    },
    /// A histogram's cumulative bucket, or its count: the part `share` of what was observed.
    Bucket {
        /// The same for all buckets of a histogram.
        key: u64,
        /// Observations a scrape.
        mean: f64,
        /// How many of them are in the bucket.
        share: f64,
        /// All observations so far.
        observed: f64,
    },
    /// A gauge that walks in whole `quantum`s, in some scrapes only.
    Walk {
        /// Decides.
        random: Random,
        /// How likely it moves.
        chance: f64,
        /// The smallest step.
        quantum: f64,
        /// How many quanta a step has at most.
        reach: f64,
        /// The value in quanta.
        at: f64,
    },
    /// A counter of seconds, kept in parts of a second.
    Seconds {
        /// Decides.
        random: Random,
        /// Parts in a second.
        parts: f64,
        /// Seconds a scrape at most.
        most: f64,
        /// The value in parts.
        total: f64,
    },
}

impl Motion {
    /// The value of a scrape; to be asked once for each, in order.
    pub(super) fn next(&mut self, step: u64) -> f64 {
        match self {
            Self::Still(value) => *value,
            Self::Count { random, mean, total } => {
                if *mean > 0.0 {
                    *total += events(random, *mean);
                    if random.one_in(RESTART_ONE_IN) {
                        *total = 0.0;
                    }
                }
                *total
            }
            Self::Bucket { key, mean, share, observed } => {
                let mut random = Random::of(&[*key, step]);
                *observed += (random.unit() * 2.0 * *mean).floor();
                if random.one_in(RESTART_ONE_IN) {
                    *observed = 0.0;
                }
                (*observed * *share).floor()
            }
            Self::Walk { random, chance, quantum, reach, at } => {
                if random.unit() < *chance {
                    let sway = random.unit() + random.unit() - 1.0;
                    *at = (*at + (sway * *reach).round()).max(1.0);
                }
                *at * *quantum
            }
            Self::Seconds { random, parts, most, total } => {
                let busy = random.unit();
                *total += (busy * busy * *most * *parts).round();
                *total / *parts
            }
        }
    }
}

fn events(random: &mut Random, mean: f64) -> f64 {
    let chance = random.unit();
    if mean < 1.0 { f64::from(chance < mean) } else { (mean * (0.5 + chance)).floor() }
}
