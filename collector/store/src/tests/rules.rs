//! The acceptance rules, durability and housekeeping, one by one.

use std::sync::Arc;
use std::time::Duration;

use tributary_model::matcher::{MatchOp, Matcher};
use tributary_model::sample::{Numbers, STALE_NAN_BITS, Timestamp};
use tributary_model::series::{Metadata, MetricType};

use super::world::{DAY, Frame, HOUR, MINUTE, T0, World, frame, labels, stream};
use crate::batch::{Accepted, GapEntry, StreamKey, StreamState};
use crate::kv::memory::Memory;
use crate::{Error, Gap};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn texts(texts: &[&str]) -> Vec<Arc<str>> {
    texts.iter().map(|text| Arc::from(*text)).collect()
}

fn stored(stored: u32) -> Accepted {
    Accepted { stored, ..Accepted::default() }
}

fn world() -> World {
    World::new(Some(Memory::default()))
}

#[test]
fn duplicates_conflicts_and_order() {
    for flush in [false, true] {
        let mut world = world();
        let first = frame(1, &[(1, T0, 1.0), (1, T0 + MINUTE, 2.0), (2, T0 + 3 * HOUR, 0.0)]);
        assert_eq!(world.send(&first).unwrap(), stored(3));
        // Now the watermark is at T0: raise it.
        assert_eq!(world.send(&frame(2, &[(2, T0 + 4 * HOUR, 0.0)])).unwrap(), stored(1));
        if flush {
            world.store().flush_head_before(at(T0 + 4 * HOUR)).unwrap();
        }
        let mut late = frame(
            3,
            &[
                (2, T0 + 4 * HOUR, 0.0),
                (2, T0 + 4 * HOUR, 1.0),
                (2, T0 + 3 * HOUR, 0.0),
                (2, T0 + 3 * HOUR, -0.0),
                (2, T0 + 3 * HOUR + 1, 7.0),
                (1, T0 + MINUTE, 2.0),
                (1, T0 + MINUTE - 1, 2.0),
                (1, T0 + 2 * MINUTE, 3.0),
                (3, T0 + 2 * HOUR, 1.0),
                (4, T0 + 2 * HOUR - 1, 1.0),
                (5, T0 + 4 * HOUR + 1000 + 2 * MINUTE, 1.0),
                (5, T0 + 4 * HOUR + 1001 + 2 * MINUTE, 1.0),
            ],
        );
        late.received_at = T0 + 4 * HOUR + 1000;
        let accepted = world.send(&late).unwrap();
        let expected = Accepted {
            stored: 4,
            duplicate: 3,
            conflict: 2,
            out_of_order: 2,
            future: 1,
            ..Accepted::default()
        };
        assert_eq!(accepted, expected, "flush {flush}");
        let series_2 = [(T0 + 3 * HOUR, 0.0), (T0 + 3 * HOUR + 1, 7.0), (T0 + 4 * HOUR, 0.0)];
        assert_eq!(world.values(2), series_2);
        world.reopen();
        assert_eq!(world.values(2), series_2);
        assert_eq!(world.values(1).len(), 3);
        let streams = world.store().streams();
        assert_eq!(streams[0].stored, 8);
        assert_eq!(streams[0].refused.map(|(_, n)| n), [3, 2, 2, 1, 0, 0]);
    }
}

#[test]
fn samples_older_than_the_retention_are_refused() {
    let mut world = world();
    world.options.retention = Duration::from_secs(86_400);
    world.reopen();
    let mut old = frame(1, &[(1, T0 - DAY, 1.0), (1, T0 - DAY - 1, 1.0), (2, i64::MIN, 1.0)]);
    old.received_at = T0;
    let accepted = world.send(&old).unwrap();
    assert_eq!((accepted.stored, accepted.expired), (1, 2));
}

#[test]
fn a_known_number_is_not_stored_again() {
    let mut world = world();
    world.send(&frame(5, &[(1, T0, 1.0)])).unwrap();
    assert_eq!(world.send(&frame(5, &[(1, T0 + 1, 1.0)])).unwrap(), Accepted::default());
    assert_eq!(world.send(&frame(4, &[(1, T0 + 1, 1.0)])).unwrap(), Accepted::default());
    assert_eq!(world.store().stream(&stream("a")), Some(StreamState { epoch: 1, last_seq: 5 }));
    let next_epoch = Frame { epoch: 2, ..frame(1, &[(1, T0 + 1, 1.0)]) };
    assert_eq!(world.send(&next_epoch).unwrap(), stored(1));
    world.reopen();
    assert_eq!(world.store().stream(&stream("a")), Some(StreamState { epoch: 2, last_seq: 1 }));
    assert_eq!(world.store().stream(&stream("b")), None);
}

#[test]
fn every_bit_of_a_value_comes_back_from_head_and_blocks() {
    let mut world = world();
    let bits = [STALE_NAN_BITS, f64::NAN.to_bits(), (-0.0f64).to_bits(), 0, 1, u64::MAX];
    let mut all = frame(1, &[]);
    all.received_at = T0 + HOUR;
    all.samples = (0i64..).zip(bits).map(|(i, bits)| (1, T0 + i, bits)).collect();
    world.send(&all).unwrap();
    let expected: Vec<_> = all.samples.iter().map(|(_, at, bits)| (*at, *bits)).collect();
    let cluster = "eu-1".parse().unwrap();
    assert_eq!(world.read(&cluster, 1), expected);
    world.store().flush_head_before(at(T0 + HOUR)).unwrap();
    assert_eq!(world.store().stats().active_series, 0);
    assert_eq!(world.read(&cluster, 1), expected);
    world.reopen();
    assert_eq!(world.read(&cluster, 1), expected);
}

#[test]
fn state_gaps_and_metadata_survive() {
    for flush in [false, true] {
        let mut world = world();
        world.put_state(&[("rule/a", Some(b"1")), ("rule/b", Some(b"2"))]).unwrap();
        world.put_state(&[("rule/a", None), ("alert/x", Some(b""))]).unwrap();
        let gap = GapEntry { from: at(1), to: at(2), cause: "spool full".into(), samples: 3 };
        let mut reports = frame(1, &[]);
        reports.gaps = vec![gap.clone(), gap.clone()];
        world.send(&reports).unwrap();
        if flush {
            world.store().flush_head_before(at(T0)).unwrap();
        }
        world.put_state(&[("rule/c", Some(&vec![7; 20_000]))]).unwrap();
        world.reopen();
        let rules = world.store().state("rule/").unwrap();
        let expected =
            vec![("rule/b".to_owned(), b"2".to_vec()), ("rule/c".to_owned(), vec![7; 20_000])];
        assert_eq!(rules, expected);
        assert_eq!(world.store().state("").unwrap().len(), 3);
        assert_eq!(world.store().gaps(), [Gap { stream: stream("a"), entry: gap }]);
    }
}

#[test]
fn metadata_is_kept_by_cluster_and_metric() {
    let kv = Memory::default();
    let world = World::new(Some(kv));
    let core = &world.store().0.core;
    let metadata = Metadata {
        metric: "up".into(),
        kind: MetricType::Gauge,
        help: "ä".repeat(3000),
        unit: String::new(),
    };
    core.ledger_mut().set_metadata(&"eu-1".parse().unwrap(), metadata, true);
    world.store().flush_head_before(at(T0)).unwrap();
    let mut world = world;
    world.reopen();
    let known = world.store().metadata();
    assert_eq!(known.len(), 1);
    assert_eq!((known[0].1.kind, known[0].1.help.len()), (MetricType::Gauge, 4096));
}

#[test]
fn reads_only_the_range_and_the_series_alive_in_it() {
    let mut world = world();
    let first: Vec<_> = (0..100).map(|i| (1, T0 + i * MINUTE, i as f64)).collect();
    world.send(&frame(1, &first)).unwrap();
    world.send(&frame(2, &[(2, T0 + 10 * HOUR, 1.0)])).unwrap();
    for flush in [false, true] {
        if flush {
            world.store().flush_head_before(at(T0 + 10 * HOUR)).unwrap();
        }
        let (from, to) = (at(T0 + 5 * MINUTE), at(T0 + 7 * MINUTE));
        let any = [Matcher::equal("cluster", "eu-1")];
        let found = world.store().select(&any, from, to).unwrap();
        assert_eq!(found.len(), 1);
        let mut out = Numbers::default();
        found[0].read(from, to, &mut out, &mut Vec::new()).unwrap();
        assert_eq!(out.values, [5.0, 6.0, 7.0]);
        let store = world.store();
        assert_eq!(store.series(&any, from, to), [labels(&"eu-1".parse().unwrap(), 1)]);
        assert_eq!(store.label_values("number", &any, from, to), texts(&["1"]));
        assert_eq!(
            store.label_values("number", &[], Timestamp::MIN, Timestamp::MAX),
            texts(&["1", "2"])
        );
        assert_eq!(store.label_names(&any, from, to), texts(&["__name__", "cluster", "number"]));
        assert!(store.series(&any, at(T0 - 2), at(T0 - 1)).is_empty());
    }
}

#[test]
fn queries_of_the_last_day_find_what_lives_and_what_comes_back() {
    let mut world = world();
    let found = |world: &World, from: i64, to: i64| {
        let any = [Matcher::new("number", MatchOp::Match, ".+").unwrap()];
        let mut by_labels = Vec::new();
        for set in world.store().series(&any, at(from), at(to)) {
            by_labels.push(set.value("number").parse::<u32>().unwrap());
        }
        by_labels.sort_unstable();
        let values = world.store().label_values("number", &[], at(from), at(to));
        assert_eq!(values.len(), by_labels.len());
        assert_eq!(world.store().select(&any, at(from), at(to)).unwrap().len(), values.len());
        by_labels
    };
    world.send(&frame(1, &[(1, T0, 1.0), (2, T0, 1.0)])).unwrap();
    world.send(&frame(2, &[(2, T0 + 3 * DAY, 2.0), (3, T0 + 3 * DAY, 1.0)])).unwrap();
    let now = T0 + 3 * DAY;
    for round in 0..3 {
        assert_eq!(found(&world, now - HOUR, now + HOUR), [2, 3], "round {round}");
        assert_eq!(found(&world, now - DAY, now + HOUR), [2, 3], "round {round}");
        assert_eq!(found(&world, T0, T0), [1, 2], "round {round}");
        assert_eq!(found(&world, T0, now), [1, 2, 3], "round {round}");
        if round == 1 {
            world.reopen();
        }
        world.store().maintain(at(now)).unwrap();
    }
    world.send(&frame(3, &[(1, now + MINUTE, 1.0), (4, now + MINUTE, 1.0)])).unwrap();
    assert_eq!(found(&world, now - HOUR, now + HOUR), [1, 2, 3, 4]);
    world.store().maintain(at(now + 30 * HOUR)).unwrap();
    assert_eq!(found(&world, now + 29 * HOUR, now + 30 * HOUR), [] as [u32; 0]);
    assert_eq!(found(&world, now, now + 30 * HOUR), [1, 2, 3, 4]);
}

#[test]
fn maintenance_moves_closed_windows_and_frees_the_journal() {
    let mut world = world();
    let mut seq = 0;
    for minute in 0..10 * 60 {
        seq += 1;
        let now = T0 + minute * MINUTE;
        let samples: Vec<_> = (0..5).map(|s| (s, now, minute as f64)).collect();
        let next = Frame { starts_segment: minute % 60 == 0, ..frame(seq, &samples) };
        assert_eq!(world.send(&next).unwrap(), stored(5));
        world.store().maintain(at(now)).unwrap();
    }
    let stats = world.store().stats();
    assert!(stats.journal_bytes < 60_000, "{stats:?}");
    assert_eq!(stats.blocks, 4);
    for _ in 0..2 {
        assert_eq!(world.values(3).len(), 600);
        assert!(world.values(3).iter().zip(0..).all(|((at, _), i)| *at == T0 + i * MINUTE));
        world.reopen();
        assert_eq!(world.report.lost_records, 0, "{:?}", world.report);
    }
    assert!(world.report.samples < 5 * 250, "{:?}", world.report);
    assert_eq!(world.store().streams()[0].stored, 3000);
}

#[test]
fn retention_drops_days_and_the_series_that_ended_with_them() {
    let mut world = world();
    world.options.retention = Duration::from_secs(5 * 86_400);
    world.reopen();
    let mut seq = 0;
    for day in 0..10 {
        seq += 1;
        let now = T0 + day * DAY;
        let mut next = frame(seq, &[(1, now, 1.0), (100 + u32::try_from(day).unwrap(), now, 1.0)]);
        next.received_at = now;
        world.send(&next).unwrap();
        world.store().maintain(at(now + 20 * HOUR)).unwrap();
    }
    let stats = world.store().stats();
    assert!(stats.blocks <= 7, "{stats:?}");
    assert!(stats.series <= 7, "{stats:?}");
    assert!(world.values(1).len() <= 7 && world.values(1).len() >= 5);
    assert!(world.values(100).is_empty());
    let kept = world.store().label_values("number", &[], Timestamp::MIN, Timestamp::MAX);
    world.reopen();
    let store = world.store();
    assert_eq!(store.label_values("number", &[], Timestamp::MIN, Timestamp::MAX), kept);
    // A number is never used twice.
    assert_eq!(world.send(&frame(99, &[(100, T0 + 10 * DAY, 2.0)])).unwrap(), stored(1));
    assert_eq!(world.values(100), [(T0 + 10 * DAY, 2.0)]);
}

#[test]
fn a_failing_key_value_store_loses_nothing() {
    for budget in 0..12 {
        let kv = Memory::default();
        let mut world = World::new(Some(kv.clone()));
        world.send(&frame(1, &[(1, T0, 1.0), (2, T0, 1.0)])).unwrap();
        kv.fail_after(Some(budget));
        let failed = world.store().flush_head_before(at(T0)).is_err();
        world.send(&frame(2, &[(1, T0 + 1, 2.0), (1, T0 + 1, 3.0)])).unwrap();
        assert_eq!(world.values(1), [(T0, 1.0), (T0 + 1, 2.0)]);
        kv.fail_after(None);
        if budget % 2 == 0 {
            world.store = None;
            kv.cut_power();
            world.reopen();
        } else if failed {
            world.store().flush_head_before(at(T0)).unwrap();
            assert_eq!(world.store().stats().active_series, 0);
        }
        assert_eq!(world.values(1), [(T0, 1.0), (T0 + 1, 2.0)], "budget {budget}");
        assert_eq!(world.values(2), [(T0, 1.0)], "budget {budget}");
        let streams = world.store().streams();
        assert_eq!((streams[0].stored, streams[0].refused[1].1), (3, 1), "budget {budget}");
    }
}

#[test]
fn a_lost_key_value_store_is_rebuilt_from_the_journal() {
    for (file, lost) in [("sled/conf", false), ("sled/db", false), ("sled/db", true)] {
        let mut world = World::new(None);
        world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
        world.store().flush_head_before(at(T0)).unwrap();
        world.send(&frame(2, &[(1, T0 + 1, 2.0)])).unwrap();
        world.reopen();
        assert!(world.report.is_clean(), "{:?}", world.report);
        world.store = None;
        let path = world.options.path.join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        for byte in &mut bytes {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, bytes).unwrap();
        if lost {
            std::fs::remove_dir_all(world.options.path.join("sled")).unwrap();
        }
        world.reopen();
        // sled may notice damage, or begin anew without a word.
        let set_aside = world.report.set_aside.clone();
        assert!(!lost || set_aside.is_none());
        assert!(world.report.rolled_back);
        if let Some((aside, why)) = set_aside {
            assert!(aside.ends_with("sled.broken-1") && aside.is_dir() && !why.is_empty());
        }
        // The journal's segment is the current one: nothing of it was deleted.
        assert_eq!(world.values(1), [(T0, 1.0), (T0 + 1, 2.0)]);
        world.store().flush_head_before(at(T0)).unwrap();
        world.reopen();
        assert!(world.report.is_clean(), "{:?}", world.report);
        assert_eq!(world.values(1), [(T0, 1.0), (T0 + 1, 2.0)]);
    }
}

#[test]
fn a_lost_key_value_store_is_rebuilt_from_blocks_whose_journal_is_gone() {
    let mut world = World::new(None);
    for (seq, hour) in (1..).zip(0..8) {
        let at = T0 + hour * HOUR;
        let series = u32::try_from(hour).unwrap() / 3;
        world.send(&frame(seq, &[(9, at, hour as f64), (series, at, 1.0)])).unwrap();
    }
    world.store().flush_head_before(at(T0 + 8 * HOUR)).unwrap();
    // Seven megabytes: the journal begins another segment, and the earlier ones go.
    world.send(&frame(9, &[(9, T0 + 8 * HOUR, 8.0)])).unwrap();
    world.store().flush_head_before(at(T0 + 8 * HOUR)).unwrap();
    let stats = world.store().stats();
    for folder in ["sled", "journal"] {
        world.store = None;
        std::fs::remove_dir_all(world.options.path.join(folder)).unwrap();
        world.reopen();
        let adopted = world.report.adopted_blocks;
        assert_eq!(adopted > 0, folder == "sled", "{:?}", world.report);
        let expected: Vec<_> = (0..9).map(|hour| (T0 + hour * HOUR, hour as f64)).collect();
        assert_eq!(world.values(9), expected);
        assert_eq!(world.values(1).len(), 3);
        assert_eq!(world.store().stats().series, stats.series);
        assert_eq!(world.store().stats().blocks, stats.blocks);
    }
    // Numbers go on where they were.
    world.send(&frame(10, &[(77, T0 + 9 * HOUR, 1.0)])).unwrap();
    world.store().flush_head_before(at(T0 + 9 * HOUR)).unwrap();
    world.reopen();
    assert!(world.report.is_clean(), "{:?}", world.report);
    assert_eq!(world.values(77), [(T0 + 9 * HOUR, 1.0)]);
    assert_eq!(world.values(9).len(), 9);
}

#[test]
fn a_block_of_other_series_is_set_aside() {
    let mut world = world();
    world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
    world.store().flush_head_before(at(T0)).unwrap();
    let mut other = self::world();
    other.send(&frame(1, &[(5, T0, 1.0)])).unwrap();
    for hour in [0, 3] {
        let now = T0 + i64::try_from(hour).unwrap() * HOUR + MINUTE;
        other.send(&frame(2 + hour, &[(5, now, 1.0), (6, now, 1.0)])).unwrap();
        other.store().flush_head_before(at(T0 + 4 * HOUR)).unwrap();
    }
    let foreign = other.block_files().pop().unwrap();
    let folder = world.block_files()[0].parent().unwrap().to_owned();
    std::fs::copy(&foreign, folder.join(foreign.file_name().unwrap())).unwrap();
    world.reopen();
    assert_eq!(world.report.damaged.len(), 1, "{:?}", world.report);
    assert_eq!(world.values(1), [(T0, 1.0)]);
    assert!(world.values(6).is_empty());
    let aside = folder.join(foreign.with_extension("foreign").file_name().unwrap());
    assert!(aside.is_file());
}

#[test]
fn the_blocks_of_a_day_become_one_and_late_ones_join_it() {
    let mut world = world();
    let midnight = T0 / DAY * DAY;
    let mut seq = 0;
    let mut send = |world: &mut World, times: &[i64]| {
        seq += 1;
        let samples: Vec<_> =
            times.iter().flat_map(|at| [(1, *at, 1.0), (2, *at, *at as f64)]).collect();
        let mut next = frame(seq, &samples);
        next.received_at = midnight + 40 * HOUR;
        world.send(&next).unwrap();
    };
    for hour in 0..24 {
        send(&mut world, &[midnight + hour * HOUR, midnight + hour * HOUR + 1]);
        world.store().maintain(at(midnight + hour * HOUR)).unwrap();
    }
    world.store().flush_head_before(at(midnight + 24 * HOUR)).unwrap();
    let before = world.values(2);
    assert_eq!(before.len(), 48);
    assert!(world.store().stats().blocks >= 12);
    // Too early: the day ended two hours ago.
    world.store().maintain(at(midnight + 26 * HOUR)).unwrap();
    assert!(world.store().stats().blocks >= 12);
    let done = world.store().maintain(at(midnight + 27 * HOUR)).unwrap();
    assert!(done.compacted_blocks >= 12, "{done:?}");
    assert_eq!(world.store().stats().blocks, 1);
    assert_eq!(world.values(2), before);
    world.options.out_of_order_window = Duration::from_secs(2 * 86_400);
    world.reopen();
    assert!(world.report.is_clean(), "{:?}", world.report);
    assert_eq!(world.values(2), before);
    // Late ones make a block of their own, which joins the others when it is quiet.
    send(&mut world, &[midnight + 5, midnight + 13 * HOUR + 7]);
    world.store().flush_head_before(at(midnight + 28 * HOUR)).unwrap();
    assert_eq!(world.store().stats().blocks, 3);
    world.store().maintain(at(midnight + 28 * HOUR + 30 * MINUTE)).unwrap();
    assert_eq!(world.store().stats().blocks, 3);
    world.store().maintain(at(midnight + 29 * HOUR)).unwrap();
    assert_eq!(world.store().stats().blocks, 1);
    assert_eq!(world.values(1).len(), 50);
    assert_eq!(world.values(2).len(), 50);
}

#[test]
fn compacting_by_hand_leaves_a_block_a_day_and_no_journal() {
    let mut world = world();
    let mut seq = 0;
    for hour in 0..30 {
        seq += 1;
        let samples: Vec<_> = (0..40).map(|s| (s, T0 + hour * HOUR, hour as f64)).collect();
        world.send(&Frame { starts_segment: hour == 0, ..frame(seq, &samples) }).unwrap();
    }
    let now = at(T0 + 30 * HOUR);
    assert!(world.store().stats().journal_bytes > 10_000);
    let done = world.store().compact(now).unwrap();
    assert_eq!((done.flushed_samples, done.compacted_blocks), (1_200, 14));
    let stats = world.store().stats();
    assert_eq!((stats.blocks, stats.active_series), (3, 0), "{stats:?}");
    assert!(stats.journal_bytes < 2_000, "{stats:?}");
    assert_eq!(world.store().compact(now).unwrap().compacted_blocks, 0);
    world.reopen();
    assert!(world.report.is_clean() && world.report.samples == 0, "{:?}", world.report);
    assert_eq!(world.values(7).len(), 30);
    assert_eq!(world.send(&frame(seq + 1, &[(7, T0 + 30 * HOUR, 1.0)])).unwrap(), stored(1));
}

#[test]
fn a_snapshot_has_what_was_acknowledged_before_it() {
    let mut world = World::new(None);
    for (seq, hour) in (1..).zip(0..6) {
        world.send(&frame(seq, &[(1, T0 + hour * HOUR, hour as f64)])).unwrap();
    }
    world.put_state(&[("rule/a", Some(b"kept"))]).unwrap();
    world.store().flush_head_before(at(T0 + 2 * HOUR)).unwrap();
    let to = world.options.path.with_file_name("snapshot");
    let done = world.store().snapshot(&to).unwrap();
    assert_eq!(done.blocks, 2);
    assert!(world.store().snapshot(&to).is_err(), "it is there already");
    world.send(&frame(7, &[(1, T0 + 6 * HOUR, 6.0)])).unwrap();
    world.store = None;
    world.options.path = to;
    world.reopen();
    assert!(world.report.is_clean(), "{:?}", world.report);
    assert_eq!(world.values(1), (0..6).map(|h| (T0 + h * HOUR, h as f64)).collect::<Vec<_>>());
    assert_eq!(world.store().state("rule/").unwrap().len(), 1);
    let mut heard = Vec::new();
    let verified = world.store().verify(&mut |done, all| heard.push((done, all))).unwrap();
    assert_eq!((verified.blocks, verified.samples), (2, 4));
    assert!(verified.damaged.is_empty() && heard[1].0 == heard[1].1);
    let file = world.block_files().remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let verified = world.store().verify(&mut |_, _| {}).unwrap();
    assert_eq!((verified.blocks, verified.damaged.len()), (1, 1));
}

#[test]
fn a_compaction_cut_short_after_its_end_is_finished() {
    let mut world = world();
    let midnight = T0 / DAY * DAY;
    for (seq, hour) in (1..).zip([1, 5, 9]) {
        world.send(&frame(seq, &[(1, midnight + hour * HOUR, hour as f64)])).unwrap();
    }
    world.store().flush_head_before(at(midnight + 24 * HOUR)).unwrap();
    let kept: Vec<_> =
        world.block_files().into_iter().map(|p| (std::fs::read(&p).unwrap(), p)).collect();
    assert_eq!(kept.len(), 3);
    world.reopen();
    world.store().maintain(at(midnight + 30 * HOUR)).unwrap();
    assert_eq!(world.store().stats().blocks, 1);
    world.store = None;
    for (bytes, path) in kept {
        std::fs::write(path, bytes).unwrap();
    }
    world.reopen();
    assert_eq!(world.store().stats().blocks, 1);
    assert_eq!(world.values(1).len(), 3);
}

#[test]
fn clusters_have_retentions_and_the_oldest_blocks_go_when_there_are_too_many_bytes() {
    let mut world = world();
    world.options.cluster_retention.insert("us-1".parse().unwrap(), Duration::from_secs(86_400));
    world.reopen();
    let us = StreamKey { cluster: "us-1".parse().unwrap(), instance: "a".into() };
    for (seq, day) in (1..).zip(0..4) {
        let next = frame(seq, &[(1, T0 + day * DAY, 1.0)]);
        world.send(&next).unwrap();
        world.send(&Frame { stream: us.clone(), ..next }).unwrap();
    }
    world.store().flush_head_before(at(T0 + 3 * DAY)).unwrap();
    assert_eq!(world.store().stats().blocks, 8);
    world.store().maintain(at(T0 + 3 * DAY + 3 * HOUR)).unwrap();
    assert_eq!(world.store().stats().blocks, 5);
    assert_eq!(world.read(&us.cluster, 1).len(), 1);
    assert_eq!(world.values(1).len(), 4);
    world.options.retention_bytes = world.store().stats().block_bytes * 2 / 5;
    world.reopen();
    world.store().maintain(at(T0 + 3 * DAY + HOUR)).unwrap();
    assert_eq!(world.store().stats().blocks, 2);
    assert_eq!(world.values(1), [(T0 + 3 * DAY, 1.0)]);
}

#[test]
fn a_lost_journal_leaves_the_blocks_and_confuses_nobody() {
    let mut world = world();
    world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
    world.store().flush_head_before(at(T0)).unwrap();
    world.store = None;
    std::fs::remove_dir_all(world.options.path.join("journal")).unwrap();
    world.reopen();
    assert!(world.report.foreign_journal);
    assert_eq!(world.send(&frame(2, &[(1, T0 + 1, 2.0), (1, T0, 5.0)])).unwrap().conflict, 1);
    world.reopen();
    assert!(!world.report.foreign_journal);
    assert_eq!(world.values(1), [(T0, 1.0), (T0 + 1, 2.0)]);
}

#[test]
fn frames_behind_a_damaged_one_are_asked_for_again() {
    let mut world = world();
    let path = world.options.path.join("journal/00000000000000000001.journal");
    world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
    let begin = std::fs::metadata(&path).unwrap().len();
    world.send(&Frame { starts_segment: false, ..frame(2, &[(1, T0 + 1, 2.0)]) }).unwrap();
    world.send(&Frame { starts_segment: false, ..frame(3, &[(1, T0 + 2, 3.0)]) }).unwrap();
    world.store = None;
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(begin).unwrap() + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    world.reopen();
    assert_eq!(world.report.journal.damaged.len(), 1);
    assert_eq!(world.report.rewound, [stream("a")]);
    assert_eq!(world.store().stream(&stream("a")).unwrap().last_seq, 1);
    assert_eq!(world.send(&frame(2, &[(1, T0 + 1, 2.0)])).unwrap(), stored(1));
    assert_eq!(world.send(&frame(3, &[(1, T0 + 2, 3.0)])).unwrap().duplicate, 1);
    assert_eq!(world.values(1).len(), 3);
}

#[test]
fn a_segment_whose_beginning_is_gone_must_be_begun_anew() {
    let mut world = world();
    let long: Vec<_> = (0..200).map(|s| (s, T0, 1.0)).collect();
    world.send(&frame(1, &long)).unwrap();
    assert!(world.store().knows_segment(&stream("a")));
    for seq in 2..9 {
        let samples: Vec<_> = long.iter().map(|(s, ..)| (*s, T0 + HOUR, seq as f64)).collect();
        let other = Frame { stream: stream("b"), ..frame(seq, &samples) };
        world.send(&other).unwrap();
    }
    world.store().flush_head_before(at(T0 + 3 * HOUR)).unwrap();
    assert!(!world.store().knows_segment(&stream("a")));
    let middle = Frame { starts_segment: false, ..frame(2, &[(1, T0 + 2, 2.0)]) };
    assert!(matches!(world.send(&middle), Err(Error::SegmentGone { .. })));
    assert_eq!(world.store().stream(&stream("a")).unwrap().last_seq, 1);
    assert_eq!(world.send(&frame(2, &[(1, T0 + HOUR + 2, 2.0)])).unwrap(), stored(1));
    world.reopen();
    assert!(world.report.is_clean(), "{:?}", world.report);
    assert_eq!(world.values(1).len(), 3);
}

#[test]
fn after_a_failed_write_nothing_is_accepted_and_everything_is_readable() {
    let mut world = world();
    world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
    // The next journal segment cannot be made.
    std::fs::remove_dir_all(world.options.path.join("journal")).unwrap();
    let series: Vec<_> = (0..100).map(|series| (series, T0 + MINUTE, 1.0)).collect();
    let refused = (2..6).find_map(|seq| world.send(&frame(seq, &series)).err());
    assert!(matches!(refused, Some(Error::Journal(_))), "{refused:?}");
    let refused = world.send(&frame(9, &[(1, T0 + HOUR, 2.0)]));
    assert!(matches!(refused, Err(Error::Poisoned)));
    assert!(matches!(world.put_state(&[("a", None)]), Err(Error::Poisoned)));
    assert!(matches!(world.store().flush_head_before(at(T0)), Err(Error::Poisoned)));
    assert!(world.store().stats().poisoned);
    assert_eq!(world.values(1)[0], (T0, 1.0));
}

#[test]
fn threads_that_resolve_the_same_series_get_the_same_number() {
    let world = world();
    let cluster = "eu-1".parse().unwrap();
    let resolve = || -> Vec<_> {
        (0..500).map(|n| world.store().resolve(&cluster, &labels(&cluster, n))).collect()
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(resolve)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|ids| *ids == all[0]));
    assert_eq!(world.store().series_count(&cluster), 500);
    assert_eq!(world.store().find(&cluster, &labels(&cluster, 7)), Some(all[0][7]));
    assert_eq!(world.store().find(&cluster, &labels(&cluster, 500)), None);
}

#[test]
fn series_that_never_get_a_sample_are_forgotten() {
    let mut world = world();
    let cluster = "eu-1".parse().unwrap();
    world.send(&frame(1, &[(1, T0, 1.0)])).unwrap();
    world.store().resolve(&cluster, &labels(&cluster, 2));
    for hour in 0..50 {
        world.store().maintain(at(T0 + hour * HOUR)).unwrap();
    }
    assert_eq!(world.store().series_count(&cluster), 0);
    assert_eq!(world.store().stats().series, 1);
    world.reopen();
    assert_eq!(world.store().stats().series, 1);
    assert_eq!(world.values(1), [(T0, 1.0)]);
}

#[test]
fn too_large_and_closed_are_answered() {
    let world = world();
    let long = vec![0; 5 << 20];
    assert!(matches!(world.put_state(&[("a", Some(&long))]), Err(Error::TooLarge { .. })));
    assert!(matches!(world.put_state(&[("a\0", None)]), Err(Error::TooLarge { .. })));
    world.put_state(&[("a", Some(b"1"))]).unwrap();
}

#[test]
fn readers_see_every_acknowledged_sample_while_everything_moves() {
    let mut world = world();
    let store = world.store().clone();
    let acknowledged = std::sync::atomic::AtomicI64::new(-1);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            let any = [Matcher::equal("number", "1")];
            while !stop.load(std::sync::atomic::Ordering::Acquire) {
                let expected = acknowledged.load(std::sync::atomic::Ordering::Acquire);
                let mut out = Numbers::default();
                for series in store.select(&any, Timestamp::MIN, Timestamp::MAX).unwrap() {
                    series.read(Timestamp::MIN, Timestamp::MAX, &mut out, &mut Vec::new()).unwrap();
                }
                assert!(i64::try_from(out.len()).unwrap() > expected, "{} {expected}", out.len());
                let steps = out.times.iter().zip(0..).all(|(t, i)| *t == T0 + i * 10 * MINUTE);
                assert!(steps);
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        for i in 0..300 {
            let now = T0 + i * 10 * MINUTE;
            world.send(&frame(u64::try_from(i).unwrap() + 1, &[(1, now, 1.0)])).unwrap();
            acknowledged.store(i, std::sync::atomic::Ordering::Release);
            if i % 3 == 0 {
                world.store().flush_head_before(at(now)).unwrap();
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Release);
    });
}
