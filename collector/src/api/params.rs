//! Reads a request's parameters as Prometheus does: URL and form body together, times, durations, limits, selectors.

use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::response::{IntoResponse, Response};
use axum::{Form, extract::Query};
use http::{Method, StatusCode, header};
use tributary_model::duration;
use tributary_model::matcher::Matcher;
use tributary_model::number;
use tributary_model::sample::Timestamp;

use super::envelope::{ApiError, plain};
use crate::query::text::{SelectorError, parse_selector};

/// Prometheus' earliest time, as its own clients write it.
const MIN_TIME: &str = "-292273086-05-16T16:47:06Z";

/// Prometheus' latest time, as its own clients write it.
const MAX_TIME: &str = "292277025-08-18T07:12:54.999999999Z";

/// Longest list of `match[]` in one request; more are refused.
pub const MAX_SELECTORS: usize = 1000;

/// Parameters in order; those of the body come first, as in Go's `FormValue`.
#[derive(Debug, Clone, Default)]
pub struct Params(Vec<(String, String)>);

impl Params {
    /// The first value of a name; the empty string if there is none.
    pub fn text(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// Every value of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A time that may be left out.
    pub fn time_or(&self, name: &str, default: Timestamp) -> Result<Timestamp, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(default);
        }
        time(text).map_err(|why| {
            ApiError::parameter(name, format!("invalid time value for '{name}': {why}"))
        })
    }

    /// A time that must be there.
    pub fn time(&self, name: &str) -> Result<Timestamp, ApiError> {
        time(self.text(name)).map_err(|why| ApiError::parameter(name, why))
    }

    /// A duration that must be there, in nanoseconds; may be negative.
    pub fn nanos(&self, name: &str) -> Result<i64, ApiError> {
        nanos(self.text(name)).map_err(|why| ApiError::parameter(name, why))
    }

    /// A duration that may be left out. A negative one is no time at all.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, ApiError> {
        if self.text(name).is_empty() {
            return Ok(None);
        }
        let nanos = self.nanos(name)?;
        Ok(Some(Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))))
    }

    /// `lookback_delta`, whose fault Prometheus words differently.
    pub fn lookback(&self) -> Result<Option<Duration>, ApiError> {
        let text = self.text("lookback_delta");
        if text.is_empty() {
            return Ok(None);
        }
        let nanos = nanos(text).map_err(|why| {
            ApiError::bad(format!("error parsing lookback delta duration: {why}"))
        })?;
        Ok(u64::try_from(nanos).ok().filter(|n| *n > 0).map(Duration::from_nanos))
    }

    /// `limit`: at most so many results; none means all.
    pub fn limit(&self) -> Result<Option<usize>, ApiError> {
        let text = self.text("limit");
        if text.is_empty() {
            return Ok(None);
        }
        let limit = integer(text).map_err(|why| {
            ApiError::parameter(
                "limit",
                format!("strconv.Atoi: parsing {}: {why}", tributary_model::quote::quote(text)),
            )
        })?;
        match usize::try_from(limit) {
            Ok(0) => Ok(None),
            Ok(limit) => Ok(Some(limit)),
            Err(_) => Err(ApiError::parameter("limit", "limit must be non-negative")),
        }
    }

    /// The selectors of every `match[]`.
    pub fn selectors(&self) -> Result<Vec<Vec<Matcher>>, ApiError> {
        let texts: Vec<&str> = self.all("match[]").collect();
        if texts.len() > MAX_SELECTORS {
            return Err(ApiError::bad(format!("more than {MAX_SELECTORS} match[] parameters")));
        }
        let selectors = texts.into_iter().map(|text| {
            parse_selector(text).map_err(|why| match why {
                SelectorError::Everything => ApiError::parameter("match[]", why),
                other => ApiError::bad(other.to_string()),
            })
        });
        selectors.collect()
    }
}

impl<S: Send + Sync> FromRequest<S> for Params {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let bad = |why: String| {
            ApiError::bad(format!("error parsing form values: {why}")).into_response()
        };
        let url = Query::<Vec<(String, String)>>::try_from_uri(request.uri())
            .map_err(|e| bad(e.body_text()))?
            .0;
        let form = request.method() == Method::POST
            && request
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|v| v.to_str().ok())
                .is_some_and(|v| v.starts_with("application/x-www-form-urlencoded"));
        if !form {
            return Ok(Self(url));
        }
        match Form::<Vec<(String, String)>>::from_request(request, state).await {
            Ok(Form(mut all)) => {
                all.extend(url);
                Ok(Self(all))
            }
            Err(e) if e.status() == StatusCode::PAYLOAD_TOO_LARGE => {
                Err(plain(StatusCode::PAYLOAD_TOO_LARGE, "the request body is too large\n"))
            }
            Err(e) => Err(bad(e.body_text())),
        }
    }
}

/// The path parameters by name.
#[derive(Debug, Clone, Default)]
pub struct PathParams(Vec<(String, String)>);

impl PathParams {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PathParams {
    type Rejection = Response;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        state: &S,
    ) -> Result<Self, Response> {
        match RawPathParams::from_request_parts(parts, state).await {
            Ok(params) => Ok(Self(
                params.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
            )),
            Err(e) => Err(ApiError::bad(e.body_text()).into_response()),
        }
    }
}

/// A time: Unix seconds with fraction, or RFC 3339.
pub fn time(text: &str) -> Result<Timestamp, String> {
    if let Some(seconds) = number::parse_float(text) {
        // Whole and fractional part by themselves, the fraction rounded to milliseconds.
        let millis = seconds.trunc() * 1000.0 + (seconds.fract() * 1000.0).round();
        return Ok(Timestamp::from_millis(saturating(millis)));
    }
    match text {
        MIN_TIME => Ok(Timestamp::MIN),
        MAX_TIME => Ok(Timestamp::MAX),
        _ => rfc3339(text)
            .ok_or_else(|| format!("cannot parse {} to a valid timestamp", quoted(text))),
    }
}

/// jiff reads more than RFC 3339 (a space for the `T`, missing parts): Prometheus does not.
fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let shaped = bytes.get(10) == Some(&b'T')
        && bytes.get(13) == Some(&b':')
        && bytes.get(16) == Some(&b':')
        && bytes.iter().take(4).all(u8::is_ascii_digit)
        && (text.ends_with('Z') || text.get(text.len().checked_sub(6)?..)?.contains(':'));
    if !shaped {
        return None;
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond().div_euclid(1_000_000)).ok().map(Timestamp::from_millis)
}

/// A duration in nanoseconds: seconds as a float, or Prometheus' form.
pub fn nanos(text: &str) -> Result<i64, String> {
    let fail = || format!("cannot parse {} to a valid duration", quoted(text));
    if let Some(seconds) = number::parse_float(text) {
        let nanos = seconds * 1e9;
        let bound = 2.0_f64.powi(63);
        if !(-bound..=bound).contains(&nanos) {
            return Err(fail() + ". It overflows int64");
        }
        return Ok(saturating(nanos));
    }
    let duration = duration::parse(text).map_err(|_| fail())?;
    i64::try_from(duration.as_nanos()).map_err(|_| fail())
}

/// A decimal integer, with Go's words for what is wrong.
pub fn integer(text: &str) -> Result<i64, &'static str> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid syntax");
    }
    text.parse().map_err(|_| "value out of range")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a cast from f64 saturates at i64's bounds, which is what is wanted"
)]
fn saturating(value: f64) -> i64 {
    value as i64
}

fn quoted(text: &str) -> String {
    tributary_model::quote::quote(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [
            ("0", 0),
            ("1.5", 1500),
            ("1795219200.5", 1_795_219_200_500),
            ("1.0004", 1000),
            ("3.0006", 3001),
            ("-0.0005", -1),
            ("1e3", 1_000_000),
            ("1795222900000", 1_795_222_900_000_000),
            ("2026-11-21T00:00:00.5Z", 1_795_219_200_500),
            ("2026-11-21T00:00:00+01:00", 1_795_215_600_000),
            ("0001-01-01T00:00:00Z", -62_135_596_800_000),
            (MIN_TIME, i64::MIN),
            (MAX_TIME, i64::MAX),
        ] {
            assert_eq!(time(text), Ok(Timestamp::from_millis(millis)), "{text}");
        }
        for bad in ["", "abc", "2026-11-21", "2026-11-21 00:00:00Z", "2026-11-21T00:00:00", "1h"] {
            let message = format!("cannot parse {bad:?} to a valid timestamp");
            assert_eq!(time(bad), Err(message));
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("5", Ok(5_000_000_000)),
            ("0.5", Ok(500_000_000)),
            ("-1", Ok(-1_000_000_000)),
            ("1m30s", Ok(90_000_000_000)),
            ("1e12", Err("cannot parse \"1e12\" to a valid duration. It overflows int64")),
            ("0.0001ms", Err("cannot parse \"0.0001ms\" to a valid duration")),
            ("", Err("cannot parse \"\" to a valid duration")),
        ] {
            assert_eq!(nanos(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn limits() {
        let limit = |text: &str| Params(vec![("limit".into(), text.into())]).limit();
        assert_eq!(limit("3"), Ok(Some(3)));
        assert_eq!(limit("0"), Ok(None));
        assert_eq!(limit(""), Ok(None));
        for (text, message) in [
            ("-1", "limit must be non-negative"),
            ("abc", "strconv.Atoi: parsing \"abc\": invalid syntax"),
            (
                "99999999999999999999",
                "strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
        ] {
            assert_eq!(limit(text), Err(ApiError::parameter("limit", message)));
        }
    }
}
