//! Functions of one value by itself.

use crate::signature::Function;

use super::date;
use super::number;

/// What `function` makes of a value, if it is a function of one value without further arguments.
pub(crate) fn function(function: Function) -> Option<fn(f64) -> f64> {
    Some(match function {
        Function::Abs => f64::abs,
        Function::Acos => f64::acos,
        Function::Acosh => f64::acosh,
        Function::Asin => f64::asin,
        Function::Asinh => f64::asinh,
        Function::Atan => f64::atan,
        Function::Atanh => f64::atanh,
        Function::Ceil => f64::ceil,
        Function::Cos => f64::cos,
        Function::Cosh => f64::cosh,
        Function::Deg => degrees,
        Function::Exp => f64::exp,
        Function::Floor => f64::floor,
        Function::Ln => f64::ln,
        Function::Log10 => f64::log10,
        Function::Log2 => f64::log2,
        Function::Rad => radians,
        Function::Sgn => sign,
        Function::Sin => f64::sin,
        Function::Sinh => f64::sinh,
        Function::Sqrt => f64::sqrt,
        Function::Tan => f64::tan,
        Function::Tanh => f64::tanh,
        Function::DayOfMonth => date::day_of_month,
        Function::DayOfWeek => date::day_of_week,
        Function::DayOfYear => date::day_of_year,
        Function::DaysInMonth => date::days_in_month,
        Function::Hour => date::hour,
        Function::Minute => date::minute,
        Function::Month => date::month,
        Function::Year => date::year,
        _ => return None,
    })
}

/// The value, or the nearer of the two limits.
pub(crate) fn clamp(value: f64, low: f64, high: f64) -> f64 {
    number::max(low, number::min(high, value))
}

/// The nearest multiple; halves go up.
pub(crate) fn round(value: f64, to: f64) -> f64 {
    // Multiplying with the inverse loses less than dividing.
    let inverse = 1.0 / to;
    (value * inverse + 0.5).floor() / inverse
}

fn degrees(value: f64) -> f64 {
    value * 180.0 / std::f64::consts::PI
}

fn radians(value: f64) -> f64 {
    value * std::f64::consts::PI / 180.0
}

fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_and_limits() {
        assert_eq!(round(2.5, 1.0), 3.0);
        assert_eq!(round(-2.5, 1.0), -2.0);
        assert_eq!(round(0.3, 0.25), 0.25);
        assert_eq!(clamp(5.0, 1.0, 3.0), 3.0);
        assert!(clamp(f64::NAN, 1.0, 3.0).is_nan());
    }

    #[test]
    fn signs() {
        assert_eq!((sign(-3.0), sign(3.0), sign(0.0)), (-1.0, 1.0, 0.0));
        assert!(sign(f64::NAN).is_nan());
        assert!(sign(-0.0).is_sign_negative());
    }
}
