//! One sample's value.

use std::sync::Arc;

use tributary_model::histogram::Histogram;

/// What a sample is: a number's bits, or a native histogram.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Number(u64),
    Histogram(Arc<Histogram>),
}

impl Value {
    /// Whether it is the very same. What is said of resets does not count.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Number(own), Self::Number(other)) => own == other,
            (Self::Histogram(own), Self::Histogram(other)) => own.has_data_of(other),
            _ => false,
        }
    }
}
