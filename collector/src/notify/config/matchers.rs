//! Matchers as Alertmanager's routes write them: `a="b"`, `a=b`, `{a=~"b|c", d!=e}`.

use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::quote::unquote;

/// Reads one entry of `matchers`, which may hold several, separated by commas, in braces or not.
pub(super) fn parse(text: &str) -> Result<Vec<Matcher>, String> {
    let mut rest = text.trim();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner.strip_suffix('}').ok_or("the closing '}' is missing")?.trim();
    }
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (matcher, after) = matcher(rest)?;
        out.push(matcher);
        rest = after.trim_start();
        if let Some(after) = rest.strip_prefix(',') {
            rest = after.trim_start();
        } else if !rest.is_empty() {
            return Err(format!("expected ',' before \"{}\"", rest.escape_debug()));
        }
    }
    if out.is_empty() { Err("the matcher is empty".into()) } else { Ok(out) }
}

fn matcher(text: &str) -> Result<(Matcher, &str), String> {
    let (name, rest) = if text.starts_with('"') {
        quoted(text)?
    } else {
        let end = text.find(['=', '!', '~', ',', '"']).unwrap_or(text.len());
        let (name, rest) = text.split_at(end);
        (name.trim().to_owned(), rest)
    };
    let quoted_name = text.starts_with('"');
    if name.is_empty() || (!quoted_name && name.contains(char::is_whitespace)) {
        return Err(format!("expected a label name at \"{}\"", text.escape_debug()));
    }
    let rest = rest.trim_start();
    let operators = [
        ("=~", MatchOp::Match),
        ("!~", MatchOp::NotMatch),
        ("!=", MatchOp::NotEqual),
        ("=", MatchOp::Equal),
    ];
    let found = operators.into_iter().find_map(|(sign, op)| Some((op, rest.strip_prefix(sign)?)));
    let Some((op, rest)) = found else {
        return Err(format!("expected =, !=, =~ or !~ after \"{}\"", name.escape_debug()));
    };
    let rest = rest.trim_start();
    let (value, rest) = if rest.starts_with('"') {
        quoted(rest)?
    } else {
        let (value, rest) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
        if value.contains('"') {
            return Err(format!("unexpected quote in \"{}\"", value.escape_debug()));
        }
        (value.trim_end().to_owned(), rest)
    };
    let matcher = Matcher::new(name, op, value).map_err(|e| e.to_string())?;
    Ok((matcher, rest))
}

/// Reads a quoted text; returns it and what follows.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut escaped = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        let closes = *c == '"' && !escaped;
        escaped = *c == '\\' && !escaped;
        closes
    });
    let (end, _) = end.ok_or("the quoted text does not end")?;
    let (literal, rest) = text.split_at(end + 1);
    Ok((unquote(literal).map_err(|e| e.to_string())?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        for (text, printed) in [
            (r#"severity="page""#, r#"severity="page""#),
            ("severity = page", r#"severity="page""#),
            (r#"{a=~"b|c", d!=e}"#, r#"a=~"b|c" d!="e""#),
            (r#"a!~"x,y",b="""#, r#"a!~"x,y" b="""#),
            (r#""a b"="c\"d""#, r#""a b"="c\"d""#),
        ] {
            let matchers = parse(text).unwrap();
            let list: Vec<String> = matchers.iter().map(ToString::to_string).collect();
            assert_eq!(list.join(" "), printed, "{text}");
        }
        for bad in
            ["", "{}", "a", "=b", "a b=c", r#"a="b"#, r#"a="b"c"#, "{a=b", "a=~(", "a=b\"c\""]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
