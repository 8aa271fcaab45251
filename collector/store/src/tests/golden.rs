//! Folders written by earlier programs, whole and damaged.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tributary_model::histogram::Histogram;
use tributary_model::histogram::ResetHint::{NotReset, Unknown};
use tributary_model::matcher::Matcher;
use tributary_model::sample::{Numbers, STALE_NAN_BITS, Timestamp};
use tributary_model::series::{Metadata, MetricType};

use super::world::{Frame, HOUR, MINUTE, T0, World, frame, histogram, stream};
use crate::Gap;
use crate::batch::GapEntry;
use crate::kv::memory::Memory;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}

fn gap() -> GapEntry {
    let at = Timestamp::from_millis;
    GapEntry { from: at(T0), to: at(T0 + 1), cause: "spool full".into(), samples: 9 }
}

/// A little of everything: chunks of each kind in blocks, late blocks, samples in the journal only, and the ledger.
fn script() -> World {
    let mut world = World::new(Some(Memory::default()));
    let mut seq = 0;
    let mut send = |world: &mut World, mut frame: Frame| {
        seq += 1;
        frame.seq = seq;
        world.send(&frame).unwrap();
    };
    for i in 0..100i64 {
        let now = T0 + i * MINUTE;
        let irrational = (i as f64).sqrt();
        let mut next =
            frame(0, &[(0, now, 5.0), (1, now, i as f64 / 10.0), (2, now + i % 7, irrational)]);
        next.starts_segment = i % 10 == 0;
        next.gaps = vec![gap()];
        send(&mut world, next);
    }
    let mut stale = frame(0, &[]);
    stale.received_at = T0 + 100 * MINUTE;
    stale.samples = vec![(1, T0 + 100 * MINUTE, STALE_NAN_BITS)];
    send(&mut world, stale);
    let metadata = Metadata {
        metric: "metric_1".into(),
        kind: MetricType::Counter,
        help: "A test's metric.".into(),
        unit: "seconds".into(),
    };
    let cluster = "eu-1".parse().unwrap();
    world.store().0.core.ledger_mut().set_metadata(&cluster, metadata, true);
    world.put_state(&[("rule/a", Some(b"kept")), ("rule/b", None)]).unwrap();
    world.store().flush_head_before(Timestamp::from_millis(T0 + HOUR)).unwrap();
    send(&mut world, frame(0, &[(0, T0 + 30_000, 6.0), (3, T0 + 110 * MINUTE, 1.0)]));
    world.store().flush_head_before(Timestamp::from_millis(T0 + HOUR)).unwrap();
    send(&mut world, frame(0, &[(0, T0 + 3 * HOUR, 7.0)]));
    world.put_state(&[("rule/c", Some(b"new"))]).unwrap();
    world
}

/// Native histograms in blocks, late ones, some in the journal only, and a series that has both.
fn histograms_script() -> World {
    let mut world = script();
    let next = |seq: u64, now: i64, histograms: Vec<(u32, i64, Arc<Histogram>)>| Frame {
        received_at: now,
        histograms,
        starts_segment: seq.is_multiple_of(3),
        ..frame(seq, &[])
    };
    let mut seq = 103;
    let mut send = |world: &mut World, now: i64, histograms: &[(u32, i64, u8)]| {
        seq += 1;
        let histograms = histograms.iter().map(|(s, at, kind)| (*s, *at, histogram(*kind)));
        world.send(&next(seq, now, histograms.collect())).unwrap();
    };
    for i in 0..30i64 {
        let now = T0 + 200 * MINUTE + i * MINUTE;
        let kind = u8::try_from(i / 3).unwrap();
        send(&mut world, now, &[(4, now, kind), (5, now + i % 5, 7), (0, now, kind)]);
    }
    world.store().flush_head_before(Timestamp::from_millis(T0 + 4 * HOUR)).unwrap();
    send(&mut world, T0 + 230 * MINUTE, &[(4, T0 + 200 * MINUTE + 30_000, 3)]);
    world.store().flush_head_before(Timestamp::from_millis(T0 + 4 * HOUR)).unwrap();
    send(&mut world, T0 + 5 * HOUR, &[(4, T0 + 5 * HOUR, 2)]);
    world
}

fn check_histograms(world: &World) {
    let cluster = "eu-1".parse().unwrap();
    let series_4 = world.histograms(&cluster, 4);
    let times: Vec<i64> = series_4.iter().map(|s| s.at.as_millis()).collect();
    assert_eq!(times.len(), 32);
    assert_eq!(times[..2], [T0 + 200 * MINUTE, T0 + 200 * MINUTE + 30_000]);
    for (place, kind) in [(0, 0), (1, 3), (2, 0), (30, 9), (31, 2)] {
        assert!(series_4[place].histogram.has_data_of(&histogram(kind)), "{place}");
    }
    let hints: Vec<_> = series_4[2..7].iter().map(|s| s.histogram.hint()).collect();
    assert_eq!(hints, [Unknown, NotReset, NotReset, NotReset, NotReset]);
    assert_eq!(world.histograms(&cluster, 5).len(), 30);
    assert_eq!(world.histograms(&cluster, 0).len(), 30);
    assert_eq!(world.values(0).len(), 102);
    assert_eq!(world.store().streams()[0].stored, 304 + 92);
}

fn check(world: &World) {
    let series_0 = world.values(0);
    assert_eq!(series_0.len(), 102);
    assert_eq!(series_0[..3], [(T0, 5.0), (T0 + 30_000, 6.0), (T0 + MINUTE, 5.0)]);
    assert_eq!(series_0[101], (T0 + 3 * HOUR, 7.0));
    check_series_1(world);
    check_others(world);
    assert_eq!(world.store().state("rule/").unwrap().len(), 2);
    check_stream(world);
}

fn check_series_1(world: &World) {
    let series_1 = world.values(1);
    assert_eq!(series_1.len(), 101);
    assert_eq!(series_1[50], (T0 + 50 * MINUTE, 5.0));
    assert_eq!(series_1[100].1.to_bits(), STALE_NAN_BITS);
}

fn check_others(world: &World) {
    assert_eq!(world.values(2)[99], (T0 + 99 * MINUTE + 1, 99f64.sqrt()));
    assert_eq!(world.values(3), [(T0 + 110 * MINUTE, 1.0)]);
    let gaps: &[Gap] = &[Gap { stream: stream("a"), entry: gap() }];
    assert_eq!(world.store().gaps(), gaps);
    assert_eq!(world.store().metadata()[0].1.unit, "seconds");
}

fn check_stream(world: &World) {
    assert_eq!(world.store().streams()[0].stored, 304);
    assert_eq!(world.store().stream(&stream("a")).unwrap().last_seq, 103);
}

/// To write the folders anew after a change of the format: `TRIBUTARY_WRITE_GOLDEN=1 cargo test`.
fn write_folders() {
    let world = script();
    check(&world);
    world.save(&folder("v2"));
    for tree in ["state", "streams", "spans", "meta"] {
        let world = script();
        world.kv.as_ref().unwrap().damage(tree);
        world.save(&folder(&format!("v2-damaged-{tree}")));
    }
    let world = script();
    let file = world.block_files().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[60] ^= 4;
    std::fs::write(file, bytes).unwrap();
    world.save(&folder("v2-damaged-block"));
}

#[test]
fn folders_with_histograms_are_read() {
    if std::env::var_os("TRIBUTARY_WRITE_GOLDEN").is_some() {
        let world = histograms_script();
        check_histograms(&world);
        world.save(&folder("v3"));
    }
    let mut world = World::stored(&folder("v3"));
    assert!(world.report.is_clean(), "{:?}", world.report);
    check_histograms(&world);
    world.store().flush_head_before(Timestamp::from_millis(T0 + 8 * HOUR)).unwrap();
    for _ in 0..2 {
        world.reopen();
        assert!(world.report.is_clean(), "{:?}", world.report);
        check_histograms(&world);
        let verified = world.store().verify(&mut |_, _| {}).unwrap();
        assert_eq!((verified.damaged, verified.samples), (vec![], 304 + 92));
        world.store().compact(Timestamp::from_millis(T0 + 8 * HOUR)).unwrap();
    }
    let copy = world.options.path.join("copy");
    world.store().snapshot(&copy).unwrap();
    world.options.path = copy;
    world.kv = None;
    world.reopen();
    assert!(world.report.is_clean(), "{:?}", world.report);
    check_histograms(&world);
}

#[test]
fn folders_of_every_version_are_read() {
    if std::env::var_os("TRIBUTARY_WRITE_GOLDEN").is_some() {
        write_folders();
    }
    for (version, migrated) in [("v1", 1), ("v2", 0)] {
        let mut world = World::stored(&folder(version));
        assert!(world.report.is_clean(), "{version}: {:?}", world.report);
        assert_eq!((world.report.migrated_blocks, world.report.adopted_blocks), (migrated, 0));
        check(&world);
        world.store().flush_head_before(Timestamp::from_millis(T0 + 4 * HOUR)).unwrap();
        for _ in 0..2 {
            world.reopen();
            assert!(world.report.is_clean(), "{version}: {:?}", world.report);
            assert_eq!(world.report.migrated_blocks, 0);
            check(&world);
        }
    }
}

#[test]
fn a_damaged_block_costs_only_its_page() {
    let world = World::stored(&folder("v2-damaged-block"));
    assert!(world.report.is_clean(), "{:?}", world.report);
    let any = [Matcher::equal("number", "1")];
    let found = world.store().select(&any, Timestamp::MIN, Timestamp::MAX).unwrap();
    let refused =
        found[0].read(Timestamp::MIN, Timestamp::MAX, &mut Numbers::default(), &mut Vec::new());
    let why = refused.unwrap_err().to_string();
    assert!(why.contains(".block at byte 40 is damaged: it does not match its checksum"), "{why}");
    assert_eq!(world.store().stats().damaged_sections, 1);
    assert_eq!(world.values(3), [(T0 + 110 * MINUTE, 1.0)]);
    check_stream(&world);
}

#[test]
fn damage_is_found_and_costs_only_what_is_damaged() {
    let world = World::stored(&folder("v1-damaged-pages"));
    assert_eq!(world.report.damaged.len(), 1, "{:?}", world.report);
    check_others(&world);
    check_stream(&world);
    for version in ["v1", "v2"] {
        let stored = |part: &str| World::stored(&folder(&format!("{version}-damaged-{part}")));
        let world = stored("state");
        assert_eq!(world.report.damaged.len(), 1, "{:?}", world.report);
        assert_eq!(world.store().state("rule/").unwrap().len(), 1);
        check_series_1(&world);

        let world = stored("streams");
        assert_eq!(world.report.damaged.len(), 1, "{:?}", world.report);
        check_series_1(&world);

        let mut world = stored("spans");
        assert_eq!(world.report.damaged.len(), 1, "{:?}", world.report);
        check(&world);
        world.store().flush_head_before(Timestamp::from_millis(T0 + 4 * HOUR)).unwrap();
        world.reopen();
        assert!(world.report.is_clean(), "{:?}", world.report);
        check(&world);

        let mut world = stored("meta");
        assert!(world.report.rolled_back && world.report.damaged.len() == 1, "{:?}", world.report);
        check(&world);
        world.store().flush_head_before(Timestamp::from_millis(T0 + 4 * HOUR)).unwrap();
        world.reopen();
        check(&world);
    }
}
