//! Recording and alerting rules, each in its scope.

pub mod alerting;
pub mod command;
pub mod file;
pub mod group;
pub mod template;
