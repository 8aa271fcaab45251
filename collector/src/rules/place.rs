//! Finds the place in a YAML file of a place in a scalar's value, whatever the scalar's style is.

/// Line and column, from 1, in `text` of the byte `offset` of `value`, a scalar whose content begins at `line` and
/// `column`. YAML folds and indents white space only, so that the other characters are counted.
pub(super) fn of_offset(
    text: &str,
    (line, column): (usize, usize),
    value: &str,
    offset: usize,
) -> (usize, usize) {
    let before = value.get(..offset).unwrap_or(value);
    let wanted = before.chars().filter(|c| !c.is_whitespace()).count();
    let at_end = value.get(offset..).is_none_or(|rest| rest.trim().is_empty());
    let mut cursor = Cursor::new(text, line, column);
    let quote = cursor.peek().filter(|c| matches!(c, '"' | '\''));
    if quote.is_some() {
        cursor.next();
    }
    let mut passed = 0;
    loop {
        // A place at the end of the value is the one just after its last character.
        if at_end && passed == wanted {
            return cursor.place();
        }
        while cursor.blank(quote) {}
        if passed == wanted || cursor.peek().is_none() {
            return cursor.place();
        }
        cursor.character(quote);
        passed += 1;
    }
}

struct Cursor<'a> {
    rest: std::str::Chars<'a>,
    line: usize,
    column: usize,
}

impl<'a> Cursor<'a> {
    fn new(text: &'a str, line: usize, column: usize) -> Self {
        let mut cursor = Self { rest: text.chars(), line: 1, column: 1 };
        while (cursor.line, cursor.column) < (line, column) && cursor.next().is_some() {}
        cursor
    }

    fn peek(&self) -> Option<char> {
        self.rest.clone().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.next()?;
        if c == '\n' {
            self.line += 1;
            self.column = 1;
        } else {
            self.column += 1;
        }
        Some(c)
    }

    /// Passes one character of white space, written as it is or as an escape.
    fn blank(&mut self, quote: Option<char>) -> bool {
        let escape = ["\\n", "\\t", "\\r", "\\ ", "\\\n"];
        let rest = self.rest.as_str();
        let length = if rest.starts_with(char::is_whitespace) {
            1
        } else if quote == Some('"') && escape.iter().any(|escape| rest.starts_with(escape)) {
            2
        } else {
            0
        };
        for _ in 0..length {
            self.next();
        }
        length > 0
    }

    /// Passes one other character of the value, as it is written.
    fn character(&mut self, quote: Option<char>) {
        let c = self.next();
        let doubled = quote == Some('\'') && c == Some('\'') && self.peek() == Some('\'');
        let escaped = quote == Some('"') && c == Some('\\');
        if doubled || escaped {
            self.next();
        }
    }

    fn place(&self) -> (usize, usize) {
        (self.line, self.column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_every_style() {
        for (yaml, start, value) in [
            ("e: sum(x) + bad\n", (1, 4), "sum(x) + bad"),
            ("e: |\n  sum(x)\n    + bad\n", (2, 3), "sum(x)\n  + bad\n"),
            ("e: >-\n  sum(x)\n  + bad\n", (2, 3), "sum(x) + bad"),
            ("e: 'sum(x{a=''b''}) + bad'\n", (1, 4), "sum(x{a='b'}) + bad"),
            ("e: \"sum(x{a=\\\"b\\\"}) +\\n bad\"\n", (1, 4), "sum(x{a=\"b\"}) +\n bad"),
            ("e: sum(x)\n  +\n  bad\n", (1, 4), "sum(x) + bad"),
        ] {
            let at = yaml.find("bad").unwrap();
            let line = yaml[..at].matches('\n').count() + 1;
            let column = at - yaml[..at].rfind('\n').map_or(0, |n| n + 1) + 1;
            let offset = value.find("bad").unwrap();
            assert_eq!(of_offset(yaml, start, value, offset), (line, column), "{yaml}");
            let end = of_offset(yaml, start, value, value.len());
            assert_eq!(end, (line, column + 3), "{yaml}");
        }
    }
}
