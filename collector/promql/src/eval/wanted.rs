//! What the nodes above look at: the buckets of histograms, the labels that say what a metric is.

use super::labels::is_identity;
use super::range_call::window_function;
use crate::ast::operator::{AggregateOp, BinaryOp};
use crate::ast::{Aggregate, Expr};
use crate::signature::Function;

/// What the nodes above one want of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Wanted {
    /// One of them wants only the number and the sum of observations.
    totals: bool,
    /// One of them needs the buckets. A subquery does, to find resets between the samples it takes.
    pub(super) buckets: bool,
    /// Nothing looks at the labels that say what a metric is: they need not be taken away where they are to go.
    pub(super) no_identity: bool,
}

impl Wanted {
    /// Whether the number and the sum of observations are enough.
    pub(super) fn only_totals(self) -> bool {
        self.totals && !self.buckets
    }

    /// What is wanted below a node.
    pub(super) fn below(mut self, expr: &Expr) -> Self {
        self.no_identity = match expr {
            Expr::Aggregate(aggregate) => ignores_identity(aggregate),
            // Those look at their own argument's labels only to hand them on.
            Expr::Call(call) => self.no_identity && window_function(call.function).is_some(),
            Expr::Paren(_) => self.no_identity,
            _ => false,
        };
        match expr {
            Expr::Call(call) => match call.function {
                Function::HistogramCount | Function::HistogramSum | Function::HistogramAvg => {
                    self.totals = true;
                }
                Function::HistogramQuantile
                | Function::HistogramQuantiles
                | Function::HistogramFraction => self.buckets = true,
                _ => {}
            },
            Expr::Binary(binary) => {
                let trims = matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
                self.buckets |= trims;
            }
            _ => {}
        }
        self
    }
}

/// Whether an aggregation's result does not depend on those labels.
fn ignores_identity(aggregate: &Aggregate) -> bool {
    let chooses = matches!(
        aggregate.op,
        AggregateOp::Topk | AggregateOp::Bottomk | AggregateOp::Limitk | AggregateOp::LimitRatio
    );
    !chooses && !aggregate.without && !aggregate.grouping.iter().any(|name| is_identity(name))
}
