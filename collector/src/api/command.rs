//! Commands that ask a running collector over its HTTP API.
