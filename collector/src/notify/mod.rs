//! Notifications: route, group, send.

pub mod config;
pub mod email;
pub mod group;
pub mod message;
pub mod route;
