//! Writes JSON to the byte as Prometheus does: numbers, timestamps, label sets and escapes.

use std::io;

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};
use tributary_model::histogram::HistogramSample;
use tributary_model::label::Labels;
use tributary_model::number;
use tributary_model::sample::{Sample, Timestamp};

use super::envelope::CHUNK_BYTES;

/// A JSON text in the making.
#[derive(Debug, Default)]
pub struct Json {
    bytes: Vec<u8>,
    /// The last time's thousands of seconds, and their digits: the times of neighbours mostly have them in common.
    thousands: (i64, Vec<u8>),
}

impl Json {
    /// The bytes so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// How many bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Makes room for items of about so many bytes each, but not for more than a [`CHUNK_BYTES`].
    pub fn reserve(&mut self, items: usize, bytes: usize) -> &mut Self {
        self.bytes.reserve(items.saturating_mul(bytes).min(CHUNK_BYTES));
        self
    }

    /// Appends text as it is.
    #[inline]
    pub fn raw(&mut self, text: &str) -> &mut Self {
        self.bytes.extend_from_slice(text.as_bytes());
        self
    }

    /// A string in quotes. Go's encoder escapes `<`, `>` and `&` everywhere except in label sets.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.escaped(text, true)
    }

    /// Comma-separated strings in brackets.
    pub fn texts<'a>(&mut self, texts: impl IntoIterator<Item = &'a str>) -> &mut Self {
        self.list(texts, |json, text| {
            json.text(text);
        })
    }

    /// Comma-separated items in brackets.
    pub fn list<T>(
        &mut self,
        items: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.raw("[");
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.raw(",");
            }
            each(self, item);
        }
        self.raw("]")
    }

    /// A label set as an object, in the order of the names.
    pub fn labels(&mut self, labels: &Labels) -> &mut Self {
        self.raw("{");
        for (i, label) in labels.iter().enumerate() {
            if i > 0 {
                self.raw(",");
            }
            self.escaped(&label.name, false).raw(":").escaped(&label.value, false);
        }
        self.raw("}")
    }

    /// `[1.500,"2"]`, the form of samples in vectors and matrices.
    pub fn sample(&mut self, sample: Sample) -> &mut Self {
        self.raw("[").millis(sample.at).raw(",").float(sample.value).raw("]")
    }

    /// `[1.500,{"count":"3","sum":"4","buckets":[[0,"1","2","3"]]}]`: a native histogram at its time. A bucket's first
    /// number says which of its bounds it holds: 0 the upper one, 1 the lower one, 2 neither, 3 both. Empty buckets are
    /// left out, and so is the list if there are no others.
    pub fn histogram(&mut self, sample: &HistogramSample) -> &mut Self {
        let histogram = &sample.histogram;
        self.raw("[").millis(sample.at).raw(",{\"count\":").float(histogram.count());
        self.raw(",\"sum\":").float(histogram.sum());
        let mut buckets = histogram.buckets();
        buckets.retain(|bucket| bucket.count != 0.0);
        if !buckets.is_empty() {
            self.raw(",\"buckets\":").list(&buckets, |json, bucket| {
                let bounds = match (bucket.lower_inclusive, bucket.upper_inclusive) {
                    (false, true) => "[0,",
                    (true, false) => "[1,",
                    (false, false) => "[2,",
                    (true, true) => "[3,",
                };
                json.raw(bounds).float(bucket.lower).raw(",").float(bucket.upper).raw(",");
                json.float(bucket.count).raw("]");
            });
        }
        self.raw("}]")
    }

    /// A number in quotes.
    fn float(&mut self, value: f64) -> &mut Self {
        self.bytes.push(b'"');
        number::append_json(&mut self.bytes, value);
        self.raw("\"")
    }

    /// `[1.5,"2"]`, the form of a scalar: shortest time, value without exponent.
    pub fn scalar(&mut self, sample: Sample) -> &mut Self {
        self.raw("[").seconds(sample.at).raw(",\"");
        self.raw(&number::format_plain(sample.value)).raw("\"]")
    }

    /// Seconds in the shortest form, as Go writes a float in JSON.
    pub fn seconds(&mut self, at: Timestamp) -> &mut Self {
        number::append_json(&mut self.bytes, at.as_secs_f64());
        self
    }

    /// Anything that serde can write, with the escapes of [`Json::text`].
    pub fn value(&mut self, value: &impl Serialize) -> serde_json::Result<&mut Self> {
        let mut serializer = Serializer::with_formatter(&mut self.bytes, GoEscapes);
        value.serialize(&mut serializer)?;
        Ok(self)
    }

    /// Seconds with no decimals or exactly three.
    fn millis(&mut self, at: Timestamp) -> &mut Self {
        let millis = at.as_millis();
        let (seconds, fraction) = (millis / 1000, millis.unsigned_abs() % 1000);
        if seconds >= 1000 {
            let thousands = seconds / 1000;
            if self.thousands.0 != thousands {
                self.thousands.0 = thousands;
                self.thousands.1.clear();
                number::append_integer(&mut self.thousands.1, thousands);
            }
            self.bytes.extend_from_slice(&self.thousands.1);
            self.bytes.extend_from_slice(&three_digits(seconds.unsigned_abs() % 1000));
        } else {
            if (-999..0).contains(&millis) {
                self.raw("-");
            }
            number::append_integer(&mut self.bytes, seconds);
        }
        if fraction != 0 {
            self.raw(".");
            self.bytes.extend_from_slice(&three_digits(fraction));
        }
        self
    }

    fn escaped(&mut self, text: &str, html: bool) -> &mut Self {
        self.bytes.push(b'"');
        // U+2028 and U+2029 begin with 0xe2.
        let special = [b'"', b'\\', b'<', b'>', b'&', 0xe2];
        let is_special =
            |b: u8| special.iter().fold(u8::from(b < 0x20), |is, s| is | u8::from(b == *s));
        // To the end, without branches: many bytes at once.
        if text.bytes().fold(0, |any, b| any | is_special(b)) == 0 {
            self.raw(text);
            self.bytes.push(b'"');
            return self;
        }
        for c in text.chars() {
            match c {
                '"' => self.bytes.extend_from_slice(b"\\\""),
                '\\' => self.bytes.extend_from_slice(b"\\\\"),
                '\n' => self.bytes.extend_from_slice(b"\\n"),
                '\r' => self.bytes.extend_from_slice(b"\\r"),
                '\t' => self.bytes.extend_from_slice(b"\\t"),
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if html => self.code_point(c),
                c if u32::from(c) < 0x20 => self.code_point(c),
                c => self.bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        self.bytes.push(b'"');
        self
    }

    fn code_point(&mut self, c: char) {
        self.bytes.extend_from_slice(format!("\\u{:04x}", u32::from(c)).as_bytes());
    }
}

/// A number below a thousand, with zeros in front.
fn three_digits(number: u64) -> [u8; 3] {
    [number / 100, number / 10, number].map(|n| b'0' + u8::try_from(n % 10).unwrap_or(0))
}

/// Makes serde_json escape strings as Go does.
struct GoEscapes;

impl Formatter for GoEscapes {
    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        for part in fragment.split_inclusive(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let last = part.chars().next_back();
            match last.filter(|c| matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')) {
                Some(c) => {
                    let before = part.get(..part.len() - c.len_utf8()).unwrap_or("");
                    write!(writer, "{before}\\u{:04x}", u32::from(c))?;
                }
                None => writer.write_all(part.as_bytes())?,
            }
        }
        Ok(())
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\u0008"),
            CharEscape::FormFeed => writer.write_all(b"\\u000c"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::sync::Arc;

    use tributary_model::histogram::{Histogram, Parts, Schema};

    use super::*;

    fn written(write: impl FnOnce(&mut Json) -> &mut Json) -> String {
        let mut json = Json::default();
        let _ = write(&mut json);
        String::from_utf8(json.into_bytes()).unwrap()
    }

    #[test]
    fn histograms() {
        let histogram = |parts: Parts| {
            let histogram = Arc::new(Histogram::new(parts).unwrap());
            written(|j| {
                j.histogram(&HistogramSample { at: Timestamp::from_millis(1500), histogram })
            })
        };
        let exponential = Parts {
            zero_threshold: 0.5,
            zero_count: 1.0,
            count: 7.5,
            sum: f64::NAN,
            positive: [(1, 2.0), (2, 0.0), (3, 2.5)].into_iter().collect(),
            negative: [(1, 2.0)].into_iter().collect(),
            ..Parts::default()
        };
        assert_eq!(
            histogram(exponential),
            concat!(
                r#"[1.500,{"count":"7.5","sum":"NaN","buckets":[[1,"-2","-1","2"],"#,
                r#"[3,"-0.5","0.5","1"],[0,"1","2","2"],[0,"4","8","2.5"]]}]"#
            )
        );
        let custom = Parts {
            schema: Schema::Custom([1.0].into()),
            count: 2.0,
            positive: [(0, 1.0), (1, 1.0)].into_iter().collect(),
            ..Parts::default()
        };
        assert_eq!(
            histogram(custom),
            r#"[1.500,{"count":"2","sum":"0","buckets":[[3,"-Inf","1","1"],[0,"1","+Inf","1"]]}]"#
        );
        assert_eq!(histogram(Parts::default()), r#"[1.500,{"count":"0","sum":"0"}]"#);
    }

    proptest! {
        /// Whatever the times written before.
        #[test]
        fn times_are_seconds(times in prop::collection::vec(prop_oneof![
            -3_000_000i64..3_000_000, 1_795_000_000_000..1_795_003_000_000i64, any::<i64>(),
        ], 1..20)) {
            let (mut json, mut expected) = (Json::default(), Vec::new());
            for millis in times {
                json.millis(Timestamp::from_millis(millis)).raw(" ");
                let (all, sign) = (millis.unsigned_abs(), if millis < 0 { "-" } else { "" });
                let decimals = if all % 1000 == 0 { String::new() } else { format!(".{:03}", all % 1000) };
                expected.push(format!("{sign}{}{decimals} ", all / 1000));
            }
            prop_assert_eq!(String::from_utf8(json.into_bytes()).unwrap(), expected.concat());
        }
    }

    #[test]
    fn samples_and_scalars() {
        for (millis, value, sample, scalar) in [
            (1500, f64::NAN, r#"[1.500,"NaN"]"#, r#"[1.5,"NaN"]"#),
            (1000, f64::INFINITY, r#"[1,"+Inf"]"#, r#"[1,"+Inf"]"#),
            (0, f64::NEG_INFINITY, r#"[0,"-Inf"]"#, r#"[0,"-Inf"]"#),
            (-1, 1e100, r#"[-0.001,"1e+100"]"#, ""),
            (1501, 1e-7, r#"[1.501,"1e-07"]"#, r#"[1.501,"0.0000001"]"#),
            (10, 0.1, r#"[0.010,"0.1"]"#, r#"[0.01,"0.1"]"#),
            (
                1_795_219_200_500,
                123_456_789_012_345_680.0,
                r#"[1795219200.500,"123456789012345680"]"#,
                r#"[1795219200.5,"123456789012345680"]"#,
            ),
            (1500, 1e21, r#"[1.500,"1e+21"]"#, r#"[1.5,"1000000000000000000000"]"#),
        ] {
            let at = Sample::new(millis, value);
            assert_eq!(written(|j| j.sample(at)), sample);
            if !scalar.is_empty() {
                assert_eq!(written(|j| j.scalar(at)), scalar);
            }
        }
    }

    #[test]
    fn labels_are_not_escaped_for_html_but_all_else_is() {
        let labels = Labels::from_pairs([("b", "<x>&\"\\\u{1}"), ("a", "ä\n")]).unwrap();
        assert_eq!(written(|j| j.labels(&labels)), r#"{"a":"ä\n","b":"<x>&\"\\\u0001"}"#);
        assert_eq!(written(|j| j.text("<&>")), r#""\u003c\u0026\u003e""#);
        assert_eq!(
            written(|j| j.value(&("a<b&c>\u{2028}d", "\u{8}\n")).unwrap()),
            r#"["a\u003cb\u0026c\u003e\u2028d","\u0008\n"]"#
        );
        assert_eq!(written(|j| j.texts(["a", "b"])), r#"["a","b"]"#);
        assert_eq!(written(|j| j.texts([])), "[]");
    }
}
