//! The syntax that Prometheus keeps behind feature flags: parsed always, used only where it is enabled.

/// What is enabled beyond the stable language. All of it is off by default, as in Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one of Prometheus' independent feature flags"
)]
pub struct Features {
    /// Functions and aggregations marked experimental (`promql-experimental-functions`).
    pub experimental_functions: bool,
    /// Arithmetic in ranges and offsets (`promql-duration-expr`).
    pub duration_expressions: bool,
    /// `anchored` and `smoothed` (`promql-extended-range-selectors`).
    pub extended_selectors: bool,
    /// `fill`, `fill_left`, `fill_right` (`promql-binop-fill-modifiers`).
    pub fill_modifiers: bool,
    /// Metric names are dropped at the end of the evaluation (`promql-delayed-name-removal`).
    pub delayed_name_removal: bool,
}

impl Features {
    /// Everything on, which is how Prometheus runs its own test scripts.
    pub const ALL: Self = Self {
        experimental_functions: true,
        duration_expressions: true,
        extended_selectors: true,
        fill_modifiers: true,
        delayed_name_removal: true,
    };
}
