//! Whether the buckets of the histograms that a selector finds are looked at by anything.

use crate::ast::Expr;
use crate::ast::operator::BinaryOp;
use crate::signature::Function;

/// What the nodes above a selector want of histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    /// One of them wants only the number and the sum of observations.
    pub(super) totals_wanted: bool,
    /// One of them needs the buckets. A subquery does, to find resets between the samples it takes.
    pub(super) buckets_needed: bool,
}

impl Totals {
    /// Whether the number and the sum of observations are enough.
    pub(super) fn only(self) -> bool {
        self.totals_wanted && !self.buckets_needed
    }

    /// What is wanted below a node.
    pub(super) fn below(mut self, expr: &Expr) -> Self {
        match expr {
            Expr::Call(call) => match call.function {
                Function::HistogramCount | Function::HistogramSum | Function::HistogramAvg => {
                    self.totals_wanted = true;
                }
                Function::HistogramQuantile
                | Function::HistogramQuantiles
                | Function::HistogramFraction => self.buckets_needed = true,
                _ => {}
            },
            Expr::Binary(binary) => {
                let trims = matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower);
                self.buckets_needed |= trims;
            }
            _ => {}
        }
        self
    }
}
