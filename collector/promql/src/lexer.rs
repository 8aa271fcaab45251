//! Cuts a text into tokens. Linear in its length; a fault becomes the last token, so that an earlier fault of the
//! grammar is reported first.

use crate::ast::Span;

/// A token and its place.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) kind: TokenKind,
    pub(crate) span: Span,
}

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A name or keyword: which of them, the parser knows.
    Identifier,
    Number,
    Duration,
    String,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    Comma,
    Colon,
    At,
    Plus,
    Minus,
    Star,
    Slash,
    Percent,
    Caret,
    Assign,
    EqualEqual,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    TrimUpper,
    TrimLower,
    MatchRegex,
    NotMatchRegex,
    End,
    /// The text cannot be read from here on.
    Fault(String),
}

/// All tokens; the last one is [`TokenKind::End`] or [`TokenKind::Fault`].
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { text, at: 0, parens: 0, brace: false, bracket: false };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        let kind = lexer.next().unwrap_or_else(TokenKind::Fault);
        let last = matches!(kind, TokenKind::End | TokenKind::Fault(_));
        let end = if matches!(kind, TokenKind::Fault(_)) { text.len() } else { lexer.at };
        tokens.push(Token { kind, span: Span::new(start, end) });
        if last {
            return tokens;
        }
    }
}

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    parens: usize,
    brace: bool,
    bracket: bool,
}

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<TokenKind, String> {
        let Some(c) = self.rest().chars().next() else {
            return self.end();
        };
        match c {
            '0'..='9' if !self.brace => self.number_or_duration(),
            '.' if !self.brace && self.peek(1).is_some_and(|b| b.is_ascii_digit()) => {
                self.number_or_duration()
            }
            '"' | '\'' | '`' => self.string(c),
            c if is_letter(c) || (c == ':' && !self.brace && !self.bracket) => {
                let colons = !self.brace && !self.bracket;
                self.take_while(|c| is_letter(c) || c.is_ascii_digit() || (colons && c == ':'));
                Ok(TokenKind::Identifier)
            }
            _ => self.punctuation(c),
        }
    }

    fn end(&self) -> Result<TokenKind, String> {
        if self.brace {
            Err("unexpected end of input inside braces".into())
        } else if self.parens > 0 {
            Err("unclosed left parenthesis".into())
        } else if self.bracket {
            Err("unclosed left bracket".into())
        } else {
            Ok(TokenKind::End)
        }
    }

    fn punctuation(&mut self, c: char) -> Result<TokenKind, String> {
        const FIXED: [(&str, TokenKind); 22] = [
            ("==", TokenKind::EqualEqual),
            ("=~", TokenKind::MatchRegex),
            ("!~", TokenKind::NotMatchRegex),
            ("!=", TokenKind::NotEqual),
            ("<=", TokenKind::LessOrEqual),
            (">=", TokenKind::GreaterOrEqual),
            ("</", TokenKind::TrimUpper),
            (">/", TokenKind::TrimLower),
            ("<", TokenKind::Less),
            (">", TokenKind::Greater),
            ("=", TokenKind::Assign),
            (",", TokenKind::Comma),
            (":", TokenKind::Colon),
            ("@", TokenKind::At),
            ("+", TokenKind::Plus),
            ("-", TokenKind::Minus),
            ("*", TokenKind::Star),
            ("/", TokenKind::Slash),
            ("%", TokenKind::Percent),
            ("^", TokenKind::Caret),
            ("(", TokenKind::LeftParen),
            (")", TokenKind::RightParen),
        ];
        match c {
            '{' | '}' => self.brace(c),
            '[' | ']' => self.bracket(c),
            _ if self.brace && !matches!(c, ',' | '=' | '!') => {
                Err(format!("unexpected character inside braces: {c:?}"))
            }
            _ => {
                let rest = self.rest();
                let Some((text, kind)) = FIXED.iter().find(|(text, _)| rest.starts_with(text))
                else {
                    return Err(self.unknown(c));
                };
                let regex = matches!(kind, TokenKind::MatchRegex | TokenKind::NotMatchRegex);
                if regex && !self.brace {
                    return Err(self.unknown(c));
                }
                self.nest(kind)?;
                self.at += text.len();
                Ok(kind.clone())
            }
        }
    }

    fn unknown(&self, c: char) -> String {
        let second = self.rest().chars().nth(1);
        match (c, second) {
            ('=' | '!', Some(second)) => format!("unexpected character after {c:?}: {second:?}"),
            _ => format!("unexpected character: {c:?}"),
        }
    }

    fn nest(&mut self, kind: &TokenKind) -> Result<(), String> {
        match kind {
            TokenKind::LeftParen => self.parens += 1,
            TokenKind::RightParen => {
                self.parens =
                    self.parens.checked_sub(1).ok_or("unexpected right parenthesis ')'")?;
            }
            _ => {}
        }
        Ok(())
    }

    fn brace(&mut self, c: char) -> Result<TokenKind, String> {
        let open = c == '{';
        if open == self.brace {
            let what = if open { "unexpected left brace" } else { "unexpected character:" };
            return Err(format!("{what} {c:?}"));
        }
        if self.bracket {
            return Err(format!("unexpected character in duration expression: {c:?}"));
        }
        self.brace = open;
        self.at += 1;
        Ok(if open { TokenKind::LeftBrace } else { TokenKind::RightBrace })
    }

    fn bracket(&mut self, c: char) -> Result<TokenKind, String> {
        let open = c == '[';
        if self.brace {
            return Err(format!("unexpected character inside braces: {c:?}"));
        }
        if open == self.bracket {
            let side = if open { "left" } else { "right" };
            return Err(format!("unexpected {side} bracket {c:?}"));
        }
        self.bracket = open;
        self.at += 1;
        Ok(if open { TokenKind::LeftBracket } else { TokenKind::RightBracket })
    }

    /// The token reaches as far as letters, digits, dots, underscores and exponent signs do; whether that is a number
    /// or a duration is decided over the whole of it.
    fn number_or_duration(&mut self) -> Result<TokenKind, String> {
        let start = self.at;
        let hex = matches!(self.rest().get(..2), Some("0x" | "0X"));
        loop {
            let run = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
            let exponent = !hex && run.ends_with(['e', 'E']);
            let number = |b: u8| b.is_ascii_digit() || matches!(b, b'.' | b'_');
            let so_far = self.text.get(start..self.at.saturating_sub(1)).unwrap_or("");
            if exponent && so_far.bytes().all(number) && self.rest().starts_with(['+', '-']) {
                self.at += 1;
            } else {
                break;
            }
        }
        let word = self.text.get(start..self.at).unwrap_or("");
        if number(word).is_some() {
            Ok(TokenKind::Number)
        } else if looks_like_duration(word) {
            Ok(TokenKind::Duration)
        } else {
            self.at = start;
            Err(format!("bad number or duration syntax: {word:?}"))
        }
    }

    fn string(&mut self, quote: char) -> Result<TokenKind, String> {
        let mut chars = self.rest().char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += at + 1;
                    return Ok(TokenKind::String);
                }
                '\\' if quote != '`' => {
                    chars.next();
                }
                '\n' if quote != '`' => break,
                _ => {}
            }
        }
        let kind = if quote == '`' { "raw" } else { "quoted" };
        Err(format!("unterminated {kind} string"))
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
            if !self.rest().starts_with('#') {
                return;
            }
            self.take_while(|c| !matches!(c, '\n' | '\r'));
        }
    }

    fn take_while(&mut self, keep: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let end = rest.find(|c| !keep(c)).unwrap_or(rest.len());
        self.at += end;
        rest.get(..end).unwrap_or("")
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }
}

fn is_letter(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

/// Digits and units in turn; which units in which order, the duration reader checks.
fn looks_like_duration(word: &str) -> bool {
    let mut rest = word;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let after = rest.get(digits..).unwrap_or("");
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = after.get(..letters).unwrap_or("");
        let known = matches!(unit, "y" | "w" | "d" | "h" | "m" | "s" | "ms");
        if digits == 0 || !known {
            return false;
        }
        rest = after.get(letters..).unwrap_or("");
        if rest.is_empty() {
            return true;
        }
    }
}

/// The value of a number literal: Go's integer literals (decimal, hexadecimal, octal by a leading zero) and floats,
/// with underscores between digits.
pub(crate) fn number(word: &str) -> Option<f64> {
    let bare = without_underscores(word)?;
    if let Some(hex) = bare.strip_prefix("0x").or_else(|| bare.strip_prefix("0X")) {
        return i64::from_str_radix(hex, 16).ok().map(|value| value as f64);
    }
    let octal = bare.len() > 1 && bare.starts_with('0') && bare.bytes().all(|b| b.is_ascii_digit());
    if octal && let Ok(value) = i64::from_str_radix(&bare, 8) {
        return Some(value as f64);
    }
    let starts = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    if starts { tributary_model::number::parse_float(&bare) } else { None }
}

/// Underscores are allowed between digits, and after a base prefix.
fn without_underscores(word: &str) -> Option<String> {
    if !word.contains('_') {
        return Some(word.to_owned());
    }
    let hex = matches!(word.get(..2), Some("0x" | "0X"));
    let digit = |b: Option<&u8>| {
        b.is_some_and(|b| if hex { b.is_ascii_hexdigit() } else { b.is_ascii_digit() })
    };
    let bytes = word.as_bytes();
    let fits = bytes.iter().enumerate().filter(|(_, b)| **b == b'_').all(|(at, _)| {
        let before = at.checked_sub(1).and_then(|at| bytes.get(at));
        (digit(before) || (hex && at == 2)) && digit(bytes.get(at + 1))
    });
    fits.then(|| word.replace('_', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_go_literals() {
        for (word, value) in [
            ("1", 1.0),
            ("1_000", 1000.0),
            ("1_000.5", 1000.5),
            ("0x1F", 31.0),
            ("0x_1f", 31.0),
            ("010", 8.0),
            ("08", 8.0),
            ("1e3", 1000.0),
            ("1.5e-3", 0.0015),
            (".5", 0.5),
            ("5.", 5.0),
        ] {
            assert_eq!(number(word), Some(value), "{word}");
        }
        for bad in
            ["_1", "1_", "1__0", "1_.5", "1._5", "1e_5", "0x", "1e", "1.2.3", "5m", "0xg", "inf"]
        {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_fault_is_the_last_token() {
        let tokens = tokens("a + ~ b");
        let kinds: Vec<_> = tokens.iter().map(|token| token.kind.clone()).collect();
        let fault = TokenKind::Fault("unexpected character: '~'".into());
        assert_eq!(kinds, [TokenKind::Identifier, TokenKind::Plus, fault]);
    }

    #[test]
    fn a_colon_is_part_of_a_name_outside_brackets() {
        let text = "a:b[5m:1m]";
        let tokens = tokens(text);
        let words: Vec<_> = tokens.iter().map(|t| &text[t.span.start..t.span.end]).collect();
        assert_eq!(words, ["a:b", "[", "5m", ":", "1m", "]", ""]);
    }
}
