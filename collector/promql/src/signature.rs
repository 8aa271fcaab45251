//! The functions of PromQL and their signatures, one row each.

use crate::ast::ValueType::{self, Matrix, Scalar, String, Vector};

/// What a function takes and yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The name.
    pub name: &'static str,
    /// The arguments' types; the last one also stands for those that [`Signature::extra`] allows.
    pub args: &'static [ValueType],
    /// How many of `args`, counted from the end, may be left out.
    pub optional: usize,
    /// How many arguments may follow `args`; `usize::MAX` is any number.
    pub extra: usize,
    /// The result's type.
    pub returns: ValueType,
    /// Whether Prometheus keeps it behind a feature flag.
    pub experimental: bool,
}

macro_rules! functions {
    ($($variant:ident $name:literal ($($arg:ident),*) optional $optional:literal extra $extra:expr, $returns:ident $($experimental:ident)?;)*) => {
        /// A function.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Function {
            $(
                #[doc = concat!("`", $name, "`")]
                $variant,
            )*
        }

        impl Function {
            /// Every function, by name.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What it takes and yields.
            pub const fn signature(self) -> Signature {
                match self {
                    $(Self::$variant => Signature {
                        name: $name,
                        args: &[$($arg),*],
                        optional: $optional,
                        extra: $extra,
                        returns: $returns,
                        experimental: functions!(@flag $($experimental)?),
                    },)*
                }
            }
        }
    };
    (@flag experimental) => { true };
    (@flag) => { false };
}

const ANY: usize = usize::MAX;

functions! {
    Abs "abs" (Vector) optional 0 extra 0, Vector;
    Absent "absent" (Vector) optional 0 extra 0, Vector;
    AbsentOverTime "absent_over_time" (Matrix) optional 0 extra 0, Vector;
    Acos "acos" (Vector) optional 0 extra 0, Vector;
    Acosh "acosh" (Vector) optional 0 extra 0, Vector;
    Asin "asin" (Vector) optional 0 extra 0, Vector;
    Asinh "asinh" (Vector) optional 0 extra 0, Vector;
    Atan "atan" (Vector) optional 0 extra 0, Vector;
    Atanh "atanh" (Vector) optional 0 extra 0, Vector;
    AvgOverTime "avg_over_time" (Matrix) optional 0 extra 0, Vector;
    Ceil "ceil" (Vector) optional 0 extra 0, Vector;
    Changes "changes" (Matrix) optional 0 extra 0, Vector;
    Clamp "clamp" (Vector, Scalar, Scalar) optional 0 extra 0, Vector;
    ClampMax "clamp_max" (Vector, Scalar) optional 0 extra 0, Vector;
    ClampMin "clamp_min" (Vector, Scalar) optional 0 extra 0, Vector;
    Cos "cos" (Vector) optional 0 extra 0, Vector;
    Cosh "cosh" (Vector) optional 0 extra 0, Vector;
    CountOverTime "count_over_time" (Matrix) optional 0 extra 0, Vector;
    DayOfMonth "day_of_month" (Vector) optional 1 extra 0, Vector;
    DayOfWeek "day_of_week" (Vector) optional 1 extra 0, Vector;
    DayOfYear "day_of_year" (Vector) optional 1 extra 0, Vector;
    DaysInMonth "days_in_month" (Vector) optional 1 extra 0, Vector;
    Deg "deg" (Vector) optional 0 extra 0, Vector;
    Delta "delta" (Matrix) optional 0 extra 0, Vector;
    Deriv "deriv" (Matrix) optional 0 extra 0, Vector;
    DoubleExponentialSmoothing "double_exponential_smoothing" (Matrix, Scalar, Scalar) optional 0 extra 0, Vector experimental;
    End "end" () optional 0 extra 0, Scalar experimental;
    Exp "exp" (Vector) optional 0 extra 0, Vector;
    FirstOverTime "first_over_time" (Matrix) optional 0 extra 0, Vector;
    Floor "floor" (Vector) optional 0 extra 0, Vector;
    HistogramAvg "histogram_avg" (Vector) optional 0 extra 0, Vector;
    HistogramCount "histogram_count" (Vector) optional 0 extra 0, Vector;
    HistogramFraction "histogram_fraction" (Scalar, Scalar, Vector) optional 0 extra 0, Vector;
    HistogramQuantile "histogram_quantile" (Scalar, Vector) optional 0 extra 0, Vector;
    HistogramQuantiles "histogram_quantiles" (Vector, String, Scalar, Scalar) optional 1 extra 8, Vector experimental;
    HistogramStddev "histogram_stddev" (Vector) optional 0 extra 0, Vector;
    HistogramStdvar "histogram_stdvar" (Vector) optional 0 extra 0, Vector;
    HistogramSum "histogram_sum" (Vector) optional 0 extra 0, Vector;
    Hour "hour" (Vector) optional 1 extra 0, Vector;
    Idelta "idelta" (Matrix) optional 0 extra 0, Vector;
    Increase "increase" (Matrix) optional 0 extra 0, Vector;
    Info "info" (Vector, Vector) optional 1 extra 0, Vector experimental;
    Irate "irate" (Matrix) optional 0 extra 0, Vector;
    LabelJoin "label_join" (Vector, String, String, String) optional 1 extra ANY, Vector;
    LabelReplace "label_replace" (Vector, String, String, String, String) optional 0 extra 0, Vector;
    LastOverTime "last_over_time" (Matrix) optional 0 extra 0, Vector;
    Ln "ln" (Vector) optional 0 extra 0, Vector;
    Log10 "log10" (Vector) optional 0 extra 0, Vector;
    Log2 "log2" (Vector) optional 0 extra 0, Vector;
    MadOverTime "mad_over_time" (Matrix) optional 0 extra 0, Vector experimental;
    MaxOf "max_of" (Scalar, Scalar) optional 0 extra 0, Scalar experimental;
    MaxOverTime "max_over_time" (Matrix) optional 0 extra 0, Vector;
    MinOf "min_of" (Scalar, Scalar) optional 0 extra 0, Scalar experimental;
    MinOverTime "min_over_time" (Matrix) optional 0 extra 0, Vector;
    Minute "minute" (Vector) optional 1 extra 0, Vector;
    Month "month" (Vector) optional 1 extra 0, Vector;
    Pi "pi" () optional 0 extra 0, Scalar;
    PredictLinear "predict_linear" (Matrix, Scalar) optional 0 extra 0, Vector;
    PresentOverTime "present_over_time" (Matrix) optional 0 extra 0, Vector;
    QuantileOverTime "quantile_over_time" (Scalar, Matrix) optional 0 extra 0, Vector;
    Rad "rad" (Vector) optional 0 extra 0, Vector;
    Range "range" () optional 0 extra 0, Scalar experimental;
    Rate "rate" (Matrix) optional 0 extra 0, Vector;
    Resets "resets" (Matrix) optional 0 extra 0, Vector;
    Round "round" (Vector, Scalar) optional 1 extra 0, Vector;
    Scalar "scalar" (Vector) optional 0 extra 0, Scalar;
    Sgn "sgn" (Vector) optional 0 extra 0, Vector;
    Sin "sin" (Vector) optional 0 extra 0, Vector;
    Sinh "sinh" (Vector) optional 0 extra 0, Vector;
    Sort "sort" (Vector) optional 0 extra 0, Vector;
    SortByLabel "sort_by_label" (Vector, String) optional 1 extra ANY, Vector experimental;
    SortByLabelDesc "sort_by_label_desc" (Vector, String) optional 1 extra ANY, Vector experimental;
    SortDesc "sort_desc" (Vector) optional 0 extra 0, Vector;
    Sqrt "sqrt" (Vector) optional 0 extra 0, Vector;
    Start "start" () optional 0 extra 0, Scalar experimental;
    StartTimestamp "start_timestamp" (Vector) optional 0 extra 0, Vector experimental;
    StddevOverTime "stddev_over_time" (Matrix) optional 0 extra 0, Vector;
    StdvarOverTime "stdvar_over_time" (Matrix) optional 0 extra 0, Vector;
    Step "step" () optional 0 extra 0, Scalar experimental;
    SumOverTime "sum_over_time" (Matrix) optional 0 extra 0, Vector;
    Tan "tan" (Vector) optional 0 extra 0, Vector;
    Tanh "tanh" (Vector) optional 0 extra 0, Vector;
    Time "time" () optional 0 extra 0, Scalar;
    Timestamp "timestamp" (Vector) optional 0 extra 0, Vector;
    TsOfFirstOverTime "ts_of_first_over_time" (Matrix) optional 0 extra 0, Vector experimental;
    TsOfLastOverTime "ts_of_last_over_time" (Matrix) optional 0 extra 0, Vector experimental;
    TsOfMaxOverTime "ts_of_max_over_time" (Matrix) optional 0 extra 0, Vector experimental;
    TsOfMinOverTime "ts_of_min_over_time" (Matrix) optional 0 extra 0, Vector experimental;
    Vector "vector" (Scalar) optional 0 extra 0, Vector;
    Year "year" (Vector) optional 1 extra 0, Vector;
}

impl Function {
    /// The function's name.
    pub const fn name(self) -> &'static str {
        self.signature().name
    }

    /// The function with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        let at = Self::ALL.binary_search_by(|function| function.name().cmp(name)).ok()?;
        Self::ALL.get(at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        for function in Function::ALL {
            assert_eq!(Function::by_name(function.name()), Some(*function));
        }
        assert_eq!(Function::by_name("nothing"), None);
    }
}
