//! String literals as Go and PromQL write them: quoting, and unquoting with the position of a fault.

use std::fmt::Write as _;

/// The text as a double-quoted Go string literal, as `strconv.Quote` writes it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c if !is_printable(c) && (c as u32) < 0x10000 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c if !is_printable(c) => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Close to Go's `unicode.IsPrint`: control, format, private-use and non-ASCII space characters are not printable.
fn is_printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    let n = c as u32;
    let format = matches!(n, 0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f
        | 0x202a..=0x202e | 0x2060..=0x206f | 0xfeff | 0xfff9..=0xfffb | 0xe0001 | 0xe0020..=0xe007f);
    let private = matches!(n, 0xe000..=0xf8ff | 0xf0000..);
    !(c.is_control() || c.is_whitespace() || format || private)
}

/// Why a literal cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {offset} of the string")]
pub struct UnquoteError {
    /// Byte offset inside the literal, quotes included.
    pub offset: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Reads a whole literal in `"…"`, `'…'` or back ticks, quotes included. Escapes are PromQL's
/// (`promql/parser` of Prometheus): `\a \b \f \n \r \t \v \\ \' \" \ooo \xhh \uhhhh \Uhhhhhhhh`; back ticks have none.
/// A byte escape that is not valid UTF-8 by itself becomes U+FFFD, as in Prometheus' label values.
pub fn unquote(literal: &str) -> Result<String, UnquoteError> {
    let fail = |offset, what| Err(UnquoteError { offset, what });
    let mut chars = literal.chars();
    let (Some(quote), Some(last)) = (chars.next(), chars.next_back()) else {
        return fail(0, "missing quotes");
    };
    let body = chars.as_str();
    if quote != last || !matches!(quote, '"' | '\'' | '`') {
        return fail(0, "missing quotes");
    }
    if quote == '`' {
        return match body.find('`') {
            Some(at) => fail(at + 1, "unexpected quote"),
            None => Ok(body.to_owned()),
        };
    }
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some(c) = rest.chars().next() {
        let offset = 1 + body.len() - rest.len();
        rest = rest.get(c.len_utf8()..).unwrap_or("");
        match c {
            '\n' => return fail(offset, "unexpected line break"),
            c if c == quote => return fail(offset, "unexpected quote"),
            '\\' => {
                rest = unescape(rest, &mut out).map_err(|what| UnquoteError { offset, what })?;
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    Ok(String::from_utf8(out)
        .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

/// Reads one escape after its backslash; returns what follows it.
fn unescape<'a>(rest: &'a str, out: &mut Vec<u8>) -> Result<&'a str, &'static str> {
    const UNKNOWN: &str = "unknown escape sequence";
    let c = rest.chars().next().ok_or("unfinished escape sequence")?;
    let after = rest.get(c.len_utf8()..).unwrap_or("");
    let simple = match c {
        'a' => 0x07,
        'b' => 0x08,
        'f' => 0x0c,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0b,
        '\\' => b'\\',
        '\'' => b'\'',
        '"' => b'"',
        '0'..='7' => return number(rest, 3, 8, out),
        'x' => return number(after, 2, 16, out),
        'u' => return number(after, 4, 16, out),
        'U' => return number(after, 8, 16, out),
        _ => return Err(UNKNOWN),
    };
    out.push(simple);
    Ok(after)
}

/// Reads exactly `digits` digits: a byte for `\ooo` and `\xhh`, a code point for `\u` and `\U`.
fn number<'a>(
    rest: &'a str,
    digits: usize,
    radix: u32,
    out: &mut Vec<u8>,
) -> Result<&'a str, &'static str> {
    let text = rest.get(..digits).ok_or("unfinished escape sequence")?;
    if !text.chars().all(|c| c.is_digit(radix)) {
        return Err("bad digit in escape sequence");
    }
    let value = u32::from_str_radix(text, radix).map_err(|_| "bad digit in escape sequence")?;
    if digits <= 3 {
        out.push(u8::try_from(value).map_err(|_| "escape sequence is over 255")?);
    } else {
        let c = char::from_u32(value).ok_or("escape sequence is not a Unicode code point")?;
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Ok(rest.get(digits..).unwrap_or(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_promql() {
        for (literal, text) in [
            (r#""a\tb""#, "a\tb"),
            (r"'it\'s'", "it's"),
            (r"`a\tb`", r"a\tb"),
            (r#""\x41\101A\U00000041""#, "AAAA"),
            (r#""\xc3\xa4""#, "ä"),
            (r#""""#, ""),
        ] {
            assert_eq!(unquote(literal).as_deref(), Ok(text), "{literal}");
        }
        for bad in [
            "",
            "\"",
            "'a\"",
            r#""\q""#,
            r#""\x4""#,
            r#""\400""#,
            r#""\ud800""#,
            "\"a\nb\"",
            "`a`b`",
        ] {
            assert!(unquote(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn quote_round_trips(text in ".*") {
            prop_assert_eq!(unquote(&quote(&text)), Ok(text));
        }

        #[test]
        fn unquote_never_panics(text in "[\"'`\\\\x0-9a-fuUn]{0,12}") {
            let _ = unquote(&text);
        }
    }
}
