//! The parts of a date, in UTC, of a time in seconds since the Unix epoch.

use super::number::to_i64;

const DAY: i64 = 86_400;

/// The earliest second of Go's calendar.
const GO_EARLIEST: i128 = -9_223_372_028_741_760_000;

/// A day of the proleptic Gregorian calendar.
struct Date {
    year: i64,
    /// From 1.
    month: i64,
    /// From 1.
    day: i64,
}

/// Days since the epoch, and the seconds of the day.
fn split(time: f64) -> (i64, i64) {
    let mut seconds = i128::from(to_i64(time));
    // Go counts from a year that is later than the smallest integer, and wraps around.
    if seconds < GO_EARLIEST {
        seconds += 1 << 64;
    }
    let day = i128::from(DAY);
    let narrow = |value: i128| i64::try_from(value).unwrap_or(0);
    (narrow(seconds.div_euclid(day)), narrow(seconds.rem_euclid(day)))
}

fn days(time: f64) -> i64 {
    split(time).0
}

/// The date so many days after 1970-01-01. Counts in eras of 400 years that start on a first of March, so that the leap
/// day ends a year.
fn date(days: i64) -> Date {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// `year`
pub(crate) fn year(time: f64) -> f64 {
    date(days(time)).year as f64
}

/// `month`, from 1.
pub(crate) fn month(time: f64) -> f64 {
    date(days(time)).month as f64
}

/// `day_of_month`, from 1.
pub(crate) fn day_of_month(time: f64) -> f64 {
    date(days(time)).day as f64
}

/// `day_of_week`; Sunday is 0.
pub(crate) fn day_of_week(time: f64) -> f64 {
    (days(time) + 4).rem_euclid(7) as f64
}

/// `day_of_year`, from 1.
pub(crate) fn day_of_year(time: f64) -> f64 {
    let Date { year, month, day } = date(days(time));
    // Days before a month: 30.6 a month on average from March on.
    let before = match month {
        1 => 0,
        2 => 31,
        _ => (153 * (month - 3) + 2) / 5 + 59 + i64::from(is_leap(year)),
    };
    (before + day) as f64
}

/// `days_in_month`
pub(crate) fn days_in_month(time: f64) -> f64 {
    let Date { year, month, .. } = date(days(time));
    match month {
        2 if is_leap(year) => 29.0,
        2 => 28.0,
        4 | 6 | 9 | 11 => 30.0,
        _ => 31.0,
    }
}

/// `hour`
pub(crate) fn hour(time: f64) -> f64 {
    (split(time).1 / 3600) as f64
}

/// `minute`
pub(crate) fn minute(time: f64) -> f64 {
    (split(time).1 / 60 % 60) as f64
}

/// `2006-01-02T15:04:05Z` of a time in milliseconds.
pub(crate) fn rfc3339(millis: i64) -> String {
    let seconds = millis.div_euclid(1000);
    let Date { year, month, day } = date(seconds.div_euclid(DAY));
    let of_day = seconds.rem_euclid(DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        for (time, text, week, year_day, month_days) in [
            (0.0, "1970-01-01T00:00:00Z", 4.0, 1.0, 31.0),
            (951_782_400.0, "2000-02-29T00:00:00Z", 2.0, 60.0, 29.0),
            (951_868_799.0, "2000-02-29T23:59:59Z", 2.0, 60.0, 29.0),
            (951_868_800.0, "2000-03-01T00:00:00Z", 3.0, 61.0, 31.0),
            (1_704_067_199.0, "2023-12-31T23:59:59Z", 0.0, 365.0, 31.0),
            (1_735_603_200.0, "2024-12-31T00:00:00Z", 2.0, 366.0, 31.0),
            (-1.0, "1969-12-31T23:59:59Z", 3.0, 365.0, 31.0),
            (4_107_542_400.0, "2100-03-01T00:00:00Z", 1.0, 60.0, 31.0),
        ] {
            assert_eq!(rfc3339(to_i64(time) * 1000), text);
            assert_eq!(day_of_week(time), week, "{text}");
            assert_eq!(day_of_year(time), year_day, "{text}");
            assert_eq!(days_in_month(time), month_days, "{text}");
            assert_eq!(year(time), text[..4].parse::<f64>().unwrap());
            assert_eq!(month(time), text[5..7].parse::<f64>().unwrap());
            assert_eq!(day_of_month(time), text[8..10].parse::<f64>().unwrap());
            assert_eq!(hour(time), text[11..13].parse::<f64>().unwrap());
            assert_eq!(minute(time), text[14..16].parse::<f64>().unwrap());
        }
    }

    #[test]
    fn days_of_the_year_count_up() {
        for first in [10_957, 11_323] {
            let length = if is_leap(date(first).year) { 366 } else { 365 };
            for day in 0..length {
                let time = ((first + day) * DAY) as f64;
                assert_eq!(day_of_year(time), (day + 1) as f64);
            }
        }
    }

    #[test]
    fn what_is_no_time_is_the_date_it_is_in_go() {
        assert_eq!((month(f64::NAN), day_of_month(f64::NAN)), (12.0, 4.0));
        assert_eq!((hour(f64::NAN), minute(f64::NAN)), (15.0, 30.0));
    }

    #[test]
    fn no_value_panics() {
        for time in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e18, -1e18] {
            let _ = (year(time), day_of_year(time), hour(time), days_in_month(time));
        }
    }
}
