//! Native histograms in answers, in the form of the API: what was counted, and the buckets that are not empty.

use std::fmt;

use anyhow::Context as _;
use serde_json::Value as Json;
use tributary_model::histogram::{Bucket, Histogram};
use tributary_model::number::parse_float;

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

    /// Whether buckets, counts and sum are the same up to a relative difference.
    pub fn nearly_equals(&self, other: &Self, near: impl Fn(f64, f64) -> bool) -> bool {
        let same = |a: &Bucket, b: &Bucket| {
            (a.lower_inclusive, a.upper_inclusive) == (b.lower_inclusive, b.upper_inclusive)
                && near(a.lower, b.lower)
                && near(a.upper, b.upper)
                && near(a.count, b.count)
        };
        near(self.count, other.count)
            && near(self.sum, other.sum)
            && self.buckets.len() == other.buckets.len()
            && self.buckets.iter().zip(&other.buckets).all(|(a, b)| same(a, b))
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
