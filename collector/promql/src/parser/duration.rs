//! Durations in brackets and after `offset`: literals, and arithmetic with `step()` and `range()`.

use super::Parser;
use super::keyword::Keyword;
use crate::ast::duration::{DurationExpr, DurationOp};
use crate::ast::{Number, Span};
use crate::error::Fault;
use crate::lexer::TokenKind;

/// A signed 64-bit count of nanoseconds ends here.
const MAX_SECONDS: f64 = 9_223_372_036.0;

impl Parser<'_> {
    /// A range or step; a literal must be greater than zero.
    pub(super) fn positive_duration(
        &mut self,
        context: &str,
        expected: &str,
    ) -> Result<DurationExpr, Fault> {
        if !self.begins_duration() {
            return Err(self.unexpected(context, expected));
        }
        let duration = as_duration(self.duration(0)?);
        match &duration {
            DurationExpr::Literal(number) if number.value <= 0.0 || number.value.is_nan() => {
                Err(Fault::new(number.span, "duration must be greater than 0"))
            }
            _ => Ok(duration),
        }
    }

    /// What follows `offset`: one signed operand, so that `a offset 2 ^ 2` is `(a offset 2) ^ 2`.
    pub(super) fn offset_duration(&mut self) -> Result<DurationExpr, Fault> {
        if !self.begins_duration() {
            return Err(self.unexpected("offset", "number, duration, step(), or range()"));
        }
        let Some(negative) = self.sign() else {
            return Ok(as_duration(self.duration_operand()?));
        };
        let start = self.advance().span;
        let operand = self.duration_operand()?;
        Ok(as_duration(signed(negative, start, operand)))
    }

    fn begins_duration(&self) -> bool {
        let number = matches!(self.word().to_ascii_lowercase().as_str(), "inf" | "nan");
        match self.peek().kind {
            TokenKind::Number
            | TokenKind::Duration
            | TokenKind::Plus
            | TokenKind::Minus
            | TokenKind::LeftParen => true,
            TokenKind::Identifier => {
                let function = matches!(
                    self.keyword(),
                    Some(Keyword::Step | Keyword::Range | Keyword::MaxOf | Keyword::MinOf)
                );
                number || function
            }
            _ => false,
        }
    }

    fn duration(&mut self, minimum: u8) -> Result<DurationExpr, Fault> {
        self.depth += 1;
        self.bound(self.depth)?;
        let mut lhs = match self.sign() {
            Some(negative) => {
                let start = self.advance().span;
                let operand = self.duration(precedence(DurationOp::Pow))?;
                signed(negative, start, operand)
            }
            None => self.duration_operand()?,
        };
        let mut height = self.depth;
        while let Some(op) = self.duration_op().filter(|op| precedence(*op) >= minimum) {
            let sign = self.advance().span;
            let next = precedence(op) + u8::from(op != DurationOp::Pow);
            let rhs = self.duration(next)?;
            height += 1;
            self.bound(height)?;
            let zero = matches!(&rhs, DurationExpr::Literal(number) if number.value == 0.0);
            match op {
                DurationOp::Div if zero => return Err(Fault::new(sign, "division by zero")),
                DurationOp::Mod if zero => return Err(Fault::new(sign, "modulo by zero")),
                _ => {}
            }
            lhs = DurationExpr::Binary(op, Box::new(lhs), Box::new(rhs));
        }
        self.depth -= 1;
        Ok(lhs)
    }

    fn duration_operand(&mut self) -> Result<DurationExpr, Fault> {
        let start = self.peek().span;
        if self.eat(&TokenKind::LeftParen) {
            let inner = self.duration(0)?;
            let close = self.expect(&TokenKind::RightParen, "duration expression", "\")\"")?;
            return Ok(DurationExpr::Paren(Box::new(inner), start.to(close)));
        }
        let Some(keyword) = self.keyword() else {
            let number = self.number_literal()?;
            if number.value.abs() > MAX_SECONDS {
                return Err(Fault::new(number.span, "duration out of range"));
            }
            return Ok(DurationExpr::Literal(number));
        };
        self.advance();
        self.expect(&TokenKind::LeftParen, "duration expression", "\"(\"")?;
        let args = match keyword {
            Keyword::MinOf | Keyword::MaxOf => {
                let a = self.duration(0)?;
                self.expect(&TokenKind::Comma, "duration expression", "\",\"")?;
                Some((Box::new(a), Box::new(self.duration(0)?)))
            }
            _ => None,
        };
        let close = self.expect(&TokenKind::RightParen, "duration expression", "\")\"")?;
        let span = start.to(close);
        match (keyword, args) {
            (Keyword::Step, None) => Ok(DurationExpr::Step(span)),
            (Keyword::Range, None) => Ok(DurationExpr::Range(span)),
            (Keyword::MinOf, Some((a, b))) => Ok(DurationExpr::Min(a, b, span)),
            (Keyword::MaxOf, Some((a, b))) => Ok(DurationExpr::Max(a, b, span)),
            _ => Err(Fault::new(start, "expected number literal or duration expression")),
        }
    }

    fn duration_op(&self) -> Option<DurationOp> {
        Some(match self.peek().kind {
            TokenKind::Plus => DurationOp::Add,
            TokenKind::Minus => DurationOp::Sub,
            TokenKind::Star => DurationOp::Mul,
            TokenKind::Slash => DurationOp::Div,
            TokenKind::Percent => DurationOp::Mod,
            TokenKind::Caret => DurationOp::Pow,
            _ => return None,
        })
    }
}

fn precedence(op: DurationOp) -> u8 {
    match op {
        DurationOp::Add | DurationOp::Sub => 1,
        DurationOp::Mul | DurationOp::Div | DurationOp::Mod => 2,
        DurationOp::Pow => 3,
    }
}

fn signed(negative: bool, start: Span, operand: DurationExpr) -> DurationExpr {
    match operand {
        DurationExpr::Literal(number) => {
            let value = if negative { -number.value } else { number.value };
            DurationExpr::Literal(Number { value, span: start.to(number.span), ..number })
        }
        operand if negative => {
            let span = start.to(operand.span());
            DurationExpr::Negate(Box::new(operand), span)
        }
        operand => operand,
    }
}

/// A bare number of seconds is a duration here, and printed as one.
fn as_duration(duration: DurationExpr) -> DurationExpr {
    match duration {
        DurationExpr::Literal(number) => DurationExpr::Literal(Number { duration: true, ..number }),
        other => other,
    }
}
