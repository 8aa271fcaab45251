//! Operators between scalars, and between a vector and a scalar.

use std::sync::Arc;

use tributary_model::histogram::{Combined, Histogram, MixedSchemas, ResetHint};

use super::Evaluator;
use super::grid::Grid;
use super::series::{Data, Series, without_empty};
use crate::ast::operator::BinaryOp;
use crate::ast::{Binary, ValueType};
use crate::functions::remark::{Operation, Remark, Remarks};
use crate::functions::trim::{Keep, trim};
use crate::value::{Element, EvalError};

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

/// Whether the result is no longer the metric it was: everything but filters and trimming.
pub(super) fn changes_identity(op: BinaryOp) -> bool {
    !op.is_comparison() && !op.is_set() && !is_trim(op)
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
        let mut notes = Notes::default();
        if is_trim(binary.op) && series.iter().any(|s| s.points.floats().next().is_some()) {
            notes.add(Note::Types("float", "float"));
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
            series.points.map_histograms(|step, histogram| {
                let scalar = Element::Float(*scalar.get(step)?);
                let element = Element::Histogram(Arc::clone(histogram));
                let (a, b) = if swapped { (scalar, element) } else { (element, scalar) };
                combine(binary.op, &a, &b, &mut notes).map(|(value, _)| value)
            });
            if changes_identity(binary.op) || binary.return_bool {
                self.drop_name(series);
            }
        }
        self.remark_notes(binary, &notes);
        self.unite(without_empty(series), grid)
    }

    /// What operators noticed about the histograms they met.
    pub(super) fn remark_notes(&mut self, binary: &Binary, notes: &Notes) {
        let op = binary.op.as_str();
        for note in &notes.0 {
            match note {
                Note::Types(left, right) => {
                    let text = format!(
                        "incompatible sample types encountered for binary operator \"{op}\": {left} {op} {right}"
                    );
                    self.annotations.info(&text, binary.span);
                }
                Note::Buckets => {
                    let text =
                        format!("incompatible bucket layout encountered for binary operator {op}");
                    self.annotations.warning(&text, binary.span);
                }
                Note::Other(remark) => {
                    let mut remarks = Remarks::default();
                    remarks.add(*remark);
                    self.annotations.remarks(&mut remarks, "", binary.span);
                }
            }
        }
    }
}

/// What an operator noticed about histograms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// It does not go with these types of its operands.
    Types(&'static str, &'static str),
    /// The histograms have nothing in common.
    Buckets,
    /// The same as functions notice.
    Other(Remark),
}

/// What an operator noticed, each once.
#[derive(Debug, Default)]
pub(super) struct Notes(Vec<Note>);

impl Notes {
    pub(super) fn add(&mut self, note: Note) {
        if !self.0.contains(&note) {
            self.0.push(note);
        }
    }
}

/// `</` and `>/`.
pub(super) fn is_trim(op: BinaryOp) -> bool {
    matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// The result of an operator on two elements, and whether a filter lets the left one through; nothing if the operator
/// does not go with them.
pub(super) fn combine(
    op: BinaryOp,
    a: &Element,
    b: &Element,
    notes: &mut Notes,
) -> Option<(Element, bool)> {
    let result = match (a, b, op) {
        (Element::Float(a), Element::Float(b), _) if !is_trim(op) => {
            let (value, keep) = apply(op, *a, *b);
            return Some((Element::Float(value), keep));
        }
        (Element::Float(factor), Element::Histogram(histogram), BinaryOp::Mul)
        | (Element::Histogram(histogram), Element::Float(factor), BinaryOp::Mul) => {
            Histogram::clone(histogram).times(*factor).compacted()
        }
        (Element::Histogram(histogram), Element::Float(divisor), BinaryOp::Div) => {
            Histogram::clone(histogram).over(*divisor).compacted()
        }
        (Element::Histogram(histogram), Element::Float(at), BinaryOp::TrimUpper) => {
            trim(histogram, *at, Keep::Below)
        }
        (Element::Histogram(histogram), Element::Float(at), BinaryOp::TrimLower) => {
            trim(histogram, *at, Keep::Above)
        }
        (Element::Histogram(left), Element::Histogram(right), BinaryOp::Add) => {
            let mut sum = Histogram::clone(left);
            accept(sum.add(right), Operation::Addition, notes)?;
            sum.compacted()
        }
        (Element::Histogram(left), Element::Histogram(right), BinaryOp::Sub) => {
            let mut difference = Histogram::clone(left);
            accept(difference.subtract(right), Operation::Subtraction, notes)?;
            difference.with_hint(ResetHint::Gauge).compacted()
        }
        (Element::Histogram(left), Element::Histogram(right), BinaryOp::Equal) => {
            return Some((a.clone(), left.has_data_of(right)));
        }
        (Element::Histogram(left), Element::Histogram(right), BinaryOp::NotEqual) => {
            return Some((a.clone(), !left.has_data_of(right)));
        }
        _ => {
            notes.add(Note::Types(a.kind(), b.kind()));
            return None;
        }
    };
    Some((result.into(), true))
}

/// Notes what came up; nothing comes of histograms whose hints contradict each other.
fn accept(
    combined: Result<Combined, MixedSchemas>,
    operation: Operation,
    notes: &mut Notes,
) -> Option<()> {
    let Ok(combined) = combined else {
        notes.add(Note::Buckets);
        return None;
    };
    if combined.bounds_differ {
        notes.add(Note::Other(Remark::Reconciled(operation)));
    }
    if combined.hints_collide {
        notes.add(Note::Other(Remark::HintsCollide(operation)));
        return None;
    }
    Some(())
}
