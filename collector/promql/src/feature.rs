//! The syntax that Prometheus keeps behind feature flags: parsed always, used only where it is enabled.

use crate::ast::duration::DurationExpr;
use crate::ast::{Expr, Extend, Fill, Span, TimeShift};
use crate::error::{Fault, ParseError};

/// What is enabled beyond the stable language. All of it is off by default, as in Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one of Prometheus' independent feature flags"
)]
pub struct Features {
    /// Functions and aggregations marked experimental (`promql-experimental-functions`).
    pub experimental_functions: bool,
    /// Arithmetic in ranges and offsets (`promql-duration-expr`).
    pub duration_expressions: bool,
    /// `anchored` and `smoothed` (`promql-extended-range-selectors`).
    pub extended_selectors: bool,
    /// `fill`, `fill_left`, `fill_right` (`promql-binop-fill-modifiers`).
    pub fill_modifiers: bool,
    /// Metric names are dropped at the end of the evaluation (`promql-delayed-name-removal`).
    pub delayed_name_removal: bool,
    /// Start timestamps tell of counter resets (`use-start-timestamps`).
    pub start_timestamps: bool,
}

impl Features {
    /// Everything on, which is how Prometheus runs its own test scripts.
    pub const ALL: Self = Self {
        experimental_functions: true,
        duration_expressions: true,
        extended_selectors: true,
        fill_modifiers: true,
        delayed_name_removal: true,
        start_timestamps: true,
    };

    /// The names of Prometheus' `--enable-feature` that mean the language.
    pub const NAMES: [&str; 6] = [
        "promql-experimental-functions",
        "promql-duration-expr",
        "promql-extended-range-selectors",
        "promql-binop-fill-modifiers",
        "promql-delayed-name-removal",
        "use-start-timestamps",
    ];

    /// Switches on the feature of this name; `false` if there is none.
    #[must_use]
    pub fn enable(&mut self, name: &str) -> bool {
        let flag = match name {
            "promql-experimental-functions" => &mut self.experimental_functions,
            "promql-duration-expr" => &mut self.duration_expressions,
            "promql-extended-range-selectors" => &mut self.extended_selectors,
            "promql-binop-fill-modifiers" => &mut self.fill_modifiers,
            "promql-delayed-name-removal" => &mut self.delayed_name_removal,
            "use-start-timestamps" => &mut self.start_timestamps,
            _ => return false,
        };
        *flag = true;
        true
    }
}

/// Refuses an expression that uses what is not enabled, with Prometheus' words and the place.
pub fn check(text: &str, expr: &Expr, enabled: Features) -> Result<(), ParseError> {
    first_disabled(expr, enabled).map_or(Ok(()), |fault| Err(ParseError::new(text, fault)))
}

fn first_disabled(expr: &Expr, enabled: Features) -> Option<Fault> {
    here(expr, enabled)
        .or_else(|| expr.children().into_iter().find_map(|child| first_disabled(child, enabled)))
}

fn here(expr: &Expr, enabled: Features) -> Option<Fault> {
    let fail = |what: String| Some(Fault::new(expr.span(), what));
    match expr {
        Expr::Call(call) if !enabled.experimental_functions => {
            let signature = call.function.signature();
            let what = || fail(format!("function {:?} is not enabled", signature.name));
            signature.experimental.then(what).flatten()
        }
        Expr::Aggregate(node) if !enabled.experimental_functions && node.op.is_experimental() => {
            fail(format!(
                "{}() is experimental and must be enabled with --enable-feature=promql-experimental-functions",
                node.op.as_str()
            ))
        }
        Expr::Binary(node) if !enabled.fill_modifiers => {
            let fill = node.matching.as_ref().map(|matching| matching.fill).unwrap_or_default();
            let used = fill != Fill::default();
            let what = "fill modifiers are experimental and not enabled";
            used.then(|| fail(what.into())).flatten()
        }
        Expr::Vector(node) => shifted(&node.time, node.extend, enabled, expr.span()),
        Expr::Matrix(node) => duration(&node.range, enabled)
            .or_else(|| shifted(&node.selector.time, node.selector.extend, enabled, expr.span())),
        Expr::Subquery(node) => duration(&node.range, enabled)
            .or_else(|| node.step.as_ref().and_then(|step| duration(step, enabled)))
            .or_else(|| shifted(&node.time, None, enabled, expr.span())),
        _ => None,
    }
}

fn shifted(
    time: &TimeShift,
    extend: Option<Extend>,
    enabled: Features,
    span: Span,
) -> Option<Fault> {
    if let Some(extend) = extend
        && !enabled.extended_selectors
    {
        let what = format!("{} modifier is experimental and not enabled", extend.as_str());
        return Some(Fault::new(span, what));
    }
    time.offset.as_ref().and_then(|offset| duration(offset, enabled))
}

fn duration(duration: &DurationExpr, enabled: Features) -> Option<Fault> {
    let used = !duration.is_literal() && !enabled.duration_expressions;
    let what = "experimental duration expression is not enabled";
    used.then(|| Fault::new(duration.span(), what))
}
