//! Bits, integers and chunks: every encoder stands beside its decoder.

pub(crate) mod bits;
pub(crate) mod checked;
pub(crate) mod clock;
pub(crate) mod growing;
pub(crate) mod histograms;
pub(crate) mod integers;
pub(crate) mod values;
