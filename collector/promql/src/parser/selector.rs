//! Selectors and what may follow an expression: `[5m]`, `[5m:1m]`, `offset`, `@`, `anchored`, `smoothed`.

use tributary_model::label::METRIC_NAME;
use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::Timestamp;

use super::keyword::Keyword;
use super::{Node, Parser};
use crate::ast::duration::DurationExpr;
use crate::ast::{At, Expr, Extend, MatrixSelector, Span, Subquery, TimeShift, VectorSelector};
use crate::error::Fault;
use crate::lexer::TokenKind;

/// The largest whole number of milliseconds that a float holds exactly: 285,000 years.
const MAX_MILLIS: f64 = 9_007_199_254_740_991.0;

impl Parser<'_> {
    /// The braces of a selector, if there are any, after its name, if it has one.
    pub(super) fn vector_selector(&mut self, name: Option<(String, Span)>) -> Result<Expr, Fault> {
        let mut span = name.as_ref().map_or_else(|| self.peek().span, |(_, span)| *span);
        let (mut matchers, mut matcher_spans) = (Vec::new(), Vec::new());
        if self.eat(&TokenKind::LeftBrace) {
            (matchers, matcher_spans) = self.matchers()?;
            span = span.to(self.previous());
        }
        if let Some((name, place)) = &name {
            matchers.push(Matcher::equal(METRIC_NAME, name));
            matcher_spans.push(*place);
        }
        let name = name.map(|(name, _)| name);
        let time = TimeShift::default();
        let extend = None;
        let node = VectorSelector { name, matchers, matcher_spans, time, extend, span };
        Ok(Expr::Vector(Box::new(node)))
    }

    /// The matchers and their places, up to and with the closing brace.
    fn matchers(&mut self) -> Result<(Vec<Matcher>, Vec<Span>), Fault> {
        const CONTEXT: &str = "label matching";
        let (mut matchers, mut spans) = (Vec::new(), Vec::new());
        if self.eat(&TokenKind::RightBrace) {
            return Ok((matchers, spans));
        }
        loop {
            let start = self.peek().span;
            matchers.push(self.matcher()?);
            spans.push(start.to(self.previous()));
            let comma = self.eat(&TokenKind::Comma);
            if self.eat(&TokenKind::RightBrace) {
                return Ok((matchers, spans));
            }
            if !comma {
                return Err(self.unexpected(CONTEXT, "\",\" or \"}\""));
            }
        }
    }

    fn matcher(&mut self) -> Result<Matcher, Fault> {
        const CONTEXT: &str = "label matching";
        let start = self.peek().span;
        let name = match self.peek().kind {
            TokenKind::Identifier => {
                let word = self.word().to_owned();
                self.advance();
                word
            }
            TokenKind::String => {
                let text = self.string()?;
                if matches!(self.peek().kind, TokenKind::Comma | TokenKind::RightBrace) {
                    return Ok(Matcher::equal(METRIC_NAME, text));
                }
                text
            }
            _ => return Err(self.unexpected(CONTEXT, "identifier or \"}\"")),
        };
        let op = match self.peek().kind {
            TokenKind::Assign => MatchOp::Equal,
            TokenKind::NotEqual => MatchOp::NotEqual,
            TokenKind::MatchRegex => MatchOp::Match,
            TokenKind::NotMatchRegex => MatchOp::NotMatch,
            _ => return Err(self.unexpected(CONTEXT, "label matching operator")),
        };
        self.advance();
        if self.peek().kind != TokenKind::String {
            return Err(self.unexpected(CONTEXT, "string"));
        }
        let value = self.string()?;
        Matcher::new(name, op, value).map_err(|e| {
            Fault::new(start.to(self.previous()), format!("error parsing regexp: {}", e.why))
        })
    }

    /// Everything that follows an expression and binds to it.
    pub(super) fn modifiers(&mut self, (expr, mut height): Node) -> Result<Node, Fault> {
        let mut expr = expr;
        loop {
            match self.peek().kind {
                TokenKind::LeftBracket => {
                    expr = self.bracket(expr)?;
                    if matches!(expr, Expr::Subquery(_)) {
                        height += 1;
                        self.bound(height)?;
                    }
                }
                TokenKind::At => self.at(&mut expr)?,
                TokenKind::Identifier => match self.keyword() {
                    Some(Keyword::Offset) => self.offset(&mut expr)?,
                    Some(Keyword::Anchored) => self.extend(&mut expr, Extend::Anchored)?,
                    Some(Keyword::Smoothed) => self.extend(&mut expr, Extend::Smoothed)?,
                    _ => return Ok((expr, height)),
                },
                _ => return Ok((expr, height)),
            }
        }
    }

    fn bracket(&mut self, expr: Expr) -> Result<Expr, Fault> {
        const EXPECTED: &str = "number, duration, step(), or range()";
        let open = self.advance().span;
        let range = self.positive_duration("subquery or range selector", EXPECTED)?;
        if self.eat(&TokenKind::Colon) {
            let step = if self.peek().kind == TokenKind::RightBracket {
                None
            } else {
                let expected = "number, duration, step(), range(), or \"]\"";
                Some(self.positive_duration("subquery selector", expected)?)
            };
            let close = self.expect(&TokenKind::RightBracket, "subquery selector", "\"]\"")?;
            let (time, span) = (TimeShift::default(), expr.span().to(close));
            return Ok(Expr::Subquery(Box::new(Subquery { expr, range, step, time, span })));
        }
        let close = self.expect(&TokenKind::RightBracket, "subquery or range", "\":\" or \"]\"")?;
        let selector = match expr {
            Expr::Vector(selector) if selector.time.offset.is_some() => {
                Err("no offset modifiers allowed before range")
            }
            Expr::Vector(selector) if selector.time.at.is_some() => {
                Err("no @ modifiers allowed before range")
            }
            Expr::Vector(selector) => Ok(*selector),
            _ => Err("ranges only allowed for vector selectors"),
        };
        let selector = selector.map_err(|what| Fault::new(open.to(close), what))?;
        let span = selector.span.to(close);
        Ok(Expr::Matrix(Box::new(MatrixSelector { selector, range, span })))
    }

    fn at(&mut self, expr: &mut Expr) -> Result<(), Fault> {
        self.advance();
        let at = match self.keyword() {
            Some(keyword @ (Keyword::Start | Keyword::End)) => {
                self.advance();
                self.expect(&TokenKind::LeftParen, "@", "timestamp")?;
                self.expect(&TokenKind::RightParen, "@", "timestamp")?;
                if keyword == Keyword::Start { At::Start } else { At::End }
            }
            _ => At::Time(self.timestamp(expr.span())?),
        };
        let end = self.previous();
        let whole = expr.span();
        let Some((time, _, span)) = time_and_span(expr) else {
            let what = "@ modifier must be preceded by an instant vector selector or range vector selector or a subquery";
            return Err(Fault::new(whole, what));
        };
        if time.at.is_some() {
            return Err(Fault::new(whole, "@ <timestamp> may not be set multiple times"));
        }
        time.at = Some(at);
        *span = span.to(end);
        Ok(())
    }

    fn timestamp(&mut self, whole: Span) -> Result<Timestamp, Fault> {
        let negative = self.sign();
        if negative.is_some() {
            self.advance();
        }
        let number = matches!(self.peek().kind, TokenKind::Number | TokenKind::Duration)
            || matches!(self.word().to_ascii_lowercase().as_str(), "inf" | "nan");
        if !number {
            return Err(self.unexpected("@", "timestamp"));
        }
        let value = self.number_literal()?.value;
        let seconds = if negative == Some(true) { -value } else { value };
        let millis = (seconds * 1000.0).round();
        if millis.is_nan() || millis.abs() > MAX_MILLIS {
            let shown = if seconds.is_finite() {
                format!("{seconds:.6}")
            } else {
                tributary_model::number::format_plain(seconds)
            };
            let what = format!("timestamp out of bounds for @ modifier: {shown}");
            return Err(Fault::new(whole, what));
        }
        #[expect(clippy::cast_possible_truncation, reason = "whole and within ±2^53")]
        Ok(Timestamp::from_millis(millis as i64))
    }

    fn offset(&mut self, expr: &mut Expr) -> Result<(), Fault> {
        self.advance();
        let offset = self.offset_duration()?;
        let end = self.previous();
        let whole = expr.span();
        let Some((time, _, span)) = time_and_span(expr) else {
            let what = "offset modifier must be preceded by an instant vector selector or range vector selector or a subquery";
            return Err(Fault::new(whole, what));
        };
        if time.offset.is_some() {
            return Err(Fault::new(whole, "offset may not be set multiple times"));
        }
        let zero = matches!(&offset, DurationExpr::Literal(number) if number.value == 0.0);
        time.offset = (!zero).then_some(offset);
        *span = span.to(end);
        Ok(())
    }

    fn extend(&mut self, expr: &mut Expr, extend: Extend) -> Result<(), Fault> {
        let word = self.advance().span;
        let whole = expr.span();
        let keyword = extend.as_str();
        match time_and_span(expr) {
            Some((_, Some(place), span)) => {
                if place.is_some_and(|other| other != extend) {
                    let what = "anchored and smoothed modifiers cannot be used together";
                    return Err(Fault::new(whole, what));
                }
                *place = Some(extend);
                *span = span.to(word);
                Ok(())
            }
            Some(_) => {
                let what = format!("{keyword} modifier is not supported for subqueries");
                Err(Fault::new(whole, what))
            }
            None => Err(Fault::new(whole, format!("{keyword} modifier not implemented"))),
        }
    }
}

type Modifiable<'e> = (&'e mut TimeShift, Option<&'e mut Option<Extend>>, &'e mut Span);

/// The parts of a node that modifiers change; nothing for a node that takes none.
fn time_and_span(expr: &mut Expr) -> Option<Modifiable<'_>> {
    match expr {
        Expr::Vector(node) => Some((&mut node.time, Some(&mut node.extend), &mut node.span)),
        Expr::Matrix(node) => {
            Some((&mut node.selector.time, Some(&mut node.selector.extend), &mut node.span))
        }
        Expr::Subquery(node) => Some((&mut node.time, None, &mut node.span)),
        _ => None,
    }
}
