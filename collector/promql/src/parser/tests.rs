//! Cases of the grammar, and the expressions of a shared data folder when it is there.

use crate::ast::Expr;
use crate::parse;
use crate::testdata::shared;

/// Expressions and how they are printed; an empty second column means "as they are".
const PRINTED: &str = include_str!("../../testdata/printed.tsv");

/// Faulty expressions and their errors.
const FAULTS: &str = include_str!("../../testdata/faults.tsv");

fn rows(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter(|line| !line.starts_with("##")).filter_map(|line| line.split_once('\t'))
}

#[test]
fn printed_as_prometheus_prints() {
    for (text, printed) in rows(PRINTED) {
        let expr = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        let printed = if printed.is_empty() { text } else { printed };
        assert_eq!(expr.to_string(), printed, "{text}");
        assert_eq!(parse(printed).unwrap(), expr, "{text}");
    }
}

#[test]
fn faults_have_places_and_prometheus_words() {
    for (text, message) in rows(FAULTS) {
        assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn spans_are_places_in_the_text() {
    let text = "  sum by (a) (rate(x{b=\"c\"}[5m] offset 1m)) + -y @ 3";
    let Expr::Binary(binary) = parse(text).unwrap() else { panic!("not a binary expression") };
    let at = |expr: &Expr| text[expr.span().start..expr.span().end].to_owned();
    assert_eq!(at(&binary.lhs), "sum by (a) (rate(x{b=\"c\"}[5m] offset 1m))");
    assert_eq!(at(&binary.rhs), "-y @ 3");
    let Expr::Aggregate(sum) = &binary.lhs else { panic!("not an aggregation") };
    assert_eq!(at(&sum.expr), "rate(x{b=\"c\"}[5m] offset 1m)");
    let Expr::Call(rate) = &sum.expr else { panic!("not a call") };
    assert_eq!(at(&rate.args[0]), "x{b=\"c\"}[5m] offset 1m");
}

#[test]
fn deep_nesting_is_refused_not_overflowed() {
    for (open, close) in
        [("(", ")"), ("-", ""), ("sum(", ")"), ("abs(", ")"), ("1^", ""), ("x[5m:1m]", "")]
    {
        let text = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        assert!(parse(&text).is_err(), "{open}");
    }
    let chain = "1+".repeat(100_000) + "1";
    let error = parse(&chain).unwrap_err().to_string();
    assert!(error.ends_with("the expression is nested deeper than 200 levels"), "{error}");
    let durations = format!("x[{}1]", "1+".repeat(100_000));
    assert!(parse(&durations).is_err());
    let subqueries = format!("x{}", "[5m:1m]".repeat(100_000));
    assert!(parse(&subqueries).is_err());
    let deepest = format!("{}x{}", "(".repeat(198), ")".repeat(198));
    assert_eq!(parse(&deepest).unwrap().to_string(), deepest);
}

#[test]
fn real_expressions_survive_printing() {
    let Some(folder) = shared() else { return };
    let text = std::fs::read_to_string(folder.join("expressions.txt")).unwrap();
    let mut count = 0;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let expr = parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let printed = expr.to_string();
        assert_eq!(parse(&printed).unwrap(), expr, "{printed}");
        count += 1;
    }
    println!("{count} expressions");
}

#[test]
fn script_expressions_parse() {
    let Some(folder) = shared() else { return };
    let mut count = 0;
    for entry in std::fs::read_dir(folder.join("promqltest")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        for block in text.split("\n\n") {
            let fails = block.contains("expect fail") || block.contains("eval_fail");
            for line in block.lines().map(str::trim).filter(|line| line.starts_with("eval")) {
                let words = if line.contains(" range from ") { 8 } else { 4 };
                let expr: String = line.splitn(words + 1, ' ').skip(words).collect();
                count += 1;
                match parse(expr.trim()) {
                    Ok(tree) => assert_eq!(parse(&tree.to_string()).unwrap(), tree, "{expr}"),
                    Err(e) => assert!(fails, "{expr}: {e}"),
                }
            }
        }
    }
    println!("{count} expressions");
}
