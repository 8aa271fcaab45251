//! Whether two JSON values have the same shape: the same keys and types, whatever the texts and numbers are.

use serde_json::{Map, Value};

/// Objects whose keys are data.
const MAPS: &[&str] = &[
    "metric",
    "labels",
    "discoveredLabels",
    "annotations",
    "target",
    "status/flags",
    "metadata",
    "series",
];

/// The first difference in shape; `place` names the value.
pub fn difference(wanted: &Value, got: &Value, place: &str) -> Option<String> {
    if wanted["status"] == "error" && !wanted["error"].to_string().contains("instance=") {
        return (wanted != got).then(|| format!("{got} instead of {wanted}"));
    }
    differs(wanted, got, place, place)
}

fn differs(wanted: &Value, got: &Value, key: &str, place: &str) -> Option<String> {
    match (wanted, got) {
        (Value::Object(wanted), Value::Object(got)) => objects(wanted, got, key, place),
        (Value::Array(wanted), Value::Array(got)) => arrays(wanted, got, key, place),
        (Value::Null, Value::Null)
        | (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => None,
        _ => Some(format!("{place}: {} instead of {}", kind(got), kind(wanted))),
    }
}

fn objects(
    wanted: &Map<String, Value>,
    got: &Map<String, Value>,
    key: &str,
    place: &str,
) -> Option<String> {
    // The data of an answer is a map where the path is one of those.
    let data = place.trim_end_matches("[]").strip_suffix(".data").unwrap_or(key);
    if MAPS.contains(&data) && !wanted.contains_key("status") {
        let (wanted, got) = (wanted.values().next()?, got.values().next());
        let Some(got) = got else { return Some(format!("{place}: empty")) };
        return differs(wanted, got, "", &format!("{place}.*"));
    }
    for (name, value) in wanted {
        let inner = format!("{place}.{name}");
        match got.get(name) {
            None => return Some(format!("{inner} is missing")),
            Some(got) => {
                if let Some(difference) = differs(value, got, name, &inner) {
                    return Some(difference);
                }
            }
        }
    }
    let extra = got.keys().find(|name| !wanted.contains_key(*name))?;
    Some(format!("{place}.{extra} is there in addition"))
}

/// Points are pairs; of other lists each element has the shape of one of the wanted ones.
fn arrays(wanted: &[Value], got: &[Value], key: &str, place: &str) -> Option<String> {
    let inner = format!("{place}[]");
    if matches!(key, "value" | "result") && wanted.first().is_some_and(Value::is_number) {
        let pairs = wanted.iter().zip(got);
        return (wanted.len() != got.len())
            .then(|| format!("{place}: {} elements", got.len()))
            .or_else(|| pairs.into_iter().find_map(|(w, g)| differs(w, g, "", &inner)));
    }
    if wanted.is_empty() != got.is_empty() {
        return Some(format!("{place}: {} elements instead of {}", got.len(), wanted.len()));
    }
    got.iter().find_map(|got| {
        let mut differences = wanted.iter().map(|wanted| differs(wanted, got, key, &inner));
        let first = differences.next()?;
        if first.is_none() || differences.any(|difference| difference.is_none()) {
            return None;
        }
        first
    })
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shapes() {
        let vector = |labels: Value, value: Value| json!({"status": "success", "data": {"result": [{"metric": labels, "value": value}]}});
        let wanted = vector(json!({"a": "b"}), json!([1.5, "2"]));
        for (got, difference) in [
            (vector(json!({"c": "d", "e": "f"}), json!([3, "4"])), None),
            (
                vector(json!({"a": 1}), json!([3, "4"])),
                Some("query.data.result[].metric.*: a number instead of a string"),
            ),
            (
                vector(json!({"a": "b"}), json!([3, 4])),
                Some("query.data.result[].value[]: a number instead of a string"),
            ),
            (
                json!({"status": "success", "data": {"result": []}}),
                Some("query.data.result: 0 elements instead of 1"),
            ),
            (
                json!({"status": "success", "data": {"result": []}, "warnings": []}),
                Some("query.data.result: 0 elements instead of 1"),
            ),
            (json!({"status": "success"}), Some("query.data is missing")),
        ] {
            assert_eq!(super::difference(&wanted, &got, "query").as_deref(), difference);
        }
        let flags = |name: &str| json!({"status": "success", "data": {name: "x"}});
        assert_eq!(super::difference(&flags("a"), &flags("b"), "status/flags"), None);
        assert!(super::difference(&flags("a"), &flags("b"), "status/other").is_some());
        let error = |text: &str| json!({"status": "error", "errorType": "bad_data", "error": text});
        assert_eq!(super::difference(&error("a"), &error("a"), ""), None);
        assert!(super::difference(&error("a"), &error("b"), "").is_some());
    }
}
