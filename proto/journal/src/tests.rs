//! Golden and damaged folders, exhaustive cuts and bit flips, and random operations against a model.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::frame::MARKER;

mod flips;

fn options(dir: &Path, segment_bytes: u64) -> Options {
    Options { dir: dir.to_owned(), segment_bytes }
}

fn open(dir: &Path) -> (Journal, Recovery) {
    Journal::open(options(dir, 1 << 20)).unwrap()
}

fn all(journal: &Journal) -> Vec<(u8, Vec<u8>)> {
    drain(&mut journal.read(Position::default()).unwrap())
}

fn drain(cursor: &mut Cursor) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some(record) = cursor.next().unwrap() {
        out.push((record.kind, record.payload));
    }
    out
}

/// A journal with one segment of these payloads, as bytes, with the offset behind each record.
fn segment_of(payloads: &[&[u8]]) -> (Vec<u8>, Vec<usize>) {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path());
    let mut ends = Vec::new();
    for (kind, payload) in payloads.iter().enumerate() {
        journal.append(u8::try_from(kind).unwrap(), payload).unwrap();
        journal.sync().unwrap();
        ends.push(usize::try_from(journal.bytes()).unwrap());
    }
    (fs::read(segment::path(dir.path(), 1)).unwrap(), ends)
}

/// Opens a folder whose segments are these bytes.
fn open_bytes(segments: &[&[u8]]) -> (TempDir, Journal, Recovery) {
    let dir = TempDir::new().unwrap();
    for (i, bytes) in segments.iter().enumerate() {
        fs::write(segment::path(dir.path(), i as u64 + 1), bytes).unwrap();
    }
    let (journal, recovery) = open(dir.path());
    (dir, journal, recovery)
}

#[test]
fn reads_what_was_synced_and_only_that() {
    let dir = TempDir::new().unwrap();
    let (mut journal, recovery) = open(dir.path());
    assert_eq!(recovery, Recovery::default());
    let mut cursor = journal.read(Position::default()).unwrap();
    journal.append(1, b"a").unwrap();
    assert_eq!(cursor.next().unwrap(), None);
    journal.sync().unwrap();
    assert_eq!(drain(&mut cursor), [(1, b"a".to_vec())]);
    let position = journal.append(2, b"b").unwrap();
    journal.sync().unwrap();
    journal.append(3, b"lost").unwrap();
    assert_eq!(drain(&mut cursor), [(2, b"b".to_vec())]);
    drop(journal);
    let (journal, recovery) = open(dir.path());
    assert_eq!(recovery, Recovery::default());
    assert_eq!(all(&journal), [(1, b"a".to_vec()), (2, b"b".to_vec())]);
    let mut cursor = journal.read(position).unwrap();
    assert_eq!(cursor.next().unwrap().unwrap().position, position);
}

#[test]
fn segments_roll_and_are_deleted_oldest_first() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = Journal::open(options(dir.path(), 210)).unwrap();
    let mut cursor = journal.read(Position::default()).unwrap();
    for i in 0..10u8 {
        journal.append(i, &[i; 50]).unwrap();
    }
    journal.append(10, &[10; 500]).unwrap();
    journal.sync().unwrap();
    assert_eq!(journal.current_segment(), 6);
    assert_eq!(journal.segments().len(), 6);
    assert_eq!(cursor.next().unwrap().unwrap().kind, 0);
    assert_eq!(cursor.next().unwrap().unwrap().kind, 1);
    let before = journal.bytes();
    let freed = journal.delete_before(4).unwrap();
    assert_eq!(journal.bytes(), before - freed);
    assert_eq!(journal.segments()[0].id, 4);
    // The cursor goes on behind what was deleted in front of it.
    let kinds: Vec<u8> = drain(&mut cursor).iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [6, 7, 8, 9, 10]);
    journal.delete_before(u64::MAX).unwrap();
    assert_eq!(journal.segments().len(), 1);
    assert_eq!(journal.roll().unwrap(), 7);
    drop(journal);
    let (journal, recovery) = open(dir.path());
    assert_eq!((journal.current_segment(), recovery), (7, Recovery::default()));
}

#[test]
fn a_second_opener_is_kept_out() {
    let dir = TempDir::new().unwrap();
    let (journal, _) = open(dir.path());
    let refused = Journal::open(options(dir.path(), 1)).unwrap_err();
    assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    drop(journal);
    open(dir.path());
}

#[test]
fn a_failed_write_poisons_for_ever() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path());
    journal.append(1, b"kept").unwrap();
    journal.sync().unwrap();
    let path = segment::path(dir.path(), 1);
    let good = std::mem::replace(&mut journal.file, File::open(path).unwrap());
    journal.append(2, b"lost").unwrap();
    assert!(matches!(journal.sync(), Err(Error::Io { doing: "writing", .. })));
    journal.file = good;
    assert!(matches!(journal.sync(), Err(Error::Poisoned)));
    assert!(matches!(journal.append(3, b""), Err(Error::Poisoned)));
    assert!(matches!(journal.roll(), Err(Error::Poisoned)));
    assert_eq!(all(&journal), [(1, b"kept".to_vec())]);
}

#[test]
fn too_large_records_are_refused_and_harmless() {
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = open(dir.path());
    let refused = journal.append(1, &vec![0; MAX_RECORD_BYTES + 1]);
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    journal.append(2, &vec![7; MAX_RECORD_BYTES]).unwrap();
    journal.sync().unwrap();
    assert_eq!(all(&journal), [(2, vec![7; MAX_RECORD_BYTES])]);
}

#[test]
fn every_cut_keeps_every_record_in_front_of_it() {
    let (bytes, ends) = segment_of(&[b"first", b"", &[9; 70], b"last"]);
    for length in 0..=bytes.len() {
        let (_dir, mut journal, recovery) = open_bytes(&[&bytes[..length]]);
        let whole = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(all(&journal).len(), whole, "cut at {length}");
        assert_eq!(recovery.damaged, [], "cut at {length}");
        let clean = ends.contains(&length) || length == segment::HEADER_BYTES;
        assert_eq!(recovery.cut.is_none(), clean, "cut at {length}");
        journal.append(99, b"more").unwrap();
        journal.sync().unwrap();
        assert_eq!(all(&journal).len(), whole + 1, "cut at {length}");
    }
}

#[test]
fn every_cut_of_an_older_segment_is_damage() {
    let (bytes, ends) = segment_of(&[b"first", b"second"]);
    let (second, _) = segment_of(&[b"x"]);
    let second = relabel(&second, 2);
    for length in 0..bytes.len() {
        let (_dir, journal, recovery) = open_bytes(&[&bytes[..length], &second]);
        let whole = ends.iter().filter(|end| **end <= length).count();
        assert_eq!(all(&journal).len(), whole + 1, "cut at {length}");
        assert_eq!(recovery.cut, None);
        let clean = ends.contains(&length) || length == segment::HEADER_BYTES;
        assert_eq!(recovery.damaged.is_empty(), clean, "cut at {length}");
    }
}

/// The same segment under another number.
fn relabel(bytes: &[u8], id: u64) -> Vec<u8> {
    let salt = u64::from_le_bytes(bytes[20..28].try_into().unwrap());
    let mut out = segment::encode_header(id, salt);
    out.extend_from_slice(&bytes[segment::HEADER_BYTES..]);
    out
}

#[test]
fn damage_after_opening_is_passed_over_and_reported() {
    let (bytes, ends) = segment_of(&[b"first", b"second", b"third"]);
    let (dir, journal, _) = open_bytes(&[&bytes]);
    let mut cursor = journal.read(Position::default()).unwrap();
    let mut flipped = bytes.clone();
    flipped[ends[0] + 22] ^= 1;
    fs::write(segment::path(dir.path(), 1), flipped).unwrap();
    assert_eq!(drain(&mut cursor), [(0, b"first".to_vec()), (2, b"third".to_vec())]);
    let damage = cursor.take_damage();
    assert_eq!((damage.len(), damage[0].offset), (1, ends[0] as u64));
}

#[test]
fn a_record_inside_a_payload_is_not_a_record() {
    let (inner, _) = segment_of(&[b"smuggled"]);
    let (bytes, ends) = segment_of(&[&inner[segment::HEADER_BYTES..], b"good"]);
    let mut flipped = bytes.clone();
    flipped[segment::HEADER_BYTES + 1] ^= 1;
    let (_dir, journal, recovery) = open_bytes(&[&flipped]);
    assert_eq!(all(&journal), [(1, b"good".to_vec())]);
    assert_eq!(recovery.damaged[0].bytes, (ends[0] - segment::HEADER_BYTES) as u64);
}

#[test]
fn a_missing_segment_is_reported() {
    let (first, _) = segment_of(&[b"a"]);
    let (dir, journal, _) = open_bytes(&[&first, &relabel(&first, 2), &relabel(&first, 3)]);
    assert_eq!(all(&journal).len(), 3);
    drop(journal);
    fs::remove_file(segment::path(dir.path(), 2)).unwrap();
    let (journal, recovery) = open(dir.path());
    assert_eq!(all(&journal).len(), 2);
    assert_eq!((recovery.damaged.len(), recovery.damaged[0].segment), (1, 2));
}

#[test]
fn a_newer_format_is_refused() {
    let (bytes, _) = segment_of(&[b"a"]);
    let mut copy = bytes[..28].to_vec();
    copy[8] = 2;
    copy.extend(crc32c::crc32c(&copy).to_le_bytes());
    let dir = TempDir::new().unwrap();
    fs::write(segment::path(dir.path(), 1), [&copy[..], &copy, &bytes[64..]].concat()).unwrap();
    let refused = Journal::open(options(dir.path(), 1)).unwrap_err();
    assert!(matches!(refused, Error::Version { version: 2, .. }), "{refused}");
}

/// What every `testdata/v1*` folder was made from.
fn golden_payloads() -> Vec<(u8, Vec<u8>)> {
    vec![
        (1, b"a frame".to_vec()),
        (2, Vec::new()),
        (255, (0..=255).collect()),
        (1, b"second segment".to_vec()),
        (7, MARKER.to_vec()),
    ]
}

#[test]
fn golden_folder_is_byte_exact_and_damaged_ones_lose_what_they_say() {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let made = TempDir::new().unwrap();
    let (mut journal, _) =
        Journal::open_with(options(made.path(), 1 << 20), 0x0123_4567_89ab_cdef).unwrap();
    for (kind, payload) in &golden_payloads()[..3] {
        journal.append(*kind, payload).unwrap();
    }
    journal.sync().unwrap();
    drop(journal);
    let first = fs::read(segment::path(made.path(), 1)).unwrap();
    let mut second = segment::encode_header(2, 42);
    for (kind, payload) in &golden_payloads()[3..] {
        let seal = Seal { salt: 42, offset: second.len() as u64 };
        frame::encode(&mut second, seal, *kind, payload, u32::try_from(payload.len()).unwrap());
    }
    let flip = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x10;
        bytes
    };
    let mut lost = flip(&first, 3);
    lost[40] ^= 1;
    let folders: BTreeMap<&str, (Vec<u8>, Vec<u8>)> = BTreeMap::from([
        ("v1", (first.clone(), second.clone())),
        ("v1-damaged-torn", (first.clone(), second[..second.len() - 2].to_vec())),
        ("v1-damaged-zeros", (first.clone(), [&second[..], &[0; 100]].concat())),
        ("v1-damaged-middle", (flip(&first, 86), second.clone())),
        ("v1-damaged-header", (flip(&first, 3), second.clone())),
        ("v1-damaged-both-headers", (lost, second)),
    ]);
    // To write the folders anew after a change of the format: TRIBUTARY_WRITE_GOLDEN=1 cargo test.
    if std::env::var_os("TRIBUTARY_WRITE_GOLDEN").is_some() {
        for (name, (first, second)) in &folders {
            fs::create_dir_all(testdata.join(name)).unwrap();
            fs::write(segment::path(&testdata.join(name), 1), first).unwrap();
            fs::write(segment::path(&testdata.join(name), 2), second).unwrap();
        }
    }
    for (name, missing, damaged, cut) in [
        ("v1", &[][..], 0, false),
        ("v1-damaged-torn", &[4], 0, true),
        ("v1-damaged-zeros", &[], 0, true),
        ("v1-damaged-middle", &[0], 1, false),
        ("v1-damaged-header", &[], 1, false),
        ("v1-damaged-both-headers", &[0, 1, 2], 1, false),
    ] {
        let stored = [1, 2].map(|id| fs::read(segment::path(&testdata.join(name), id)).unwrap());
        let (first, second) = &folders[name];
        assert!(stored[0] == *first && stored[1] == *second, "{name}: the bytes changed");
        let (_dir, journal, recovery) = open_bytes(&[&stored[0], &stored[1]]);
        let mut expected = golden_payloads();
        for missing in missing.iter().rev() {
            expected.remove(*missing);
        }
        assert_eq!(all(&journal), expected, "{name}");
        assert_eq!((recovery.damaged.len(), recovery.cut.is_some()), (damaged, cut), "{name}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u8, usize),
    Sync,
    Roll,
    DeleteBefore(u64),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), 0..300usize).prop_map(|(kind, size)| Step::Append(kind, size)),
        3 => Just(Step::Sync),
        1 => Just(Step::Roll),
        1 => (0..8u64).prop_map(Step::DeleteBefore),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn behaves_like_a_list(steps in prop::collection::vec(step(), 1..60), cut in any::<prop::sample::Index>()) {
        let dir = TempDir::new().unwrap();
        let open = || Journal::open(options(dir.path(), 700)).unwrap();
        let mut journal = open().0;
        let mut synced: Vec<(Position, u8, Vec<u8>)> = Vec::new();
        let mut pending = Vec::new();
        for (i, step) in steps.iter().enumerate() {
            match step {
                Step::Append(kind, size) => {
                    let payload = vec![u8::try_from(i).unwrap(); *size];
                    let before = journal.current_segment();
                    let position = journal.append(*kind, &payload).unwrap();
                    if position.segment > before {
                        synced.append(&mut pending);
                    }
                    pending.push((position, *kind, payload));
                }
                Step::Sync => { journal.sync().unwrap(); synced.append(&mut pending); }
                Step::Roll => { journal.roll().unwrap(); synced.append(&mut pending); }
                Step::DeleteBefore(n) => {
                    let segment = journal.segments()[0].id + n;
                    journal.delete_before(segment).unwrap();
                    let bound = segment.min(journal.current_segment());
                    synced.retain(|(position, ..)| position.segment >= bound);
                }
                Step::Reopen => {
                    pending.clear();
                    drop(journal);
                    let (again, recovery) = open();
                    prop_assert_eq!(recovery, Recovery::default());
                    journal = again;
                }
            }
            prop_assert!(synced.is_sorted_by_key(|(position, ..)| *position));
        }
        let expected: Vec<_> = synced.iter().map(|(_, kind, payload)| (*kind, payload.clone())).collect();
        prop_assert_eq!(all(&journal), expected);
        // A cut anywhere in the last segment keeps what was in front of it.
        let last = *journal.segments().last().unwrap();
        drop(journal);
        let path = segment::path(dir.path(), last.id);
        let length = cut.index(usize::try_from(last.bytes).unwrap() + 1) as u64;
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length).unwrap();
        let (journal, recovery) = open();
        prop_assert_eq!(recovery.damaged, []);
        let left: Vec<_> = synced
            .iter()
            .filter(|(position, _, payload)| {
                let end = position.offset + (frame::HEADER_BYTES + payload.len()) as u64;
                position.segment < last.id || end <= length
            })
            .map(|(_, kind, payload)| (*kind, payload.clone()))
            .collect();
        prop_assert_eq!(all(&journal), left);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_dir, journal, _) = open_bytes(&[&bytes]);
        all(&journal);
    }
}
