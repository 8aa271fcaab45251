//! Random expressions over the made-up series: every operator, aggregation and function that a Prometheus 3.5 knows.

mod native;

use std::fmt::Write as _;

use tributary_model::label::Labels;
use tributary_tests::random::Random;

use super::generate::Generated;

/// How deep expressions nest.
const DEPTH: usize = 3;

const OVER_TIME: &[&str] = &[
    "rate",
    "increase",
    "delta",
    "irate",
    "idelta",
    "resets",
    "changes",
    "deriv",
    "avg_over_time",
    "count_over_time",
    "last_over_time",
    "max_over_time",
    "min_over_time",
    "present_over_time",
    "stddev_over_time",
    "stdvar_over_time",
    "sum_over_time",
    "mad_over_time",
    "absent_over_time",
    "ts_of_max_over_time",
    "ts_of_min_over_time",
    "ts_of_last_over_time",
];

const EACH_VALUE: &[&str] = &[
    "abs",
    "ceil",
    "floor",
    "exp",
    "ln",
    "log2",
    "log10",
    "sqrt",
    "sgn",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "deg",
    "rad",
    "round",
    "timestamp",
    "absent",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "days_in_month",
    "hour",
    "minute",
    "month",
    "year",
    "sort",
    "sort_desc",
];

const AGGREGATIONS: &[&str] = &["sum", "avg", "count", "min", "max", "group", "stddev", "stdvar"];

const RANKS: &[&str] = &["topk", "bottomk", "limitk"];

const ARITHMETIC: &[&str] = &["+", "-", "*", "/", "%", "^", "atan2"];

const COMPARISONS: &[&str] = &["==", "!=", "<", "<=", ">", ">="];

const RANGES: &[&str] = &["45s", "1m", "3m", "5m", "10m", "31m", "1h30m"];

/// Whether Prometheus itself may answer a range query differently each time: between vectors it keeps series in a hash
/// map there, and these aggregations choose the first of several equals.
pub fn depends_on_order(expression: &str) -> bool {
    RANKS.iter().any(|rank| expression.contains(rank))
}

/// Makes expressions up.
pub struct Fuzz<'a> {
    series: Vec<&'a Labels>,
    /// Those that hold native histograms.
    native: Vec<&'a Labels>,
    random: Random,
}

impl<'a> Fuzz<'a> {
    pub fn new(generated: &'a Generated, seed: u64) -> Self {
        Self {
            series: generated.memory.series().map(|(labels, _)| labels).collect(),
            native: generated.native.iter().map(|series| &series.labels).collect(),
            random: Random::new(seed),
        }
    }

    /// One expression.
    pub fn expression(&mut self) -> String {
        if self.random.one_in(12) { self.scalar(DEPTH) } else { self.vector(DEPTH) }
    }

    fn one_of(&mut self, choices: &[&'static str]) -> &'static str {
        choices[self.random.below(choices.len())]
    }

    fn number(&mut self) -> String {
        let plain = (self.random.unit() * 40.0 - 10.0).round() / 2.0;
        match self.random.below(12) {
            0 => "Inf".to_owned(),
            1 => "NaN".to_owned(),
            2 => "0".to_owned(),
            3 => format!("{}", self.random.unit()),
            4 => "1e9".to_owned(),
            _ => plain.to_string(),
        }
    }

    fn quantile(&mut self) -> String {
        match self.random.below(8) {
            0 => "-0.5".to_owned(),
            1 => "1.5".to_owned(),
            _ => format!("{:.2}", self.random.unit()),
        }
    }

    /// Those of a random series, mostly one of native histograms if there are any.
    fn labels(&mut self) -> &'a Labels {
        let native = !self.native.is_empty() && !self.random.one_in(8);
        let series = if native { &self.native } else { &self.series };
        series[self.random.below(series.len())]
    }

    /// A selector of some series' name, with some of its labels.
    fn selector(&mut self) -> String {
        let labels = self.labels();
        let mut matchers = Vec::new();
        for label in labels.iter().filter(|label| &*label.name != "__name__") {
            match self.random.below(10) {
                0 | 1 => matchers.push(format!("{}={:?}", label.name, label.value)),
                2 => matchers.push(format!("{}!={:?}", label.name, label.value)),
                3 => matchers.push(format!("{}=~\"{}.*\"", label.name, first(&label.value))),
                4 => matchers.push(format!("{}!~\"{}.+\"", label.name, first(&label.value))),
                _ => {}
            }
        }
        format!("{}{{{}}}", labels.metric_name(), matchers.join(","))
    }

    fn modifiers(&mut self) -> String {
        let mut out = String::new();
        match self.random.below(12) {
            0 => out.push_str(" offset 3m"),
            1 => out.push_str(" offset -70s"),
            2 => out.push_str(" @ start()"),
            3 => out.push_str(" @ end() offset 1m"),
            4 => out.push_str(" @ 1763696000.5"),
            _ => {}
        }
        out
    }

    fn range(&mut self, depth: usize) -> String {
        let range = self.one_of(RANGES);
        let modifiers = self.modifiers();
        if depth > 0 && self.random.one_in(4) {
            let step = self.one_of(&["", "30s", "1m", "7m"]);
            let inner = self.vector(depth - 1);
            return format!("({inner})[{range}:{step}]{modifiers}");
        }
        format!("{}[{range}]{modifiers}", self.selector())
    }

    fn scalar(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.number();
        }
        match self.random.below(6) {
            0 => format!("scalar({})", self.vector(depth - 1)),
            1 => "time()".to_owned(),
            2 => {
                let op = self.one_of(ARITHMETIC);
                format!("({} {op} {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
            3 => {
                let op = self.one_of(COMPARISONS);
                format!("({} {op} bool {})", self.scalar(depth - 1), self.scalar(depth - 1))
            }
            _ => self.number(),
        }
    }

    /// Some label names of a random series.
    fn label_names(&mut self) -> String {
        let labels = self.labels();
        let mut names = Vec::new();
        for label in labels {
            if self.random.one_in(3) {
                names.push(label.name.to_string());
            }
        }
        names.join(",")
    }

    fn grouping(&mut self) -> String {
        match self.random.below(3) {
            0 => String::new(),
            1 => format!("by ({}) ", self.label_names()),
            _ => format!("without ({}) ", self.label_names()),
        }
    }

    fn matching(&mut self) -> String {
        let mut out = match self.random.below(3) {
            0 => return String::new(),
            1 => format!("on ({})", self.label_names()),
            _ => format!("ignoring ({})", self.label_names()),
        };
        match self.random.below(5) {
            0 => out.push_str(" group_left()"),
            1 => out.push_str(" group_right()"),
            2 => out.push_str(" group_left(zone,mode)"),
            _ => {}
        }
        out
    }

    fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return format!("{}{}", self.selector(), self.modifiers());
        }
        if !self.native.is_empty() && !self.random.one_in(3) {
            return if self.random.one_in(2) {
                self.histograms(depth)
            } else {
                self.of_histograms(depth)
            };
        }
        let below = depth - 1;
        match self.random.below(15) {
            0..=3 => format!("{}({})", self.one_of(OVER_TIME), self.range(below)),
            4 | 5 => format!("{}({})", self.one_of(EACH_VALUE), self.vector(below)),
            6 | 7 => {
                let (op, grouping) = (self.one_of(AGGREGATIONS), self.grouping());
                format!("{op} {grouping}({})", self.vector(below))
            }
            8 => {
                let (op, grouping) = (self.one_of(RANKS), self.grouping());
                format!("{op} {grouping}({}, {})", self.random.below(5), self.vector(below))
            }
            9 => self.with_parameters(below),
            10 | 11 => self.of_two_vectors(below),
            12 => {
                let op = self.one_of(ARITHMETIC);
                format!("({} {op} {})", self.vector(below), self.scalar(below))
            }
            13 => {
                let op = self.one_of(COMPARISONS);
                let flag = self.one_of(&["", "bool "]);
                format!("({} {op} {flag}{})", self.scalar(below), self.vector(below))
            }
            _ => format!("-{}", self.vector(below)),
        }
    }

    fn of_two_vectors(&mut self, depth: usize) -> String {
        let (lhs, rhs) = if self.random.one_in(2) {
            // The same series on both sides, so that they match.
            let selector = self.selector();
            (selector.clone(), selector)
        } else {
            (self.vector(depth), self.vector(depth))
        };
        match self.random.below(3) {
            0 => {
                let op = self.one_of(&["and", "or", "unless"]);
                let labels = self.label_names();
                let matching = self.one_of(&["", "on", "ignoring"]);
                if matching.is_empty() {
                    format!("({lhs} {op} {rhs})")
                } else {
                    format!("({lhs} {op} {matching} ({labels}) {rhs})")
                }
            }
            1 => format!("({lhs} {} {} {rhs})", self.one_of(ARITHMETIC), self.matching()),
            _ => {
                let flag = self.one_of(&["", "bool"]);
                format!("({lhs} {} {flag} {} {rhs})", self.one_of(COMPARISONS), self.matching())
            }
        }
    }

    fn with_parameters(&mut self, depth: usize) -> String {
        match self.random.below(14) {
            0 => {
                format!("quantile {}({}, {})", self.grouping(), self.quantile(), self.vector(depth))
            }
            1 => format!("count_values {}(\"value\", {})", self.grouping(), self.vector(depth)),
            2 => format!("quantile_over_time({}, {})", self.quantile(), self.range(depth)),
            3 => format!("predict_linear({}, {})", self.range(depth), self.scalar(depth)),
            4 => format!("double_exponential_smoothing({}, 0.3, 0.6)", self.range(depth)),
            5 => {
                format!("clamp({}, {}, {})", self.vector(depth), self.scalar(depth), self.number())
            }
            6 => format!("clamp_min({}, {})", self.vector(depth), self.scalar(depth)),
            7 => format!("round({}, {})", self.vector(depth), self.number()),
            8 => format!("histogram_quantile({}, {})", self.quantile(), self.buckets()),
            9 => format!(
                "histogram_fraction({}, {}, {})",
                self.number(),
                self.number(),
                self.buckets()
            ),
            10 => format!(
                "label_replace({}, \"zone\", \"z-$1\", \"job\", \"(.).*\")",
                self.vector(depth)
            ),
            11 => format!("label_join({}, \"zone\", \"/\", \"job\", \"pod\")", self.vector(depth)),
            12 => format!("vector({})", self.scalar(depth)),
            _ => format!(
                "limit_ratio {}({:.2}, {})",
                self.grouping(),
                self.random.unit() * 2.0 - 1.0,
                self.vector(depth)
            ),
        }
    }

    /// Buckets of classic histograms.
    fn buckets(&mut self) -> String {
        let mut selector = self.selector();
        for _ in 0..50 {
            if selector.contains("_bucket") {
                break;
            }
            selector = self.selector();
        }
        let mut out = String::new();
        let range = self.one_of(RANGES);
        let _ = match self.random.below(3) {
            0 => write!(out, "{selector}"),
            1 => write!(out, "rate({selector}[{range}])"),
            _ => write!(out, "sum by (le, job) (increase({selector}[{range}]))"),
        };
        out
    }
}

/// The first letter, if it means only itself in a regular expression.
fn first(text: &str) -> String {
    text.chars().take(1).filter(|c| c.is_ascii_alphanumeric()).collect()
}
