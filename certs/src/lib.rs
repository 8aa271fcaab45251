//! Certificates: the authority, the identities it certifies, and mutual TLS built on both.

pub mod authority;
pub mod bundle;
pub mod certificate;
pub mod check;
pub mod digest;
pub mod enrol;
pub mod error;
pub mod export;
pub mod identity;
pub mod pair;
pub mod request;
pub mod revoke;
pub mod rotate;
pub mod state;
pub mod status;
pub mod succession;
pub mod tls;
pub mod token;
pub mod trust;

mod disk;
mod pem;
mod table;
mod verify;
