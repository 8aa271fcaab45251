//! Operators between scalars, and between a vector and a scalar.

use super::Evaluator;
use super::grid::Grid;
use super::series::{Data, Series, without_empty};
use crate::ast::operator::BinaryOp;
use crate::ast::{Binary, ValueType};
use crate::value::EvalError;

/// The result of an operator on two numbers, and whether a filter lets the element through.
pub(super) fn apply(op: BinaryOp, a: f64, b: f64) -> (f64, bool) {
    match op {
        BinaryOp::Add => (a + b, true),
        BinaryOp::Sub => (a - b, true),
        BinaryOp::Mul => (a * b, true),
        BinaryOp::Div => (a / b, true),
        BinaryOp::Mod => (a % b, true),
        BinaryOp::Pow => (a.powf(b), true),
        BinaryOp::Atan2 => (a.atan2(b), true),
        BinaryOp::Equal => (a, a == b),
        BinaryOp::NotEqual => (a, a != b),
        BinaryOp::Less => (a, a < b),
        BinaryOp::LessOrEqual => (a, a <= b),
        BinaryOp::Greater => (a, a > b),
        BinaryOp::GreaterOrEqual => (a, a >= b),
        // Set operators do not look at values, and trimming is for histograms only.
        BinaryOp::And
        | BinaryOp::Or
        | BinaryOp::Unless
        | BinaryOp::TrimUpper
        | BinaryOp::TrimLower => (a, false),
    }
}

/// Whether the result is no longer the metric it was: everything but filters.
pub(super) fn changes_identity(op: BinaryOp) -> bool {
    !op.is_comparison() && !op.is_set()
}

/// 1 or 0.
pub(super) fn flag(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

impl Evaluator<'_> {
    pub(super) fn binary(&mut self, binary: &Binary, grid: Grid) -> Result<Data, EvalError> {
        match (binary.lhs.value_type(), binary.rhs.value_type()) {
            (ValueType::Scalar, ValueType::Scalar) => {
                let lhs = self.scalar(&binary.lhs, grid)?;
                let rhs = self.scalar(&binary.rhs, grid)?;
                let values = lhs.into_iter().zip(rhs).map(|(a, b)| {
                    let (value, keep) = apply(binary.op, a, b);
                    if binary.op.is_comparison() { flag(keep) } else { value }
                });
                Ok(Data::Scalar(values.collect()))
            }
            (_, ValueType::Scalar) => {
                let series = self.vector(&binary.lhs, grid)?;
                let scalar = self.scalar(&binary.rhs, grid)?;
                self.with_scalar(binary, series, &scalar, false, grid).map(Data::Vector)
            }
            (ValueType::Scalar, _) => {
                let scalar = self.scalar(&binary.lhs, grid)?;
                let series = self.vector(&binary.rhs, grid)?;
                self.with_scalar(binary, series, &scalar, true, grid).map(Data::Vector)
            }
            _ => {
                let lhs = self.vector(&binary.lhs, grid)?;
                let rhs = self.vector(&binary.rhs, grid)?;
                let series = if binary.op.is_set() {
                    self.set_operation(binary, lhs, rhs, grid)?
                } else {
                    self.match_vectors(binary, &lhs, &rhs, grid)?
                };
                Ok(Data::Vector(series))
            }
        }
    }

    /// Each element with the scalar of its step; `swapped` if the scalar is the left operand.
    fn with_scalar(
        &mut self,
        binary: &Binary,
        mut series: Vec<Series>,
        scalar: &[f64],
        swapped: bool,
        grid: Grid,
    ) -> Result<Vec<Series>, EvalError> {
        if matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower) && !series.is_empty() {
            self.incompatible(binary);
        }
        for series in &mut series {
            series.points.map(|step, element| {
                let scalar = *scalar.get(step)?;
                let (a, b) = if swapped { (scalar, element) } else { (element, scalar) };
                let (value, keep) = apply(binary.op, a, b);
                if binary.return_bool {
                    return Some(flag(keep));
                }
                // A filter gives the element, also where it is the right operand.
                keep.then_some(if binary.op.is_comparison() { element } else { value })
            });
            if changes_identity(binary.op) || binary.return_bool {
                self.drop_name(series);
            }
        }
        self.unite(without_empty(series), grid)
    }

    /// An operator that is only for histograms met numbers.
    pub(super) fn incompatible(&mut self, binary: &Binary) {
        let op = binary.op.as_str();
        let text = format!(
            "incompatible sample types encountered for binary operator \"{op}\": float {op} float"
        );
        self.annotations.info(&text, binary.span);
    }
}
