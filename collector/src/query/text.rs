//! Reads the texts that people ask with: expressions and selectors.

use tributary_model::matcher::Matcher;
use tributary_model::quote::quote;
use tributary_promql::ast::{Expr, TimeShift};
use tributary_promql::error::ParseError;
use tributary_promql::feature::{self, Features};
use tributary_promql::pretty::pretty;

use super::QueryError;

/// Reads an expression and refuses syntax that is not enabled.
pub fn parse(text: &str, features: Features) -> Result<Expr, QueryError> {
    let fail = |e: ParseError| QueryError::Parse(e.to_string());
    let expression = tributary_promql::parse(text).map_err(fail)?;
    feature::check(text, &expression, features).map_err(fail)?;
    Ok(expression)
}

/// The expression as a person would write it.
pub fn format(text: &str, features: Features) -> Result<String, QueryError> {
    Ok(pretty(&parse(text, features)?))
}

/// Reads the selector of a `match[]` parameter.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, SelectorError> {
    let expression = match tributary_promql::parse(text) {
        Ok(expression) => expression,
        Err(e) if e.message.contains("at least one non-empty matcher") => {
            return Err(SelectorError::Everything);
        }
        Err(e) => return Err(SelectorError::Syntax(e.to_string())),
    };
    match expression {
        Expr::Vector(selector)
            if selector.time == TimeShift::default() && selector.extend.is_none() =>
        {
            Ok(selector.matchers)
        }
        _ => Err(SelectorError::NotASelector(text.to_owned())),
    }
}

/// Why a text does not select series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// It is not PromQL; has the place.
    #[error("{0}")]
    Syntax(String),
    /// It is PromQL, but more than a selector.
    #[error("1:1: parse error: {} is not a series selector", quote(.0))]
    NotASelector(String),
    /// Every series satisfies it.
    #[error("match[] must contain at least one non-empty matcher")]
    Everything,
}
