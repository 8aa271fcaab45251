//! The steps of an evaluation: equally spaced times.

use crate::value::EvalError;

/// Most steps of a query or of a subquery: two months of seconds. More is [`EvalError::TooManySteps`].
pub const MAX_STEPS: usize = 5_000_000;

/// Equally spaced times in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid {
    /// The first time.
    pub(crate) start: i64,
    /// The distance; at least 1.
    pub(crate) step: i64,
    /// How many; zero for an empty evaluation.
    pub(crate) count: usize,
}

impl Grid {
    /// One time.
    pub(crate) fn instant(at: i64) -> Self {
        Self { start: at, step: 1, count: 1 }
    }

    /// The times from `start`, by `step`, up to `end`; none if `end` is before `start`.
    pub(crate) fn new(start: i64, end: i64, step: i64) -> Result<Self, EvalError> {
        let step = step.max(1);
        let span = i128::from(end) - i128::from(start);
        let count = if span < 0 { 0 } else { span / i128::from(step) + 1 };
        match usize::try_from(count) {
            Ok(count) if count <= MAX_STEPS => Ok(Self { start, step, count }),
            _ => Err(EvalError::TooManySteps),
        }
    }

    /// The time of a step.
    pub(crate) fn time(&self, step: usize) -> i64 {
        let steps = i64::try_from(step).unwrap_or(i64::MAX);
        self.start.saturating_add(self.step.saturating_mul(steps))
    }

    /// The time of the last step.
    pub(crate) fn last(&self) -> i64 {
        self.time(self.count.saturating_sub(1))
    }

    /// The first step by itself.
    pub(crate) fn first(&self) -> Self {
        Self { count: self.count.min(1), ..*self }
    }

    /// Steps and their times.
    pub(crate) fn times(&self) -> impl Iterator<Item = (usize, i64)> {
        let grid = *self;
        (0..grid.count).map(move |step| (step, grid.time(step)))
    }
}

/// Which time a selector or a subquery looks at, for each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reference {
    /// The time that `@` fixes.
    pub(crate) at: Option<i64>,
    /// How much earlier than the step, or than the fixed time.
    pub(crate) offset: i64,
}

impl Reference {
    /// The time looked at in a step at `time`.
    pub(crate) fn of(&self, time: i64) -> i64 {
        self.at.unwrap_or(time).saturating_sub(self.offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_inclusive() {
        let grid = Grid::new(10, 35, 10).unwrap();
        assert_eq!(grid.times().collect::<Vec<_>>(), [(0, 10), (1, 20), (2, 30)]);
        assert_eq!(grid.last(), 30);
        assert_eq!(Grid::new(10, 9, 10).unwrap().count, 0);
        assert!(Grid::new(i64::MIN, i64::MAX, 1).is_err());
    }

    #[test]
    fn references_shift_and_fix() {
        assert_eq!(Reference { at: None, offset: 5 }.of(20), 15);
        assert_eq!(Reference { at: Some(7), offset: -5 }.of(20), 12);
    }
}
