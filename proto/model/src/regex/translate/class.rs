//! Character classes: `[…]`, `\d`, `\p{…}`.

use super::{Scanner, push_literal};

impl Scanner<'_> {
    pub(super) fn class(&mut self) -> Result<(), String> {
        let start = self.rest;
        self.bump();
        self.out.push('[');
        if self.eat("^") {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            if self.rest.is_empty() {
                return Err(format!("missing closing ]: `{start}`"));
            }
            if !first && self.eat("]") {
                self.out.push(']');
                return Ok(());
            }
            first = false;
            if self.posix_class()? {
                continue;
            }
            if let Some(class) = self.perl_class() {
                self.out.push_str(class);
                continue;
            }
            if self.unicode_class()? {
                continue;
            }
            self.range(start)?;
        }
    }

    /// `[:alpha:]`, `[:^alpha:]`
    fn posix_class(&mut self) -> Result<bool, String> {
        let Some(inner) = self.rest.strip_prefix("[:") else { return Ok(false) };
        let Some((name, rest)) = inner.split_once(":]") else { return Ok(false) };
        let known = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print",
            "punct", "space", "upper", "word", "xdigit",
        ];
        if !known.contains(&name.strip_prefix('^').unwrap_or(name)) {
            return Err(format!("invalid character class range: `[:{name}:]`"));
        }
        self.out.push_str("[:");
        self.out.push_str(name);
        self.out.push_str(":]");
        self.rest = rest;
        Ok(true)
    }

    /// One character of a class, or a range of them.
    fn range(&mut self, class: &str) -> Result<(), String> {
        let start = self.rest;
        let low = self.class_character(class)?;
        let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
        push_literal(&mut self.out, low);
        if is_range && self.rest.len() > 1 {
            self.bump();
            let high = self.class_character(class)?;
            if high < low {
                return Err(format!("invalid character class range: `{}`", self.since(start)));
            }
            self.out.push('-');
            push_literal(&mut self.out, high);
        }
        Ok(())
    }

    fn class_character(&mut self, class: &str) -> Result<char, String> {
        if self.rest.starts_with('\\') {
            return self.escaped_character();
        }
        self.bump().ok_or_else(|| format!("missing closing ]: `{class}`"))
    }

    /// `\d` and the like, as ASCII classes.
    pub(super) fn perl_class(&mut self) -> Option<&'static str> {
        let class = match self.rest.get(..2)? {
            "\\d" => "[0-9]",
            "\\D" => "[^0-9]",
            "\\s" => "[\\t\\n\\x0C\\r ]",
            "\\S" => "[^\\t\\n\\x0C\\r ]",
            "\\w" => "[0-9A-Za-z_]",
            "\\W" => "[^0-9A-Za-z_]",
            _ => return None,
        };
        self.rest = self.rest.get(2..)?;
        Some(class)
    }

    /// `\pL`, `\p{Greek}`, `\P{^Lu}`: general categories of one or two letters, scripts, `Any`.
    pub(super) fn unicode_class(&mut self) -> Result<bool, String> {
        let start = self.rest;
        let upper = self.eat("\\P");
        if !upper && !self.eat("\\p") {
            return Ok(false);
        }
        let name = if self.eat("{") {
            let Some((name, rest)) = self.rest.split_once('}') else {
                return Err(format!("invalid character class range: `{start}`"));
            };
            self.rest = rest;
            name.to_owned()
        } else {
            self.bump().map(String::from).unwrap_or_default()
        };
        let bare = name.strip_prefix('^');
        let negated = upper != bare.is_some();
        let name = bare.unwrap_or(&name);
        let class = match name {
            "Any" => "Any".to_owned(),
            _ if is_category(name) => format!("gc={name}"),
            _ if is_script(name) => format!("sc={name}"),
            _ => return Err(format!("invalid character class range: `{}`", self.since(start))),
        };
        self.out.push_str(if negated { "\\P{" } else { "\\p{" });
        self.out.push_str(&class);
        self.out.push('}');
        Ok(true)
    }
}

fn is_category(name: &str) -> bool {
    matches!(
        name,
        "C" | "Cc"
            | "Cf"
            | "Cn"
            | "Co"
            | "Cs"
            | "L"
            | "LC"
            | "Ll"
            | "Lm"
            | "Lo"
            | "Lt"
            | "Lu"
            | "M"
            | "Mc"
            | "Me"
            | "Mn"
            | "N"
            | "Nd"
            | "Nl"
            | "No"
            | "P"
            | "Pc"
            | "Pd"
            | "Pe"
            | "Pf"
            | "Pi"
            | "Po"
            | "Ps"
            | "S"
            | "Sc"
            | "Sk"
            | "Sm"
            | "So"
            | "Z"
            | "Zl"
            | "Zp"
            | "Zs"
    )
}

/// Scripts whose long names are as short as the short names of the others, which Go does not know.
const SHORT_SCRIPTS: [&str; 10] =
    ["Ahom", "Cham", "Kawi", "Lao", "Lisu", "Mro", "Nko", "Thai", "Toto", "Vai"];

/// A script's long name, like `Greek` or `Old_Italic`; the compiler knows which there are.
fn is_script(name: &str) -> bool {
    let long = name.len() > 4 || name == "Yi" || SHORT_SCRIPTS.contains(&name);
    long && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_')
}
