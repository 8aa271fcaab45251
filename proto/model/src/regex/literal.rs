//! Finds patterns that need no automaton: literals, alternatives of literals, and `prefix.*` with its relatives.

/// Most texts an alternation may stand for; above it, the automaton is used.
const MAX_LITERALS: usize = 1024;

/// Deepest nesting of groups that is looked into.
const MAX_DEPTH: usize = 16;

/// What a pattern amounts to.
pub(super) enum Shape {
    /// Exactly these texts, sorted.
    Literals(Vec<String>),
    /// `prefix`, anything of at least `least` characters (0 or 1), `suffix`.
    Around { prefix: String, least: usize, suffix: String },
    /// `.*middle.*`
    Contains(String),
    /// Something that needs the automaton.
    Other,
}

impl Shape {
    /// Whether a text matches, if the shape decides that.
    pub(super) fn is_match(&self, text: &str) -> Option<bool> {
        match self {
            Self::Literals(texts) => {
                Some(texts.binary_search_by(|literal| literal.as_str().cmp(text)).is_ok())
            }
            Self::Around { prefix, least, suffix } => {
                let rest = text.strip_prefix(prefix.as_str());
                let middle = rest.and_then(|rest| rest.strip_suffix(suffix.as_str()));
                Some(middle.is_some_and(|middle| middle.len() >= *least))
            }
            Self::Contains(middle) => Some(text.contains(middle.as_str())),
            Self::Other => None,
        }
    }
}

/// The shape of a pattern that is known to be valid.
pub(super) fn shape(pattern: &str) -> Shape {
    let mut reader = Reader { rest: pattern, depth: 0 };
    if let Some(mut texts) = reader.alternatives()
        && reader.rest.is_empty()
    {
        texts.sort_unstable();
        texts.dedup();
        return Shape::Literals(texts);
    }
    around(pattern).unwrap_or(Shape::Other)
}

/// `lit.*lit`, `lit.+lit`, `.*lit.*`.
fn around(pattern: &str) -> Option<Shape> {
    let pattern = pattern.strip_prefix('^').unwrap_or(pattern);
    let ends = pattern.ends_with('$') && !pattern.ends_with("\\$");
    let pattern = if ends { pattern.strip_suffix('$')? } else { pattern };
    let (prefix, rest) = leading_literal(pattern);
    let least = match rest.get(..2)? {
        ".*" => 0,
        ".+" => 1,
        _ => return None,
    };
    let (suffix, rest) = leading_literal(rest.get(2..)?);
    match rest {
        "" => Some(Shape::Around { prefix, least, suffix }),
        ".*" if least == 0 && prefix.is_empty() => Some(Shape::Contains(suffix)),
        _ => None,
    }
}

/// The literal characters a pattern begins with, and the rest.
fn leading_literal(pattern: &str) -> (String, &str) {
    let mut reader = Reader { rest: pattern, depth: 0 };
    let mut text = String::new();
    loop {
        let before = reader.rest;
        let Some(c) = reader.character() else {
            return (text, before);
        };
        // A repetition binds to the last character, which is then no literal.
        if reader.rest.starts_with(['*', '+', '?', '{']) {
            return (text, before);
        }
        text.push(c);
    }
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

impl Reader<'_> {
    /// `a|b|c`, up to a closing parenthesis or the end.
    fn alternatives(&mut self) -> Option<Vec<String>> {
        let mut all = self.sequence()?;
        while let Some(rest) = self.rest.strip_prefix('|') {
            self.rest = rest;
            all.extend(self.sequence()?);
            if all.len() > MAX_LITERALS {
                return None;
            }
        }
        Some(all)
    }

    fn sequence(&mut self) -> Option<Vec<String>> {
        let mut texts = vec![String::new()];
        // The whole pattern is anchored, so that the outermost anchors say nothing.
        if self.depth == 0 {
            self.rest = self.rest.strip_prefix('^').unwrap_or(self.rest);
        }
        loop {
            if self.rest.is_empty() || self.rest.starts_with(['|', ')']) {
                return Some(texts);
            }
            if self.depth == 0
                && let Some(rest) = self.rest.strip_prefix('$')
                && (rest.is_empty() || rest.starts_with('|'))
            {
                self.rest = rest;
                return Some(texts);
            }
            let parts = if self.rest.starts_with('(') {
                self.group()?
            } else {
                vec![self.character()?.to_string()]
            };
            if self.rest.starts_with(['*', '+', '?', '{'])
                || texts.len() * parts.len() > MAX_LITERALS
            {
                return None;
            }
            texts = match parts.as_slice() {
                [part] => texts.into_iter().map(|text| text + part).collect(),
                parts => texts
                    .iter()
                    .flat_map(|text| parts.iter().map(move |p| format!("{text}{p}")))
                    .collect(),
            };
        }
    }

    fn group(&mut self) -> Option<Vec<String>> {
        let inner = self.rest.strip_prefix('(')?;
        self.rest = match inner.strip_prefix("?:") {
            Some(inner) => inner,
            None if inner.starts_with('?') => return None,
            None => inner,
        };
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let texts = self.alternatives()?;
        self.depth -= 1;
        self.rest = self.rest.strip_prefix(')')?;
        Some(texts)
    }

    /// One literal character, escaped or not.
    fn character(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let mut c = chars.next()?;
        if c == '\\' {
            c = chars.next().filter(char::is_ascii_punctuation)?;
        } else if matches!(
            c,
            '.' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' | '|'
        ) {
            return None;
        }
        self.rest = chars.as_str();
        Some(c)
    }
}
