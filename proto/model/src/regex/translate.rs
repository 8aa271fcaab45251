//! Rewrites RE2 syntax, as Go reads it, into the syntax of the `regex` crate with the same meaning.
//!
//! They differ in: ASCII classes (`\d \s \w \b`), set operations and nested classes, `{` as a literal, `\Q…\E`, octal
//! escapes, `\p{^…}` and names of classes, flags, stacked repetitions, `\u…`, `\<`, group names. Everything is written
//! out here, so that nothing is left for the other side to read differently. Errors have Go's words.

mod class;

/// Most repetitions that `{n,m}` may ask for, as in Go.
const MAX_REPEAT: u32 = 1000;

/// A pattern in the other syntax.
pub(super) struct Translation {
    pub(super) pattern: String,
    /// The names of the groups, which the pattern no longer has; the whole match is the first.
    pub(super) groups: Vec<String>,
}

pub(super) fn translate(pattern: &str) -> Result<Translation, String> {
    let mut scanner = Scanner {
        whole: pattern,
        rest: pattern,
        out: String::with_capacity(pattern.len() + 16),
        groups: vec![String::new()],
        weights: vec![1],
        weight: 1,
        repeatable: false,
        last_repeat: None,
    };
    scanner.scan()?;
    Ok(Translation { pattern: scanner.out, groups: scanner.groups })
}

struct Scanner<'a> {
    whole: &'a str,
    rest: &'a str,
    out: String,
    groups: Vec<String>,
    /// For the whole and each group that is open: how often the most repeated thing in it is repeated by `{…}`.
    weights: Vec<u32>,
    /// The same of the thing just before.
    weight: u32,
    /// Whether there is something before that may be repeated.
    repeatable: bool,
    /// Where the repetition just before began.
    last_repeat: Option<&'a str>,
}

impl<'a> Scanner<'a> {
    fn scan(&mut self) -> Result<(), String> {
        while let Some(c) = self.rest.chars().next() {
            let before = self.rest;
            let repeated = self.last_repeat.take();
            if !matches!(c, '*' | '+' | '?' | '{') {
                self.weight = 1;
            }
            match c {
                '*' | '+' | '?' => {
                    self.bump();
                    let op = c.to_string();
                    self.repetition(before, repeated, &op)?;
                }
                '{' => self.brace(before, repeated)?,
                '(' => self.open_group()?,
                ')' => self.close_group()?,
                '|' => {
                    self.bump();
                    self.out.push('|');
                    self.repeatable = false;
                }
                '[' => {
                    self.class()?;
                    self.repeatable = true;
                }
                '\\' => {
                    self.escape()?;
                    self.repeatable = true;
                }
                '.' | '^' | '$' => {
                    self.bump();
                    self.out.push(c);
                    self.repeatable = true;
                }
                c => {
                    self.bump();
                    self.literal(c);
                }
            }
        }
        if self.weights.len() > 1 {
            return Err(format!("missing closing ): `{}`", self.whole));
        }
        Ok(())
    }

    fn bump(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let c = chars.next();
        self.rest = chars.as_str();
        c
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The pattern from `start` up to here.
    fn since(&self, start: &'a str) -> &'a str {
        start.get(..start.len() - self.rest.len()).unwrap_or(start)
    }

    fn literal(&mut self, c: char) {
        push_literal(&mut self.out, c);
        self.repeatable = true;
    }

    fn repetition(
        &mut self,
        start: &'a str,
        repeated: Option<&'a str>,
        op: &str,
    ) -> Result<(), String> {
        let lazy = self.eat("?");
        if let Some(first) = repeated {
            return Err(format!("invalid nested repetition operator: `{}`", self.since(first)));
        }
        if !self.repeatable {
            return Err(format!(
                "missing argument to repetition operator: `{}`",
                self.since(start)
            ));
        }
        self.out.push_str(op);
        if lazy {
            self.out.push('?');
        }
        self.last_repeat = Some(start);
        Ok(())
    }

    /// `{n}`, `{n,}`, `{n,m}`; any other brace is a literal.
    fn brace(&mut self, start: &'a str, repeated: Option<&'a str>) -> Result<(), String> {
        let Some((least, most, rest)) = repeat_counts(start) else {
            self.bump();
            self.literal('{');
            return Ok(());
        };
        self.rest = rest;
        let too_many = |n: &Option<u32>| n.is_some_and(|n| n > MAX_REPEAT);
        let (least, most) = (least, most.map(|most| most.unwrap_or(u32::MAX)));
        let reversed = most.is_some_and(|most| most < least);
        // Repetitions inside one another count together; of those that are never repeated nothing is left.
        let own = most.filter(|most| *most < u32::MAX).unwrap_or(least);
        let weight = if own == 0 { 1 } else { own.saturating_mul(self.weight) };
        if repeated.is_none() && self.repeatable && weight > MAX_REPEAT {
            return Err(format!("invalid repeat count: `{}`", self.since(start)));
        }
        if least > MAX_REPEAT || (most != Some(u32::MAX) && too_many(&most)) || reversed {
            return Err(format!("invalid repeat count: `{}`", self.since(start)));
        }
        let op = match most {
            None => format!("{{{least}}}"),
            Some(u32::MAX) => format!("{{{least},}}"),
            Some(most) => format!("{{{least},{most}}}"),
        };
        self.repetition(start, repeated, &op)?;
        self.heavier(weight);
        Ok(())
    }

    /// The thing just before is repeated so often.
    fn heavier(&mut self, weight: u32) {
        self.weight = weight;
        if let Some(around) = self.weights.last_mut() {
            *around = weight.max(*around);
        }
    }

    fn open_group(&mut self) -> Result<(), String> {
        let start = self.rest;
        self.bump();
        self.repeatable = false;
        if !self.eat("?") {
            self.groups.push(String::new());
            self.out.push('(');
            self.weights.push(1);
            return Ok(());
        }
        if self.eat("P<") || self.eat("<") {
            let name = self.rest.split_once('>').map(|(name, _)| name);
            let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let Some(name) = name.filter(|name| !name.is_empty() && name.chars().all(word)) else {
                let end = start.find('>').map_or(start.len(), |at| at + 1);
                let text = start.get(..end).unwrap_or(start);
                return Err(format!("invalid named capture: `{text}`"));
            };
            self.rest = self.rest.get(name.len() + 1..).unwrap_or("");
            self.groups.push(name.to_owned());
            self.out.push('(');
            self.weights.push(1);
            return Ok(());
        }
        self.flags(start)
    }

    /// `(?i)`, `(?i-s:`, `(?:` …
    fn flags(&mut self, start: &'a str) -> Result<(), String> {
        let mut flags = String::new();
        let (mut negated, mut after_sign) = (false, false);
        loop {
            let c = self.bump();
            match c {
                Some(c @ ('i' | 'm' | 's' | 'U')) => {
                    flags.push(c);
                    after_sign = true;
                }
                Some('-') if !negated => {
                    negated = true;
                    after_sign = false;
                    flags.push('-');
                }
                Some(c @ (':' | ')')) if !negated || after_sign => {
                    // Go accepts `(?)`, which says nothing.
                    if c == ':' {
                        self.weights.push(1);
                    }
                    if c == ':' || !flags.is_empty() {
                        self.out.push_str("(?");
                        self.out.push_str(&flags);
                        self.out.push(c);
                    }
                    return Ok(());
                }
                _ => {
                    let text = self.since(start);
                    return Err(match c {
                        None => format!("missing closing ): `{}`", self.whole),
                        Some(_) => format!("invalid or unsupported Perl syntax: `{text}`"),
                    });
                }
            }
        }
    }

    fn close_group(&mut self) -> Result<(), String> {
        if self.weights.len() < 2 {
            return Err(format!("unexpected ): `{}`", self.whole));
        }
        let inside = self.weights.pop().unwrap_or(1);
        self.bump();
        self.out.push(')');
        self.repeatable = true;
        self.heavier(inside);
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        if self.eat("\\Q") {
            let (quoted, rest) = self.rest.split_once("\\E").unwrap_or((self.rest, ""));
            for c in quoted.chars() {
                self.literal(c);
            }
            self.rest = rest;
            return Ok(());
        }
        for (text, out) in
            [("\\A", "\\A"), ("\\z", "\\z"), ("\\b", "(?-u:\\b)"), ("\\B", "(?-u:\\B)")]
        {
            if self.eat(text) {
                self.out.push_str(out);
                return Ok(());
            }
        }
        if let Some(class) = self.perl_class() {
            self.out.push_str(class);
            return Ok(());
        }
        if self.unicode_class()? {
            return Ok(());
        }
        let c = self.escaped_character()?;
        push_literal(&mut self.out, c);
        Ok(())
    }

    /// An escape that stands for one character.
    fn escaped_character(&mut self) -> Result<char, String> {
        let start = self.rest;
        self.bump();
        let Some(c) = self.bump() else {
            return Err("trailing backslash at end of expression: ``".to_owned());
        };
        let octal = |b: Option<&u8>| b.is_some_and(|b| matches!(b, b'0'..=b'7'));
        let found = match c {
            '1'..='7' if !octal(self.rest.as_bytes().first()) => None,
            '0'..='7' => {
                let more = self.rest.bytes().take(2).take_while(|b| octal(Some(b))).count();
                let digits = start.get(1..2 + more).unwrap_or("0");
                self.rest = self.rest.get(more..).unwrap_or("");
                u32::from_str_radix(digits, 8).ok().and_then(char::from_u32)
            }
            'x' => self.hexadecimal(),
            'a' => Some('\x07'),
            'f' => Some('\x0c'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\x0b'),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(c),
            _ => None,
        };
        found.ok_or_else(|| format!("invalid escape sequence: `{}`", self.since(start)))
    }

    /// `7F` or `{10FFFF}` after `\x`.
    fn hexadecimal(&mut self) -> Option<char> {
        let digits = if self.eat("{") {
            let (digits, rest) = self.rest.split_once('}')?;
            self.rest = rest;
            digits
        } else {
            let (digits, rest) = self.rest.split_at_checked(2)?;
            self.rest = rest;
            digits
        };
        let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        all.then(|| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)).flatten()
    }
}

/// Every ASCII character that is not a letter or digit is escaped, inside and outside of classes.
fn push_literal(out: &mut String, c: char) {
    use std::fmt::Write as _;
    if c.is_ascii_control() {
        let _ = write!(out, "\\x{:02X}", c as u32);
    } else {
        // A space, `<` and `>` need no escape, and some would have a meaning with one.
        if c.is_ascii_punctuation() && !matches!(c, '<' | '>' | '_') {
            out.push('\\');
        }
        out.push(c);
    }
}

type Counts<'a> = (u32, Option<Option<u32>>, &'a str);

/// `{n}` → `(n, None)`, `{n,}` → `(n, Some(None))`, `{n,m}` → `(n, Some(Some(m)))`, and what follows.
fn repeat_counts(text: &str) -> Option<Counts<'_>> {
    let (least, rest) = count(text.strip_prefix('{')?)?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((least, None, rest));
    }
    let rest = rest.strip_prefix(',')?;
    if let Some(rest) = rest.strip_prefix('}') {
        return Some((least, Some(None), rest));
    }
    let (most, rest) = count(rest)?;
    Some((least, Some(Some(most)), rest.strip_prefix('}')?))
}

/// A number without leading zeros; one that is too large for all purposes is cut.
fn count(text: &str) -> Option<(u32, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at_checked(digits)?;
    if number.is_empty() || (number.len() > 1 && number.starts_with('0')) {
        return None;
    }
    Some((number.parse().unwrap_or(u32::MAX - 1).min(u32::MAX - 1), rest))
}
