//! Fills a replacement template in, as Go's `Regexp.Expand` does.

/// `$1`, `${1}`, `$name` (as long as possible), `${name}`, `$$`; an unknown group is empty, a stray `$` stays.
pub(super) fn expand(template: &str, groups: &[String], captures: &regex::Captures<'_>) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = reference(after) {
            out.push_str(value(name, groups, captures));
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The name or number after a `$`, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('{');
    let body = inside.unwrap_or(text);
    let end = body.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(body.len());
    let (name, after) = body.split_at_checked(end)?;
    if name.is_empty() {
        return None;
    }
    match inside {
        Some(_) => Some((name, after.strip_prefix('}')?)),
        None => Some((name, after)),
    }
}

fn value<'t>(name: &str, groups: &[String], captures: &regex::Captures<'t>) -> &'t str {
    let digits = name.bytes().all(|b| b.is_ascii_digit());
    let padded = name.len() > 1 && name.starts_with('0');
    if digits && !padded && name.len() < 9 {
        let group = name.parse().ok().and_then(|number: usize| captures.get(number));
        return group.map_or("", |group| group.as_str());
    }
    let mut named = groups.iter().enumerate().filter(|(_, group)| *group == name);
    named.find_map(|(number, _)| captures.get(number)).map_or("", |group| group.as_str())
}
