//! Reads a web configuration file in Prometheus' format: TLS, users, headers.
