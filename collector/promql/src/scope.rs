//! Narrows an expression to the series that carry one label value, by adding a matcher to every selector.
//!
//! The rewrite reaches aggregation parameters, subqueries and the data selector of `info()`. `info()` without a data
//! selector reads `target_info` by itself, and a selector added there would change which labels it copies: a scoped
//! evaluation therefore also hands its matcher to the storage.

use tributary_model::matcher::{MatchOp, Matcher};

use crate::ast::{Expr, Span, VectorSelector};

/// A selector already says something else about the label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("already selects {found}, but only {wanted} is visible here")]
pub struct ScopeError {
    /// The matcher that is there, by its place in the text.
    pub span: Span,
    /// The matcher that is there.
    pub found: Box<Matcher>,
    /// The matcher to be added.
    pub wanted: Box<Matcher>,
}

/// The expression with `label="value"` in every selector. A selector that has exactly that matcher stays as it is; one
/// with any other matcher on the label is an error.
pub fn scope(expr: &Expr, label: &str, value: &str) -> Result<Expr, ScopeError> {
    let mut scoped = expr.clone();
    rewrite(&mut scoped, &Matcher::equal(label, value))?;
    Ok(scoped)
}

fn rewrite(expr: &mut Expr, wanted: &Matcher) -> Result<(), ScopeError> {
    match expr {
        Expr::Number(_) | Expr::String(_) => Ok(()),
        Expr::Vector(selector) => narrow(selector, wanted),
        Expr::Matrix(matrix) => narrow(&mut matrix.selector, wanted),
        Expr::Subquery(node) => rewrite(&mut node.expr, wanted),
        Expr::Unary(node) => rewrite(&mut node.expr, wanted),
        Expr::Paren(node) => rewrite(&mut node.expr, wanted),
        Expr::Binary(node) => {
            rewrite(&mut node.lhs, wanted)?;
            rewrite(&mut node.rhs, wanted)
        }
        Expr::Aggregate(node) => {
            if let Some(param) = &mut node.param {
                rewrite(param, wanted)?;
            }
            rewrite(&mut node.expr, wanted)
        }
        Expr::Call(node) => node.args.iter_mut().try_for_each(|arg| rewrite(arg, wanted)),
    }
}

fn narrow(selector: &mut VectorSelector, wanted: &Matcher) -> Result<(), ScopeError> {
    let mut present = false;
    for (at, found) in selector.matchers.iter().enumerate() {
        if found.name() != wanted.name() {
            continue;
        }
        if found.op() != MatchOp::Equal || found.value() != wanted.value() {
            let span = selector.matcher_spans.get(at).copied().unwrap_or(selector.span);
            let (found, wanted) = (Box::new(found.clone()), Box::new(wanted.clone()));
            return Err(ScopeError { span, found, wanted });
        }
        present = true;
    }
    if !present {
        selector.matchers.insert(0, wanted.clone());
        selector.matcher_spans.insert(0, selector.span);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;
    use crate::testdata;

    #[test]
    fn every_selector_is_narrowed() {
        for (text, scoped) in [
            ("up", r#"up{cluster="local"}"#),
            (r#"up{cluster="local"}"#, r#"up{cluster="local"}"#),
            (
                "topk(scalar(foo), bar) by (cluster)",
                r#"topk by (cluster) (scalar(foo{cluster="local"}), bar{cluster="local"})"#,
            ),
            (
                "max_over_time(rate(a[5m])[1h:] @ 5 offset 1m)",
                r#"max_over_time(rate(a{cluster="local"}[5m])[1h:] @ 5.000 offset 1m)"#,
            ),
            (r#"-({a="b"} or vector(1))"#, r#"-({a="b",cluster="local"} or vector(1))"#),
            (
                r#"info(a, {data=~".+"})"#,
                r#"info(a{cluster="local"}, {cluster="local",data=~".+"})"#,
            ),
            (
                "count_values(\"x\", {\"a.b\"})",
                r#"count_values("x", {__name__="a.b",cluster="local"})"#,
            ),
            ("1 + time()", "1 + time()"),
        ] {
            let expr = parse(text).unwrap();
            assert_eq!(scope(&expr, "cluster", "local").unwrap().to_string(), scoped);
        }
    }

    #[test]
    fn another_matcher_on_the_label_is_an_error_with_its_place() {
        for (text, part) in [
            (r#"a + b{x="y", cluster="eu-1"}"#, r#"cluster="eu-1""#),
            (r#"sum(b{cluster=~"local"})"#, r#"cluster=~"local""#),
            (r#"b{"cluster"!="local"}"#, r#""cluster"!="local""#),
            (r#"b{cluster="local",cluster=""}"#, r#"cluster="""#),
        ] {
            let expr = parse(text).unwrap();
            let error = scope(&expr, "cluster", "local").unwrap_err();
            assert_eq!(&text[error.span.start..error.span.end], part);
        }
        let expr = parse(r#"a{cluster="eu-1"}"#).unwrap();
        assert_eq!(
            scope(&expr, "cluster", "local").unwrap_err().to_string(),
            r#"already selects cluster="eu-1", but only cluster="local" is visible here"#
        );
    }

    #[test]
    fn agrees_with_the_oracle() {
        let Some(folder) = testdata::shared() else { return };
        let text = std::fs::read_to_string(folder.join("scoped_oracle.tsv")).unwrap();
        let (mut same, mut refused) = (0, 0);
        for (source, oracle) in text.lines().filter_map(|line| line.split_once('\t')) {
            let expr = parse(source).unwrap();
            let Ok(oracle) = parse(oracle) else { panic!("{source}: {oracle}") };
            match scope(&expr, "cluster", "local") {
                Ok(scoped) => {
                    assert_eq!(scoped, oracle, "{source}");
                    same += 1;
                }
                Err(error) => {
                    assert_eq!(error.found.name(), "cluster", "{source}");
                    refused += 1;
                }
            }
        }
        println!("{same} as the oracle, {refused} already select a cluster");
    }
}
