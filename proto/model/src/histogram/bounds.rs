//! Where buckets begin and end.

use std::sync::LazyLock;

use super::{FINEST, Schema};

/// Lower and upper bound of the bucket with this index. On the negative side these are distances from zero.
pub(super) fn of(schema: &Schema, index: i32) -> (f64, f64) {
    match schema {
        Schema::Exponential(schema) => {
            (exponential(*schema, i64::from(index) - 1), exponential(*schema, i64::from(index)))
        }
        Schema::Custom(bounds) => {
            let at = |index: Option<usize>| index.and_then(|index| bounds.get(index)).copied();
            let index = usize::try_from(index).ok();
            let below = index.and_then(|index| index.checked_sub(1));
            (at(below).unwrap_or(f64::NEG_INFINITY), at(index).unwrap_or(f64::INFINITY))
        }
    }
}

/// The upper bound of a bucket. The last one below infinity ends at the largest number, so that the bucket after it
/// holds infinite observations and nothing else.
pub(super) fn exponential(schema: i8, index: i64) -> f64 {
    if schema < 0 {
        let exponent = index << schema.unsigned_abs().min(8);
        return if exponent == 1024 { f64::MAX } else { power_of_two(exponent) };
    }
    let schema = schema.min(FINEST);
    let inside = index & ((1 << schema) - 1);
    let exponent = (index >> schema) + 1;
    if inside == 0 && exponent == 1025 {
        return f64::MAX;
    }
    // Every finer schema has the bounds of the coarser ones among its own.
    let at = usize::try_from(inside << (FINEST - schema)).unwrap_or(0);
    let fraction = FRACTIONS.get(at).copied().unwrap_or(0.5);
    // Twice the fraction is from 1 to 2, so that the power alone decides whether the product is a normal number.
    2.0 * fraction * power_of_two(exponent - 1)
}

/// 2 to the power of a whole number; zero or infinite where it is out of range.
fn power_of_two(exponent: i64) -> f64 {
    i32::try_from(exponent).map_or(if exponent < 0 { 0.0 } else { f64::INFINITY }, |exponent| {
        f64::from(exponent).exp2()
    })
}

/// By schema from 1, the distance between neighbouring bounds as a factor. Rounded as in Prometheus, whose bounds are
/// to be met to the last bit.
#[expect(
    clippy::approx_constant,
    reason = "the first one is one bit below the root of two, on purpose"
)]
const FACTORS: [f64; 8] = [
    1.414_213_562_373_095,
    1.189_207_115_002_721,
    1.090_507_732_665_257_7,
    1.044_273_782_427_413_8,
    1.021_897_148_654_116_6,
    1.010_889_286_051_700_5,
    1.005_429_901_112_802_7,
    1.002_711_275_050_202_5,
];

/// The bounds of the finest schema from one half on, below one.
static FRACTIONS: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let mut bounds = vec![0.5];
    for factor in FACTORS {
        // Between two bounds of the coarser schema lies one new one.
        bounds = bounds.iter().flat_map(|bound| [*bound, bound * factor]).collect();
    }
    bounds
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_powers() {
        for (schema, index, bound) in [
            (0, 0, 1.0),
            (0, 1, 2.0),
            (0, -1, 0.5),
            (-1, 1, 4.0),
            (-4, -1, 2.0_f64.powi(-16)),
            (1, 1, std::f64::consts::SQRT_2),
            (2, 3, 2.0_f64.powf(0.75)),
            (8, 256, 2.0),
            (0, 1023, 2.0_f64.powi(1023)),
            (0, 1024, f64::MAX),
            (0, 1025, f64::INFINITY),
            (-1, 512, f64::MAX),
            (8, 1024 * 256, f64::MAX),
            (8, -1074 * 256, f64::from_bits(1)),
            (8, -2000 * 256, 0.0),
            (3, 1 << 40, f64::INFINITY),
        ] {
            let got = exponential(schema, index);
            let error = (got - bound).abs();
            assert!(
                got == bound || error <= bound * 1e-15,
                "{schema} {index}: {got} is not {bound}"
            );
        }
        // Not the nearest number to 2^-½, but the one that Prometheus has.
        assert_eq!(exponential(1, -1), 0.707_106_781_186_547_5);
        assert_eq!(exponential(8, 1) / 2.0, 0.501_355_637_525_101_3);
        assert_eq!(exponential(8, -127), 0.709_023_942_160_207_6);
    }

    #[test]
    fn bounds_increase() {
        for schema in super::super::COARSEST..=FINEST {
            let bounds: Vec<f64> = (-600..600).map(|index| exponential(schema, index)).collect();
            for pair in bounds.windows(2) {
                assert!(pair[0] < pair[1] || pair[1] == 0.0 || pair[0].is_infinite(), "{schema}");
            }
        }
    }

    #[test]
    fn custom_bounds_end_in_infinity() {
        let schema = Schema::Custom([1.0, 2.5].into());
        assert_eq!(of(&schema, 0), (f64::NEG_INFINITY, 1.0));
        assert_eq!(of(&schema, 1), (1.0, 2.5));
        assert_eq!(of(&schema, 2), (2.5, f64::INFINITY));
    }
}
