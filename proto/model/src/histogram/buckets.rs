//! The counts of one side of a histogram, with gaps between spans of neighbouring buckets.

use super::HistogramError;

/// The largest distance of a bucket's index from zero: far beyond any number's bucket in the finest schema.
const FARTHEST: i64 = 1 << 30;

/// What is counted: plain numbers, or numbers that know their rounding error.
pub trait Quantity: Copy + Default {
    /// The sum of both.
    #[must_use]
    fn plus(self, other: Self) -> Self;

    /// Whether there is nothing.
    fn is_zero(self) -> bool;
}

impl Quantity for f64 {
    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn is_zero(self) -> bool {
        self == 0.0
    }
}

/// Neighbouring buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Span {
    /// The first span's first index; for later ones, the number of buckets left out before it.
    pub offset: i32,
    /// How many buckets.
    pub length: u32,
}

/// Buckets by index, in ascending order. No span is empty, and none touches the next.
#[derive(Debug, Clone)]
pub struct Buckets<N = f64> {
    spans: Vec<Span>,
    counts: Vec<N>,
}

impl<N> Default for Buckets<N> {
    fn default() -> Self {
        Self { spans: Vec::new(), counts: Vec::new() }
    }
}

impl<N: Quantity> Buckets<N> {
    /// Buckets from spans and the counts of all of them. Spans that are empty or touch are put together.
    pub fn new(spans: &[Span], counts: Vec<N>) -> Result<Self, HistogramError> {
        let total: u64 = spans.iter().map(|span| u64::from(span.length)).sum();
        if u64::try_from(counts.len()) != Ok(total) {
            return Err(HistogramError::Spans { spans: total, counts: counts.len() });
        }
        let mut joined: Vec<Span> = Vec::with_capacity(spans.len());
        // The index after the last bucket, and after the last span that is kept.
        let (mut next, mut end) = (0_i64, 0_i64);
        for (at, span) in spans.iter().enumerate() {
            if at > 0 && span.offset < 0 {
                return Err(HistogramError::SpanOffset);
            }
            let first = next + i64::from(span.offset);
            next = first + i64::from(span.length);
            if first.abs() > FARTHEST || next.abs() > FARTHEST {
                return Err(HistogramError::SpanOffset);
            }
            if span.length == 0 {
                continue;
            }
            match joined.last_mut() {
                Some(last) if first == end => last.length += span.length,
                _ => {
                    let offset = i32::try_from(first - if joined.is_empty() { 0 } else { end })
                        .map_err(|_| HistogramError::SpanOffset)?;
                    joined.push(Span { offset, length: span.length });
                }
            }
            end = next;
        }
        Ok(Self { spans: joined, counts })
    }

    /// Indices and counts in ascending order.
    pub fn iter(&self) -> Iter<'_, N> {
        let end = self.last_index().map_or(0, |last| last + 1);
        Iter {
            front: Place { span: 0, inside: 0, index: self.first_index().unwrap_or(0) },
            back: Place { span: self.spans.len(), inside: 0, index: end },
            spans: &self.spans,
            counts: &self.counts,
        }
    }

    /// The spans.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The counts of all buckets of all spans.
    pub fn counts(&self) -> &[N] {
        &self.counts
    }

    /// The number of buckets.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there is no bucket.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The lowest index.
    pub fn first_index(&self) -> Option<i32> {
        self.spans.first().map(|span| span.offset)
    }

    /// The highest index.
    pub fn last_index(&self) -> Option<i32> {
        let length = |span: &Span| i64::from(span.offset) + i64::from(span.length);
        let end: i64 = self.spans.iter().map(length).sum();
        if self.spans.is_empty() { None } else { i32::try_from(end - 1).ok() }
    }

    /// The same buckets with other counts.
    #[must_use]
    pub fn map<M>(&self, mut change: impl FnMut(i32, N) -> M) -> Buckets<M> {
        let counts = self.iter().map(|(index, count)| change(index, count)).collect();
        Buckets { spans: self.spans.clone(), counts }
    }

    /// Removes empty buckets.
    pub(super) fn compact(&mut self) {
        if self.counts.iter().any(|count| count.is_zero()) {
            *self = self.iter().filter(|(_, count)| !count.is_zero()).collect();
        }
    }

    /// Adds the counts of the other buckets.
    pub(super) fn add(&mut self, other: &Self) {
        if self.spans == other.spans {
            for (own, more) in self.counts.iter_mut().zip(&other.counts) {
                *own = own.plus(*more);
            }
            return;
        }
        let (mut a, mut b) = (self.iter().peekable(), other.iter().peekable());
        let mut all = Builder::with_capacity(self.len().max(other.len()));
        loop {
            let next = match (a.peek(), b.peek()) {
                (Some((i, own)), Some((j, more))) if i == j => {
                    let sum = (*i, own.plus(*more));
                    b.next();
                    a.next();
                    Some(sum)
                }
                (Some((i, _)), Some((j, _))) if i < j => a.next(),
                (_, Some(_)) => b.next(),
                (_, None) => a.next(),
            };
            let Some((index, count)) = next else { break };
            all.push(index, count);
        }
        *self = all.buckets;
    }

    /// Buckets with other indices; counts whose new indices are equal are summed. The new indices must not fall.
    #[must_use]
    pub(super) fn moved(&self, target: impl Fn(i32) -> i32) -> Self {
        self.iter().map(|(index, count)| (target(index), count)).collect()
    }
}

impl<'a, N: Quantity> IntoIterator for &'a Buckets<N> {
    type Item = (i32, N);
    type IntoIter = Iter<'a, N>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Collects buckets whose indices do not fall; counts with equal indices are summed.
impl<N: Quantity> FromIterator<(i32, N)> for Buckets<N> {
    fn from_iter<T: IntoIterator<Item = (i32, N)>>(buckets: T) -> Self {
        let mut builder = Builder::with_capacity(0);
        for (index, count) in buckets {
            builder.push(index, count);
        }
        builder.buckets
    }
}

impl PartialEq for Buckets {
    fn eq(&self, other: &Self) -> bool {
        self.spans == other.spans
            && self.counts.iter().map(|c| c.to_bits()).eq(other.counts.iter().map(|c| c.to_bits()))
    }
}

struct Builder<N> {
    buckets: Buckets<N>,
    /// The index after the last bucket.
    end: i32,
}

impl<N: Quantity> Builder<N> {
    fn with_capacity(buckets: usize) -> Self {
        let buckets = Buckets { spans: Vec::new(), counts: Vec::with_capacity(buckets) };
        Self { buckets, end: 0 }
    }

    fn push(&mut self, index: i32, count: N) {
        let Buckets { spans, counts } = &mut self.buckets;
        match (spans.last_mut(), counts.last_mut()) {
            (Some(_), Some(last)) if index < self.end => {
                *last = last.plus(count);
                return;
            }
            (Some(span), _) if index == self.end => span.length += 1,
            _ => spans.push(Span { offset: index - self.end, length: 1 }),
        }
        counts.push(count);
        self.end = index + 1;
    }
}

/// A place in the spans: at the front, of the next bucket; at the back, after it.
#[derive(Debug, Clone, Copy)]
struct Place {
    span: usize,
    inside: u32,
    index: i32,
}

/// Indices and counts of [`Buckets`].
#[derive(Debug, Clone)]
pub struct Iter<'a, N> {
    front: Place,
    back: Place,
    spans: &'a [Span],
    /// Those not yet given.
    counts: &'a [N],
}

impl<N: Copy> Iterator for Iter<'_, N> {
    type Item = (i32, N);

    fn next(&mut self) -> Option<Self::Item> {
        let (count, rest) = self.counts.split_first()?;
        self.counts = rest;
        let place = &mut self.front;
        if self.spans.get(place.span).is_some_and(|span| place.inside >= span.length) {
            place.span += 1;
            place.inside = 0;
            place.index += self.spans.get(place.span).map_or(0, |span| span.offset);
        }
        let index = place.index;
        place.inside += 1;
        place.index += 1;
        Some((index, *count))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.counts.len(), Some(self.counts.len()))
    }
}

impl<N: Copy> DoubleEndedIterator for Iter<'_, N> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let (count, rest) = self.counts.split_last()?;
        self.counts = rest;
        let place = &mut self.back;
        if place.inside == 0 {
            let gap = self.spans.get(place.span).map_or(0, |span| span.offset);
            place.index -= gap;
            place.span = place.span.saturating_sub(1);
            place.inside = self.spans.get(place.span).map_or(0, |span| span.length);
        }
        place.inside = place.inside.saturating_sub(1);
        place.index -= 1;
        Some((place.index, *count))
    }
}

impl<N: Copy> ExactSizeIterator for Iter<'_, N> {}
