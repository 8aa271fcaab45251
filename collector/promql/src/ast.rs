//! The syntax tree of PromQL, with the place of every node in the text.

pub mod duration;
pub mod operator;

use tributary_model::matcher::Matcher;
use tributary_model::sample::Timestamp;

use self::duration::DurationExpr;
use self::operator::{AggregateOp, BinaryOp};
use crate::signature::Function;

/// A range of bytes in the text. All spans are equal, so that trees compare by meaning; compare `start` and `end` to
/// compare places.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
}

impl Span {
    /// The bytes from `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest range that holds both.
    #[must_use]
    pub fn to(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl PartialEq for Span {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Span {}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ValueType {
    /// One number per time.
    Scalar,
    /// A text.
    String,
    /// A set of series with one value each.
    Vector,
    /// A set of series with the values of a range each.
    Matrix,
}

impl ValueType {
    /// The name in the API: `scalar`, `string`, `vector`, `matrix`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::String => "string",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
        }
    }

    /// The name in messages: `instant vector` and `range vector` for the vectors.
    pub fn documented(self) -> &'static str {
        match self {
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            other => other.as_str(),
        }
    }
}

/// An expression that has passed the type check. `Display` is the exact printer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// `1`, `0x1F`, `NaN`, `5m`
    Number(Number),
    /// `"text"`
    String(Text),
    /// `up{job="a"}`
    Vector(Box<VectorSelector>),
    /// `up{job="a"}[5m]`
    Matrix(Box<MatrixSelector>),
    /// `…[5m:1m]`
    Subquery(Box<Subquery>),
    /// `-…`, `+…`
    Unary(Box<Unary>),
    /// `(…)`
    Paren(Box<Paren>),
    /// `… + …`
    Binary(Box<Binary>),
    /// `sum by (a) (…)`
    Aggregate(Box<Aggregate>),
    /// `rate(…)`
    Call(Call),
}

impl Expr {
    /// The place of the whole expression, its modifiers included.
    pub fn span(&self) -> Span {
        match self {
            Self::Number(node) => node.span,
            Self::String(node) => node.span,
            Self::Vector(node) => node.span,
            Self::Matrix(node) => node.span,
            Self::Subquery(node) => node.span,
            Self::Unary(node) => node.span,
            Self::Paren(node) => node.span,
            Self::Binary(node) => node.span,
            Self::Aggregate(node) => node.span,
            Self::Call(node) => node.span,
        }
    }

    /// The type of its value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Self::Number(_) => ValueType::Scalar,
            Self::String(_) => ValueType::String,
            Self::Vector(_) | Self::Aggregate(_) => ValueType::Vector,
            Self::Matrix(_) | Self::Subquery(_) => ValueType::Matrix,
            Self::Unary(node) => node.expr.value_type(),
            Self::Paren(node) => node.expr.value_type(),
            Self::Binary(node) => {
                let both_scalar = node.lhs.value_type() == ValueType::Scalar
                    && node.rhs.value_type() == ValueType::Scalar;
                if both_scalar { ValueType::Scalar } else { ValueType::Vector }
            }
            Self::Call(node) => node.function.signature().returns,
        }
    }

    /// The expression inside any number of parentheses.
    pub fn unparenthesised(&self) -> &Self {
        let mut expr = self;
        while let Self::Paren(paren) = expr {
            expr = &paren.expr;
        }
        expr
    }

    /// The direct sub-expressions in the order of the text; an aggregation's parameter is one of them.
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Number(_) | Self::String(_) | Self::Vector(_) | Self::Matrix(_) => Vec::new(),
            Self::Subquery(node) => vec![&node.expr],
            Self::Unary(node) => vec![&node.expr],
            Self::Paren(node) => vec![&node.expr],
            Self::Binary(node) => vec![&node.lhs, &node.rhs],
            Self::Aggregate(node) => node.param.iter().chain([&node.expr]).collect(),
            Self::Call(node) => node.args.iter().collect(),
        }
    }
}

/// A number literal; a sign before it is part of it.
#[derive(Debug, Clone, Copy)]
pub struct Number {
    /// The value; seconds for a duration.
    pub value: f64,
    /// Whether it was written as a duration (`5m`), and is printed so.
    pub duration: bool,
    /// Its place.
    pub span: Span,
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        let same = self.value == other.value || (self.value.is_nan() && other.value.is_nan());
        same && self.duration == other.duration
    }
}

impl Eq for Number {}

/// A string literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// The text without quotes and escapes.
    pub text: String,
    /// Its place.
    pub span: Span,
}

/// An instant vector selector; also the inside of a [`MatrixSelector`]. Two are equal whatever the order of their
/// matchers is.
#[derive(Debug, Clone)]
pub struct VectorSelector {
    /// The metric name where it stands before the braces.
    pub name: Option<String>,
    /// All matchers in the order of the text, with the one that `name` stands for as the last.
    pub matchers: Vec<Matcher>,
    /// The places of the matchers, in their order.
    pub matcher_spans: Vec<Span>,
    /// `offset` and `@`.
    pub time: TimeShift,
    /// `anchored` or `smoothed`.
    pub extend: Option<Extend>,
    /// Its place, modifiers included.
    pub span: Span,
}

impl PartialEq for VectorSelector {
    fn eq(&self, other: &Self) -> bool {
        let sorted = |selector: &Self| {
            let mut texts: Vec<_> = selector.matchers.iter().map(Matcher::to_string).collect();
            texts.sort_unstable();
            texts
        };
        self.name == other.name
            && self.time == other.time
            && self.extend == other.extend
            && (self.matchers == other.matchers || sorted(self) == sorted(other))
    }
}

impl Eq for VectorSelector {}

/// How a selector takes the samples at the edges of its window (experimental).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Extend {
    /// `anchored`: the last sample before the window counts as one at its start.
    Anchored,
    /// `smoothed`: values at the edges are interpolated.
    Smoothed,
}

impl Extend {
    /// The keyword.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Anchored => "anchored",
            Self::Smoothed => "smoothed",
        }
    }
}

/// A range vector selector: `selector[range]`, its modifiers in `selector.time`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatrixSelector {
    /// The series; its span ends before the bracket.
    pub selector: VectorSelector,
    /// The range.
    pub range: DurationExpr,
    /// Its place, modifiers included.
    pub span: Span,
}

/// `expr[range:step]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subquery {
    /// What is evaluated at each step.
    pub expr: Expr,
    /// The range.
    pub range: DurationExpr,
    /// The step; the default step of the evaluation when it is absent.
    pub step: Option<DurationExpr>,
    /// `offset` and `@`.
    pub time: TimeShift,
    /// Its place, modifiers included.
    pub span: Span,
}

/// The modifiers `offset` and `@`; their order in the text has no meaning.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TimeShift {
    /// `offset …`; may be negative.
    pub offset: Option<DurationExpr>,
    /// `@ …`
    pub at: Option<At>,
}

/// The time an `@` modifier fixes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// `@ 1700000000.123`
    Time(Timestamp),
    /// `@ start()`
    Start,
    /// `@ end()`
    End,
}

/// A sign before an expression that is not a number literal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unary {
    /// Whether the sign is a minus.
    pub negative: bool,
    /// The operand.
    pub expr: Expr,
    /// Its place.
    pub span: Span,
}

/// An expression in parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paren {
    /// The inside.
    pub expr: Expr,
    /// Its place, parentheses included.
    pub span: Span,
}

/// An operator between two expressions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// The operator.
    pub op: BinaryOp,
    /// The left operand.
    pub lhs: Expr,
    /// The right operand.
    pub rhs: Expr,
    /// `bool`: a comparison yields 0 or 1 instead of filtering.
    pub return_bool: bool,
    /// How series find each other; `Some` exactly when both operands are instant vectors.
    pub matching: Option<Matching>,
    /// Its place.
    pub span: Span,
}

/// How the series of two vectors find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matching {
    /// Which side may have several series per group.
    pub cardinality: Cardinality,
    /// `on` (true) or `ignoring` (false) these labels.
    pub on: bool,
    /// The labels of `on` or `ignoring`.
    pub labels: Vec<String>,
    /// The labels of `group_left` or `group_right`, copied from the "one" side.
    pub include: Vec<String>,
    /// Values for partners that are missing (experimental).
    pub fill: Fill,
}

/// Which side may have several series per group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cardinality {
    /// Neither.
    OneToOne,
    /// The left (`group_left`).
    ManyToOne,
    /// The right (`group_right`).
    OneToMany,
    /// Both: set operators only.
    ManyToMany,
}

/// The values of `fill`, `fill_left`, `fill_right`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fill {
    /// Stands in for a missing left operand.
    pub left: Option<f64>,
    /// Stands in for a missing right operand.
    pub right: Option<f64>,
}

impl PartialEq for Fill {
    fn eq(&self, other: &Self) -> bool {
        let bits = |fill: &Self| (fill.left.map(f64::to_bits), fill.right.map(f64::to_bits));
        bits(self) == bits(other)
    }
}

impl Eq for Fill {}

/// An aggregation over the series of an instant vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregate {
    /// The operator.
    pub op: AggregateOp,
    /// What is aggregated.
    pub expr: Expr,
    /// The first argument of `topk`, `quantile`, `count_values` and the like; `Some` exactly for those.
    pub param: Option<Expr>,
    /// The labels of `by` or `without`.
    pub grouping: Vec<String>,
    /// `without` (true) or `by` (false; also when neither is written).
    pub without: bool,
    /// Its place.
    pub span: Span,
}

/// A function call; the number and types of its arguments fit the function's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub function: Function,
    /// Its arguments.
    pub args: Vec<Expr>,
    /// Its place.
    pub span: Span,
}
