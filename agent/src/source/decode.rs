//! Reads remote-write 1.0 messages where they lie: the bytes of a series' labels are looked up, not decoded again.

use tributary_model::fields;
use tributary_model::histogram::HistogramSample;
use tributary_model::label::{Label, Labels, METRIC_NAME};
use tributary_model::protobuf::{Value, field};
use tributary_model::sample::Sample;
use tributary_model::series::Metadata;
use tributary_proto::remote::{HistogramReader, read_metadata, read_sample};

use super::intern::{Cache, Series, Texts};
use crate::allow::rules::Rules;

/// Most labels of a series as it arrives; with more it is not taken.
pub(crate) const MAX_LABELS: usize = 256;
/// Longest label name as it arrives.
pub(crate) const MAX_NAME_BYTES: usize = 1 << 10;
/// Most bytes of all labels of a series as it arrives.
pub(crate) const MAX_SERIES_BYTES: usize = 64 << 10;

/// What a message holds.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Samples of listed series.
    pub(crate) samples: Vec<(Labels, Sample)>,
    /// Native histograms of listed series.
    pub(crate) histograms: Vec<(Labels, HistogramSample)>,
    /// Types, helps, units.
    pub(crate) metadata: Vec<Metadata>,
    /// Samples of series that no rule lists.
    pub(crate) unlisted: u64,
    /// How many of these are native histograms.
    pub(crate) unlisted_histograms: u64,
    /// Samples of series with labels that are not valid.
    pub(crate) invalid: u64,
    /// Native histograms that are not valid.
    pub(crate) invalid_histograms: u64,
    /// Why the first sample was not taken.
    pub(crate) reason: Option<&'static str>,
    /// Exemplars.
    pub(crate) exemplars: u64,
    /// Metadata entries that are not valid.
    pub(crate) invalid_metadata: u64,
    reader: HistogramReader,
}

impl Decoded {
    /// Samples that were taken or are not wanted, of numbers and of native histograms.
    pub(crate) fn written(&self) -> Written {
        let histograms = self.histograms.len() as u64 + self.unlisted_histograms;
        let samples = self.samples.len() as u64 + self.unlisted - self.unlisted_histograms;
        Written { samples, histograms }
    }

    /// Takes what a listed series has in its fields.
    pub(super) fn take(
        &mut self,
        labels: &Labels,
        fields: &[u8],
        histogram_field: u64,
    ) -> Result<(), Malformed> {
        let mut rest = fields;
        while let Some(field) = field(&mut rest)? {
            match field {
                (2, Value::Bytes(bytes)) => {
                    self.samples.push((labels.clone(), read_sample(bytes)?));
                }
                (number, Value::Bytes(bytes)) if number == histogram_field => {
                    match self.reader.read(bytes) {
                        Ok(sample) => self.histograms.push((labels.clone(), sample)),
                        Err(refused) => {
                            self.invalid_histograms += 1;
                            self.reason.get_or_insert(refused.as_str());
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// How many samples of a message were taken, those left out on purpose included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Numbers.
    pub(crate) samples: u64,
    /// Native histograms.
    pub(crate) histograms: u64,
}

/// The bytes are not a remote-write message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not a remote-write message: {0}")]
pub(crate) struct Malformed(pub(super) &'static str);

impl From<fields::Malformed> for Malformed {
    fn from(error: fields::Malformed) -> Self {
        Self(error.0)
    }
}

/// What decoding remembers from message to message.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) cache: Cache,
    pub(super) texts: Texts,
    pub(super) scratch: Vec<u8>,
}

impl Memory {
    /// A memory that knows nothing.
    pub(crate) fn new() -> Self {
        Self { cache: Cache::new(), texts: Texts::default(), scratch: Vec::new() }
    }

    /// Reads a message. Series are held against `rules`.
    pub(crate) fn decode(&mut self, body: &[u8], rules: &Rules) -> Result<Decoded, Malformed> {
        let mut decoded = Decoded::default();
        let mut rest = body;
        while let Some(field) = field(&mut rest)? {
            match field {
                (1, Value::Bytes(series)) => self.series(series, rules, &mut decoded)?,
                (3, Value::Bytes(entry)) => match read_metadata(entry)? {
                    Some(metadata) => decoded.metadata.push(metadata),
                    None => decoded.invalid_metadata += 1,
                },
                _ => {}
            }
        }
        Ok(decoded)
    }

    fn series(
        &mut self,
        message: &[u8],
        rules: &Rules,
        decoded: &mut Decoded,
    ) -> Result<(), Malformed> {
        // Where all label fields are, with their tags, if they are in one piece, as every sender writes them.
        let mut place = 0..0;
        let mut scattered = false;
        let (mut samples, mut histograms) = (0u64, 0u64);
        // What begins with the first sample: as a rule, all samples and nothing else.
        let mut behind: &[u8] = &[];
        let mut rest = message;
        loop {
            let start = message.len() - rest.len();
            let before = rest;
            let Some(field) = field(&mut rest)? else { break };
            match field {
                (1, Value::Bytes(_)) => {
                    scattered |= !place.is_empty() && place.end != start;
                    place.start = if place.is_empty() { start } else { place.start };
                    place.end = message.len() - rest.len();
                }
                (number @ (2 | 4), Value::Bytes(_)) => {
                    behind = if samples == 0 { before } else { behind };
                    samples += 1;
                    histograms += u64::from(number == 4);
                }
                (3, _) => decoded.exemplars += 1,
                _ => {}
            }
        }
        let raw = if scattered {
            gather(message, &mut self.scratch)?;
            &self.scratch
        } else {
            message.get(place).unwrap_or(message)
        };
        match look(&mut self.cache, &mut self.texts, raw, rules) {
            Series::Unlisted => {
                decoded.unlisted += samples;
                decoded.unlisted_histograms += histograms;
            }
            Series::Invalid(reason) => {
                decoded.invalid += samples;
                decoded.reason.get_or_insert(reason);
            }
            Series::Listed(labels) => {
                let labels = labels.clone();
                decoded.take(&labels, behind, 4)?;
            }
        }
        Ok(())
    }
}

/// What is known, or found out now, of the series that is written as `raw`.
pub(super) fn look<'a>(
    cache: &'a mut Cache,
    texts: &mut Texts,
    raw: &[u8],
    rules: &Rules,
) -> &'a Series {
    cache.look(raw, || match labels(raw, texts) {
        Err(reason) => Series::Invalid(reason),
        Ok(labels) if rules.decide(&labels).is_some() => Series::Listed(labels),
        Ok(_) => Series::Unlisted,
    })
}

/// Copies the label fields of a series together.
fn gather(message: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
    out.clear();
    let mut rest = message;
    loop {
        let before = rest;
        match field(&mut rest)? {
            None => return Ok(()),
            Some((1, Value::Bytes(_))) => {
                out.extend_from_slice(before.get(..before.len() - rest.len()).unwrap_or(before));
            }
            Some(_) => {}
        }
    }
}

/// Reads and checks label fields.
fn labels(raw: &[u8], texts: &mut Texts) -> Result<Labels, &'static str> {
    const MALFORMED: &str = "a label is not readable";
    if raw.len() > MAX_SERIES_BYTES {
        return Err("the labels of a series are too long");
    }
    let mut labels: Vec<Label> = Vec::new();
    let mut rest = raw;
    while let Some((_, Value::Bytes(pair))) = field(&mut rest).map_err(|_| MALFORMED)? {
        if labels.len() >= MAX_LABELS {
            return Err("a series has too many labels");
        }
        let (mut name, mut value): (&[u8], &[u8]) = (&[], &[]);
        let mut fields = pair;
        while let Some(field) = field(&mut fields).map_err(|_| MALFORMED)? {
            match field {
                (1, Value::Bytes(bytes)) => name = bytes,
                (2, Value::Bytes(bytes)) => value = bytes,
                _ => {}
            }
        }
        if name.is_empty() {
            return Err("a label has an empty name");
        }
        if name.len() > MAX_NAME_BYTES {
            return Err("a label name is too long");
        }
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| "a label is not UTF-8");
        let (name, value) = (text(name)?, text(value)?);
        labels.push(Label { name: texts.share(name), value: texts.share(value) });
    }
    let labels = Labels::from_pairs(labels.into_iter().map(|label| (label.name, label.value)))
        .map_err(|_| "a label name is given twice")?;
    if labels.get(METRIC_NAME).is_none() {
        return Err("a series has no metric name");
    }
    Ok(labels)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use tributary_model::series::MetricType;

    /// A field of bytes.
    pub(crate) fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2];
        fields::put_bytes(&mut out, content);
        out
    }

    pub(crate) fn label(name: &str, value: &str) -> Vec<u8> {
        bytes(1, &[bytes(1, name.as_bytes()), bytes(2, value.as_bytes())].concat())
    }

    pub(crate) fn point(value: f64, second: u8) -> Vec<u8> {
        let value = [&[1 << 3 | 1][..], &value.to_le_bytes()].concat();
        bytes(2, &[&value[..], &[2 << 3, second]].concat())
    }

    /// Three observations of about 1, at 5 ms.
    pub(crate) fn histogram() -> Vec<u8> {
        let span = bytes(11, &[2 << 3, 1]);
        [&[1 << 3, 3][..], &span, &bytes(12, &[6]), &[15 << 3, 5]].concat()
    }

    pub(crate) fn request(series: &[Vec<u8>]) -> Vec<u8> {
        series.iter().flat_map(|series| bytes(1, series)).collect()
    }

    fn decode(body: &[u8]) -> Result<Decoded, Malformed> {
        let rules = Rules::parse("rules: [{match: up}]", "a.yml").unwrap();
        Memory::new().decode(body, &rules)
    }

    fn check(series: &[Vec<u8>], expected: &[&str], unlisted: u64, reason: Option<&str>) {
        let decoded = decode(&request(series)).unwrap();
        let shown: Vec<String> = decoded
            .samples
            .iter()
            .map(|(labels, sample)| format!("{labels} {} @{}", sample.value, sample.at))
            .collect();
        assert_eq!(shown, expected);
        assert_eq!((decoded.unlisted, decoded.reason), (unlisted, reason));
    }

    #[test]
    fn series_are_read_and_screened() {
        let up = [label("__name__", "up"), label("job", "a")].concat();
        let samples = [point(1.0, 1), point(2.5, 2)].concat();
        check(
            &[[up.clone(), samples].concat()],
            &["up{job=\"a\"} 1 @1", "up{job=\"a\"} 2.5 @2"],
            0,
            None,
        );
        // Fields in another order, with exemplars between.
        let mixed = [label("job", "a"), point(1.0, 1), bytes(3, b""), label("__name__", "up")];
        check(&[mixed.concat()], &["up{job=\"a\"} 1 @1"], 0, None);
        let down = [label("__name__", "down"), point(1.0, 1)].concat();
        check(&[down, [up, point(3.0, 3)].concat()], &["up{job=\"a\"} 3 @3"], 1, None);
    }

    #[test]
    fn a_bad_series_does_not_spoil_the_good_ones() {
        let good = [label("__name__", "up"), point(1.0, 1)].concat();
        let not_utf8 = bytes(1, &[bytes(1, b"a"), bytes(2, &[0xff])].concat());
        for (bad, reason) in [
            (label("", "a"), "a label has an empty name"),
            ([label("a", "b"), label("a", "c")].concat(), "a label name is given twice"),
            (not_utf8, "a label is not UTF-8"),
            (label("a", "b"), "a series has no metric name"),
            (label(&"a".repeat(1025), "b"), "a label name is too long"),
            (label("a", &"b".repeat(65 << 10)), "the labels of a series are too long"),
            (label("a", "b").repeat(257), "a series has too many labels"),
            (bytes(1, &[7]), "a label is not readable"),
        ] {
            let bad = [bad, point(1.0, 1)].concat();
            check(&[bad, good.clone()], &["up 1 @1"], 0, Some(reason));
        }
    }

    #[test]
    fn metadata_histograms_and_exemplars() {
        let entry = [&[1 << 3, 1][..], &bytes(2, b"up"), &bytes(4, b"Help."), &bytes(5, b"s")];
        let bad = bytes(4, &[0xff]);
        let series = [label("__name__", "up"), bytes(4, &histogram()), bad, bytes(3, b"")].concat();
        let down = [label("__name__", "down"), bytes(4, &histogram())].concat();
        let body = [
            bytes(1, &series),
            bytes(1, &down),
            bytes(3, &entry.concat()),
            bytes(3, b""),
            bytes(3, &bytes(2, &[0xff])),
            vec![9 << 3, 1],
        ];
        let decoded = decode(&body.concat()).unwrap();
        let counts = (decoded.invalid_histograms, decoded.exemplars, decoded.invalid_metadata);
        assert_eq!((counts, decoded.unlisted), ((1, 1, 2), 1));
        assert_eq!(decoded.reason, Some("a native histogram is not readable"));
        let [(labels, sample)] = &decoded.histograms[..] else { panic!("{decoded:?}") };
        assert_eq!((labels.to_string(), sample.at.as_millis()), ("up".to_owned(), 5));
        assert_eq!(sample.histogram.positive().counts(), [3.0]);
        let [metadata] = &decoded.metadata[..] else { panic!("{decoded:?}") };
        assert_eq!(metadata.kind, MetricType::Counter);
        assert_eq!((&*metadata.metric, &*metadata.help, &*metadata.unit), ("up", "Help.", "s"));
    }

    #[test]
    fn other_bytes_are_refused() {
        for body in [&[0x0a, 5, 1][..], &[0x00], &[0x0f], &[0xff; 11], &[0x09, 1], &[0x0d, 1]] {
            assert!(decode(body).is_err(), "{body:?}");
        }
        assert!(decode(&[]).unwrap().samples.is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&noise);
            let _ = decode(&bytes(1, &[label("__name__", "up"), noise.clone()].concat()));
            let _ = decode(&bytes(1, &[label("__name__", "up"), bytes(2, &noise), noise].concat()));
        }
    }
}
