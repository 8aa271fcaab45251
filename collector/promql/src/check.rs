//! Checks types and the rules that the grammar cannot express; removes matching where it has no meaning.

use tributary_model::label::METRIC_NAME;
use tributary_model::matcher::Matcher;

use crate::ast::{
    Aggregate, Binary, Call, Cardinality, Expr, Matching, Span, ValueType, VectorSelector,
};
use crate::error::Fault;
use crate::signature::Function;

/// Checks a tree and yields its type.
pub(crate) fn check(expr: &mut Expr) -> Result<ValueType, Fault> {
    let span = expr.span();
    match expr {
        Expr::Number(_) => Ok(ValueType::Scalar),
        Expr::String(_) => Ok(ValueType::String),
        Expr::Vector(selector) => {
            vector_selector(selector, span)?;
            Ok(ValueType::Vector)
        }
        Expr::Matrix(matrix) => {
            vector_selector(&matrix.selector, matrix.selector.span)?;
            Ok(ValueType::Matrix)
        }
        Expr::Paren(paren) => check(&mut paren.expr),
        Expr::Unary(unary) => {
            let inner = check(&mut unary.expr)?;
            if !is_numeric(inner) {
                let what = format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                    inner.documented()
                );
                return Err(Fault::new(span, what));
            }
            Ok(inner)
        }
        Expr::Subquery(subquery) => {
            let inner = check(&mut subquery.expr)?;
            if inner != ValueType::Vector {
                let what = format!(
                    "subquery is only allowed on instant vector, got {} instead",
                    inner.as_str()
                );
                return Err(Fault::new(span, what));
            }
            Ok(ValueType::Matrix)
        }
        Expr::Aggregate(node) => aggregate(node),
        Expr::Call(node) => call(node),
        Expr::Binary(node) => binary(node),
    }
}

fn is_numeric(kind: ValueType) -> bool {
    matches!(kind, ValueType::Scalar | ValueType::Vector)
}

fn expect(expr: &mut Expr, want: ValueType, context: &str) -> Result<(), Fault> {
    let got = check(expr)?;
    if got == want {
        return Ok(());
    }
    let what =
        format!("expected type {} in {context}, got {}", want.documented(), got.documented());
    Err(Fault::new(expr.span(), what))
}

fn vector_selector(selector: &VectorSelector, span: Span) -> Result<(), Fault> {
    let Some(name) = &selector.name else {
        if selector.matchers.iter().all(Matcher::matches_empty) {
            let what = "vector selector must contain at least one non-empty matcher";
            return Err(Fault::new(span, what));
        }
        return Ok(());
    };
    let names = selector.matchers.iter().filter(|matcher| matcher.name() == METRIC_NAME);
    // The last one is the name itself.
    if names.clone().count() > 1
        && let Some(second) = names.clone().next()
    {
        let what = format!("metric name must not be set twice: {name:?} or {:?}", second.value());
        return Err(Fault::new(span, what));
    }
    Ok(())
}

fn aggregate(node: &mut Aggregate) -> Result<ValueType, Fault> {
    expect(&mut node.expr, ValueType::Vector, "aggregation expression")?;
    if let (Some(param), Some(want)) = (&mut node.param, node.op.param_type()) {
        expect(param, want, "aggregation parameter")?;
    }
    Ok(ValueType::Vector)
}

fn call(node: &mut Call) -> Result<ValueType, Fault> {
    let signature = node.function.signature();
    let (name, given) = (signature.name, node.args.len());
    let least = signature.args.len() - signature.optional;
    let most = signature.args.len().saturating_add(signature.extra);
    let bound = if least == most && given != least {
        Some(format!("{least}"))
    } else if given < least {
        Some(format!("at least {least}"))
    } else if given > most {
        Some(format!("at most {most}"))
    } else {
        None
    };
    if let Some(bound) = bound {
        let what = format!("expected {bound} argument(s) in call to {name:?}, got {given}");
        return Err(Fault::new(node.span, what));
    }
    let context = format!("call to function {name:?}");
    let info = node.function == Function::Info;
    for (at, arg) in node.args.iter_mut().enumerate() {
        if info && at == 1 {
            data_labels(arg)?;
            continue;
        }
        let last = signature.args.last();
        let Some(want) = signature.args.get(at).or(last) else { break };
        expect(arg, *want, &context)?;
    }
    Ok(signature.returns)
}

/// The second argument of `info()` is a selector without a metric name, and may match everything.
fn data_labels(arg: &Expr) -> Result<(), Fault> {
    let what = match arg {
        Expr::Vector(selector) if selector.name.is_none() => return Ok(()),
        Expr::Vector(_) => "expected label selectors only, got vector selector instead",
        _ => "expected label selectors only",
    };
    Err(Fault::new(arg.span(), what))
}

fn binary(node: &mut Binary) -> Result<ValueType, Fault> {
    let lhs = check(&mut node.lhs)?;
    let rhs = check(&mut node.rhs)?;
    let op_span = Span::new(node.lhs.span().end, node.rhs.span().start);
    let scalars = lhs == ValueType::Scalar && rhs == ValueType::Scalar;
    if node.return_bool && !node.op.is_comparison() {
        let what = "bool modifier can only be used on comparison operators";
        return Err(Fault::new(op_span, what));
    }
    if node.op.is_comparison() && !node.return_bool && scalars {
        let what = "comparisons between scalars must use BOOL modifier";
        return Err(Fault::new(op_span, what));
    }
    if let Some(matching) = &node.matching
        && matching.on
        && let Some(label) = matching.labels.iter().find(|label| matching.include.contains(label))
    {
        let what = format!("label {label:?} must not occur in ON and GROUP clause at once");
        return Err(Fault::new(op_span, what));
    }
    for (kind, side) in [(lhs, &node.lhs), (rhs, &node.rhs)] {
        if !is_numeric(kind) {
            let what = "binary expression must contain only scalar and instant vector types";
            return Err(Fault::new(side.span(), what));
        }
    }
    let vectors = lhs == ValueType::Vector && rhs == ValueType::Vector;
    matching(node, vectors)?;
    if node.op.is_set() && !vectors {
        let what =
            format!("set operator {:?} not allowed in binary scalar expression", node.op.as_str());
        return Err(Fault::new(node.span, what));
    }
    Ok(if scalars { ValueType::Scalar } else { ValueType::Vector })
}

fn matching(node: &mut Binary, vectors: bool) -> Result<(), Fault> {
    let fail = |what: String| Err(Fault::new(node.span, what));
    let Some(matching) = &mut node.matching else { return Ok(()) };
    let Matching { cardinality, labels, fill, .. } = matching;
    let fills = fill.left.is_some() || fill.right.is_some();
    if !vectors {
        if !labels.is_empty() {
            return fail("vector matching only allowed between instant vectors".into());
        }
        if fills {
            return fail("filling in missing series only allowed between instant vectors".into());
        }
        node.matching = None;
        return Ok(());
    }
    if node.op.is_set() {
        if *cardinality != Cardinality::OneToOne && *cardinality != Cardinality::ManyToMany {
            return fail(format!("no grouping allowed for {:?} operation", node.op.as_str()));
        }
        if fills {
            return fail("filling in missing series not allowed for set operators".into());
        }
        *cardinality = Cardinality::ManyToMany;
    }
    Ok(())
}
