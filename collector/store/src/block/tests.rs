//! Blocks as a whole: what goes in comes out, and every bit counts.

use std::sync::Arc;
use tempfile::TempDir;
use tributary_model::label::Labels;
use tributary_model::sample::Numbers;

use super::*;
use crate::cache::Cache;
use crate::error::Error;
use crate::keys::WINDOW_MILLIS;

type Series = (Place, Vec<(i64, u64)>);

const FIRST: i64 = 7;

fn labels(series: u32) -> Option<Labels> {
    Labels::from_pairs([("__name__", "up".to_owned()), ("series", series.to_string())]).ok()
}

/// Series of two metrics; of each, some share their times, some change, and one has a chunk of random bits.
fn content(series: u32, samples: i64) -> Vec<Series> {
    let mut out = Vec::new();
    for number in 0..series {
        let place = Place { group: 5 + number % 2, series: number };
        let value = |i: i64| match number % 4 {
            0 => 1f64.to_bits(),
            1 => (i as f64 * 0.25).to_bits(),
            2 => f64::from(u32::try_from(i * i % 977).unwrap()).to_bits(),
            _ => {
                (i * i * i + 1).cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
            }
        };
        let late = i64::from(number % 3);
        let at = |i: i64| window_start(FIRST) + i * 5_000 + late * (i % 7);
        out.push((place, (0..samples).map(|i| (at(i), value(i))).collect()));
    }
    out.sort_by_key(|(place, _)| *place);
    out
}

fn write(folder: &Path, content: &[Series]) -> BlockName {
    let name = BlockName { first: FIRST, windows: 1, number: 3 << 32 | 9 };
    let mut writer = Writer::new(folder, 4, name, vec![1, 2]).unwrap();
    for (place, samples) in content {
        writer.add(*place, samples).unwrap();
    }
    let written = writer.finish("eu-1", labels).unwrap();
    assert_eq!(written.bytes, name.path(folder).metadata().unwrap().len());
    name
}

fn read(block: &Arc<Block>, place: Place, range: (i64, i64)) -> Result<Vec<(i64, u64)>, Error> {
    let mut found = Vec::new();
    block.find(&Cache::new(1 << 20), &mut Recent::default(), place, range, &mut found)?;
    let mut out = Numbers::default();
    decode(&found, range, &mut out)?;
    Ok(out.times.into_iter().zip(out.values.into_iter().map(f64::to_bits)).collect())
}

#[test]
fn what_goes_in_comes_out() {
    let folder = TempDir::new().unwrap();
    let content = content(60, 1_300);
    let name = write(folder.path(), &content);
    let block = Arc::new(Block::open(folder.path(), 4, name).unwrap());
    assert_eq!(block.directory.samples, 60 * 1_300);
    assert_eq!(block.directory.span.0, window_start(FIRST));
    assert_eq!(block.directory.replaces, [1, 2]);
    assert_eq!(block.verify().unwrap(), 60 * 3);
    for (place, samples) in &content {
        assert_eq!(read(&block, *place, (i64::MIN, i64::MAX)).unwrap(), *samples);
        // In the middle of chunks, between samples, and none at all.
        for (from, to) in
            [(0, 5_000), (5_001, 9_000), (1_999_999, 5_000_000), (7_001, 7_001), (9, 1)]
        {
            let range = (window_start(FIRST) + from, window_start(FIRST) + to);
            let mut expected = samples.clone();
            expected.retain(|(at, _)| *at >= range.0 && *at <= range.1);
            assert_eq!(read(&block, *place, range).unwrap(), expected);
        }
    }
    let nobody = Place { group: 6, series: 1_000 };
    assert!(read(&block, nobody, (i64::MIN, i64::MAX)).unwrap().is_empty());
    let sets = block.label_sets().unwrap();
    assert!(sets.iter().all(|(series, set)| labels(*series).as_ref() == Some(set)));
    let mut cursor = Cursor::new(block, Column::Numbers).unwrap();
    for (place, samples) in &content {
        assert_eq!(cursor.place(), Some(*place));
        let mut all = Vec::new();
        cursor.take(&mut all).unwrap();
        assert_eq!(all, *samples);
    }
    assert_eq!(cursor.place(), None);
}

#[test]
fn every_flipped_bit_is_found_and_costs_only_what_it_is_in() {
    let folder = TempDir::new().unwrap();
    let content = content(12, 100);
    let name = write(folder.path(), &content);
    let path = name.path(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let (mut readable, mut opened) = (0, 0);
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, flipped).unwrap();
        let Ok(block) = Block::open(folder.path(), 4, name).map(Arc::new) else { continue };
        opened += 1;
        let why = block.verify().unwrap_err().to_string();
        assert!(why.contains(".block at byte "), "bit {bit}: {why}");
        let (place, samples) = &content[bit % content.len()];
        if let Ok(found) = read(&block, *place, (i64::MIN, i64::MAX)) {
            assert_eq!(found, *samples, "bit {bit}");
            readable += 1;
        }
    }
    assert!(0 < readable && readable < opened, "{readable} of {opened}");
    for length in [0, 1, HEADER_BYTES, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        assert!(Block::open(folder.path(), 4, name).is_err(), "cut at {length}");
    }
    std::fs::write(&path, &whole).unwrap();
    assert!(Block::open(folder.path(), 5, name).is_err(), "another shard's");
    let other = BlockName { number: 1, ..name };
    std::fs::rename(&path, other.path(folder.path())).unwrap();
    assert!(Block::open(folder.path(), 4, other).is_err(), "another name's");
}

#[test]
fn an_unfinished_block_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let name = BlockName { first: FIRST, windows: 1, number: 1 };
    let mut writer = Writer::new(folder.path(), 4, name, Vec::new()).unwrap();
    writer.add(Place::default(), &[(1, 1)]).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    drop(writer);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn names_are_read_as_they_are_written_and_say_which_windows() {
    for name in [
        BlockName { first: -3, windows: 12, number: u64::MAX },
        BlockName { first: 236_111, windows: 1, number: 1 },
    ] {
        let path = name.path(Path::new("x"));
        assert_eq!(BlockName::parse(path.file_name().unwrap().to_str().unwrap()), Some(name));
    }
    for bad in ["1+1-0000000000000001.tmp", "1+0-0000000000000001.block", "1+1-1.block", "x"] {
        assert_eq!(BlockName::parse(bad), None, "{bad}");
    }
    let name = BlockName { first: -12, windows: 12, number: 5 << 32 };
    assert_eq!((name.last(), name.end(), name.attempt()), (-1, 0, 5));
    assert!(name.overlaps(-1, 4) && name.overlaps(-20, -12) && !name.overlaps(0, 1));
    assert_eq!(window_start(1), WINDOW_MILLIS);
}
