//! PromQL 3.x: lexer, parser, type check, exact printer, scoping and evaluation.
//!
//! No clock, no disk, no thread of its own: the time and the series are arguments.

pub mod ast;
mod check;
pub mod error;
pub mod eval;
pub mod feature;
pub mod functions;
mod lexer;
pub mod parser;
pub mod pretty;
mod print;
pub mod scope;
pub mod signature;
pub mod source;
#[cfg(test)]
mod testdata;
pub mod value;

/// Reads an expression and checks its types. Experimental syntax is accepted; [`feature::check`] tells it apart.
pub fn parse(text: &str) -> Result<ast::Expr, error::ParseError> {
    parser::parse(text).map_err(|fault| error::ParseError::new(text, fault))
}
