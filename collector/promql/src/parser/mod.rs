//! Builds the tree: a Pratt parser over the tokens, bounded in depth and linear in the length of the text.

mod duration;
mod keyword;
mod selector;

use self::keyword::Keyword;
use crate::ast::operator::{AggregateOp, BinaryOp};
use crate::ast::{
    Aggregate, Binary, Call, Cardinality, Expr, Fill, Matching, Number, Paren, Span, Text, Unary,
};
use crate::check;
use crate::error::Fault;
use crate::lexer::{Token, TokenKind, number, tokens};
use crate::signature::Function;

/// Longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 1 << 20;

/// Deepest nesting, counted in nodes of the tree. Deeper ones are refused, so that neither the parser nor the evaluator
/// can run out of stack; a chain like `a or b or c …` is as deep as it has operators.
pub const MAX_DEPTH: usize = 200;

pub(crate) fn parse(text: &str) -> Result<Expr, Fault> {
    if text.len() > MAX_EXPRESSION_BYTES {
        let what = format!("the expression is longer than {MAX_EXPRESSION_BYTES} bytes");
        return Err(Fault::new(Span::default(), what));
    }
    let mut parser = Parser { text, tokens: tokens(text), at: 0, depth: 0 };
    if parser.peek().kind == TokenKind::End {
        return Err(Fault::new(Span::default(), "no expression found in input"));
    }
    let (mut expr, _) = parser.expr(0)?;
    if parser.peek().kind != TokenKind::End {
        return Err(parser.unexpected("", ""));
    }
    check::check(&mut expr).map_err(|fault| without_space(text, fault))?;
    Ok(expr)
}

/// An operator's place lies between its operands; the white space before it is not part of it.
fn without_space(text: &str, fault: Fault) -> Fault {
    let Span { start, end } = fault.span;
    let part = text.get(start..end).unwrap_or("");
    let space = part.len() - part.trim_start().len();
    Fault { span: Span::new(start + space, end), ..fault }
}

/// A node and its height.
type Node = (Expr, usize);

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    at: usize,
    /// How many `expr` are on the stack.
    depth: usize,
}

const END: Token = Token { kind: TokenKind::End, span: Span::new(0, 0) };

impl<'a> Parser<'a> {
    /// Operators that bind at least as tightly as `minimum`.
    fn expr(&mut self, minimum: u8) -> Result<Node, Fault> {
        self.depth += 1;
        self.bound(self.depth)?;
        let (mut lhs, mut height) = self.operand()?;
        while let Some(op) = self.binary_op().filter(|op| op.precedence() >= minimum) {
            self.advance();
            let (return_bool, matching) = self.matching()?;
            // Only `^` is right associative.
            let next = if op == BinaryOp::Pow { op.precedence() } else { op.precedence() + 1 };
            let (rhs, rhs_height) = self.expr(next)?;
            height = height.max(rhs_height) + 1;
            self.bound(height)?;
            let span = lhs.span().to(rhs.span());
            let matching = Some(matching);
            lhs = Expr::Binary(Box::new(Binary { op, lhs, rhs, return_bool, matching, span }));
        }
        self.depth -= 1;
        Ok((lhs, height))
    }

    fn bound(&self, depth: usize) -> Result<(), Fault> {
        if depth <= MAX_DEPTH {
            return Ok(());
        }
        let what = format!("the expression is nested deeper than {MAX_DEPTH} levels");
        Err(Fault::new(self.peek().span, what))
    }

    /// A primary expression with its signs and modifiers. A sign binds like `*`: looser than `^`, tighter than `+`.
    fn operand(&mut self) -> Result<Node, Fault> {
        let Some(negative) = self.sign() else {
            let primary = self.primary()?;
            return self.modifiers(primary);
        };
        let start = self.advance().span;
        let (expr, height) = self.expr(BinaryOp::Pow.precedence())?;
        let span = start.to(expr.span());
        if let Expr::Number(number) = expr {
            let value = if negative { -number.value } else { number.value };
            return Ok((Expr::Number(Number { value, span, ..number }), height));
        }
        self.bound(height + 1)?;
        Ok((Expr::Unary(Box::new(Unary { negative, expr, span })), height + 1))
    }

    fn sign(&self) -> Option<bool> {
        match self.peek().kind {
            TokenKind::Plus => Some(false),
            TokenKind::Minus => Some(true),
            _ => None,
        }
    }

    fn primary(&mut self) -> Result<Node, Fault> {
        let token = self.peek().clone();
        match token.kind {
            TokenKind::LeftParen => {
                self.advance();
                let (expr, height) = self.expr(0)?;
                let close = self.expect(&TokenKind::RightParen, "", "")?;
                let span = token.span.to(close);
                Ok((Expr::Paren(Box::new(Paren { expr, span })), height + 1))
            }
            TokenKind::Number | TokenKind::Duration => {
                Ok((Expr::Number(self.number_literal()?), 1))
            }
            TokenKind::String => {
                let text = self.string()?;
                Ok((Expr::String(Text { text, span: token.span }), 1))
            }
            TokenKind::LeftBrace => Ok((self.vector_selector(None)?, 1)),
            TokenKind::Identifier => self.named(),
            _ => Err(self.unexpected("", "")),
        }
    }

    /// Whatever begins with a name: an aggregation, a call, a number, a selector.
    fn named(&mut self) -> Result<Node, Fault> {
        let word = self.word();
        let lower = word.to_ascii_lowercase();
        let calls = self.peek_at(1).kind == TokenKind::LeftParen;
        let aggregate = AggregateOp::ALL.into_iter().find(|op| op.as_str() == lower);
        if let Some(op) = aggregate
            && (calls || matches!(self.keyword_at(1), Some(Keyword::By | Keyword::Without)))
        {
            return self.aggregate(op);
        }
        if matches!(lower.as_str(), "inf" | "nan") {
            return Ok((Expr::Number(self.number_literal()?), 1));
        }
        if aggregate.is_none() && self.keyword().is_some_and(|k| !k.may_be_metric()) {
            return Err(self.unexpected("", ""));
        }
        if calls && !word.contains(':') && self.keyword().is_none_or(Keyword::may_be_function) {
            return self.call(word);
        }
        let span = self.advance().span;
        Ok((self.vector_selector(Some((word.to_owned(), span)))?, 1))
    }

    fn aggregate(&mut self, op: AggregateOp) -> Result<Node, Fault> {
        let start = self.advance().span;
        let mut grouping = self.grouping()?;
        if self.peek().kind != TokenKind::LeftParen {
            return Err(self.unexpected("aggregation", ""));
        }
        let (args, height, mut end) = self.args()?;
        if grouping.is_none() {
            let before = self.at;
            grouping = self.grouping()?;
            if grouping.is_some() && self.at > before {
                end = self.previous();
            }
        }
        let span = start.to(end);
        let given = args.len();
        let wanted = 1 + usize::from(op.param_type().is_some());
        let mut args = args.into_iter();
        let param = if wanted == 2 && given == 2 { args.next() } else { None };
        let Some(expr) = args.next() else {
            return Err(Fault::new(span, "no arguments for aggregate expression provided"));
        };
        if given != wanted {
            let what = format!(
                "wrong number of arguments for aggregate expression provided, expected {wanted}, got {given}"
            );
            return Err(Fault::new(span, what));
        }
        let (without, grouping) = grouping.unwrap_or_default();
        let node = Aggregate { op, expr, param, grouping, without, span };
        Ok((Expr::Aggregate(Box::new(node)), height + 1))
    }

    /// `by (…)` or `without (…)`, if it is there.
    fn grouping(&mut self) -> Result<Option<(bool, Vec<String>)>, Fault> {
        let without = match self.keyword() {
            Some(Keyword::By) => false,
            Some(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.advance();
        Ok(Some((without, self.label_list()?)))
    }

    fn call(&mut self, name: &str) -> Result<Node, Fault> {
        let start = self.peek().span;
        let Some(function) = Function::by_name(name) else {
            return Err(Fault::new(start, format!("unknown function with name {name:?}")));
        };
        self.advance();
        let (args, height, end) = self.args()?;
        Ok((Expr::Call(Call { function, args, span: start.to(end) }), height + 1))
    }

    /// `(a, b)`; also the arguments' greatest height and the place of the closing parenthesis.
    fn args(&mut self) -> Result<(Vec<Expr>, usize, Span), Fault> {
        self.expect(&TokenKind::LeftParen, "", "")?;
        let mut args = Vec::new();
        let mut height = 0;
        if self.peek().kind != TokenKind::RightParen {
            loop {
                let (arg, arg_height) = self.expr(0)?;
                args.push(arg);
                height = height.max(arg_height);
                let comma = self.peek().span;
                if !self.eat(&TokenKind::Comma) {
                    break;
                }
                if self.peek().kind == TokenKind::RightParen {
                    let what = "trailing commas not allowed in function call args";
                    return Err(Fault::new(comma, what));
                }
            }
        }
        let end = self.expect(&TokenKind::RightParen, "", "")?;
        self.bound(height + 1)?;
        Ok((args, height, end))
    }

    /// What stands between a binary operator and its right operand.
    fn matching(&mut self) -> Result<(bool, Matching), Fault> {
        let mut matching = Matching {
            cardinality: Cardinality::OneToOne,
            on: false,
            labels: Vec::new(),
            include: Vec::new(),
            fill: Fill::default(),
        };
        let return_bool = self.eat_keyword(Keyword::Bool);
        if let Some(on @ (Keyword::On | Keyword::Ignoring)) = self.keyword() {
            self.advance();
            matching.on = on == Keyword::On;
            matching.labels = self.label_list()?;
            let side = match self.keyword() {
                Some(Keyword::GroupLeft) => Some(Cardinality::ManyToOne),
                Some(Keyword::GroupRight) => Some(Cardinality::OneToMany),
                _ => None,
            };
            if let Some(side) = side {
                self.advance();
                matching.cardinality = side;
                if self.peek().kind == TokenKind::LeftParen {
                    matching.include = self.label_list()?;
                }
            }
        }
        matching.fill = self.fill()?;
        Ok((return_bool, matching))
    }

    fn fill(&mut self) -> Result<Fill, Fault> {
        let mut fill = Fill::default();
        while self.peek_at(1).kind == TokenKind::LeftParen {
            let sides = match self.keyword() {
                Some(Keyword::Fill) if fill == Fill::default() => (true, true),
                Some(Keyword::FillLeft) if fill.left.is_none() => (true, false),
                Some(Keyword::FillRight) if fill.right.is_none() => (false, true),
                _ => break,
            };
            self.advance();
            self.advance();
            let negative = self.sign();
            if negative.is_some() {
                self.advance();
            }
            let number = self.number_literal()?.value;
            let value = if negative == Some(true) { -number } else { number };
            self.expect(&TokenKind::RightParen, "fill modifier", "\")\"")?;
            if sides.0 {
                fill.left = Some(value);
            }
            if sides.1 {
                fill.right = Some(value);
            }
        }
        Ok(fill)
    }

    /// `(a, "b c", by)`: any word is a label name here.
    fn label_list(&mut self) -> Result<Vec<String>, Fault> {
        const CONTEXT: &str = "grouping opts";
        self.expect(&TokenKind::LeftParen, CONTEXT, "\"(\"")?;
        let mut labels = Vec::new();
        loop {
            match self.peek().kind {
                TokenKind::RightParen => break,
                TokenKind::Identifier => {
                    labels.push(self.word().to_owned());
                    self.advance();
                }
                TokenKind::String => {
                    let span = self.peek().span;
                    let name = self.string()?;
                    if name.is_empty() {
                        let what = format!("invalid label name for grouping: {name:?}");
                        return Err(Fault::new(span, what));
                    }
                    labels.push(name);
                }
                _ => return Err(self.unexpected(CONTEXT, "label")),
            }
            if !self.eat(&TokenKind::Comma) {
                break;
            }
        }
        self.expect(&TokenKind::RightParen, CONTEXT, "\",\" or \")\"")?;
        Ok(labels)
    }

    fn binary_op(&self) -> Option<BinaryOp> {
        Some(match self.peek().kind {
            TokenKind::Plus => BinaryOp::Add,
            TokenKind::Minus => BinaryOp::Sub,
            TokenKind::Star => BinaryOp::Mul,
            TokenKind::Slash => BinaryOp::Div,
            TokenKind::Percent => BinaryOp::Mod,
            TokenKind::Caret => BinaryOp::Pow,
            TokenKind::EqualEqual => BinaryOp::Equal,
            TokenKind::NotEqual => BinaryOp::NotEqual,
            TokenKind::Less => BinaryOp::Less,
            TokenKind::LessOrEqual => BinaryOp::LessOrEqual,
            TokenKind::Greater => BinaryOp::Greater,
            TokenKind::GreaterOrEqual => BinaryOp::GreaterOrEqual,
            TokenKind::TrimUpper => BinaryOp::TrimUpper,
            TokenKind::TrimLower => BinaryOp::TrimLower,
            TokenKind::Identifier => match self.keyword()? {
                Keyword::And => BinaryOp::And,
                Keyword::Or => BinaryOp::Or,
                Keyword::Unless => BinaryOp::Unless,
                Keyword::Atan2 => BinaryOp::Atan2,
                _ => return None,
            },
            _ => return None,
        })
    }

    fn number_literal(&mut self) -> Result<Number, Fault> {
        let span = self.peek().span;
        let word = self.word();
        let (value, duration) = match self.peek().kind {
            TokenKind::Number => (number(word), false),
            TokenKind::Duration => {
                let duration = tributary_model::duration::parse(word)
                    .map_err(|_| format!("not a valid duration string: {word:?}"))
                    .map_err(|what| Fault::new(span, what))?;
                (Some(duration.as_secs_f64()), true)
            }
            TokenKind::Identifier if word.eq_ignore_ascii_case("inf") => {
                (Some(f64::INFINITY), false)
            }
            TokenKind::Identifier if word.eq_ignore_ascii_case("nan") => (Some(f64::NAN), false),
            _ => return Err(self.unexpected("", "number or duration")),
        };
        let value =
            value.ok_or_else(|| Fault::new(span, format!("error parsing number: {word:?}")))?;
        self.advance();
        Ok(Number { value, duration, span })
    }

    fn string(&mut self) -> Result<String, Fault> {
        let span = self.advance().span;
        let literal = self.text.get(span.start..span.end).unwrap_or("");
        tributary_model::quote::unquote(literal).map_err(|e| {
            let at = span.start + e.offset;
            Fault::new(
                Span::new(at, at + 1),
                format!("error unquoting string {literal}: {}", e.what),
            )
        })
    }

    fn peek(&self) -> &Token {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> &Token {
        self.tokens.get(self.at + ahead).or_else(|| self.tokens.last()).unwrap_or(&END)
    }

    /// The text of the next token.
    fn word(&self) -> &'a str {
        let span = self.peek().span;
        self.text.get(span.start..span.end).unwrap_or("")
    }

    fn keyword(&self) -> Option<Keyword> {
        self.keyword_at(0)
    }

    fn keyword_at(&self, ahead: usize) -> Option<Keyword> {
        let token = self.peek_at(ahead);
        if token.kind != TokenKind::Identifier {
            return None;
        }
        Keyword::from_word(self.text.get(token.span.start..token.span.end)?)
    }

    fn eat_keyword(&mut self, keyword: Keyword) -> bool {
        let found = self.keyword() == Some(keyword);
        if found {
            self.advance();
        }
        found
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        self.at += 1;
        token
    }

    /// The place of the token before the next one.
    fn previous(&self) -> Span {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(END.span, |t| t.span)
    }

    fn eat(&mut self, kind: &TokenKind) -> bool {
        let found = self.peek().kind == *kind;
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, kind: &TokenKind, context: &str, expected: &str) -> Result<Span, Fault> {
        if self.peek().kind == *kind {
            Ok(self.advance().span)
        } else {
            Err(self.unexpected(context, expected))
        }
    }

    /// `unexpected <token> in <context>, expected <expected>`; a fault of the lexer goes first.
    fn unexpected(&self, context: &str, expected: &str) -> Fault {
        let token = self.peek();
        if let TokenKind::Fault(message) = &token.kind {
            return Fault::new(token.span, message.clone());
        }
        let mut what = format!("unexpected {}", keyword::describe(self.text, token));
        if !context.is_empty() {
            what.push_str(" in ");
            what.push_str(context);
        }
        if !expected.is_empty() {
            what.push_str(", expected ");
            what.push_str(expected);
        }
        Fault::new(token.span, what)
    }
}

#[cfg(test)]
mod tests;
