//! The series catalogue of one cluster: label sets to numbers, and which series have which labels.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use roaring::RoaringBitmap;
use tributary_model::label::{Label, Labels};
use tributary_model::matcher::{MatchOp, Matcher};

type Text = Arc<str>;

/// Label sets and postings. Numbers are never used twice.
#[derive(Debug, Default)]
pub(crate) struct Index {
    numbers: HashMap<Labels, u32>,
    /// By number; `None` for those that expired.
    series: Vec<Option<Entry>>,
    postings: BTreeMap<Text, BTreeMap<Text, RoaringBitmap>>,
    live: RoaringBitmap,
    texts: HashSet<Text>,
}

#[derive(Debug)]
struct Entry {
    labels: Labels,
    /// The hour in which the series was last resolved.
    resolved: AtomicU32,
}

impl Index {
    /// The number of a label set, marked as resolved in `hour`.
    pub(crate) fn find(&self, labels: &Labels, hour: u32) -> Option<u32> {
        let number = *self.numbers.get(labels)?;
        if let Some(entry) = self.entry(number) {
            entry.resolved.store(hour, Ordering::Relaxed);
        }
        Some(number)
    }

    /// The number that the next new series gets.
    pub(crate) fn next(&self) -> u32 {
        u32::try_from(self.series.len()).unwrap_or(u32::MAX)
    }

    /// The number of a label set.
    pub(crate) fn number(&self, labels: &Labels) -> Option<u32> {
        self.numbers.get(labels).copied()
    }

    /// Adds a label set that is not there yet under the next number.
    pub(crate) fn push(&mut self, labels: &Labels, hour: u32) -> u32 {
        let number = self.next();
        self.skip();
        self.fill(number, labels, hour);
        number
    }

    /// Adds a label set that is not there yet under a number that is not used.
    pub(crate) fn put(&mut self, number: u32, labels: &Labels) {
        self.fill(number, labels, 0);
    }

    fn fill(&mut self, number: u32, labels: &Labels, hour: u32) {
        let pairs = labels.iter().map(|Label { name, value }| (self.text(name), self.text(value)));
        let pairs: Vec<_> = pairs.collect();
        // The same pairs, sharing their texts with the other series.
        let labels = Labels::from_pairs(pairs.iter().cloned()).unwrap_or_else(|_| labels.clone());
        for (name, value) in pairs {
            let values = self.postings.entry(name).or_default();
            values.entry(value).or_default().insert(number);
        }
        self.live.insert(number);
        self.numbers.insert(labels.clone(), number);
        if let Some(entry) = self.series.get_mut(place(number)) {
            *entry = Some(Entry { labels, resolved: AtomicU32::new(hour) });
        }
    }

    /// Leaves a number unused.
    pub(crate) fn skip(&mut self) {
        self.series.push(None);
    }

    /// Removes a series that was not resolved since `hour`, and says whether it was removed.
    pub(crate) fn remove(&mut self, number: u32, hour: u32) -> bool {
        let resolved = self.entry(number).map(|entry| entry.resolved.load(Ordering::Relaxed));
        if resolved.is_none_or(|resolved| resolved >= hour) {
            return false;
        }
        let Some(entry) = self.series.get_mut(place(number)).and_then(Option::take) else {
            return false;
        };
        for Label { name, value } in &entry.labels {
            let Some(values) = self.postings.get_mut(name) else { continue };
            if let Some(numbers) = values.get_mut(value) {
                numbers.remove(number);
                if numbers.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.postings.remove(name);
            }
        }
        self.live.remove(number);
        self.numbers.remove(&entry.labels);
        true
    }

    /// Frees the texts that no series uses any more.
    pub(crate) fn shrink(&mut self) {
        self.texts.retain(|text| Arc::strong_count(text) > 1);
    }

    /// The labels of a series.
    pub(crate) fn labels(&self, number: u32) -> Option<&Labels> {
        self.entry(number).map(|entry| &entry.labels)
    }

    /// The number of series.
    pub(crate) fn len(&self) -> usize {
        usize::try_from(self.live.len()).unwrap_or(usize::MAX)
    }

    /// The numbers of all series.
    pub(crate) fn live(&self) -> &RoaringBitmap {
        &self.live
    }

    /// The series that satisfy every matcher; of `among` only, if it is given.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        among: Option<&RoaringBitmap>,
    ) -> RoaringBitmap {
        let mut found: Option<RoaringBitmap> = among.cloned();
        let mut matchers: Vec<&Matcher> = matchers.iter().collect();
        // The cheap and narrow ones first.
        matchers.sort_by_key(|m| (m.matches_empty(), m.op() != MatchOp::Equal));
        for matcher in matchers {
            if found.as_ref().is_some_and(RoaringBitmap::is_empty) {
                break;
            }
            found = Some(self.narrow(found, matcher));
        }
        found.unwrap_or_else(|| self.live.clone())
    }

    /// Those of `found` that satisfy a matcher; of all, if nothing was looked for yet.
    fn narrow(&self, found: Option<RoaringBitmap>, matcher: &Matcher) -> RoaringBitmap {
        if matcher.op() == MatchOp::Equal && !matcher.matches_empty() {
            let with = self.postings.get(matcher.name()).and_then(|v| v.get(matcher.value()));
            return match (found, with) {
                (_, None) => RoaringBitmap::new(),
                (None, Some(with)) => with.clone(),
                (Some(found), Some(with)) => found & with,
            };
        }
        let values = self.postings.get(matcher.name()).map_or(0, BTreeMap::len);
        match found {
            // Few series are looked at one by one, whatever number of values others had.
            Some(mut found) if found.len() < values as u64 => {
                let mut known: HashMap<&str, bool> = HashMap::new();
                let unwanted = |number: &u32| {
                    let value = self.labels(*number).map_or("", |l| l.value(matcher.name()));
                    !*known.entry(value).or_insert_with(|| matcher.matches(value))
                };
                let unwanted: RoaringBitmap = found.iter().filter(unwanted).collect();
                found -= unwanted;
                found
            }
            found if matcher.matches_empty() => {
                let found = found.unwrap_or_else(|| self.live.clone());
                found - self.with_value(matcher.name(), |value| !matcher.matches(value))
            }
            found => {
                let with = self.with_value(matcher.name(), |value| matcher.matches(value));
                found.map_or_else(|| with.clone(), |found| found & &with)
            }
        }
    }

    /// The names of labels that any series has that is wanted; of `among` only, if it is given.
    pub(crate) fn names<'a>(
        &'a self,
        among: Option<&'a RoaringBitmap>,
        wanted: impl Fn(u32) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Text> {
        let has = move |numbers: &RoaringBitmap| any(numbers, among, &wanted);
        self.postings
            .iter()
            .filter(move |(_, values)| values.values().any(&has))
            .map(|(name, _)| name)
    }

    /// The values under a name that any series has that is wanted; of `among` only, if it is given.
    pub(crate) fn values<'a>(
        &'a self,
        name: &str,
        among: Option<&'a RoaringBitmap>,
        wanted: impl Fn(u32) -> bool + 'a,
    ) -> impl Iterator<Item = &'a Text> {
        let values = self.postings.get(name).into_iter().flatten();
        values.filter(move |(_, numbers)| any(numbers, among, &wanted)).map(|(value, _)| value)
    }

    fn with_value(&self, name: &str, wanted: impl Fn(&str) -> bool) -> RoaringBitmap {
        let values = self.postings.get(name).into_iter().flatten();
        let mut out = RoaringBitmap::new();
        values.filter(|(value, _)| wanted(value)).for_each(|(_, numbers)| out |= numbers);
        out
    }

    fn text(&mut self, text: &Text) -> Text {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        self.texts.insert(Arc::clone(text));
        Arc::clone(text)
    }

    fn entry(&self, number: u32) -> Option<&Entry> {
        self.series.get(place(number))?.as_ref()
    }
}

/// Whether any of the series is wanted.
fn any(
    numbers: &RoaringBitmap,
    among: Option<&RoaringBitmap>,
    wanted: impl Fn(u32) -> bool,
) -> bool {
    // As a rule the first one is, and is found without an iterator.
    let is_wanted = |number| among.is_none_or(|among| among.contains(number)) && wanted(number);
    if numbers.min().is_some_and(is_wanted) {
        return true;
    }
    match among {
        None => numbers.iter().any(wanted),
        Some(among) if numbers.len() <= among.len() => {
            numbers.iter().any(|number| among.contains(number) && wanted(number))
        }
        Some(among) => among.iter().any(|number| numbers.contains(number) && wanted(number)),
    }
}

fn place(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let mut index = Index::default();
        for pairs in [
            &[("__name__", "up"), ("job", "node")][..],
            &[("__name__", "up"), ("job", "prometheus"), ("zone", "a")],
            &[("__name__", "load"), ("zone", "b")],
        ] {
            index.push(&Labels::from_pairs(pairs.iter().copied()).unwrap(), 0);
        }
        index
    }

    #[test]
    fn selects_as_the_matchers_say() {
        let index = index();
        for selector in [
            r#"{__name__="up"}"#,
            r#"{__name__=~"up|load"}"#,
            r#"{__name__!="up",zone=~".+"}"#,
            r#"{__name__=~".+",zone=""}"#,
            r#"{__name__=~".+",zone!="a"}"#,
            r#"{__name__=~".+",zone!~"a|b"}"#,
            r#"{__name__=~".+",zone=~"a|"}"#,
            r#"{job!~"node|"}"#,
            r#"{job="none"}"#,
        ] {
            let selector: tributary_model::selector::Selector = selector.parse().unwrap();
            for among in [None, Some([0, 1, 2]), Some([1, 7, 8])] {
                let among = among.map(RoaringBitmap::from);
                let found = index.select(selector.matchers(), among.as_ref());
                let is_among = |number| among.as_ref().is_none_or(|among| among.contains(number));
                let expected: Vec<u32> = (0..3)
                    .filter(|n| is_among(*n) && selector.matches(index.labels(*n).unwrap()))
                    .collect();
                assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{selector}");
            }
        }
        assert_eq!(index.select(&[], None).len(), 3);
    }

    #[test]
    fn removed_series_leave_nothing() {
        let mut index = index();
        let labels = index.labels(2).unwrap().clone();
        assert_eq!(index.find(&labels, 5), Some(2));
        assert!(!index.remove(2, 5));
        assert!(index.remove(2, 6));
        assert!(!index.remove(2, 6));
        assert_eq!(index.find(&labels, 6), None);
        assert_eq!(index.len(), 2);
        assert_eq!(index.values("zone", None, |_| true).count(), 1);
        assert_eq!(index.values("zone", None, |number| number != 1).count(), 0);
        assert_eq!(index.values("job", Some(&RoaringBitmap::from([1])), |_| true).count(), 1);
        drop(labels);
        index.shrink();
        assert_eq!(index.push(&Labels::from_pairs([("a", "b")]).unwrap(), 6), 3);
        assert_eq!(index.names(None, |_| true).count(), 4);
    }
}
