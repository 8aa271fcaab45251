//! Random expressions whose values are native histograms, or are computed from them.

use super::{AGGREGATIONS, ARITHMETIC, COMPARISONS, EACH_VALUE, Fuzz, OVER_TIME, RANGES, RANKS};

/// What gives histograms for histograms.
const KEEPS: &[&str] = &[
    "rate",
    "rate",
    "increase",
    "increase",
    "delta",
    "irate",
    "idelta",
    "last_over_time",
    "avg_over_time",
    "sum_over_time",
];

/// What gives numbers for histograms.
const PARTS: &[&str] =
    &["histogram_count", "histogram_sum", "histogram_avg", "histogram_stddev", "histogram_stdvar"];

const COUNTS: &[&str] = &["resets", "changes", "count_over_time", "present_over_time"];

impl Fuzz<'_> {
    /// An expression that mostly gives histograms.
    pub(super) fn histograms(&mut self, depth: usize) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.modifiers());
        }
        let below = depth - 1;
        match self.random.below(14) {
            0..=4 => format!("{}({})", self.one_of(KEEPS), self.histogram_range(below)),
            5..=7 => {
                let (op, grouping) = (self.one_of(&["sum", "avg"]), self.grouping());
                format!("{op} {grouping}({})", self.histograms(below))
            }
            8 => {
                let op = self.one_of(&["*", "/", "*", "/", "+", "^"]);
                format!("({} {op} {})", self.histograms(below), self.factor())
            }
            9 => format!("({} * {})", self.factor(), self.histograms(below)),
            10 | 11 => self.of_two_histograms(below),
            12 => format!("-{}", self.histograms(below)),
            _ => format!(
                "label_replace({}, \"zone\", \"z-$1\", \"job\", \"(.).*\")",
                self.histograms(below)
            ),
        }
    }

    /// An expression that gives numbers for histograms, or nothing where they make no sense.
    pub(super) fn of_histograms(&mut self, depth: usize) -> String {
        let below = depth.saturating_sub(1);
        match self.random.below(16) {
            0..=3 => format!("{}({})", self.one_of(PARTS), self.histograms(below)),
            4..=6 => {
                format!("histogram_quantile({}, {})", self.quantile(), self.histograms(below))
            }
            7 | 8 => {
                let (lower, upper) = (self.bound(), self.bound());
                format!("histogram_fraction({lower}, {upper}, {})", self.histograms(below))
            }
            9 | 10 => format!("{}({})", self.one_of(COUNTS), self.histogram_range(below)),
            11 => format!("{}({})", self.one_of(OVER_TIME), self.histogram_range(below)),
            12 => {
                let (op, grouping) = (self.one_of(AGGREGATIONS), self.grouping());
                format!("{op} {grouping}({})", self.histograms(below))
            }
            13 => {
                let (op, grouping) = (self.one_of(RANKS), self.grouping());
                format!("{op} {grouping}({}, {})", self.random.below(5), self.histograms(below))
            }
            14 => format!("{}({})", self.one_of(EACH_VALUE), self.histograms(below)),
            _ => {
                // Of histograms as they are, whose text has no rounding errors.
                format!("count_values {}(\"value\", {})", self.grouping(), self.selector())
            }
        }
    }

    fn of_two_histograms(&mut self, depth: usize) -> String {
        let (lhs, rhs) = if self.random.one_in(2) {
            // The same series at two times, so that they match.
            let (selector, range) = (self.selector(), self.one_of(RANGES));
            (selector.clone(), format!("{selector} offset {range}"))
        } else {
            (self.histograms(depth), self.histograms(depth))
        };
        let matching = self.matching();
        match self.random.below(8) {
            0..=3 => format!("({lhs} {} {matching} {rhs})", self.one_of(&["+", "-"])),
            4 => format!("({lhs} {} {matching} {rhs})", self.one_of(ARITHMETIC)),
            5 => format!("({lhs} {} {matching} {rhs})", self.one_of(&["==", "!="])),
            6 => {
                let flag = self.one_of(&["", "bool"]);
                format!("({lhs} {} {flag} {matching} {rhs})", self.one_of(COMPARISONS))
            }
            _ => format!("({lhs} {} {rhs})", self.one_of(&["and", "or", "unless"])),
        }
    }

    fn histogram_range(&mut self, depth: usize) -> String {
        let range = self.one_of(RANGES);
        let modifiers = self.modifiers();
        if depth > 0 && self.random.one_in(4) {
            let step = self.one_of(&["", "30s", "1m", "7m"]);
            return format!("({})[{range}:{step}]{modifiers}", self.histograms(depth - 1));
        }
        format!("{}[{range}]{modifiers}", self.selector())
    }

    fn factor(&mut self) -> String {
        match self.random.below(12) {
            0 => self.number(),
            1 => "0".to_owned(),
            2 => "time()".to_owned(),
            _ => format!("{:.2}", self.random.unit() * 8.0 - 3.0),
        }
    }

    /// Something between the observations, or beyond them.
    fn bound(&mut self) -> String {
        match self.random.below(6) {
            0 => self.number(),
            1 => "-Inf".to_owned(),
            2 => "+Inf".to_owned(),
            _ => format!("{:.3}", self.random.unit() * 6.0 - 2.0),
        }
    }
}
