//! The states of aggregations that take one value after the other.

use tributary_model::sample::is_stale;

use super::series::{Column, any_stale};
use crate::functions::number::{Mean, Sum};

/// The states of an aggregation of numbers, one for each step.
pub(super) trait States: Default + Send {
    /// So many steps without a value.
    fn reset(&mut self, steps: usize);
    /// Adds the numbers of a series.
    fn add_column(&mut self, column: Column<'_>);
    /// The result at a step that has had a value.
    fn result(&self, step: usize) -> Option<f64>;
    /// Forgets the values of a step; false if there was none.
    fn take(&mut self, step: usize) -> bool;
}

/// States of any kind.
pub(super) struct Each<A>(Vec<Option<A>>);

impl<A> Default for Each<A> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Accumulator> States for Each<A> {
    fn reset(&mut self, steps: usize) {
        self.0.clear();
        self.0.resize_with(steps, || None);
    }

    fn add_column(&mut self, Column { first, values, .. }: Column<'_>) {
        for (state, value) in self.0.iter_mut().skip(first).zip(values) {
            if is_stale(*value) {
                continue;
            }
            match state {
                Some(state) => state.add(*value),
                none => *none = Some(A::first(*value)),
            }
        }
    }

    fn result(&self, step: usize) -> Option<f64> {
        self.0.get(step)?.as_ref().map(Accumulator::result)
    }

    fn take(&mut self, step: usize) -> bool {
        self.0.get_mut(step).and_then(Option::take).is_some()
    }
}

/// The sums of all steps, in columns: several are added to at a time.
#[derive(Default)]
pub(super) struct Sums {
    values: Vec<f64>,
    lost: Vec<f64>,
    /// Whether there was a value.
    any: Vec<bool>,
}

impl States for Sums {
    fn reset(&mut self, steps: usize) {
        self.values.clear();
        // The only number that changes no other when it is added to.
        self.values.resize(steps, -0.0);
        self.lost.clear();
        self.lost.resize(steps, 0.0);
        self.any.clear();
        self.any.resize(steps, false);
    }

    fn add_column(&mut self, Column { first, values, gaps }: Column<'_>) {
        let steps = first..first.saturating_add(values.len());
        let (Some(sums), Some(lost), Some(any)) = (
            self.values.get_mut(steps.clone()),
            self.lost.get_mut(steps.clone()),
            self.any.get_mut(steps),
        ) else {
            return;
        };
        if gaps && any_stale(values) {
            for (((sum, lost), any), value) in sums.iter_mut().zip(lost).zip(any).zip(values) {
                if !is_stale(*value) {
                    *any = true;
                    add(sum, lost, *value);
                }
            }
        } else {
            for ((sum, lost), value) in sums.iter_mut().zip(lost).zip(values) {
                add(sum, lost, *value);
            }
            any.fill(true);
        }
    }

    fn result(&self, step: usize) -> Option<f64> {
        let any = *self.any.get(step)?;
        let sum = Sum { value: *self.values.get(step)?, lost: *self.lost.get(step)? };
        any.then(|| sum.total())
    }

    fn take(&mut self, step: usize) -> bool {
        self.any.get_mut(step).is_some_and(std::mem::take)
    }
}

/// [`Sum::plus`] without a branch: what rounding takes is found by Knuth's two-sum, whichever number is larger.
#[inline]
fn add(sum: &mut f64, lost: &mut f64, more: f64) {
    let value = *sum + more;
    let added = value - *sum;
    let rounded = (*sum - (value - added)) + (more - added);
    *lost = if value.is_infinite() { 0.0 } else { *lost + rounded };
    *sum = value;
}

/// The state of an aggregation after at least one value.
pub(super) trait Accumulator: Send {
    fn first(value: f64) -> Self;
    fn add(&mut self, value: f64);
    fn result(&self) -> f64;
}

impl Accumulator for Mean {
    fn first(value: f64) -> Self {
        Self::of(value)
    }

    fn add(&mut self, value: f64) {
        Self::add(self, value);
    }

    fn result(&self) -> f64 {
        self.value()
    }
}

pub(super) struct Count(f64);

impl Accumulator for Count {
    fn first(_: f64) -> Self {
        Self(1.0)
    }

    fn add(&mut self, _: f64) {
        self.0 += 1.0;
    }

    fn result(&self) -> f64 {
        self.0
    }
}

pub(super) struct One;

impl Accumulator for One {
    fn first(_: f64) -> Self {
        Self
    }

    fn add(&mut self, _: f64) {}

    fn result(&self) -> f64 {
        1.0
    }
}

pub(super) struct Least(f64);

impl Accumulator for Least {
    fn first(value: f64) -> Self {
        Self(value)
    }

    fn add(&mut self, value: f64) {
        if self.0 > value || self.0.is_nan() {
            self.0 = value;
        }
    }

    fn result(&self) -> f64 {
        self.0
    }
}

pub(super) struct Most(f64);

impl Accumulator for Most {
    fn first(value: f64) -> Self {
        Self(value)
    }

    fn add(&mut self, value: f64) {
        if self.0 < value || self.0.is_nan() {
            self.0 = value;
        }
    }

    fn result(&self) -> f64 {
        self.0
    }
}

/// Welford's running variance.
pub(super) struct Variance {
    mean: f64,
    squares: f64,
    count: f64,
}

impl Accumulator for Variance {
    fn first(value: f64) -> Self {
        let squares = if value.is_finite() { 0.0 } else { f64::NAN };
        Self { mean: value, squares, count: 1.0 }
    }

    fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean;
        self.mean += delta / self.count;
        self.squares += delta * (value - self.mean);
    }

    fn result(&self) -> f64 {
        self.squares / self.count
    }
}

pub(super) struct Deviation(Variance);

impl Accumulator for Deviation {
    fn first(value: f64) -> Self {
        Self(Variance::first(value))
    }

    fn add(&mut self, value: f64) {
        self.0.add(value);
    }

    fn result(&self) -> f64 {
        self.0.result().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Columns come to the same, bit for bit, as numbers added one by one.
        #[test]
        fn sums_are_those_of_single_numbers(values in prop::collection::vec(prop_oneof![
            any::<f64>(), any::<u64>().prop_map(f64::from_bits), -1e3..1e3, Just(-0.0), Just(1e300), Just(f64::INFINITY),
        ], 1..30)) {
            let mut sums = Sums::default();
            sums.reset(2);
            let mut expected: Option<Sum> = None;
            for value in values {
                sums.add_column(Column { first: 1, values: &[value], gaps: true });
                if !is_stale(value) {
                    expected = Some(expected.map_or(Sum::of(value), |sum| sum.plus(value)));
                }
            }
            let bits = |v: f64| if v.is_nan() { 1 } else { v.to_bits() };
            prop_assert_eq!(sums.result(1).map(bits), expected.map(|sum| bits(sum.total())));
            prop_assert_eq!(sums.result(0), None);
        }
    }
}
