//! Frames with native histograms.

use std::sync::Arc;

use tributary_model::histogram::{Buckets, Histogram, MAX_BUCKETS, Parts, ResetHint, Schema, Span};

use super::*;

fn histogram(sum: f64, spans: &[(i32, u32)], counts: &[f64]) -> Parts {
    let spans: Vec<Span> =
        spans.iter().map(|(offset, length)| Span { offset: *offset, length: *length }).collect();
    let positive = Buckets::new(&spans, counts.to_vec()).unwrap();
    Parts { sum, count: counts.iter().sum(), positive, ..Parts::default() }
}

fn sample(millis: i64, parts: Parts) -> HistogramSample {
    HistogramSample { at: at(millis), histogram: Arc::new(Histogram::new(parts).unwrap()) }
}

/// A segment of four frames: numbers and histograms, changes of these, numbers alone, a marker and other layouts.
fn example() -> Vec<Vec<u8>> {
    let (mut encoder, mut out) = (Encoder::new(0x0102_0304_0506_0708, 9), Vec::new());
    let up = Labels::from_pairs([("__name__", "up"), ("job", "node")]).unwrap();
    let rpc = Labels::from_pairs([("__name__", "rpc_seconds"), ("job", "node")]).unwrap();
    let size = Labels::from_pairs([("__name__", "size_bytes"), ("job", "node")]).unwrap();
    let start = 1_790_000_000_000;
    let mut encode = |seq: u64, samples: &[(Labels, Sample)], histograms: &[_]| {
        let content = Content { samples, histograms, ..Content::default() };
        let time = start + 15_000 * (i64::try_from(seq).unwrap() - 12);
        out.push(encoder.encode(seq, at(time), &content).unwrap());
    };
    let rpc_at = |step: i64, parts: Parts| {
        let zero = Parts { zero_threshold: 0.001, zero_count: 2.0, ..parts };
        (rpc.clone(), sample(start + step * 15_000, Parts { count: zero.count + 2.0, ..zero }))
    };
    let sizes = Parts {
        schema: Schema::Custom([100.0, 1000.5].into()),
        hint: ResetHint::Gauge,
        ..histogram(1.5, &[(0, 3)], &[0.5, 1.0, 0.0])
    };
    encode(
        12,
        &[(up.clone(), Sample::new(start, 1.0))],
        &[
            rpc_at(0, histogram(12.5, &[(-2, 3), (2, 1)], &[4.0, 7.0, 1.0, 300.0])),
            (size.clone(), sample(start + 7, sizes.clone())),
        ],
    );
    encode(
        13,
        &[],
        &[
            rpc_at(1, histogram(13.0, &[(-2, 3), (2, 1)], &[4.0, 8.0, 1.0, 301.0])),
            (size, sample(start + 15_007, sizes)),
        ],
    );
    encode(14, &[(up, Sample::new(start + 30_000, 1.0))], &[]);
    let stale = HistogramSample { at: at(start + 45_000), histogram: Histogram::stale().into() };
    encode(15, &[], &[(rpc, stale)]);
    out
}

#[test]
fn golden_frames_with_histograms() {
    let mut decoder = Decoder::new(Limits::default());
    for (number, bytes) in (1..).zip(example()) {
        let hex = golden("v3", &format!("frame-{number}.hex"));
        let txt = golden("v3", &format!("frame-{number}.txt"));
        let written = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let text = format!("{:#?}\n", decoder.decode(&bytes).unwrap());
        if std::env::var_os("TRIBUTARY_WRITE_FIXTURES").is_some() {
            std::fs::write(&hex, format!("{written}\n")).unwrap();
            std::fs::write(&txt, &text).unwrap();
        }
        assert_eq!(written, std::fs::read_to_string(&hex).unwrap().trim(), "{}", hex.display());
        assert_eq!(text, std::fs::read_to_string(&txt).unwrap(), "{}", txt.display());
    }
}

#[test]
fn only_frames_with_histograms_have_version_3() {
    let versions: Vec<u8> = example().iter().map(|frame| frame[4]).collect();
    assert_eq!(versions, [3, 3, 2, 3]);
}

#[test]
fn flipped_bits_are_noticed_and_cuts_refused() {
    for frame in example() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(header(&damaged).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn counts_and_versions_must_agree() {
    let frame = &example()[0];
    let (_, version, rest) = header::read(frame, limits::MAX_FRAME_BYTES).unwrap();
    assert_eq!(version.histograms(), 2);
    // The histograms of a frame that says that it has none.
    assert!(refused(2, rest).to_string().contains("number of samples"));
    let place = frame.len() - rest.len() - 5;
    for (count, expected) in [(0, "counts no histograms"), (1, "number of samples"), (4, "counts")]
    {
        let mut other = frame[..frame.len() - 4].to_vec();
        other[place] = count;
        header::seal(&mut other);
        let error = Decoder::new(Limits::default()).decode(&other).unwrap_err().to_string();
        assert!(error.contains(expected), "{count}: {error}");
    }
}

#[test]
fn too_many_buckets_are_refused() {
    let length = u32::try_from(MAX_BUCKETS).unwrap();
    let labels = series(1);
    let encode = |length: u32| {
        let parts = histogram(1.0, &[(0, length)], &vec![0.1; length as usize]);
        let histograms = [(labels.clone(), sample(5, parts))];
        let content = Content { histograms: &histograms, ..Content::default() };
        Encoder::new(1, 1).encode(1, at(5), &content)
    };
    let frame = encode(length).unwrap();
    let frame = Decoder::new(Limits::default()).decode(&frame).unwrap();
    assert_eq!(frame.histograms[0].sample.histogram.positive().len(), MAX_BUCKETS);
    let error = encode(length + 1).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { what: "number of buckets", .. }), "{error}");
}

#[test]
fn many_histograms_are_split() {
    let parts = histogram(1.0, &[(0, 200)], &[0.1; 200]);
    let all: Vec<_> = (0..3000).map(|n| (series(n), sample(5, parts.clone()))).collect();
    let (mut encoder, mut decoder) = (Encoder::new(1, 1), Decoder::new(Limits::default()));
    let (mut rest, mut read) = (all.as_slice(), 0);
    for seq in 1.. {
        let (now, later) = rest.split_at(encoder.prefixes(&[], rest).1);
        let content = Content { histograms: now, ..Content::default() };
        let frame = encoder.encode(seq, at(5), &content).unwrap();
        assert!(frame.len() <= limits::MAX_FRAME_BYTES);
        read += decoder.decode(&frame).unwrap().histograms.len();
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    assert_eq!(read, all.len());
}

#[test]
fn steady_histograms_cost_little() {
    let (mut encoder, mut decoder) = (Encoder::new(1, 1), Decoder::new(Limits::default()));
    let mut sizes = Vec::new();
    for scrape in 0..20u32 {
        let histograms: Vec<_> = (0..50usize)
            .map(|n| {
                let counts: Vec<f64> =
                    (0..40u32).map(|b| f64::from(scrape * (b % 3) + b * 100)).collect();
                let parts = histogram(f64::from(scrape), &[(-10, 40)], &counts);
                (series(n), sample(i64::from(scrape) * 15_000, parts))
            })
            .collect();
        let content = Content { histograms: &histograms, ..Content::default() };
        let frame = encoder.encode(u64::from(scrape) + 1, at(5), &content).unwrap();
        assert_eq!(decoder.decode(&frame).unwrap().histograms.len(), 50);
        sizes.push(frame.len());
    }
    // Forty counts in at most as many bits.
    assert!(sizes[1..].iter().all(|size| *size < 50 * 5), "{sizes:?}");
}

fn histograms() -> impl Strategy<Value = Vec<Vec<(usize, i64, Parts)>>> {
    let count = prop_oneof![4 => (0..50u32).prop_map(f64::from), 1 => any::<f64>()];
    let parts = (any::<u64>(), -5..5i32, prop::collection::vec(count, 0..6));
    let parts = parts.prop_map(|(sum, offset, counts)| {
        let length = u32::try_from(counts.len()).unwrap();
        histogram(f64::from_bits(sum), &[(offset, length)], &counts)
    });
    let time = prop_oneof![any::<i64>(), 0..5i64];
    prop::collection::vec(prop::collection::vec((0..5usize, time, parts), 0..12), 1..5)
}

fn check_histograms(frames: &[Vec<(usize, i64, Parts)>]) -> Vec<Vec<u8>> {
    let (mut encoder, mut decoder) = (Encoder::new(7, 3), Decoder::new(Limits::default()));
    let (mut known, mut out) = (Vec::new(), Vec::new());
    for (seq, frame) in (1..).zip(frames) {
        let sent: Vec<_> =
            frame.iter().map(|(n, at, parts)| (series(*n), sample(*at, parts.clone()))).collect();
        let content = Content { histograms: &sent, ..Content::default() };
        let bytes = encoder.encode(seq, at(42), &content).unwrap();
        let decoded = decoder.decode(&bytes).unwrap();
        known.extend(decoded.new_series);
        let mut got: Vec<(Labels, HistogramSample)> = decoded
            .histograms
            .into_iter()
            .map(|h| (known[h.series as usize].clone(), h.sample))
            .collect();
        let mut sent = sent;
        sent.sort_by(|a, b| (a.1.at, &a.0).cmp(&(b.1.at, &b.0)));
        got.sort_by(|a, b| (a.1.at, &a.0).cmp(&(b.1.at, &b.0)));
        assert_eq!(sent, got);
        out.push(bytes);
    }
    out
}

proptest! {
    #[test]
    fn any_histograms_round_trip(frames in histograms()) {
        check_histograms(&frames);
    }

    #[test]
    fn damaged_histograms_with_a_good_checksum_do_not_panic(
        frames in histograms(),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
    ) {
        let mut decoder = Decoder::new(Limits::default());
        for mut frame in check_histograms(&frames) {
            frame.truncate(frame.len() - 4);
            for (place, byte) in &damage {
                let place = place % frame.len();
                frame[place] = *byte;
            }
            header::seal(&mut frame);
            let _ = decoder.decode(&frame);
        }
    }

    #[test]
    fn any_section_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut section = Vec::new();
        section::write(&mut section, Kind::Histograms, &bytes);
        let frame = &example()[0];
        let (_, _, rest) = header::read(frame, limits::MAX_FRAME_BYTES).unwrap();
        let mut other = frame[..frame.len() - rest.len() - 4].to_vec();
        other.extend_from_slice(&section);
        header::seal(&mut other);
        let _ = Decoder::new(Limits::default()).decode(&other);
    }
}
