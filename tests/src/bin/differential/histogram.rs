//! Native histograms in answers, in the form of the API: what was counted, and the buckets that are not empty.

use std::fmt;

use anyhow::Context as _;
use serde_json::Value as Json;
use tributary_model::histogram::{Bucket, Histogram};
use tributary_model::number::parse_float;

use super::compare::{Tolerance, nearly_equal};

#[derive(Clone, PartialEq)]
pub struct Native {
    count: f64,
    sum: f64,
    buckets: Vec<Bucket>,
}

impl Native {
    /// Reads `{"count":"3","sum":"4","buckets":[[0,"1","2","3"]]}`.
    pub fn read(json: &Json) -> anyhow::Result<Self> {
        let buckets = match json.get("buckets") {
            Some(list) => list.as_array().context("buckets are no list")?.as_slice(),
            None => &[],
        };
        Ok(Self {
            count: number(json.get("count"))?,
            sum: number(json.get("sum"))?,
            buckets: buckets.iter().map(bucket).collect::<anyhow::Result<_>>()?,
        })
    }

    /// Whether counts, sum and buckets are the same. What is left of a count after a subtraction may be nothing but
    /// rounding, so that counts are measured by the largest bucket.
    pub fn nearly_equals(&self, other: &Self, tolerance: Tolerance) -> bool {
        let largest = self.known().chain(other.known()).map(|b| b.count.abs()).fold(0.0, f64::max);
        let near = |a: f64, b: f64| nearly_equal(a, b, tolerance);
        let same_count =
            |a: f64, b: f64| near(a, b) || (a - b).abs() <= tolerance.relative * largest;
        let at = |bucket: &Bucket, other: &Bucket| {
            (bucket.lower_inclusive, bucket.upper_inclusive)
                == (other.lower_inclusive, other.upper_inclusive)
                && near(bucket.lower, other.lower)
                && near(bucket.upper, other.upper)
        };
        let among = |bucket: &Bucket, others: &Self| {
            let found = others.known().find(|other| at(bucket, other));
            let count = found.map_or(0.0, |other| other.count);
            same_count(bucket.count, count)
        };
        same_count(self.count, other.count)
            && near(self.sum, other.sum)
            && self.known().all(|bucket| among(bucket, other))
            && other.known().all(|bucket| among(bucket, self))
    }

    /// Whether its count or that of a bucket is below zero.
    pub fn has_counts_below_zero(&self) -> bool {
        self.count < 0.0 || self.buckets.iter().any(|bucket| bucket.count < 0.0)
    }

    /// A store may pad its histograms with empty buckets, which are NaN after arithmetic with Inf.
    fn known(&self) -> impl Iterator<Item = &Bucket> {
        self.buckets.iter().filter(|bucket| !bucket.count.is_nan())
    }
}

impl From<&Histogram> for Native {
    fn from(histogram: &Histogram) -> Self {
        let mut buckets = histogram.buckets();
        buckets.retain(|bucket| bucket.count != 0.0);
        Self { count: histogram.count(), sum: histogram.sum(), buckets }
    }
}

impl fmt::Debug for Native {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{:?}, sum:{:?}", self.count, self.sum)?;
        for bucket in &self.buckets {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}

fn bucket(json: &Json) -> anyhow::Result<Bucket> {
    let (lower_inclusive, upper_inclusive) = match json.get(0).and_then(Json::as_u64) {
        Some(0) => (false, true),
        Some(1) => (true, false),
        Some(2) => (false, false),
        Some(3) => (true, true),
        _ => anyhow::bail!("not a bucket: {json}"),
    };
    Ok(Bucket {
        lower: number(json.get(1))?,
        upper: number(json.get(2))?,
        lower_inclusive,
        upper_inclusive,
        count: number(json.get(3))?,
    })
}

fn number(json: Option<&Json>) -> anyhow::Result<f64> {
    let text = json.and_then(Json::as_str).context("a histogram lacks a number")?;
    parse_float(text).with_context(|| format!("{text:?} is not a number"))
}
