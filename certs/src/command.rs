//! The commands of `tributary-certs`, one file each kind.

pub mod args;
pub mod change;
pub mod fault;
pub mod rotate;
pub mod show;
