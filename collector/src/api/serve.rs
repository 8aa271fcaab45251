//! Accepts connections of the HTTP port, within bounds, and lets them end before a stop.
