//! Numbers for people, as Go and Prometheus' template functions write them.

use tributary_model::sample::Timestamp;

/// Go's `%v` of a float: the shortest digits, with an exponent below -4 and from 6 on.
pub(super) fn shortest(value: f64) -> String {
    general(value, None)
}

/// Go's `%.4g`.
pub(super) fn four_digits(value: f64) -> String {
    general(value, Some(4))
}

fn general(value: f64, precision: Option<usize>) -> String {
    if !value.is_finite() {
        return tributary_model::number::format_plain(value);
    }
    let scientific = match precision {
        Some(digits) => format!("{value:.*e}", digits.saturating_sub(1)),
        None => format!("{value:e}"),
    };
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let trimmed = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    let digits = trimmed.bytes().filter(u8::is_ascii_digit).count();
    let limit = precision.unwrap_or(SHORTEST_EXPONENT);
    let limit = i32::try_from(limit).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= limit {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{trimmed}e{sign}{:02}", exponent.unsigned_abs());
    }
    let decimals = i32::try_from(digits).unwrap_or(0) - 1 - exponent;
    format!("{value:.*}", usize::try_from(decimals).unwrap_or(0))
}

/// From this exponent on, the shortest form has one.
const SHORTEST_EXPONENT: usize = 6;

/// `1.235M`, `1.234m`
pub(super) fn metric(value: f64) -> String {
    scaled(value, 1000.0, &["k", "M", "G", "T", "P", "E", "Z", "Y"], true)
}

/// `1.177Mi`
pub(super) fn binary(value: f64) -> String {
    scaled(value, 1024.0, &["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"], false)
}

fn scaled(value: f64, base: f64, large: &[&str], small: bool) -> String {
    if value == 0.0 || !value.is_finite() || (!small && value.abs() <= 1.0) {
        return four_digits(value);
    }
    let (mut value, mut prefix) = (value, "");
    if value.abs() >= 1.0 {
        for next in large {
            if value.abs() < base {
                break;
            }
            prefix = next;
            value /= base;
        }
        return format!("{}{prefix}", four_digits(value));
    }
    let (value, prefix) = below_one(value);
    format!("{}{prefix}", four_digits(value))
}

fn below_one(value: f64) -> (f64, &'static str) {
    let (mut value, mut prefix) = (value, "");
    for next in ["m", "u", "n", "p", "f", "a", "z", "y"] {
        if value.abs() >= 1.0 {
            break;
        }
        prefix = next;
        value *= 1000.0;
    }
    (value, prefix)
}

/// `1d 1h 1m 1s`, `59.9s`, `100ms`
pub(super) fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return four_digits(seconds);
    }
    if seconds == 0.0 {
        return "0s".to_owned();
    }
    if seconds.abs() < 1.0 {
        let (value, prefix) = below_one(seconds);
        return format!("{}{prefix}s", four_digits(value));
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let whole = std::time::Duration::try_from_secs_f64(seconds.abs())
        .map_or(u64::MAX, |duration| duration.as_secs());
    let (days, hours) = (whole / 86_400, whole / 3600 % 24);
    let (minutes, rest) = (whole / 60 % 60, whole % 60);
    if days > 0 {
        format!("{sign}{days}d {hours}h {minutes}m {rest}s")
    } else if hours > 0 {
        format!("{sign}{hours}h {minutes}m {rest}s")
    } else if minutes > 0 {
        format!("{sign}{minutes}m {rest}s")
    } else {
        format!("{sign}{}s", four_digits(seconds.abs()))
    }
}

/// `2015-06-23 13:19:44.128 +0000 UTC`
pub(super) fn timestamp(seconds: f64) -> Result<String, String> {
    const LIMIT: f64 = 9_223_372_036.0;
    if seconds.is_nan() || seconds.abs() > LIMIT {
        let text = shortest(seconds);
        return Err(format!(
            "{text} cannot be represented as a nanoseconds timestamp since it overflows int64"
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "within ±10^13")]
    let at = Timestamp::from_millis((seconds * 1000.0).trunc() as i64);
    let at = jiff::Timestamp::from_millisecond(at.as_millis()).map_err(|e| e.to_string())?;
    let text = at.strftime("%Y-%m-%d %H:%M:%S%.f").to_string();
    Ok(format!("{text} +0000 UTC"))
}
