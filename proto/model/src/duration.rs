//! Durations as Prometheus writes them: `1h30m`, `15s`, `3y`, `500ms`, `0`.

use std::fmt::Write as _;
use std::time::Duration;

/// Units from long to short with their milliseconds; a year has 365 days.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Why a text is not a duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Nothing there.
    #[error("the duration is empty")]
    Empty,
    /// Not numbers with units from long to short.
    #[error(
        "\"{0}\" is not a duration: write numbers with units from long to short, like 1h30m or 15s (y w d h m s ms)"
    )]
    Malformed(String),
    /// Over 292 years, the longest in signed nanoseconds.
    #[error("\"{0}\" is longer than 292 years")]
    OutOfRange(String),
}

/// Reads a Prometheus duration: each unit at most once, from long to short; `0` needs no unit.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let malformed = || DurationError::Malformed(text.escape_debug().to_string());
    if text.is_empty() {
        return Err(DurationError::Empty);
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let out_of_range = || DurationError::OutOfRange(text.to_owned());
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut millis = 0u64;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, next) = after.split_at(letters);
        if number.is_empty() {
            return Err(malformed());
        }
        let (_, size) = units.find(|(name, _)| *name == unit).ok_or_else(malformed)?;
        let part = number
            .parse::<u64>()
            .ok()
            .and_then(|n| n.checked_mul(*size))
            .ok_or_else(out_of_range)?;
        millis = millis.checked_add(part).ok_or_else(out_of_range)?;
        rest = next;
    }
    if millis > u64::try_from(i64::MAX / 1_000_000).unwrap_or(0) {
        return Err(out_of_range());
    }
    Ok(Duration::from_millis(millis))
}

/// Writes a duration as Prometheus does, exactly: `90s` is `1m30s`, `7d` is `1w` only if it is whole weeks or years.
/// Parts below a millisecond are cut.
pub fn format(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut out = String::new();
    for (name, size) in UNITS {
        // Years and weeks only when nothing is left over, as Prometheus' model.Duration does.
        let exact_only = name == "y" || name == "w";
        if exact_only && millis % size != 0 {
            continue;
        }
        let count = millis / size;
        if count > 0 {
            let _ = write!(out, "{count}{name}");
            millis -= count * size;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, millis, back) in [
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("15s", 15_000, "15s"),
            ("90s", 90_000, "1m30s"),
            ("1h30m", 5_400_000, "1h30m"),
            ("7d", 604_800_000, "1w"),
            ("8d", 691_200_000, "8d"),
            ("3y", 94_608_000_000, "3y"),
            ("1d500ms", 86_400_500, "1d500ms"),
        ] {
            let duration = parse(text).unwrap();
            assert_eq!(duration.as_millis(), millis, "{text}");
            assert_eq!(format(duration), back);
            assert_eq!(parse(back).unwrap(), duration);
        }
        for bad in [
            "",
            "1",
            "s",
            "1x",
            "1s1h",
            "1m1m",
            "-1s",
            "1.5h",
            "1 s",
            "99999999999999999999y",
            "400y",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
