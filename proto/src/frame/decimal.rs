//! Floats as integers over powers of ten, wherever that gives back exactly the same bits.

/// Largest integer that a decimal value may be: every integer up to here is an `f64`.
pub(super) const MAX_INTEGER: i64 = 1 << 53;

/// Powers of ten that are exact in an `f64` and useful as divisors.
const POWERS: [f64; 19] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18,
];

/// Exponents there are.
pub(super) const EXPONENTS: u8 = 19;

/// The value of an integer over a power of ten: one IEEE division, the same on every machine. `None` if the integer is
/// over 2^53 or the exponent too large.
pub(super) fn value_of(integer: i64, exponent: u8) -> Option<f64> {
    let power = POWERS.get(usize::from(exponent))?;
    (integer.unsigned_abs() <= MAX_INTEGER.unsigned_abs()).then(|| integer as f64 / power)
}

/// The smallest exponent at which a value is exactly an integer over a power of ten, and that integer.
pub(super) fn decimal(value: f64) -> Option<(u8, i64)> {
    (0..EXPONENTS).find_map(|exponent| Some((exponent, integer_at(value, exponent)?)))
}

/// The integer that gives back exactly these bits at this exponent; none for -0.0, NaN and infinities.
pub(super) fn integer_at(value: f64, exponent: u8) -> Option<i64> {
    let (integer, power) = nearest(value, exponent)?;
    ((integer as f64 / power).to_bits() == value.to_bits()).then_some(integer)
}

/// The nearest integer at this exponent, and how many steps of `f64` its value is away from this one.
pub(super) fn near(value: f64, exponent: u8) -> Option<(i64, i64)> {
    let (integer, power) = nearest(value, exponent)?;
    let steps = value.to_bits().wrapping_sub((integer as f64 / power).to_bits());
    Some((integer, steps.cast_signed()))
}

fn nearest(value: f64, exponent: u8) -> Option<(i64, f64)> {
    let power = *POWERS.get(usize::from(exponent))?;
    let scaled = value * power;
    // False for what is not a number.
    let fits = scaled.abs() <= MAX_INTEGER as f64;
    #[expect(clippy::cast_possible_truncation, reason = "used only if it is at most 2^53")]
    let whole = scaled as i64;
    let rest = scaled - whole as f64;
    let nearest = whole.wrapping_add(i64::from(rest >= 0.5)).wrapping_sub(i64::from(rest <= -0.5));
    fits.then_some((nearest, power))
}
