//! Puts the values of variables into expressions.

use std::collections::BTreeMap;

/// The chosen values of each variable.
pub type Values = BTreeMap<String, Vec<String>>;

/// How often the source of the data is scraped, in seconds, as the data source is told.
const SCRAPE_INTERVAL: i64 = 15;

/// A text with its variables replaced: `$name`, `${name}`, `${name:regex}`, `[[name]]`, and those that the dashboard's
/// times give.
pub(super) fn interpolated(text: &str, values: &Values, step: i64, range: i64) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '[']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (name, length) = reference(rest);
        match value(name, values, step, range).filter(|_| length > 0) {
            Some(value) => {
                out.push_str(&value);
                rest = &rest[length..];
            }
            None => {
                out.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// The name of the variable that a text begins with, and how long the reference is; none has the length 0.
fn reference(text: &str) -> (&str, usize) {
    for (open, close) in [("${", "}"), ("[[", "]]")] {
        if let Some(inside) = text.strip_prefix(open)
            && let Some(end) = inside.find(close)
        {
            let name = inside[..end].split(':').next().unwrap_or("");
            return (name, open.len() + end + close.len());
        }
    }
    let Some(after) = text.strip_prefix('$') else { return ("", 0) };
    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    (&after[..end], if end == 0 { 0 } else { end + 1 })
}

fn value(name: &str, values: &Values, step: i64, range: i64) -> Option<String> {
    match name {
        "__interval" => Some(format!("{step}s")),
        "__interval_ms" => Some((step * 1000).to_string()),
        "__rate_interval" => {
            Some(format!("{}s", (step + SCRAPE_INTERVAL).max(4 * SCRAPE_INTERVAL)))
        }
        "__range" => Some(format!("{range}s")),
        "__range_s" => Some(range.to_string()),
        "__range_ms" => Some((range * 1000).to_string()),
        _ => match values.get(name)?.as_slice() {
            [only] => Some(escaped(only)),
            many => {
                let many: Vec<String> = many.iter().map(|value| escaped(value)).collect();
                Some(format!("({})", many.join("|")))
            }
        },
    }
}

/// A value as a pattern inside a quoted text.
fn escaped(value: &str) -> String {
    let special = |c: char| r"\^$*+?.()|{}[]/".contains(c);
    value.chars().fold(String::new(), |mut out, c| {
        if special(c) && c != '/' {
            out.push_str("\\\\");
        }
        out.push(c);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_in_texts() {
        let values = Values::from([
            ("job".to_owned(), vec!["node".to_owned()]),
            ("cluster".to_owned(), vec!["eu-1".to_owned(), "a.b".to_owned()]),
        ]);
        for (text, expected) in [
            ("up{job=\"$job\"}", "up{job=\"node\"}"),
            (
                "up{job=~\"${job:regex}\",c=~\"[[cluster]]\"}",
                "up{job=~\"node\",c=~\"(eu-1|a\\\\.b)\"}",
            ),
            ("rate(x[$__rate_interval])", "rate(x[60s])"),
            ("x[$__range:$__interval] / $__range_s", "x[3600s:30s] / 3600"),
            (
                "label_replace(x, \"a\", \"$1\", \"b\", \"(.*)\")",
                "label_replace(x, \"a\", \"$1\", \"b\", \"(.*)\")",
            ),
            ("x[5m] + $unknown", "x[5m] + $unknown"),
        ] {
            assert_eq!(interpolated(text, &values, 30, 3600), expected);
        }
    }
}
