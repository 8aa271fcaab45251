//! One value after another of one series: decimal-integer deltas in adaptive Rice codes, with an exact fall-back for
//! every bit pattern.

use tributary_model::fields::{unzigzag, zigzag};
use tributary_model::sample::STALE_NAN_BITS;

use super::decimal::{MAX_INTEGER, decimal, integer_at, near, value_of};
use super::range::{Coder, Contexts};

/// Form of a switch: from here on the exponent of decimals.
const DECIMAL: u64 = 0;
/// Form of a switch: the staleness marker, once.
const STALE: u64 = 20;
/// Form of a switch: 64 bits, once.
const ONCE: u64 = 21;
/// Form of a switch: 64 bits, and bits from here on.
const BITS: u64 = 22;
/// Form of a switch: from here on the exponent of near decimals.
const NEAR: u64 = 32;

/// Exponents at which near decimals are sought, beside the one that a series has.
const NEAR_EXPONENTS: [u8; 4] = [3, 6, 9, 12];
/// Steps of `f64` that a near decimal may be off when its series switches to this form.
const NEAR_AT_FIRST: u64 = 1 << 12;
/// Steps of `f64` that a near decimal may be off.
const NEAR_ENOUGH: u64 = 1 << 16;
/// Exact decimals in a row after which a series goes back to them.
const EXACT_BEFORE_SWITCH: u8 = 8;

/// Ones of a quotient after which the number is written in full.
const MOST_ONES: usize = 12;
/// Means count sixteenths.
const MEAN_SHIFT: u32 = 4;
/// A larger number counts as this in a mean.
const LARGEST_IN_MEAN: u64 = 1 << 56;
/// Changes before a mean says anything: the first one may come from nowhere.
const CHANGES_BEFORE_MEAN: u8 = 2;
/// Changes before their common factor is left out.
const CHANGES_BEFORE_FACTOR: u8 = 4;

/// Most bits that a value takes: a near decimal in which nothing is as expected, nine bits for each bit with odds.
pub(super) const MAX_VALUE_BITS: usize =
    9 * (3 + 2 * (MOST_ONES + 6)) + 63 + NEAR_ENOUGH.ilog2() as usize + 2;

/// What both ends know of a series after its last value.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Series {
    /// The last value.
    bits: u64,
    /// The last integer, of decimals and near decimals.
    integer: i64,
    /// The last difference of two decimals.
    delta: i64,
    /// Of changes, in sixteenths.
    mean: u64,
    /// Of near decimals' corrections, in sixteenths.
    correction_mean: u64,
    /// Running size of what is left if the last value is predicted, and if the last difference is.
    costs: [u16; 2],
    /// How often the series changes lately, of 2^12.
    activity: u16,
    /// Which of the last four values were as predicted: 0, or a change: 1.
    history: u8,
    /// Which of the last three changes were down: 1.
    signs: u8,
    /// Changes in this form, up to [`CHANGES_BEFORE_FACTOR`].
    changes: u8,
    /// Twos in every change but the first one.
    twos: u8,
    form: Form,
    /// The last value stands outside the form.
    odd: bool,
    /// Encoder only: exact decimals in a row in another form.
    exact: u8,
}

/// How a series' values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// An integer over ten to this power.
    Decimal(u8),
    /// The same, and a few steps of `f64` away from it: what is left of adding up decimals.
    Near(u8),
    /// The difference of the bits.
    Bits,
}

impl Default for Form {
    fn default() -> Self {
        Self::Decimal(0)
    }
}

/// What is written of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    /// As predicted.
    Same,
    /// How far the series' integer (or bits) is from the prediction, and a near decimal's steps of `f64`.
    Change(i64, i64),
    /// The form changes, or a value stands outside it.
    Switch(Switch),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Switch {
    Decimal(u8, i64),
    Near(u8, i64, i64),
    Bits(u64),
    Once(u64),
    Stale,
}

/// The odds that all series of a segment share.
#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    same: Contexts<512>,
    switch: Contexts<4>,
    sign: Contexts<64>,
    quotients: Contexts<2048>,
    lengths: Contexts<64>,
    forms: Contexts<64>,
}

impl Model {
    /// Writes the series' next value.
    pub(super) fn encode(&mut self, series: &mut Series, value: f64, coder: &mut impl Coder) {
        let symbol = series.symbol(value);
        self.code(series, symbol, coder);
        let applied = series.apply(symbol);
        debug_assert_eq!(applied, Some(value.to_bits()), "a value does not come back");
    }

    /// Reads the series' next value; `None` if no writer writes this.
    pub(super) fn decode(&mut self, series: &mut Series, coder: &mut impl Coder) -> Option<f64> {
        let symbol = self.code(series, Symbol::Same, coder)?;
        series.apply(symbol).map(f64::from_bits)
    }

    fn code(
        &mut self,
        series: &mut Series,
        symbol: Symbol,
        coder: &mut impl Coder,
    ) -> Option<Symbol> {
        let same = self.same.at(series.same_context());
        let changed = coder.bit(same, symbol != Symbol::Same);
        series.remember(changed);
        if !changed {
            return Some(Symbol::Same);
        }
        let odds = self.switch.at(series.form.number());
        if coder.bit(odds, matches!(symbol, Symbol::Switch(_))) {
            return self.code_switch(symbol, coder).map(Symbol::Switch);
        }
        let (residual, correction) = match symbol {
            Symbol::Change(residual, correction) => (residual, correction),
            _ => (0, 0),
        };
        self.code_change(series, residual, correction, coder)
    }

    fn code_change(
        &mut self,
        series: &mut Series,
        residual: i64,
        correction: i64,
        coder: &mut impl Coder,
    ) -> Option<Symbol> {
        let sign = self.sign.at(series.sign_context());
        let down = coder.bit(sign, residual < 0);
        let (least, twos) = (series.least(), series.factor());
        let rest = (residual.unsigned_abs() >> twos).saturating_sub(least);
        let rest = if series.changes < CHANGES_BEFORE_MEAN {
            self.code_wide(rest, coder)
        } else {
            self.code_rice(rest, series.mean, 0, coder)
        };
        let size = rest.checked_add(least)?.checked_mul(1 << twos)?;
        let residual = if down { 0i64.wrapping_sub_unsigned(size) } else { size.cast_signed() };
        match series.changes {
            0 => {}
            1 => series.mean = rest.min(LARGEST_IN_MEAN) << MEAN_SHIFT,
            _ => series.mean = towards(series.mean, rest),
        }
        series.signs = (series.signs << 1 | u8::from(down)) & 7;
        if !matches!(series.form, Form::Near(_)) {
            return Some(Symbol::Change(residual, 0));
        }
        let steps = zigzag(correction);
        let steps = self.code_rice(steps, series.correction_mean, 1, coder);
        series.correction_mean = towards(series.correction_mean, steps);
        Some(Symbol::Change(residual, unzigzag(steps)))
    }

    fn code_switch(&mut self, symbol: Symbol, coder: &mut impl Coder) -> Option<Switch> {
        let (form, integer, correction, bits) = match symbol {
            Symbol::Switch(Switch::Decimal(exponent, integer)) => {
                (DECIMAL + u64::from(exponent), integer, 0, 0)
            }
            Symbol::Switch(Switch::Near(exponent, integer, correction)) => {
                (NEAR + u64::from(exponent), integer, correction, 0)
            }
            Symbol::Switch(Switch::Bits(bits)) => (BITS, 0, 0, bits),
            Symbol::Switch(Switch::Once(bits)) => (ONCE, 0, 0, bits),
            _ => (STALE, 0, 0, 0),
        };
        let form = code_six(&mut self.forms, form, coder);
        let mut integer = || unzigzag(self.code_wide(zigzag(integer), coder));
        Some(match form {
            STALE => Switch::Stale,
            ONCE => Switch::Once(coder.raw(64, bits)),
            BITS => Switch::Bits(coder.raw(64, bits)),
            ..STALE => Switch::Decimal(u8::try_from(form).ok()?, integer()),
            NEAR.. => {
                let integer = integer();
                let correction = unzigzag(self.code_wide(zigzag(correction), coder));
                Switch::Near(u8::try_from(form - NEAR).ok()?, integer, correction)
            }
            _ => return None,
        })
    }

    /// A number in the Rice code that suits its mean: how often 2^k fits into it, in ones, then k bits.
    fn code_rice(&mut self, number: u64, mean: u64, table: usize, coder: &mut impl Coder) -> u64 {
        let bits = length(mean >> MEAN_SHIFT).saturating_sub(1);
        let quotient = number >> bits;
        let first = (table * 64 + bits as usize) * 16;
        for ones in 0..MOST_ONES {
            let odds = self.quotients.at(first + ones);
            let more = coder.bit(odds, quotient > ones as u64);
            if !more {
                return (ones as u64) << bits | coder.raw(bits, number & ((1 << bits) - 1));
            }
        }
        self.code_wide(number, coder)
    }

    /// A number below 2^63: its length in bits, then the bits below the first one.
    fn code_wide(&mut self, number: u64, coder: &mut impl Coder) -> u64 {
        let length = code_six(&mut self.lengths, u64::from(length(number)), coder);
        match u32::try_from(length).unwrap_or_default().checked_sub(1) {
            None => 0,
            Some(below) => 1 << below | coder.raw(below, number & ((1 << below) - 1)),
        }
    }
}

/// A number below 64, bit by bit from the high one, each at the odds of those before it.
fn code_six(odds: &mut Contexts<64>, number: u64, coder: &mut impl Coder) -> u64 {
    let mut node = 1usize;
    for place in (0..6).rev() {
        let bit = coder.bit(odds.at(node), number >> place & 1 == 1);
        node = node * 2 + usize::from(bit);
    }
    node as u64 - 64
}

impl Form {
    fn number(self) -> usize {
        match self {
            Self::Decimal(_) => 0,
            Self::Near(_) => 1,
            Self::Bits => 2,
        }
    }
}

impl Series {
    fn same_context(&self) -> usize {
        usize::from(self.activity >> 7).min(31) << 4 | usize::from(self.history)
    }

    fn sign_context(&self) -> usize {
        (usize::from(self.step() != 0) << 2 | self.form.number()) << 3 | usize::from(self.signs)
    }

    fn remember(&mut self, changed: bool) {
        self.history = (self.history << 1 | u8::from(changed)) & 15;
        self.activity -= self.activity >> 4;
        self.activity += if changed { 1 << 8 } else { 0 };
    }

    /// How far the next decimal is expected to be from the last one.
    fn step(&self) -> i64 {
        let [last, difference] = self.costs;
        let moves = difference < last && !self.odd && matches!(self.form, Form::Decimal(_));
        let next = self.integer.saturating_add(self.delta).unsigned_abs();
        if moves && next <= MAX_INTEGER.unsigned_abs() { self.delta } else { 0 }
    }

    /// The bits that are expected next.
    fn predicted(&self) -> Option<u64> {
        match (self.form, self.step()) {
            (_, 0) => Some(self.bits),
            (Form::Decimal(exponent), step) => {
                value_of(self.integer + step, exponent).map(f64::to_bits)
            }
            _ => Some(self.bits),
        }
    }

    /// The smallest size of a change: 0 can be left out where it would be no change.
    fn least(&self) -> u64 {
        match self.form {
            Form::Decimal(_) => u64::from(!self.odd),
            Form::Near(_) => 0,
            Form::Bits => 1,
        }
    }

    /// How many twos every change of a decimal is taken to have.
    fn factor(&self) -> u32 {
        let counts = self.changes >= CHANGES_BEFORE_FACTOR && matches!(self.form, Form::Decimal(_));
        if counts { u32::from(self.twos) } else { 0 }
    }

    /// What is to be written of a value.
    fn symbol(&mut self, value: f64) -> Symbol {
        let bits = value.to_bits();
        if self.predicted() == Some(bits) {
            return Symbol::Same;
        }
        self.change(value).unwrap_or_else(|| Symbol::Switch(self.switch(value)))
    }

    /// The value in the series' form, if that can and should be.
    fn change(&mut self, value: f64) -> Option<Symbol> {
        match self.form {
            Form::Decimal(exponent) => {
                let residual = integer_at(value, exponent)? - self.integer - self.step();
                let whole = residual.trailing_zeros() >= self.factor();
                whole.then_some(Symbol::Change(residual, 0))
            }
            Form::Near(exponent) => {
                let (integer, steps) = near(value, exponent)?;
                let back = self.is_exact_again(steps == 0);
                let near = steps.unsigned_abs() <= NEAR_ENOUGH && !back;
                near.then_some(Symbol::Change(integer - self.integer, steps))
            }
            Form::Bits => {
                let exact = decimal(value).is_some();
                let back = self.is_exact_again(exact) || !value.is_finite();
                let difference = value.to_bits().wrapping_sub(self.bits);
                (!back).then_some(Symbol::Change(difference.cast_signed(), 0))
            }
        }
    }

    fn is_exact_again(&mut self, exact: bool) -> bool {
        self.exact = if exact { self.exact.saturating_add(1) } else { 0 };
        self.exact >= EXACT_BEFORE_SWITCH
    }

    /// The form that suits a value from here on.
    fn switch(&self, value: f64) -> Switch {
        let bits = value.to_bits();
        if bits == STALE_NAN_BITS {
            return Switch::Stale;
        }
        if !value.is_finite() || bits == (-0.0f64).to_bits() {
            return Switch::Once(bits);
        }
        if let Some((exponent, integer)) = decimal(value) {
            return Switch::Decimal(exponent, integer);
        }
        let known = match self.form {
            Form::Decimal(exponent) | Form::Near(exponent) => Some(exponent),
            Form::Bits => None,
        };
        let near = known.into_iter().chain(NEAR_EXPONENTS).find_map(|exponent| {
            let (integer, steps) = near(value, exponent)?;
            (steps.unsigned_abs() <= NEAR_AT_FIRST)
                .then_some(Switch::Near(exponent, integer, steps))
        });
        near.unwrap_or(Switch::Bits(bits))
    }

    /// Takes in a value as both ends do; its bits, or `None` if there is no such value.
    fn apply(&mut self, symbol: Symbol) -> Option<u64> {
        match symbol {
            Symbol::Same => {
                if matches!(self.form, Form::Decimal(_)) && !self.odd {
                    let step = self.step();
                    self.bits = self.predicted()?;
                    self.integer += step;
                    self.differ(step);
                }
            }
            Symbol::Change(residual, correction) => self.apply_change(residual, correction)?,
            Symbol::Switch(switch) => self.apply_switch(switch)?,
        }
        Some(self.bits)
    }

    fn apply_change(&mut self, residual: i64, correction: i64) -> Option<()> {
        match self.form {
            Form::Decimal(exponent) => {
                let difference = self.step().checked_add(residual)?;
                self.integer = self.integer.checked_add(difference)?;
                self.bits = value_of(self.integer, exponent)?.to_bits();
                self.differ(difference);
            }
            Form::Near(exponent) => {
                self.integer = self.integer.checked_add(residual)?;
                let bits = value_of(self.integer, exponent)?.to_bits();
                self.bits = bits.wrapping_add_signed(correction);
            }
            Form::Bits => self.bits = self.bits.wrapping_add_signed(residual),
        }
        self.odd = false;
        let twos = u8::try_from(residual.trailing_zeros()).unwrap_or(u8::MAX);
        match self.changes {
            0 => (self.delta, self.twos) = (0, 63),
            _ => self.twos = self.twos.min(twos),
        }
        self.changes += u8::from(self.changes < CHANGES_BEFORE_FACTOR);
        Some(())
    }

    fn apply_switch(&mut self, switch: Switch) -> Option<()> {
        let (form, integer, bits) = match switch {
            Switch::Decimal(exponent, integer) => {
                (Form::Decimal(exponent), integer, value_of(integer, exponent)?.to_bits())
            }
            Switch::Near(exponent, integer, correction) => {
                let bits = value_of(integer, exponent)?.to_bits();
                (Form::Near(exponent), integer, bits.wrapping_add_signed(correction))
            }
            Switch::Bits(bits) => (Form::Bits, 0, bits),
            Switch::Once(bits) => {
                (self.bits, self.odd) = (bits, true);
                return Some(());
            }
            Switch::Stale => {
                (self.bits, self.odd) = (STALE_NAN_BITS, true);
                return Some(());
            }
        };
        let (activity, history) = (self.activity, self.history);
        *self = Self { bits, integer, activity, history, form, ..Self::default() };
        Some(())
    }

    /// Weighs the two predictions by what they would have left of this difference.
    fn differ(&mut self, difference: i64) {
        let left = [difference, difference.wrapping_sub(self.delta)];
        for (cost, left) in self.costs.iter_mut().zip(left) {
            let size = u16::try_from(length(left.unsigned_abs())).unwrap_or_default();
            *cost = *cost - *cost / 8 + 16 * size;
        }
        self.delta = difference;
    }
}

/// How many bits a number has; 0 for 0.
fn length(number: u64) -> u32 {
    64 - number.leading_zeros()
}

/// A mean a quarter nearer to a number.
fn towards(mean: u64, number: u64) -> u64 {
    let number = number.min(LARGEST_IN_MEAN) << MEAN_SHIFT;
    let distance = number.cast_signed() - mean.cast_signed();
    mean.wrapping_add_signed(distance >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::range::{End, Reader, Writer};
    use proptest::prelude::*;

    /// Writes and reads the values of one series; how many bytes they take.
    fn round_trip(values: &[f64]) -> usize {
        let (mut out, mut model, mut series) = (Vec::new(), Model::default(), Series::default());
        let mut writer = Writer::new(&mut out);
        for value in values {
            model.encode(&mut series, *value, &mut writer);
        }
        writer.finish();
        let (mut model, mut series) = (Model::default(), Series::default());
        let mut reader = Reader::new(&out);
        for value in values {
            let read = model.decode(&mut series, &mut reader).unwrap();
            assert_eq!(read.to_bits(), value.to_bits(), "{values:?}");
        }
        assert_eq!(reader.end(), End::Exact);
        assert!(out.len() <= (values.len() * MAX_VALUE_BITS).div_ceil(8) + 2, "{values:?}");
        out.len()
    }

    /// What the last of many values take, in bits each.
    fn steady(value: impl Fn(u32) -> f64) -> f64 {
        let values: Vec<f64> = (0..1_000).map(value).collect();
        (round_trip(&values) - round_trip(&values[..500])) as f64 * 8.0 / 500.0
    }

    #[test]
    fn what_is_regular_costs_next_to_nothing() {
        assert!(steady(|_| 1.0) < 0.05, "a constant");
        assert!(steady(|_| f64::NAN) < 0.05, "no number");
        assert!(steady(f64::from) < 0.05, "a counter");
        assert!(steady(|n| 0.5 + f64::from(n) * 0.25) < 0.1, "a counter of quarters");
        assert!(steady(|n| f64::from(n % 2)) < 3.0, "up and down");
        assert!(steady(|n| f64::from(n * n % 977 * 4096)) < 12.5, "pages of memory");
        let mut sum = 0.0;
        let sums: Vec<f64> = std::iter::repeat_with(|| {
            sum += 0.1;
            sum
        })
        .take(1_000)
        .collect();
        assert!(steady(|n| sums[n as usize]) < 10.0, "a sum of decimals");
    }

    #[test]
    fn edges_are_exact() {
        let stale = f64::from_bits(STALE_NAN_BITS);
        let two_53 = 9_007_199_254_740_992.0;
        round_trip(&[5.0, stale, 5.0, stale, stale, 6.0]);
        round_trip(&[-0.0, 0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 1.0]);
        round_trip(&[two_53, -two_53, two_53 + 2.0, two_53 - 1.0, f64::MAX, f64::MIN_POSITIVE]);
        round_trip(&[5e-324, 0.1 + 0.2, 0.3, 0.1, 1e-18, 1e22, 1.0, 2.0, 3.0, 4.0, 5.0]);
        round_trip(&[0.1 + 0.2, stale, 0.7 + 0.1, f64::NAN, 0.1 + 0.2, -0.0, 0.8]);
        round_trip(&[f64::MAX, -f64::MAX, f64::MAX, stale, f64::from_bits(u64::MAX), 1.0]);
        let back: Vec<f64> = (0..30).map(|n| f64::from(n) / 8.0).collect();
        round_trip(&[vec![0.1 + 0.2, 1e300], back].concat());
    }

    fn any_value() -> impl Strategy<Value = f64> {
        let edges = [
            0,
            1,
            STALE_NAN_BITS,
            (-0.0f64).to_bits(),
            f64::NAN.to_bits(),
            f64::INFINITY.to_bits(),
            (0.1f64 + 0.2).to_bits(),
            9_007_199_254_740_992f64.to_bits(),
            (-9_007_199_254_740_991f64).to_bits(),
            u64::MAX,
        ];
        let decimal = |(i, e): (i64, i32)| i as f64 / 10f64.powi(e);
        prop_oneof![
            any::<u64>().prop_map(f64::from_bits),
            prop::sample::select(edges.to_vec()).prop_map(f64::from_bits),
            (any::<i64>(), 0..20i32).prop_map(decimal),
            (-1_000..1_000i64, 0..4i32).prop_map(decimal),
            (0..1_000i64).prop_map(|n| n as f64 * 0.1 + 0.2),
        ]
    }

    proptest! {
        #[test]
        fn any_bits_round_trip(bits in prop::collection::vec(any::<u64>(), 0..40)) {
            let values: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
            round_trip(&values);
        }

        #[test]
        fn any_values_round_trip(
            runs in prop::collection::vec((any_value(), any_value(), 1..12u8), 0..12),
        ) {
            let mut values = Vec::new();
            for (first, step, count) in runs {
                values.extend((0..count).map(|n| first + f64::from(n) * step));
                values.push(first);
            }
            round_trip(&values);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut model, mut series) = (Model::default(), Series::default());
            let mut reader = Reader::new(&bytes);
            for _ in 0..500 {
                let _ = model.decode(&mut series, &mut reader);
            }
        }
    }
}
