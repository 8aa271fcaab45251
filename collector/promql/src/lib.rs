//! PromQL 3.x: lexer, parser, type check, exact printer, scoping and evaluation.
//!
//! No clock, no disk, no thread of its own: the time and the series are arguments.

pub mod ast;
pub mod eval;
pub mod feature;
pub mod functions;
pub mod signature;
pub mod source;
pub mod value;
