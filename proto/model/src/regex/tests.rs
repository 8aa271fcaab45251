//! The differences between RE2 and the `regex` crate, one row each, and the shapes that need no automaton.

use super::*;

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).unwrap_or_else(|e| panic!("{e}")).is_match(text)
}

#[test]
fn means_what_go_means() {
    for (pattern, yes, no) in [
        ("a.b", vec!["a\nb", "aéb"], vec!["ab", "a.bc"]),
        (r"\d+", vec!["42"], vec!["٤٢", ""]),
        (r"\w+", vec!["a_1"], vec!["é"]),
        (r"\W", vec!["é", "-"], vec!["_"]),
        (r"[\s]", vec![" ", "\t", "\n", "\r", "\x0c"], vec!["\x0b", "\u{a0}"]),
        (r"\s", vec!["\x0c"], vec!["\x0b", "\u{2003}"]),
        (r"é\b.*", vec![], vec!["é", "é x"]),
        (r"a\b.*", vec!["a", "aé"], vec!["ab"]),
        (r"a\B.", vec!["ab"], vec!["a-"]),
        ("[a-z&&b]", vec!["a", "&", "z"], vec!["A"]),
        ("[a~~b]", vec!["~", "a", "b"], vec!["c"]),
        ("[[a]", vec!["[", "a"], vec!["]"]),
        ("[[a]]", vec!["[]", "a]"], vec!["a"]),
        ("[]a]", vec!["]", "a"], vec![""]),
        ("[^]a]", vec!["b", "\n"], vec!["]"]),
        ("[a-]", vec!["a", "-"], vec!["b"]),
        ("[[:alpha:]_]+", vec!["ab_"], vec!["é", ":"]),
        ("[[:^digit:]]", vec!["a", "é"], vec!["1"]),
        ("[[:foo]", vec![":", "f", "["], vec!["x"]),
        ("a{", vec!["a{"], vec!["a"]),
        ("{a", vec!["{a"], vec!["a"]),
        ("a{,5}", vec!["a{,5}"], vec!["a", ""]),
        ("a{bbb}c", vec!["a{bbb}c"], vec![]),
        ("a{01}", vec!["a{01}"], vec!["a"]),
        ("a{2,3}", vec!["aa", "aaa"], vec!["a", "aaaa"]),
        ("a{2,}?", vec!["aaaaa"], vec!["a"]),
        ("a}", vec!["a}"], vec!["a"]),
        ("(a{2}b){500}|(a{100}){0}|(c{2,}){2}", vec!["", "cccc"], vec!["ab"]),
        (r"\p{LC}\p{Cn}\p{Yi}", vec!["a\u{378}ꀀ"], vec!["1\u{378}ꀀ"]),
        ("a]", vec!["a]"], vec!["a"]),
        (r"\Qa.b\E.", vec!["a.bc"], vec!["axbc"]),
        (r"\Qa.b", vec!["a.b"], vec!["axb"]),
        (r"\07\101\x41\x{1F600}", vec!["\x07AA😀"], vec![]),
        (r"\a\f\n\r\t\v", vec!["\x07\x0c\n\r\t\x0b"], vec![]),
        (r"\pL\p{^L}\P{Lu}\p{Greek}", vec!["a1aα"], vec!["aaaα", "a1Aα"]),
        (r"\<a\>", vec!["<a>"], vec!["a"]),
        (r"\_\-\/\#\ \&", vec!["_-/# &"], vec![]),
        ("(?i)straße", vec!["STRAßE"], vec!["strasse"]),
        ("(?i:a)b", vec!["Ab"], vec!["AB"]),
        ("(?-s)a.b", vec!["axb"], vec!["a\nb"]),
        ("(?P<n>a)(?P<n>b)", vec!["ab"], vec![]),
        ("(?<n>a)", vec!["a"], vec![]),
        ("(?P<1>a)", vec!["a"], vec![]),
        ("a||b", vec!["a", "b", ""], vec!["ab"]),
        ("a|b.+", vec!["a", "bc"], vec!["ac", "b"]),
        ("^a$", vec!["a"], vec!["a\n"]),
        ("^*a", vec!["a"], vec![]),
        ("a # b", vec!["a # b"], vec!["a"]),
        ("", vec![""], vec!["a"]),
        ("()", vec![""], vec!["a"]),
        ("(?)a", vec!["a"], vec![]),
        (".*", vec!["", "a\nb"], vec![]),
        (".+", vec!["a", "\n"], vec![""]),
    ] {
        for text in yes {
            assert!(matches(pattern, text), "{pattern} should match {text:?}");
        }
        for text in no {
            assert!(!matches(pattern, text), "{pattern} should not match {text:?}");
        }
    }
}

#[test]
fn refuses_what_go_refuses() {
    for (pattern, why) in [
        ("(", "missing closing ): `(`"),
        (")", "unexpected ): `)`"),
        ("*a", "missing argument to repetition operator: `*`"),
        ("a|+", "missing argument to repetition operator: `+`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("(a{100}){11}", "invalid repeat count: `{11}`"),
        ("(b(a{10}c)*){2}((?:a{100}|b)d){11}", "invalid repeat count: `{11}`"),
        (r"\p{Latn}", r"invalid character class range: `\p{Latn}`"),
        ("a{3,2}", "invalid repeat count: `{3,2}`"),
        ("[a", "missing closing ]: `[a`"),
        ("[z-a]", "invalid character class range: `z-a`"),
        ("[a--b]", "invalid character class range: `a--`"),
        (r"[a-\d]", r"invalid escape sequence: `\d`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\u0041", r"invalid escape sequence: `\u`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\y", r"invalid escape sequence: `\y`"),
        ("a\\", "trailing backslash at end of expression: ``"),
        (r"\p{Letter}", "Unicode property value not found"),
        ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?u)a", "invalid or unsupported Perl syntax: `(?u`"),
        ("(?R)a", "invalid or unsupported Perl syntax: `(?R`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?P<a b>c)", "invalid named capture: `(?P<a b>`"),
        (r"\b{start}a**", "invalid nested repetition operator: `**`"),
    ] {
        assert_eq!(Regex::new(pattern).map(|_| ()).unwrap_err().why, why, "{pattern}");
    }
}

#[test]
fn sizes_are_bounded() {
    assert!(Regex::new(&"a".repeat(MAX_PATTERN_BYTES + 1)).is_err());
    let error = Regex::new(r"(\pL{10}){100}").unwrap_err();
    assert_eq!(error.why, "it is too big when compiled");
    assert!(Regex::new(&"(".repeat(10_000)).is_err());
}

#[test]
fn plain_alternations_are_literals() {
    for (pattern, texts) in [
        ("a", Some(vec!["a"])),
        ("", Some(vec![""])),
        ("b|a|b", Some(vec!["a", "b"])),
        ("^(?:a|b)$", Some(vec!["a", "b"])),
        ("^a|b$", Some(vec!["a", "b"])),
        ("x(a|b(c|d))y|", Some(vec!["", "xay", "xbcy", "xbdy"])),
        (r"a\.b\-c", Some(vec!["a.b-c"])),
        ("a.b", None),
        ("(a|b)+", None),
        ("ab?", None),
        ("(?i)a", None),
        (r"\d", None),
        ("(a$)b", None),
    ] {
        let regex = Regex::new(pattern).unwrap();
        let literals = regex.literals().map(|l| l.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(literals, texts, "{pattern}");
    }
}

#[test]
fn shapes_agree_with_the_automaton() {
    let texts =
        ["", "a", "ab", "abc", "b", "c", "xabc", "abcx", "a.c", "\n", "a\nc", "aa", "ac", "abab"];
    for pattern in [
        "a", "a|b", "ab.*", "ab.+", ".*c", ".+c", ".*b.*", "a.*c", "a.+c", "^a.*$", "a*.*",
        r"a\..*", ".*", ".+", ".*a|b", "aa.*a", "a.*a", ".+a.*", r"a.*\$", "a(b|bc)", "ab{2}.*",
    ] {
        let regex = Regex::new(pattern).unwrap();
        let plain = regex::Regex::new(&format!("^(?s:{pattern})$")).unwrap();
        for text in texts {
            assert_eq!(regex.is_match(text), plain.is_match(text), "{pattern} on {text:?}");
        }
    }
    assert_eq!(Regex::new("node_.+").unwrap().prefix(), "node_");
}

#[test]
fn templates_are_go_templates() {
    for (pattern, template, expanded) in [
        ("(.)(.)", "$2$1", "ba"),
        ("(.)(.)", "${2}x", "bx"),
        ("(.)(.)", "$2x", ""),
        ("(?P<first>.)(?P<second_1>.)", "$second_1-${first}", "b-a"),
        ("(?P<n>x)?(?P<n>.).", "$n", "a"),
        ("(.)(.)", "$$1 $ ${ $- $3 ${x} $01", "$1 $ ${ $-   "),
        ("ab", "$0", "ab"),
        ("(a|b)(a|b)", "$2", "b"),
    ] {
        let regex = Regex::new(pattern).unwrap();
        assert_eq!(regex.expand("ab", template).as_deref(), Some(expanded), "{template}");
        assert_eq!(regex.expand("zzz", template), None);
    }
}

#[test]
fn search_replaces_everywhere() {
    let search = Search::new(r"(\w)\.(?P<n>\w)").unwrap();
    assert!(search.is_match("x a.b x") && !search.is_match("."));
    assert_eq!(search.replace_all("a.b c.d", "$n-$1"), "b-a d-c");
    assert!(Search::new("(").is_err());
}
