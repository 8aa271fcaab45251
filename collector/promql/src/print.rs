//! Writes a tree as Prometheus does on one line; what is written reads back as the same tree.

use std::fmt::{self, Write as _};
use std::time::Duration;

use tributary_model::label::{METRIC_NAME, is_legacy_label_name};
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::number::format_plain;
use tributary_model::quote::quote;

use crate::ast::duration::DurationExpr;
use crate::ast::{
    Aggregate, At, Binary, Cardinality, Expr, Matching, Number, Subquery, TimeShift, VectorSelector,
};

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(node) => node.fmt(f),
            Self::String(node) => f.write_str(&quote(&node.text)),
            Self::Vector(node) => node.fmt(f),
            Self::Matrix(node) => {
                selector(&node.selector, f)?;
                write!(f, "[{}]", node.range)?;
                extend(&node.selector, f)?;
                node.selector.time.fmt(f)
            }
            Self::Subquery(node) => node.fmt(f),
            Self::Unary(node) => {
                write!(f, "{}{}", if node.negative { "-" } else { "+" }, node.expr)
            }
            Self::Paren(node) => write!(f, "({})", node.expr),
            Self::Binary(node) => node.fmt(f),
            Self::Aggregate(node) => node.fmt(f),
            Self::Call(node) => {
                f.write_str(node.function.name())?;
                f.write_str("(")?;
                for (i, arg) in node.args.iter().enumerate() {
                    write!(f, "{}{arg}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(")")
            }
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = if self.duration { whole_millis(self.value) } else { None };
        match exact {
            Some(duration) => {
                let sign = if self.value < 0.0 { "-" } else { "" };
                write!(f, "{sign}{}", tributary_model::duration::format(duration))
            }
            None => f.write_str(&format_plain(self.value)),
        }
    }
}

/// The magnitude of a number of seconds, unless it has parts below a millisecond, or is only nearly nothing: a range of
/// nothing could not be read again.
fn whole_millis(seconds: f64) -> Option<Duration> {
    let duration = Duration::try_from_secs_f64(seconds.abs()).ok()?;
    let is_whole = duration.subsec_nanos() % 1_000_000 == 0;
    (is_whole && (seconds == 0.0 || !duration.is_zero())).then_some(duration)
}

impl fmt::Display for VectorSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        selector(self, f)?;
        self.time.fmt_at(f)?;
        extend(self, f)?;
        self.time.fmt_offset(f)
    }
}

/// The name and the matchers, sorted by their text.
fn selector(node: &VectorSelector, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let name = node.name.as_deref().unwrap_or("");
    f.write_str(name)?;
    let is_name = |matcher: &&Matcher| {
        let equal = matcher.name() == METRIC_NAME && matcher.op() == MatchOp::Equal;
        equal && matcher.value() == name && !name.is_empty()
    };
    let mut matchers: Vec<_> =
        node.matchers.iter().filter(|m| !is_name(m)).map(Matcher::to_string).collect();
    matchers.sort_unstable();
    if !matchers.is_empty() || name.is_empty() {
        write!(f, "{{{}}}", matchers.join(","))?;
    }
    Ok(())
}

fn extend(node: &VectorSelector, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match node.extend {
        Some(extend) => write!(f, " {}", extend.as_str()),
        None => Ok(()),
    }
}

impl TimeShift {
    fn fmt_at(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some(At::Time(time)) => {
                let millis = time.as_millis();
                let sign = if millis < 0 { "-" } else { "" };
                let millis = millis.unsigned_abs();
                write!(f, " @ {sign}{}.{:03}", millis / 1000, millis % 1000)
            }
            Some(At::Start) => f.write_str(" @ start()"),
            Some(At::End) => f.write_str(" @ end()"),
            None => Ok(()),
        }
    }

    fn fmt_offset(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.offset {
            Some(offset) => write!(f, " offset {offset}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for TimeShift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_at(f)?;
        self.fmt_offset(f)
    }
}

impl fmt::Display for DurationExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(number) => number.fmt(f),
            Self::Step(_) => f.write_str("step()"),
            Self::Range(_) => f.write_str("range()"),
            Self::Negate(inner, _) => write!(f, "-{inner}"),
            Self::Paren(inner, _) => write!(f, "({inner})"),
            Self::Binary(op, lhs, rhs) => write!(f, "{lhs} {} {rhs}", op.as_str()),
            Self::Min(a, b, _) => write!(f, "min_of({a}, {b})"),
            Self::Max(a, b, _) => write!(f, "max_of({a}, {b})"),
        }
    }
}

impl fmt::Display for Subquery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.expr, self.suffix())
    }
}

impl Subquery {
    /// What follows the expression: range, step and modifiers.
    pub(crate) fn suffix(&self) -> String {
        let step = self.step.as_ref().map(DurationExpr::to_string).unwrap_or_default();
        format!("[{}:{step}]{}", self.range, self.time)
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.lhs, self.op.as_str())?;
        if self.return_bool {
            f.write_str(" bool")?;
        }
        if let Some(matching) = &self.matching {
            matching.fmt(f)?;
        }
        write!(f, " {}", self.rhs)
    }
}

impl fmt::Display for Matching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let group = match self.cardinality {
            Cardinality::ManyToOne => Some("group_left"),
            Cardinality::OneToMany => Some("group_right"),
            Cardinality::OneToOne | Cardinality::ManyToMany => None,
        };
        if self.on || !self.labels.is_empty() || group.is_some() {
            let keyword = if self.on { "on" } else { "ignoring" };
            write!(f, " {keyword} {}", label_list(&self.labels))?;
        }
        if let Some(group) = group {
            write!(f, " {group} {}", label_list(&self.include))?;
        }
        let (left, right) = (self.fill.left, self.fill.right);
        if let (Some(value), Some(other)) = (left, right)
            && value.to_bits() == other.to_bits()
        {
            return write!(f, " fill ({})", format_plain(value));
        }
        if let Some(value) = left {
            write!(f, " fill_left ({})", format_plain(value))?;
        }
        if let Some(value) = right {
            write!(f, " fill_right ({})", format_plain(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head())?;
        match &self.param {
            Some(param) => write!(f, "({param}, {})", self.expr),
            None => write!(f, "({})", self.expr),
        }
    }
}

impl Aggregate {
    /// What stands before the parenthesis: operator and grouping.
    pub(crate) fn head(&self) -> String {
        let op = self.op.as_str();
        if self.without {
            format!("{op} without {} ", label_list(&self.grouping))
        } else if self.grouping.is_empty() {
            op.to_owned()
        } else {
            format!("{op} by {} ", label_list(&self.grouping))
        }
    }
}

fn label_list(labels: &[String]) -> String {
    let mut out = String::from("(");
    for (i, label) in labels.iter().enumerate() {
        let comma = if i > 0 { ", " } else { "" };
        let quoted = !is_legacy_label_name(label);
        let _ = if quoted {
            write!(out, "{comma}{}", quote(label))
        } else {
            write!(out, "{comma}{label}")
        };
    }
    out.push(')');
    out
}
