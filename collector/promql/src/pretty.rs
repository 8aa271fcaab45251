//! Writes a tree as Prometheus' `format_query` does: what is too long for a line is split at its outermost operators.

use std::fmt::Write as _;

use crate::ast::{Aggregate, Binary, Call, Expr, Subquery};

/// Longest line that is not split, in bytes. Selectors are never split.
const MAX_LINE: usize = 100;

/// The expression on as many lines as it needs.
pub fn pretty(expr: &Expr) -> String {
    at_level(expr, 0)
}

fn at_level(expr: &Expr, level: usize) -> String {
    let whole = expr.to_string();
    let short = whole.len() <= MAX_LINE;
    match expr {
        // Prometheus does not indent one that fits.
        Expr::Subquery(_) if short => whole,
        Expr::Subquery(subquery) => split_subquery(subquery, level),
        Expr::Unary(unary) => {
            let sign = if unary.negative { "-" } else { "+" };
            format!("{}{sign}{}", indent(level), at_level(&unary.expr, level).trim())
        }
        Expr::Number(_) | Expr::String(_) | Expr::Vector(_) | Expr::Matrix(_) => {
            indent(level) + &whole
        }
        _ if short => indent(level) + &whole,
        Expr::Paren(paren) => {
            let (by, inside) = (indent(level), at_level(&paren.expr, level + 1));
            format!("{by}(\n{inside}\n{by})")
        }
        Expr::Binary(binary) => split_binary(binary, level),
        Expr::Aggregate(aggregate) => split_aggregate(aggregate, level),
        Expr::Call(call) => split_call(call, level),
    }
}

fn split_subquery(subquery: &Subquery, level: usize) -> String {
    let inside = at_level(&subquery.expr, level);
    format!("{inside}{}", subquery.suffix())
}

fn split_binary(binary: &Binary, level: usize) -> String {
    let mut out = at_level(&binary.lhs, level + 1);
    let _ = write!(out, "\n{}{}", indent(level), binary.op.as_str());
    if binary.return_bool {
        out.push_str(" bool");
    }
    if let Some(matching) = &binary.matching {
        let _ = write!(out, "{matching}");
    }
    out.push('\n');
    out + &at_level(&binary.rhs, level + 1)
}

fn split_aggregate(aggregate: &Aggregate, level: usize) -> String {
    let by = indent(level);
    let mut out = format!("{by}{}(\n", aggregate.head());
    if let Some(param) = &aggregate.param {
        out.push_str(&at_level(param, level + 1));
        out.push_str(",\n");
    }
    out.push_str(&at_level(&aggregate.expr, level + 1));
    let _ = write!(out, "\n{by})");
    out
}

fn split_call(call: &Call, level: usize) -> String {
    let by = indent(level);
    let args: Vec<String> = call.args.iter().map(|arg| at_level(arg, level + 1)).collect();
    format!("{by}{}(\n{}\n{by})", call.function.name(), args.join(",\n"))
}

fn indent(level: usize) -> String {
    "  ".repeat(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    #[test]
    fn long_expressions_are_split() {
        let name = "a_metric_with_a_rather_long_name_so_that_lines_are_split";
        for (text, expected) in [
            ("sum(rate(a[5m]))by(b)", "sum by (b) (rate(a[5m]))".to_owned()),
            (
                &*format!("topk by (b) (3, rate({name}[5m])) > bool on (b) group_left () {name}"),
                format!(
                    "  topk by (b) (3, rate({name}[5m]))\n> bool on (b) group_left ()\n  {name}"
                ),
            ),
            (
                &*format!("topk(3, -({name} + {name}))"),
                format!("topk(\n  3,\n  -(\n      {name}\n    +\n      {name}\n  )\n)"),
            ),
            (
                &*format!("max_over_time(({name} - {name})[5m:1m] offset 1m)"),
                format!(
                    "max_over_time(\n  (\n      {name}\n    -\n      {name}\n  )[5m:1m] offset 1m\n)"
                ),
            ),
            (
                &*format!(
                    "label_replace(max_over_time({name}[5m:]), \"{name}\", \"\", \"\", \"\")"
                ),
                format!(
                    "label_replace(\n  max_over_time({name}[5m:]),\n  \"{name}\",\n  \"\",\n  \"\",\n  \"\"\n)"
                ),
            ),
        ] {
            let read = parse(text).unwrap();
            let written = pretty(&read);
            assert_eq!(written, expected);
            assert_eq!(parse(&written).unwrap(), read);
        }
    }
}
