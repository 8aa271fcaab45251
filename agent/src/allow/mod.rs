//! Lets listed series through, strips unlisted labels, and keeps the budget.

pub mod merge;
pub mod plan;
