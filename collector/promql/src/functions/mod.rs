//! What the functions compute, on numbers and windows of samples; which series they get is the evaluator's concern.

pub(crate) mod bucket;
pub(crate) mod counter;
pub(crate) mod date;
pub(crate) mod elementwise;
pub(crate) mod extended;
pub(crate) mod extended_native;
pub(crate) mod mixed;
pub(crate) mod native;
pub(crate) mod native_counter;
pub(crate) mod native_sum;
pub(crate) mod natural;
pub(crate) mod number;
pub(crate) mod over_time;
pub(crate) mod remark;
pub(crate) mod sliding;
pub(crate) mod start;
pub(crate) mod trend;
pub(crate) mod trim;
pub(crate) mod window;

pub(crate) use window::{Timed, Window, WindowFunction};
