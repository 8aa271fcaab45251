//! Sends a recorded request again, and says how the answer differs from the recorded one.

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde_json::Value;
use tributary_tests::http::{Answer, form, send};
use tributary_tests::now_ms;

use crate::shape;

/// Headers that say something about the moment or the connection, not about the API.
const PASSING: &[&str] = &["date", "content-length", "connection", "transfer-encoding"];

/// Parameters that are times.
const TIMES: &[&str] = &["start", "end", "time"];

/// Sends the request of a record to another server, its times moved to now.
pub async fn ask(url: &str, record: &Value) -> anyhow::Result<Answer> {
    let request = &record["request"];
    let method: Method = request["method"].as_str().context("no method")?.parse()?;
    let path = request["path"].as_str().context("no path")?;
    let since = recorded_at(record).map_or(0, |at| now_ms() / 1000 - at);
    let pairs: Vec<(String, String)> = request["params"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|pair| (text(&pair[0]), moved(&text(&pair[0]), &text(&pair[1]), since)))
        .collect();
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let form = form(&pairs);
    let headers = request["headers"].as_object().into_iter().flatten();
    let headers: Vec<(&str, &str)> =
        headers.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    let in_body = method == Method::POST;
    let (url, body) = match (in_body, form.is_empty()) {
        (false, false) => (format!("{url}{path}?{form}"), Bytes::new()),
        _ => (format!("{url}{path}"), Bytes::from(form)),
    };
    send(method, &url, &headers, body).await.with_context(|| format!("asking {url}"))
}

/// How an answer differs from the recorded one.
pub fn compare(record: &Value, answer: &Answer) -> Vec<String> {
    let mut faults = Vec::new();
    let status = record["status"].as_u64().unwrap_or(0);
    if u64::from(answer.status.as_u16()) != status {
        faults.push(format!("status {} instead of {status}", answer.status.as_u16()));
    }
    for (name, value) in record["headers"].as_object().into_iter().flatten() {
        let name = name.to_ascii_lowercase();
        if PASSING.contains(&name.as_str()) {
            continue;
        }
        let wanted = value.as_str().unwrap_or("");
        let got: Vec<&str> =
            answer.headers.get_all(&name).iter().filter_map(|v| v.to_str().ok()).collect();
        let got = got.join(", ");
        // A cache must also know of the encoding, which Prometheus forgets.
        let fits = got == wanted || (name == "vary" && got.contains(wanted));
        if !fits {
            faults.push(format!("{name}: {got:?} instead of {wanted:?}"));
        }
    }
    if answer.headers.contains_key("content-encoding") {
        return faults;
    }
    let wanted = record["body"].as_str().unwrap_or("");
    match serde_json::from_str::<Value>(wanted) {
        Ok(wanted) => faults.extend(shape::difference(&wanted, &answer.json(), place(record))),
        // The record may hold only the beginning of a long answer.
        Err(_) if wanted.starts_with('{') => {
            if !answer.json().is_object() {
                faults.push("not a JSON object".to_owned());
            }
        }
        Err(_) if status >= 400 && answer.text() != wanted => {
            faults.push(format!("{:?} instead of {wanted:?}", answer.text()));
        }
        Err(_) => {}
    }
    faults
}

fn place(record: &Value) -> &str {
    record["request"]["path"].as_str().unwrap_or("").trim_start_matches("/api/v1/")
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A time near the one of the recording, later by `since` seconds.
fn moved(name: &str, value: &str, since: i64) -> String {
    match value.parse::<f64>() {
        Ok(at) if TIMES.contains(&name) && (1e9..1e11).contains(&at) => {
            (at + since as f64).to_string()
        }
        _ => value.to_owned(),
    }
}

/// The seconds since the epoch of the recorded `Date`.
fn recorded_at(record: &Value) -> Option<i64> {
    // Sat, 21 Nov 2026 01:31:40 GMT
    let date = record["headers"]["Date"].as_str()?;
    let mut parts = date.split([' ', ':']).skip(1);
    let day: i64 = parts.next()?.parse().ok()?;
    let months = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let month = i64::try_from(months.find(parts.next()?)? / 3 + 1).ok()?;
    let year: i64 = parts.next()?.parse().ok()?;
    let mut clock = parts.filter_map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (clock.next()?, clock.next()?, clock.next()?);
    // Days since 1970 of a date in the Gregorian calendar, with years that begin in March.
    let (years, months) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = years / 4 - years / 100 + years / 400;
    let days = years * 365 + leaps + (153 * months + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn dates() {
        let at = |date: &str| recorded_at(&json!({ "headers": { "Date": date } }));
        assert_eq!(at("Sat, 21 Nov 2026 01:31:40 GMT"), Some(1_795_224_700));
        assert_eq!(at("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(at("Tue, 29 Feb 2000 12:00:00 GMT"), Some(951_825_600));
    }

    #[test]
    fn only_times_of_the_recording_move() {
        assert_eq!(moved("start", "1795224680", 20), "1795224700");
        assert_eq!(moved("start", "10", 20), "10");
        assert_eq!(moved("limit", "1795224680", 20), "1795224680");
    }
}
