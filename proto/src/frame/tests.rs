//! Round trips, golden frames, and everything that must be refused.

mod histograms;

use proptest::prelude::*;
use tributary_model::fields::put_bytes;
use tributary_model::series::MetricType;

use super::*;

fn series(number: usize) -> Labels {
    let pairs = [
        ("__name__".to_owned(), format!("metric_{}", number % 7)),
        ("instance".to_owned(), "127.0.0.1:9100".to_owned()),
        ("n".to_owned(), number.to_string()),
    ];
    Labels::from_pairs(pairs).unwrap()
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// Encodes frame after frame of one segment and checks that each decodes to the same samples.
fn check(frames: &[Vec<(usize, i64, u64)>]) -> Vec<Vec<u8>> {
    let (mut encoder, mut decoder) = (Encoder::new(7, 3), Decoder::new(Limits::default()));
    let mut known: Vec<Labels> = Vec::new();
    let mut out = Vec::new();
    for (seq, frame) in (1..).zip(frames) {
        let samples: Vec<(Labels, Sample)> = frame
            .iter()
            .map(|(n, millis, bits)| (series(*n), Sample::new(*millis, f64::from_bits(*bits))))
            .collect();
        let content = Content { samples: &samples, ..Content::default() };
        let bytes = encoder.encode(seq, at(42), &content).unwrap();
        assert_eq!(header(&bytes).unwrap().seq, seq);
        let decoded = decoder.decode(&bytes).unwrap();
        assert_eq!(decoded.first_new as usize, known.len());
        known.extend(decoded.new_series);
        let mut sent: Vec<_> =
            samples.iter().map(|(l, s)| (s.at, l.clone(), s.value.to_bits())).collect();
        let mut got: Vec<_> = decoded
            .samples
            .iter()
            .map(|s| (s.sample.at, known[s.series as usize].clone(), s.sample.value.to_bits()))
            .collect();
        // Stable: two samples of one series and time keep their order.
        sent.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        got.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        assert_eq!(sent, got);
        out.push(bytes);
    }
    assert_eq!(encoder.series(), known.len());
    out
}

fn example() -> Vec<Vec<u8>> {
    let (mut encoder, mut out) = (Encoder::new(0x0102_0304_0506_0708, 9), Vec::new());
    let up = Labels::from_pairs([("__name__", "up"), ("job", "node")]).unwrap();
    let cpu = Labels::from_pairs([("__name__", "cpu"), ("job", "node")]).unwrap();
    let start = 1_790_000_000_000;
    let metadata = [Metadata {
        metric: "up".into(),
        kind: MetricType::Gauge,
        help: "1 if the target answered.".into(),
        unit: String::new(),
    }];
    let gaps =
        [Gap { from: at(start - 5), to: at(start - 1), cause: GapCause::SpoolFull, samples: 3 }];
    let samples = [(up.clone(), Sample::new(start, 1.0)), (cpu.clone(), Sample::new(start, 2.5))];
    let content =
        Content { samples: &samples, metadata: &metadata, gaps: &gaps, ..Content::default() };
    out.push(encoder.encode(12, at(start), &content).unwrap());
    let stale = tributary_model::sample::stale_nan();
    let samples = [
        (up, Sample::new(start + 15_000, stale)),
        (cpu.clone(), Sample::new(start + 15_000, 2.75)),
        (cpu, Sample::new(start + 15_000, f64::NAN)),
    ];
    let content = Content { samples: &samples, ..Content::default() };
    out.push(encoder.encode(13, at(start + 15_000), &content).unwrap());
    out.push(encoder.encode(14, at(start + 15_000), &Content::default()).unwrap());
    out
}

fn golden(version: &str, name: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(version).join(name)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

#[test]
fn golden_frames_read_and_write_the_same() {
    for (number, bytes) in (1..).zip(example()) {
        let path = golden("v2", &format!("frame-{number}.hex"));
        let written = bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        if std::env::var_os("TRIBUTARY_WRITE_FIXTURES").is_some() {
            std::fs::write(&path, format!("{written}\n")).unwrap();
        }
        assert_eq!(written, std::fs::read_to_string(&path).unwrap().trim(), "{}", path.display());
    }
    golden_frames_read("v2", true);
}

#[test]
fn frames_of_version_1_are_read() {
    golden_frames_read("v1", false);
}

fn golden_frames_read(version: &str, write: bool) {
    let mut decoder = Decoder::new(Limits::default());
    for number in 1..=3 {
        let hex = golden(version, &format!("frame-{number}.hex"));
        let bytes = unhex(&std::fs::read_to_string(hex).unwrap());
        let text = format!("{:#?}\n", decoder.decode(&bytes).unwrap());
        // Written before there were any.
        let text = text.replace("    histograms: [],\n", "");
        let path = golden(version, &format!("frame-{number}.txt"));
        if write && std::env::var_os("TRIBUTARY_WRITE_FIXTURES").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(text, std::fs::read_to_string(&path).unwrap(), "{}", path.display());
    }
}

#[test]
fn a_segment_has_one_version() {
    let old = unhex(&std::fs::read_to_string(golden("v1", "frame-2.hex")).unwrap());
    let mut decoder = Decoder::new(Limits::default());
    decoder.decode(&example()[0]).unwrap();
    assert!(matches!(decoder.decode(&old), Err(FrameError::Malformed { what: "header", .. })));
}

#[test]
fn steady_scrapes_cost_less_than_a_byte_a_sample() {
    let frames: Vec<Vec<(usize, i64, u64)>> = (0..40i64)
        .map(|scrape| {
            (0..500usize)
                .map(|n| {
                    let step = i64::try_from(n % 5).unwrap() * 3;
                    #[expect(clippy::cast_precision_loss)]
                    let value = (scrape * step) as f64;
                    (n, scrape * 15_000 + 7, value.to_bits())
                })
                .collect()
        })
        .collect();
    let sizes: Vec<usize> = check(&frames).iter().map(Vec::len).collect();
    assert!(sizes[1..].iter().all(|size| *size < 500), "{sizes:?}");
}

#[test]
fn frames_outside_their_segment_are_refused() {
    let frames = example();
    let mut decoder = Decoder::new(Limits::default());
    assert_eq!(decoder.decode(&frames[1]), Err(FrameError::NoState { segment: 9 }));
    decoder.decode(&frames[0]).unwrap();
    assert!(matches!(decoder.decode(&frames[2]), Err(FrameError::OutOfSequence { .. })));
    // After an error the segment cannot go on, but can be read again from its start.
    assert!(decoder.decode(&frames[1]).is_err());
    for frame in &frames {
        decoder.decode(frame).unwrap();
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for frame in example() {
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(header(&damaged).is_err(), "bit {bit}");
        }
        for len in 0..frame.len() {
            assert!(header(&frame[..len]).is_err(), "cut to {len}");
        }
    }
}

/// A frame of a version with these sections, which announces a sample.
fn with_sections(version: u8, sections: &[u8]) -> Vec<u8> {
    let samples = [(series(1), Sample::new(5, 1.0))];
    let content = Content { samples: &samples, ..Content::default() };
    let mut encoder = Encoder::new(7, 3);
    let whole = encoder.encode(1, at(5), &content).unwrap();
    let (parsed, _, rest) = header::read(&whole, limits::MAX_FRAME_BYTES).unwrap();
    assert_eq!(parsed.samples, 1);
    let mut out = whole[..whole.len() - rest.len() - 4].to_vec();
    out[4] = version;
    out.extend_from_slice(sections);
    header::seal(&mut out);
    out
}

fn refused(version: u8, sections: &[u8]) -> FrameError {
    Decoder::new(Limits::default()).decode(&with_sections(version, sections)).unwrap_err()
}

#[test]
fn hostile_sections_are_refused() {
    for version in [1, 2] {
        // A section that announces 4 GiB after decompression.
        assert!(matches!(
            refused(version, &[2, 1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0]),
            FrameError::TooLarge { what: "section", .. }
        ));
        // A bomb: more than it announces.
        let bomb = zstd::bulk::compress(&vec![0; 10 << 20], 3).unwrap();
        let mut section = vec![2, 1];
        wire::put_len(&mut section, 1000);
        put_bytes(&mut section, &bomb);
        assert!(matches!(refused(version, &section), FrameError::Compression(_)));
        // A bad compression, a cut section, samples of an unknown codec.
        assert!(matches!(refused(version, &[4, 9, 1, 1, 0]), FrameError::Compression(_)));
        assert!(matches!(refused(version, &[4, 0, 9, 0]), FrameError::Truncated { .. }));
        assert_eq!(refused(version, &[2, 0, 1, 9]), FrameError::UnknownCodec(9));
        assert_eq!(
            refused(version, &[2, 0, 1, 3 - version]),
            FrameError::UnknownCodec(3 - version)
        );
        // A dictionary that announces many symbols.
        assert!(matches!(
            refused(version, &[1, 0, 6, 0, 0xff, 0xff, 0xff, 0xff, 7]),
            FrameError::Truncated { .. }
        ));
    }
    let malformed = [
        // The same kind twice, the wrong order.
        (2, &[4, 0, 1, 0, 4, 0, 1, 0][..], "wrong order"),
        (2, &[4, 0, 1, 0, 3, 0, 1, 0], "wrong order"),
        // Samples of a series without number.
        (1, &[2, 0, 8, 1, 1, 0, 0, 1, 0, 0, 0], "not in the dictionary"),
        (2, &[2, 0, 6, 2, 1, 0, 1, 0, 0], "not in the dictionary"),
        // Two billion samples in one run, and in a known list's place none.
        (1, &[2, 0, 12, 1, 1, 0, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 7, 0], "number of samples"),
        (2, &[2, 0, 10, 2, 1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 7], "number of samples"),
        (2, &[2, 0, 3, 2, 1, 1], "a list is not known"),
        (2, &[2, 0, 4, 2, 1, 0, 0], "a list is empty"),
        (2, &[2, 0, 2, 2, 0], "number of samples"),
        // Symbols and references without what they build on.
        (2, &[1, 0, 6, 0, 1, 1, 1, b'a', 0], "shares more"),
        (2, &[1, 0, 10, 0, 1, 0, 1, b'a', 1, 1, 0, 1, 0], "no series before"),
        (2, &[1, 0, 10, 0, 1, 0, 1, b'a', 1, 1, 1, 1, 0], "not in the dictionary"),
        (2, &[1, 0, 10, 0, 1, 0, 1, b'a', 1, 1, 1, 3, 0], "not in the dictionary"),
        (2, &[1, 0, 9, 0, 1, 0, 1, 0xff, 1, 1, 1, 1], "not UTF-8"),
    ];
    for (version, sections, expected) in malformed {
        let error = refused(version, sections).to_string();
        assert!(error.contains(expected), "{sections:?}: {error}");
    }
}

#[test]
fn values_end_where_the_section_ends() {
    let samples: Vec<_> =
        (0..50).map(|n| (series(n), Sample::new(5, f64::from_bits(u64::MAX - n as u64)))).collect();
    let content = Content { samples: &samples, ..Content::default() };
    let whole = Encoder::new(7, 3).encode(1, at(5), &content).unwrap();
    let (_, _, rest) = header::read(&whole, limits::MAX_FRAME_BYTES).unwrap();
    let start = whole.len() - rest.len() - 4;
    let mut sections = section::Sections::new(rest, limits::MAX_SECTION_BYTES);
    let (_, dictionary) = sections.next().unwrap().unwrap();
    let (_, values) = sections.next().unwrap().unwrap();
    let decode = |values: &[u8]| {
        let mut frame = whole[..start].to_vec();
        section::write(&mut frame, Kind::Dictionary, &dictionary);
        section::write(&mut frame, Kind::Samples, values);
        header::seal(&mut frame);
        Decoder::new(Limits::default()).decode(&frame).map(|frame| frame.samples.len())
    };
    assert_eq!(decode(&values), Ok(50));
    let longer = [&values[..], &[0]].concat();
    assert!(matches!(decode(&longer), Err(FrameError::Malformed { .. })));
    assert!(decode(&values[..values.len() - 6]).is_err());
    // A frame of no samples at all that goes on.
    assert!(refused(2, &[2, 0, 3, 2, 0, 0]).to_string().contains("number of samples"));
}

#[test]
fn each_target_has_its_own_clock() {
    // Four targets, each with its own interval and phase; frames of a minute.
    let targets = [(0, 5_000, 0), (10, 10_000, 731), (20, 15_000, 1_462), (30, 30_000, 2_193)];
    let frames: Vec<Vec<(usize, i64, u64)>> = (0..20i64)
        .map(|minute| {
            let scrapes = |(first, interval, phase): (usize, i64, i64)| {
                let times = (0..60_000 / interval).map(move |n| minute * 60_000 + n * interval);
                times.flat_map(move |at| (0..10).map(move |n| (first + n, at + phase, 0)))
            };
            targets.into_iter().flat_map(scrapes).collect()
        })
        .collect();
    let frames = check(&frames);
    // 24 scrapes: a list's number and a difference of intervals each, beside header, section and checksum.
    let last = frames.last().unwrap();
    assert!(last.len() <= 24 * 2 + 40, "{}", last.len());
}

#[test]
fn no_memory_is_taken_for_more_samples_than_allowed() {
    let announced = Header {
        epoch: 1,
        seq: 1,
        segment: 1,
        starts_segment: true,
        complete_until: at(5),
        min_at: at(5),
        max_at: at(5),
        samples: u32::MAX,
    };
    let mut frame = header::write(&announced, Version::V2);
    section::write(&mut frame, Kind::Samples, &[2, 1, 0, 1, 0, 0xff, 0xff, 0xff, 0xff, 7]);
    header::seal(&mut frame);
    let error = Decoder::new(Limits::default()).decode(&frame).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { what: "number of samples", .. }), "{error}");
}

#[test]
fn no_memory_is_taken_for_more_symbols_than_allowed() {
    // Each symbol is the one before again, in two bytes; compressed, a frame of them is a few hundred bytes.
    let count = (1 << 20) / 2;
    let frame = |seq| {
        let announced = Header {
            epoch: 1,
            seq,
            segment: 1,
            starts_segment: seq == 1,
            complete_until: at(5),
            min_at: at(5),
            max_at: at(5),
            samples: 0,
        };
        let mut body = vec![0];
        wire::put_len(&mut body, count);
        body.extend([0, 1, b'a']);
        body.extend([1, 0].repeat(count - 1));
        body.push(0);
        let mut frame = header::write(&announced, Version::V2);
        section::write(&mut frame, Kind::Dictionary, &body);
        header::seal(&mut frame);
        frame
    };
    let mut decoder = Decoder::new(Limits::default());
    decoder.decode(&frame(1)).unwrap();
    let error = decoder.decode(&frame(2)).unwrap_err();
    assert!(matches!(error, FrameError::TooLarge { what: "number of symbols", .. }), "{error}");
}

#[test]
fn a_segment_ends_before_it_has_too_many_symbols() {
    let limits = Limits { max_symbols_per_segment: 40, ..Limits::default() };
    let (mut encoder, mut decoder) = (Encoder::new(7, 3), Decoder::new(limits));
    encoder.limits = limits;
    for n in 0.. {
        let samples = [(series(n), Sample::new(5, 1.0))];
        let content = Content { samples: &samples, ..Content::default() };
        match encoder.encode(n as u64 + 1, at(5), &content) {
            Ok(frame) => drop(decoder.decode(&frame).unwrap()),
            Err(FrameError::SegmentFull) => {
                // Names and the instance are shared, so every series has a symbol or two of its own.
                assert!((20..40).contains(&n), "after {n} series");
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn symbols_that_share_half_a_character_come_back() {
    let values = ["é", "è", "è1", "è", "日本", "日木", "日"];
    let series = |value: &&str| Labels::from_pairs([("job", *value), (value, "x")]).unwrap();
    let (mut encoder, mut decoder) = (Encoder::new(7, 3), Decoder::new(Limits::default()));
    for (seq, values) in (1..).zip(values.chunks(3)) {
        let samples: Vec<_> =
            values.iter().map(|value| (series(value), Sample::new(5, 1.0))).collect();
        let content = Content { samples: &samples, ..Content::default() };
        let frame = encoder.encode(seq, at(5), &content).unwrap();
        let frame = decoder.decode(&frame).unwrap();
        let fresh: Vec<_> = frame.new_series.iter().map(ToString::to_string).collect();
        let sent: Vec<_> = samples.iter().map(|(labels, _)| labels.to_string()).collect();
        let again = usize::from(seq == 2);
        assert_eq!(fresh, sent[again..]);
    }
}

#[test]
fn unknown_kinds_are_skipped() {
    let samples = [(series(1), Sample::new(5, 1.0))];
    let content = Content { samples: &samples, ..Content::default() };
    let whole = Encoder::new(7, 3).encode(1, at(5), &content).unwrap();
    let (_, _, rest) = header::read(&whole, limits::MAX_FRAME_BYTES).unwrap();
    let sections = [&[77, 0, 2, 1, 2][..], rest, &[78, 5, 3, 2, 1, 2]].concat();
    let frame = Decoder::new(Limits::default()).decode(&with_sections(2, &sections)).unwrap();
    assert_eq!((frame.unknown, frame.samples.len()), (2, 1));
}

#[test]
fn the_encoder_refuses_and_stays_usable() {
    let mut encoder = Encoder::new(1, 1);
    let mut decoder = Decoder::new(Limits::default());
    let empty = [(Labels::empty(), Sample::new(1, 1.0))];
    let refused = encoder.encode(1, at(1), &Content { samples: &empty, ..Content::default() });
    assert_eq!(refused, Err(FrameError::SeriesRefused));
    let many: Vec<_> = (0..40_000).map(|n| (series(n), Sample::new(1, 1.0))).collect();
    let refused = encoder.encode(1, at(1), &Content { samples: &many, ..Content::default() });
    assert!(matches!(refused, Err(FrameError::TooLarge { what: "frame", .. })));
    assert_eq!(encoder.series(), 0);
    let mut rest = many.as_slice();
    for seq in 1.. {
        let (now, later) = rest.split_at(encoder.prefix(rest));
        let content = Content { samples: now, ..Content::default() };
        let bytes = encoder.encode(seq, at(1), &content).unwrap();
        assert!(bytes.len() < limits::MAX_FRAME_BYTES);
        assert_eq!(decoder.decode(&bytes).unwrap().samples.len(), now.len());
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    let skipped = encoder.encode(99, at(1), &Content::default());
    assert!(matches!(skipped, Err(FrameError::OutOfSequence { .. })));
}

fn frames() -> impl Strategy<Value = Vec<Vec<(usize, i64, u64)>>> {
    let edges = prop::sample::select(vec![
        0u64,
        (-0.0f64).to_bits(),
        f64::NAN.to_bits(),
        0x7ff0_0000_0000_0002,
        0xfff8_0000_dead_beef,
        f64::INFINITY.to_bits(),
        1,
        (0.1f64 + 0.2).to_bits(),
        1e22f64.to_bits(),
    ]);
    let value = prop_oneof![any::<u64>(), edges, any::<i32>().prop_map(|i| f64::from(i).to_bits())];
    let time = prop_oneof![any::<i64>(), 0..5i64, Just(i64::MIN), Just(i64::MAX)];
    let sample = (0..20usize, time, value);
    prop::collection::vec(prop::collection::vec(sample, 0..40), 1..6)
}

proptest! {
    #[test]
    fn any_samples_round_trip(frames in frames()) {
        check(&frames);
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Decoder::new(Limits::default()).decode(&bytes);
        for version in [1, 2] {
            let _ = Decoder::new(Limits::default()).decode(&with_sections(version, &bytes));
        }
    }

    #[test]
    fn damaged_frames_with_a_good_checksum_do_not_panic(
        frames in frames(),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..6),
        version in 1..=2u8,
    ) {
        let mut decoder = Decoder::new(Limits::default());
        for mut frame in check(&frames) {
            frame.truncate(frame.len() - 4);
            frame[4] = version;
            for (place, byte) in &damage {
                let place = place % frame.len();
                frame[place] = *byte;
            }
            header::seal(&mut frame);
            let _ = decoder.decode(&frame);
        }
    }
}
