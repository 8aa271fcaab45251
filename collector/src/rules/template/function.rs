//! The functions of Prometheus' templates.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};

use gotmpl::{FuncMap, TemplateError, Value};
use tributary_model::label::Labels;
use tributary_model::regex;
use tributary_model::sample::Timestamp;

use super::{MAX_QUERIES, Results, Wanted, graph_link, humanize};

/// What functions answer that have no arguments.
#[derive(Debug, Clone, Default)]
pub(super) struct Fixed {
    pub(super) now: Timestamp,
    pub(super) external_url: String,
}

type Answer = Result<Value, TemplateError>;

/// All functions by name.
pub(super) fn map(wanted: &Wanted, results: &Results, fixed: &Fixed) -> FuncMap {
    let mut functions = FuncMap::new();
    let mut add = |name: &str, f: fn(&[Value]) -> Answer| {
        functions.insert(name.into(), Arc::new(f));
    };
    add("first", first);
    add("label", |args| {
        Ok(member(args, 1, "Labels").field(&text(args, 0)?).cloned().unwrap_or_else(|| string("")))
    });
    add("value", |args| Ok(member(args, 0, "Value")));
    add("strvalue", |args| {
        Ok(member(args, 0, "Labels").field("__value__").cloned().unwrap_or_else(|| string("")))
    });
    add("args", |args| {
        let pairs = args.iter().enumerate().map(|(i, v)| (format!("arg{i}").into(), v.clone()));
        Ok(Value::Map(Arc::new(pairs.collect())))
    });
    add("index", index);
    add("sortByLabel", sort_by_label);
    add("reReplaceAll", replace_all);
    add("match", |args| Ok(Value::Bool(search(&text(args, 0)?)?.is_match(&text(args, 1)?))));
    add("safeHtml", |args| Ok(string(text(args, 0)?)));
    add("title", |args| Ok(string(title(&text(args, 0)?))));
    add("toUpper", |args| Ok(string(text(args, 0)?.to_uppercase())));
    add("toLower", |args| Ok(string(text(args, 0)?.to_lowercase())));
    add("graphLink", |args| Ok(string(graph_link(&text(args, 0)?, 0))));
    add("tableLink", |args| Ok(string(graph_link(&text(args, 0)?, 1))));
    add("urlQueryEscape", |args| Ok(string(gotmpl::url_encode(&text(args, 0)?))));
    add("stripPort", |args| Ok(string(split_port(&text(args, 0)?).0)));
    add("stripDomain", |args| Ok(string(strip_domain(&text(args, 0)?))));
    add("humanize", |args| Ok(string(humanize::metric(number(args, 0)?))));
    add("humanize1024", |args| Ok(string(humanize::binary(number(args, 0)?))));
    add("humanizeDuration", |args| Ok(string(humanize::duration(number(args, 0)?))));
    add("toDuration", |args| Ok(string(humanize::duration(number(args, 0)?))));
    add("humanizePercentage", |args| {
        Ok(string(format!("{}%", humanize::four_digits(number(args, 0)? * 100.0))))
    });
    add("humanizeTimestamp", |args| {
        let value = number(args, 0)?;
        if !value.is_finite() {
            return Ok(string(humanize::four_digits(value)));
        }
        humanize::timestamp(value).map(string).map_err(fail)
    });
    add("toTime", |args| humanize::timestamp(number(args, 0)?).map(string).map_err(fail));
    add("parseDuration", |args| {
        let text = text(args, 0)?;
        let (sign, bare) = text.strip_prefix('-').map_or((1.0, text.as_str()), |bare| (-1.0, bare));
        let duration = tributary_model::duration::parse(bare).map_err(|e| fail(e.to_string()))?;
        Ok(Value::Float(sign * duration.as_secs_f64()))
    });
    stateful(&mut functions, wanted, results, fixed);
    functions
}

/// The functions that know something from outside.
fn stateful(functions: &mut FuncMap, wanted: &Wanted, results: &Results, fixed: &Fixed) {
    let (wanted, results) = (Arc::clone(wanted), results.clone());
    let query = move |args: &[Value]| {
        let query = text(args, 0)?;
        match results.get(&query) {
            Some(Ok(vector)) => Ok(Value::List(vector.iter().map(sample).collect())),
            Some(Err(why)) => Err(fail(why.clone())),
            None if results.len() >= MAX_QUERIES => {
                Err(fail(format!("the template makes more than {MAX_QUERIES} queries")))
            }
            None => {
                *wanted.lock().unwrap_or_else(PoisonError::into_inner) = Some(query);
                Err(fail("the result is not there yet".to_owned()))
            }
        }
    };
    functions.insert("query".into(), Arc::new(query));
    let now = fixed.now.as_secs_f64();
    functions.insert("now".into(), Arc::new(move |_: &[Value]| Ok(Value::Float(now))));
    let url = fixed.external_url.clone();
    let path = url
        .split_once("://")
        .map_or("", |(_, rest)| rest.find('/').map_or("", |at| rest.get(at..).unwrap_or("")));
    let path = path.to_owned();
    functions.insert("externalURL".into(), Arc::new(move |_: &[Value]| Ok(string(url.as_str()))));
    functions.insert("pathPrefix".into(), Arc::new(move |_: &[Value]| Ok(string(path.as_str()))));
}

/// What an action writes: floats as Go does, nothing as the empty text.
pub(super) fn show(args: &[Value]) -> Value {
    match args.last() {
        Some(Value::Float(value)) => string(humanize::shortest(*value)),
        Some(Value::Nil) | None => string(""),
        Some(value) => value.clone(),
    }
}

fn fail(why: String) -> TemplateError {
    TemplateError::Exec(why)
}

fn string(text: impl Into<Arc<str>>) -> Value {
    Value::String(text.into())
}

fn text(args: &[Value], at: usize) -> Result<String, TemplateError> {
    match args.get(at) {
        Some(Value::String(text)) => Ok(text.to_string()),
        Some(Value::Nil) => Ok(String::new()),
        Some(other) => Err(fail(format!("expected string; found {}", other.type_name()))),
        None => Err(fail("wrong number of args".to_owned())),
    }
}

fn number(args: &[Value], at: usize) -> Result<f64, TemplateError> {
    let value = args.get(at).ok_or_else(|| fail("wrong number of args".to_owned()))?;
    match value {
        Value::Float(value) => Ok(*value),
        Value::Int(value) => Ok(*value as f64),
        Value::Uint(value) => Ok(*value as f64),
        Value::String(text) => tributary_model::number::parse_float(text)
            .ok_or_else(|| fail(format!("parsing {text:?}: invalid syntax"))),
        other => Err(fail(format!("can't convert {} to float", other.type_name()))),
    }
}

/// A member of a sample.
fn member(args: &[Value], at: usize, name: &str) -> Value {
    args.get(at).and_then(|sample| sample.field(name)).cloned().unwrap_or(Value::Nil)
}

fn sample((labels, value): &(Labels, f64)) -> Value {
    let labels: BTreeMap<Arc<str>, Value> =
        labels.iter().map(|l| (l.name.clone(), Value::String(l.value.clone()))).collect();
    Value::Map(Arc::new(BTreeMap::from([
        (Arc::from("Labels"), Value::Map(Arc::new(labels))),
        (Arc::from("Value"), Value::Float(*value)),
    ])))
}

fn first(args: &[Value]) -> Answer {
    match args.first() {
        Some(Value::List(list)) => list.first().cloned(),
        _ => None,
    }
    .ok_or_else(|| fail("first() called on vector with no elements".to_owned()))
}

/// Like the language's own, but a key that a map does not have is the empty text.
fn index(args: &[Value]) -> Answer {
    let (first, keys) =
        args.split_first().ok_or_else(|| fail("wrong number of args".to_owned()))?;
    keys.iter().try_fold(first.clone(), |value, key| match (&value, key) {
        (Value::Map(map), Value::String(name)) => {
            Ok(map.get(name).cloned().unwrap_or_else(|| string("")))
        }
        _ => value.index(key),
    })
}

fn sort_by_label(args: &[Value]) -> Answer {
    let name = text(args, 0)?;
    let Some(Value::List(list)) = args.get(1) else {
        return Err(fail("sortByLabel needs the result of a query".to_owned()));
    };
    let mut sorted = list.to_vec();
    let key = |sample: &Value| {
        let labels = sample.field("Labels");
        labels.and_then(|labels| labels.field(&name)).map(ToString::to_string).unwrap_or_default()
    };
    sorted.sort_by_key(key);
    Ok(Value::List(sorted.into()))
}

/// A pattern that may match anywhere; `.` does not match line breaks.
fn search(pattern: &str) -> Result<regex::Search, TemplateError> {
    regex::Search::new(pattern).map_err(|e| fail(format!("error parsing regexp: {}", e.why)))
}

fn replace_all(args: &[Value]) -> Answer {
    let (pattern, template) = (text(args, 0)?, text(args, 1)?);
    Ok(string(search(&pattern)?.replace_all(&text(args, 2)?, &template)))
}

fn title(text: &str) -> String {
    let mut in_word = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let word = c.is_alphanumeric() || c == '\'' || c == '_';
        if word && !in_word {
            out.extend(c.to_uppercase());
        } else {
            out.push(c);
        }
        in_word = word;
    }
    out
}

/// Host and port of `host:port` or `[v6]:port`; the whole text and nothing if it is neither.
fn split_port(text: &str) -> (&str, &str) {
    let Some((host, port)) = text.rsplit_once(':') else { return (text, "") };
    if let Some(inner) = host.strip_prefix('[') {
        return inner.strip_suffix(']').map_or((text, ""), |host| (host, port));
    }
    if host.contains(':') { (text, "") } else { (host, port) }
}

fn strip_domain(text: &str) -> String {
    let (host, port) = split_port(text);
    if host.parse::<IpAddr>().is_ok() {
        return text.to_owned();
    }
    let host = host.split('.').next().unwrap_or(host);
    if port.is_empty() { host.to_owned() } else { format!("{host}:{port}") }
}
