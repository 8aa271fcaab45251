//! `parse_query`: an expression as a tree in JSON, in the words of Prometheus' API.

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};
use tributary_model::matcher::Matcher;
use tributary_model::number;
use tributary_promql::ast::duration::DurationExpr;
use tributary_promql::ast::{
    Aggregate, At, Binary, Call, Cardinality, Expr, Matching, Subquery, TimeShift, VectorSelector,
};

use super::Api;
use super::envelope::{ApiError, success_value};
use super::params::Params;
use crate::query::text::parse;

/// `parse_query`: the tree of the expression.
pub async fn parsed(State(api): State<Api>, params: Params) -> Result<Response, ApiError> {
    let expression = parse(params.text("query"), api.queries.bounds().features)?;
    Ok(success_value(&tree(&expression)))
}

/// The parser bounds how deep an expression is.
fn tree(expr: &Expr) -> Value {
    match expr {
        Expr::Number(number) => {
            json!({ "type": "numberLiteral", "val": number::format_plain(number.value) })
        }
        Expr::String(text) => json!({ "type": "stringLiteral", "val": text.text }),
        Expr::Vector(selector) => selected("vectorSelector", selector, None),
        Expr::Matrix(matrix) => {
            selected("matrixSelector", &matrix.selector, Some(millis(&matrix.range)))
        }
        Expr::Subquery(subquery) => sub(subquery),
        Expr::Unary(unary) => {
            let op = if unary.negative { "-" } else { "+" };
            json!({ "type": "unaryExpr", "op": op, "expr": tree(&unary.expr) })
        }
        Expr::Paren(paren) => json!({ "type": "parenExpr", "expr": tree(&paren.expr) }),
        Expr::Binary(binary) => between(binary),
        Expr::Aggregate(aggregate) => aggregation(aggregate),
        Expr::Call(call) => called(call),
    }
}

fn selected(kind: &str, selector: &VectorSelector, range: Option<i64>) -> Value {
    let mut node = Map::new();
    node.insert("type".to_owned(), kind.into());
    node.insert("name".to_owned(), selector.name.as_deref().unwrap_or_default().into());
    let matchers: Vec<Value> = selector.matchers.iter().map(matcher).collect();
    node.insert("matchers".to_owned(), matchers.into());
    if let Some(range) = range {
        node.insert("range".to_owned(), range.into());
    }
    node.extend(shift(&selector.time));
    node.into()
}

fn matcher(matcher: &Matcher) -> Value {
    json!({ "name": matcher.name(), "type": matcher.op().as_str(), "value": matcher.value() })
}

fn sub(subquery: &Subquery) -> Value {
    let mut node = Map::from_iter([
        ("type".to_owned(), "subquery".into()),
        ("expr".to_owned(), tree(&subquery.expr)),
        ("range".to_owned(), millis(&subquery.range).into()),
        ("step".to_owned(), subquery.step.as_ref().map_or(0, millis).into()),
    ]);
    node.extend(shift(&subquery.time));
    node.into()
}

/// `offset`, and `@` as a time or as one of the two ends.
fn shift(time: &TimeShift) -> [(String, Value); 3] {
    let (at, end) = match time.at {
        None => (None, None),
        Some(At::Time(at)) => (Some(at.as_millis()), None),
        Some(At::Start) => (None, Some("start")),
        Some(At::End) => (None, Some("end")),
    };
    [
        ("offset".to_owned(), time.offset.as_ref().map_or(0, millis).into()),
        ("timestamp".to_owned(), at.into()),
        ("startOrEnd".to_owned(), end.into()),
    ]
}

fn between(binary: &Binary) -> Value {
    json!({
        "type": "binaryExpr",
        "op": binary.op.as_str(),
        "lhs": tree(&binary.lhs),
        "rhs": tree(&binary.rhs),
        "matching": binary.matching.as_ref().map(matching),
        "bool": binary.return_bool,
    })
}

fn matching(matching: &Matching) -> Value {
    let cardinality = match matching.cardinality {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    json!({
        "card": cardinality,
        "on": matching.on,
        "labels": matching.labels,
        "include": matching.include,
    })
}

fn aggregation(aggregate: &Aggregate) -> Value {
    json!({
        "type": "aggregation",
        "op": aggregate.op.as_str(),
        "expr": tree(&aggregate.expr),
        "param": aggregate.param.as_ref().map(tree),
        "grouping": aggregate.grouping,
        "without": aggregate.without,
    })
}

fn called(call: &Call) -> Value {
    let signature = call.function.signature();
    let args: Vec<&str> = signature.args.iter().map(|of| of.as_str()).collect();
    // Prometheus counts from the first argument that may be left out; any number is -1.
    let variadic = match signature.extra {
        usize::MAX => -1,
        extra => i64::try_from(signature.optional + extra).unwrap_or(-1),
    };
    json!({
        "type": "call",
        "func": {
            "name": signature.name,
            "argTypes": args,
            "variadic": variadic,
            "returnType": signature.returns.as_str(),
        },
        "args": call.args.iter().map(tree).collect::<Vec<_>>(),
    })
}

/// A duration that is not one literal has no value before it is evaluated; Prometheus shows 0.
fn millis(duration: &DurationExpr) -> i64 {
    match duration {
        DurationExpr::Literal(number) => {
            // Within ±292 years, which the parser guarantees, this is exact to the millisecond.
            let text = number::format_plain((number.value * 1000.0).round());
            text.parse().unwrap_or(0)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tributary_promql::feature::Features;

    #[test]
    fn trees_have_the_words_of_the_api() {
        for (text, expected) in [
            ("-1.5e3", r#"{"type":"numberLiteral","val":"-1500"}"#),
            ("\"a\"", r#"{"type":"stringLiteral","val":"a"}"#),
            (
                "a{b=~\"c\"} offset -1m @ 2.5",
                r#"{"matchers":[{"name":"b","type":"=~","value":"c"},{"name":"__name__","type":"=","value":"a"}],"name":"a","offset":-60000,"startOrEnd":null,"timestamp":2500,"type":"vectorSelector"}"#,
            ),
            (
                "(-a)[5m:30s] @ end()",
                r#"{"expr":{"expr":{"expr":{"matchers":[{"name":"__name__","type":"=","value":"a"}],"name":"a","offset":0,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"},"op":"-","type":"unaryExpr"},"type":"parenExpr"},"offset":0,"range":300000,"startOrEnd":"end","step":30000,"timestamp":null,"type":"subquery"}"#,
            ),
            (
                "1 > bool 2",
                r#"{"bool":true,"lhs":{"type":"numberLiteral","val":"1"},"matching":null,"op":">","rhs":{"type":"numberLiteral","val":"2"},"type":"binaryExpr"}"#,
            ),
        ] {
            let expression = parse(text, Features::default()).unwrap();
            assert_eq!(tree(&expression).to_string(), expected, "{text}");
        }
        let joined = parse("a * on (x) group_left (y) b", Features::default()).unwrap();
        let matching =
            json!({"card": "many-to-one", "include": ["y"], "labels": ["x"], "on": true});
        assert_eq!(tree(&joined)["matching"], matching);
        let call = parse("label_join(a, \"b\", \"c\")", Features::default()).unwrap();
        assert_eq!(tree(&call)["func"]["variadic"], -1);
        let top = parse("topk without (x) (1, a)", Features::default()).unwrap();
        assert_eq!(
            (&tree(&top)["param"]["val"], &tree(&top)["without"]),
            (&json!("1"), &json!(true))
        );
    }
}
