//! Checks basic authentication.
