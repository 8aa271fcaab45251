//! Reads remote-write 2.0 messages: texts stand once in a list of symbols, and series name them by their places.

use std::collections::HashSet;

use tributary_model::fields::{Fields, put_bytes};
use tributary_model::protobuf::{Value, field};
use tributary_model::series::{Metadata, MetricType};
use tributary_proto::remote::metric_type;

use super::decode::{Decoded, MAX_LABELS, Malformed, Memory, look};
use super::intern::Series;
use crate::allow::rules::Rules;

/// Most symbols of a message; one with more is not taken.
const MAX_SYMBOLS: usize = 1 << 20;
/// The field of a series with its native histograms.
const HISTOGRAMS: u64 = 3;

impl Memory {
    /// Reads a message of version 2.0. Series are held against `rules`.
    pub(crate) fn decode_v2(&mut self, body: &[u8], rules: &Rules) -> Result<Decoded, Malformed> {
        let mut symbols = Vec::new();
        let mut rest = body;
        while let Some(field) = field(&mut rest)? {
            if let (4, Value::Bytes(text)) = field {
                if symbols.len() >= MAX_SYMBOLS {
                    return Err(Malformed("it has too many symbols"));
                }
                symbols.push(text);
            }
        }
        let mut decoded = Decoded::default();
        let mut told = HashSet::new();
        let mut rest = body;
        while let Some(field) = field(&mut rest)? {
            if let (5, Value::Bytes(message)) = field {
                self.series_v2(message, &symbols, rules, &mut decoded, &mut told)?;
            }
        }
        Ok(decoded)
    }

    fn series_v2<'a>(
        &mut self,
        message: &'a [u8],
        symbols: &[&'a [u8]],
        rules: &Rules,
        decoded: &mut Decoded,
        told: &mut HashSet<String>,
    ) -> Result<(), Malformed> {
        let mut references = Vec::new();
        let (mut samples, mut histograms) = (0, 0);
        let mut metadata = None;
        let mut rest = message;
        while let Some(field) = field(&mut rest)? {
            match field {
                (1, Value::Bytes(packed)) => {
                    let mut packed = Fields(packed);
                    while !packed.0.is_empty() && references.len() <= 2 * MAX_LABELS {
                        references.push(packed.varint()?);
                    }
                }
                (1, Value::Varint(reference)) if references.len() <= 2 * MAX_LABELS => {
                    references.push(reference);
                }
                (2, Value::Bytes(_)) => samples += 1,
                (HISTOGRAMS, Value::Bytes(_)) => histograms += 1,
                (4, _) => decoded.exemplars += 1,
                (5, Value::Bytes(bytes)) => metadata = Some(bytes),
                _ => {}
            }
        }
        // As a series of version 1.0 writes its labels, so that both are known again as the same.
        self.scratch.clear();
        let gathered = gather(&references, symbols, &mut self.scratch);
        let series = match gathered {
            Ok(()) => look(&mut self.cache, &mut self.texts, &self.scratch, rules),
            Err(reason) => &Series::Invalid(reason),
        };
        match series {
            Series::Unlisted => {
                decoded.unlisted += samples + histograms;
                decoded.unlisted_histograms += histograms;
            }
            Series::Invalid(reason) => {
                decoded.invalid += samples + histograms;
                decoded.reason.get_or_insert(reason);
            }
            Series::Listed(labels) => {
                let labels = labels.clone();
                decoded.take(&labels, message, HISTOGRAMS)?;
                if let Some(bytes) = metadata {
                    let found = read_metadata(bytes, symbols, labels.metric_name())?;
                    match found {
                        Some(found) if told.insert(found.metric.clone()) => {
                            decoded.metadata.push(found);
                        }
                        Some(_) => {}
                        None => decoded.invalid_metadata += 1,
                    }
                }
            }
        }
        Ok(())
    }
}

/// Writes labels as version 1.0 does.
fn gather(references: &[u64], symbols: &[&[u8]], out: &mut Vec<u8>) -> Result<(), &'static str> {
    if references.len() > 2 * MAX_LABELS {
        return Err("a series has too many labels");
    }
    let (pairs, rest) = references.as_chunks::<2>();
    if !rest.is_empty() {
        return Err("a label has a name and no value");
    }
    for references in pairs {
        let mut label = Vec::new();
        for (number, reference) in (1u8..).zip(references) {
            let text = usize::try_from(*reference).ok().and_then(|place| symbols.get(place));
            put(number, text.ok_or("a label is not among the symbols")?, &mut label);
        }
        put(1, &label, out);
    }
    Ok(())
}

/// A field of bytes.
fn put(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    put_bytes(out, bytes);
}

/// What a series says of its metric; nothing at all is not metadata, but not wrong either.
fn read_metadata(
    bytes: &[u8],
    symbols: &[&[u8]],
    series: &str,
) -> Result<Option<Metadata>, Malformed> {
    let mut metadata = Metadata::default();
    let mut rest = bytes;
    while let Some(field) = field(&mut rest)? {
        let (to, reference) = match field {
            (1, Value::Varint(n)) => {
                metadata.kind = metric_type(n);
                continue;
            }
            (3, Value::Varint(reference)) => (&mut metadata.help, reference),
            (4, Value::Varint(reference)) => (&mut metadata.unit, reference),
            _ => continue,
        };
        let text = usize::try_from(reference).ok().and_then(|place| symbols.get(place));
        match text.map(|text| std::str::from_utf8(text)) {
            Some(Ok(text)) => text.clone_into(to),
            Some(Err(_)) | None => return Ok(None),
        }
    }
    family(series, metadata.kind).clone_into(&mut metadata.metric);
    Ok(Some(metadata))
}

/// The metric family that a series belongs to.
fn family(series: &str, kind: MetricType) -> &str {
    let suffixes: &[&str] = match kind {
        MetricType::Histogram | MetricType::GaugeHistogram => {
            &["_bucket", "_count", "_sum", "_gcount", "_gsum"]
        }
        MetricType::Summary => &["_count", "_sum"],
        _ => &[],
    };
    suffixes.iter().find_map(|suffix| series.strip_suffix(suffix)).unwrap_or(series)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::decode::tests::{bytes, histogram, point};
    use super::*;

    /// A message with these symbols and series.
    pub(crate) fn request(symbols: &[&str], series: &[Vec<u8>]) -> Vec<u8> {
        let symbols = symbols.iter().flat_map(|symbol| bytes(4, symbol.as_bytes()));
        symbols.chain(series.iter().flat_map(|series| bytes(5, series))).collect()
    }

    fn decode(body: &[u8]) -> Result<Decoded, Malformed> {
        let rules = "rules: [{match: '{__name__=~\"up|rpc_count\"}'}]";
        let rules = Rules::parse(rules, "a.yml").unwrap();
        Memory::new().decode_v2(body, &rules)
    }

    const SYMBOLS: [&str; 8] = ["", "__name__", "up", "job", "a", "rpc_count", "Help.", "down"];

    #[test]
    fn series_are_read_and_screened() {
        let entry = [1 << 3, 3, 3 << 3, 6];
        let series = [
            [bytes(1, &[1, 2, 3, 4]), point(1.0, 1), bytes(3, &histogram()), bytes(4, b"")]
                .concat(),
            [bytes(1, &[1, 5]), point(2.0, 2), bytes(5, &entry)].concat(),
            [bytes(1, &[1, 7]), point(3.0, 3), bytes(3, &histogram())].concat(),
            [vec![1 << 3, 1, 1 << 3, 2], point(4.0, 4)].concat(),
        ];
        let decoded = decode(&request(&SYMBOLS, &series)).unwrap();
        let shown: Vec<String> = decoded
            .samples
            .iter()
            .map(|(labels, sample)| format!("{labels} {} @{}", sample.value, sample.at))
            .collect();
        assert_eq!(shown, ["up{job=\"a\"} 1 @1", "rpc_count 2 @2", "up 4 @4"]);
        assert_eq!(decoded.histograms.len(), 1);
        assert_eq!((decoded.unlisted, decoded.exemplars, decoded.reason), (2, 1, None));
        let [metadata] = &decoded.metadata[..] else { panic!("{decoded:?}") };
        assert_eq!((&*metadata.metric, &*metadata.help), ("rpc", "Help."));
        let written = decoded.written();
        assert_eq!((written.samples, written.histograms), (4, 2));
    }

    #[test]
    fn bad_series_do_not_spoil_good_ones() {
        for (references, reason) in [
            (vec![1, 2, 3], "a label has a name and no value"),
            (vec![1, 99], "a label is not among the symbols"),
            (vec![3, 4], "a series has no metric name"),
            (vec![1; 600], "a series has too many labels"),
            (vec![0, 2], "a label has an empty name"),
        ] {
            let bad = [bytes(1, &references), point(1.0, 1)].concat();
            let good = [bytes(1, &[1, 2]), point(1.0, 1)].concat();
            let decoded = decode(&request(&SYMBOLS, &[bad, good])).unwrap();
            assert_eq!((decoded.samples.len(), decoded.invalid), (1, 1), "{reason}");
            assert_eq!(decoded.reason, Some(reason));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(noise in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&noise);
            let series = [bytes(1, &[1, 2]), noise.clone()].concat();
            let _ = decode(&request(&SYMBOLS, &[series, noise]));
        }
    }
}
