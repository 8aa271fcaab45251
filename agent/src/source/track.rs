//! Turns the texts of one target, scrape after scrape, into samples, and marks series that vanish as stale.

use std::collections::{BTreeMap, HashMap};

use tributary_model::exposition::{Entry, ExpositionError, Families, Format, Parser, Row};
use tributary_model::label::{Label, Labels};
use tributary_model::sample::{Sample, Timestamp, stale_nan};
use tributary_model::series::Metadata;

use super::intern::{Series, Texts};
use crate::allow::digest::{Digest, Key};
use crate::allow::rules::Rules;

/// How the series of a target are read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reading {
    /// The target's labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether labels in the text win over the target's; otherwise they become `exported_<name>`.
    pub(crate) honor_labels: bool,
    /// Whether timestamps in the text are taken.
    pub(crate) honor_timestamps: bool,
    /// Whether series with timestamps in the text are marked as stale, too.
    pub(crate) track_timestamps: bool,
    /// Most samples of one text; 0: any number.
    pub(crate) sample_limit: usize,
}

/// What one text brought.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// Samples of listed series, staleness markers included.
    pub(crate) samples: Vec<(Labels, Sample)>,
    /// Types, helps and units.
    pub(crate) metadata: Vec<Metadata>,
    /// Samples in the text.
    pub(crate) scraped: usize,
    /// Series that were not in the text before.
    pub(crate) added: usize,
    /// Samples of series that no rule lists.
    pub(crate) unlisted: u64,
    /// Repetitions of a series in the text.
    pub(crate) duplicates: u64,
}

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TextError {
    /// It cannot be read.
    #[error(transparent)]
    Exposition(#[from] ExpositionError),
    /// It has too many samples.
    #[error("it has more than {0} samples, the job's sample_limit")]
    TooMany(usize),
}

/// The series of one target.
#[derive(Debug)]
pub(crate) struct Track {
    key: Key,
    round: u64,
    generation: u64,
    known: HashMap<Digest, Known>,
    texts: Texts,
}

#[derive(Debug)]
struct Known {
    series: Series,
    round: u64,
    /// Whether it is to be marked when it vanishes.
    tracked: bool,
    /// The newest timestamp it had in the text.
    newest: Timestamp,
    generation: u64,
}

impl Track {
    /// A target of which nothing is known.
    pub(crate) fn new() -> Self {
        Self {
            key: Key::random(),
            round: 0,
            generation: 0,
            known: HashMap::new(),
            texts: Texts::default(),
        }
    }

    /// Decides anew about every series if the rules have changed.
    pub(crate) fn follow(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// Takes a text that was fetched at `at`; marks series that are not in it any more.
    pub(crate) fn take(
        &mut self,
        text: &str,
        format: Format,
        at: Timestamp,
        reading: &Reading,
        rules: &Rules,
    ) -> Result<Batch, TextError> {
        let mut batch = Batch::default();
        let mut families = Families::default();
        self.round += 1;
        for entry in Parser::new(text, format) {
            let entry = entry?;
            families.note(&entry);
            let Entry::Row(row) = entry else { continue };
            batch.scraped += 1;
            if reading.sample_limit > 0 && batch.scraped > reading.sample_limit {
                return Err(TextError::TooMany(reading.sample_limit));
            }
            self.row(row, at, reading, rules, &mut batch)?;
        }
        batch.metadata = families.into_metadata();
        let round = self.round;
        self.end(at, |known| known.round != round, &mut batch);
        Ok(batch)
    }

    /// Marks all series, for a text that did not come.
    pub(crate) fn lose(&mut self, at: Timestamp) -> Batch {
        let mut batch = Batch::default();
        self.end(at, |_| true, &mut batch);
        batch
    }

    fn row(
        &mut self,
        row: Row<'_>,
        at: Timestamp,
        reading: &Reading,
        rules: &Rules,
        batch: &mut Batch,
    ) -> Result<(), TextError> {
        let digest = self.key.bytes(row.series.as_bytes());
        let generation = self.generation;
        let own = row.at.filter(|_| reading.honor_timestamps);
        let tracked = own.is_none() || reading.track_timestamps;
        if self.known.get(&digest).is_none_or(|known| known.generation != generation) {
            let series = learn(row, reading, rules, &mut self.texts)?;
            let before = self.known.get(&digest);
            let newest = before.map_or(Timestamp::MIN, |known| known.newest);
            let round = before.map_or(0, |known| known.round);
            self.known.insert(digest, Known { series, round, tracked, newest, generation });
        }
        let Some(known) = self.known.get_mut(&digest) else { return Ok(()) };
        let repeated = known.round == self.round;
        batch.added += usize::from(known.round == 0);
        known.round = self.round;
        known.tracked = tracked;
        if repeated && own.is_none() {
            batch.duplicates += 1;
            return Ok(());
        }
        if let Some(own) = own {
            if own <= known.newest {
                // The same sample as last time: nothing new was scraped there.
                return Ok(());
            }
            known.newest = own;
        }
        match &known.series {
            Series::Listed(labels) => {
                let sample = Sample { at: own.unwrap_or(at), value: row.value };
                batch.samples.push((labels.clone(), sample));
            }
            Series::Unlisted | Series::Invalid(_) => batch.unlisted += 1,
        }
        Ok(())
    }

    fn end(&mut self, at: Timestamp, gone: impl Fn(&Known) -> bool, batch: &mut Batch) {
        let marker = Sample { at, value: stale_nan() };
        self.known.retain(|_, known| {
            let gone = gone(known);
            if let Series::Listed(labels) = &known.series
                && gone
                && known.tracked
                && known.newest < at
            {
                batch.samples.push((labels.clone(), marker));
            }
            !gone
        });
    }
}

fn learn(
    row: Row<'_>,
    reading: &Reading,
    rules: &Rules,
    texts: &mut Texts,
) -> Result<Series, ExpositionError> {
    let labels = label(&row.labels()?, reading, texts);
    Ok(if rules.decide(&labels).is_some() { Series::Listed(labels) } else { Series::Unlisted })
}

/// The labels of a series, its own and the target's.
fn label(own: &Labels, reading: &Reading, texts: &mut Texts) -> Labels {
    let mut pairs: BTreeMap<&str, &str> =
        own.iter().map(|label| (&*label.name, &*label.value)).collect();
    let mut moved: Vec<(String, &str)> = Vec::new();
    for (name, value) in &reading.labels {
        let Some(found) = pairs.get(&**name).copied() else {
            pairs.insert(name, value);
            continue;
        };
        if reading.honor_labels {
            continue;
        }
        pairs.insert(name, value);
        let mut exported = format!("exported_{name}");
        while own.get(&exported).is_some() || reading.labels.contains_key(&exported) {
            exported.insert_str(0, "exported_");
        }
        moved.push((exported, found));
    }
    pairs.extend(moved.iter().map(|(name, value)| (&**name, *value)));
    let pairs =
        pairs.into_iter().map(|(n, v)| Label { name: texts.share(n), value: texts.share(v) });
    // Names in a map are unique, and neither an exposition nor a configuration has an empty one.
    Labels::from_pairs(pairs.map(|label| (label.name, label.value))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(honor_labels: bool) -> Reading {
        let labels = [("job", "j"), ("instance", "h:1"), ("exported_x", "t"), ("x", "t")];
        Reading {
            labels: labels.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            honor_labels,
            honor_timestamps: true,
            track_timestamps: false,
            sample_limit: 3,
        }
    }

    fn shown(batch: &Batch) -> Vec<String> {
        let mut shown: Vec<_> = batch
            .samples
            .iter()
            .map(|(labels, sample)| {
                let stale = tributary_model::sample::is_stale(sample.value);
                let value = if stale { "stale".to_owned() } else { sample.value.to_string() };
                format!("{labels} {value} @{}", sample.at)
            })
            .collect();
        shown.sort();
        shown
    }

    #[test]
    fn labels_of_target_and_text_are_reconciled() {
        for (honor, text, expected) in [
            (true, "up{job=\"own\"}", r#"up{exported_x="t", instance="h:1", job="own", x="t"}"#),
            (
                false,
                "up{job=\"own\"}",
                r#"up{exported_job="own", exported_x="t", instance="h:1", job="j", x="t"}"#,
            ),
            (
                false,
                "up{x=\"own\",exported_job=\"a\",job=\"b\"}",
                r#"up{exported_exported_job="b", exported_exported_x="own", exported_job="a", exported_x="t", instance="h:1", job="j", x="t"}"#,
            ),
        ] {
            let text = format!("{text} 1\n");
            let row =
                tributary_model::exposition::read(&text, Format::Text).unwrap().rows.remove(0);
            let labels = label(&row.0, &reading(honor), &mut Texts::default());
            assert_eq!(labels.to_string(), expected);
        }
    }

    #[test]
    fn what_vanishes_is_marked_once() {
        let rules = Rules::parse("rules: [{match: [a, b]}]", "a.yml").unwrap();
        let reading = Reading { honor_timestamps: true, sample_limit: 4, ..Reading::default() };
        let mut track = Track::new();
        let mut step = |second: i64, text: &str| {
            let at = Timestamp::from_millis(second * 1000);
            match track.take(text, Format::Text, at, &reading, &rules) {
                Ok(batch) => (shown(&batch), batch.scraped, batch.added, batch.unlisted),
                Err(e) => (vec![e.to_string()], 0, 0, 0),
            }
        };
        let list = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(step(1, "a 1\nb 2\nc 3\n"), (list(&["a 1 @1000", "b 2 @1000"]), 3, 3, 1));
        assert_eq!(step(2, "a 1\na 5\n"), (list(&["a 1 @2000", "b stale @2000"]), 2, 0, 0));
        // With a time of its own a series is taken once per time, and not marked.
        assert_eq!(step(3, "a 7 2500\na 8 2600\n"), (list(&["a 7 @2500", "a 8 @2600"]), 2, 0, 0));
        assert_eq!(step(4, "a 8 2600\n"), (list(&[]), 1, 0, 0));
        assert_eq!(step(5, "b 1\n"), (list(&["b 1 @5000"]), 1, 1, 0));
        assert_eq!(step(6, "b 1\nx\n"), (list(&["line 2: expected a value"]), 0, 0, 0));
        let many = "it has more than 4 samples, the job's sample_limit";
        assert_eq!(step(7, "b 1\nb 2\nb 3\nb 4\nb 5\n"), (list(&[many]), 0, 0, 0));
        assert_eq!(shown(&track.lose(Timestamp::from_millis(8000))), ["b stale @8000"]);
        assert!(shown(&track.lose(Timestamp::from_millis(9000))).is_empty());
    }

    #[test]
    fn new_rules_decide_anew() {
        let mut track = Track::new();
        let mut step = |generation, rules: &str| {
            let rules = Rules::parse(rules, "a.yml").unwrap();
            track.follow(generation);
            let at = Timestamp::from_millis(generation.cast_signed());
            let batch = track.take("a 1\n", Format::Text, at, &Reading::default(), &rules).unwrap();
            (shown(&batch).len(), batch.added)
        };
        assert_eq!(step(0, "rules: []"), (0, 1));
        assert_eq!(step(1, "rules: [{match: a}]"), (1, 0));
        assert_eq!(step(2, "rules: []"), (0, 0));
    }
}
