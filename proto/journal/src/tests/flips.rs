//! Every bit of a segment flipped in turn, reports of many segments, and disk space taken in advance.

use std::os::unix::fs::FileExt;

use super::*;

/// Flips every bit of a segment in turn: one record is lost, its place is named, and a reader that was opened before the
/// bit flipped says the same. `last` says whether the segment is the journal's last.
fn check_flips(payloads: &[&[u8]], last: bool) {
    let (bytes, ends) = segment_of(payloads);
    let (next, _) = segment_of(&[b"next"]);
    let next = relabel(&next, 2);
    let starts: Vec<usize> = [segment::HEADER_BYTES].into_iter().chain(ends.clone()).collect();
    let segments: &[&[u8]] = if last { &[&bytes] } else { &[&bytes, &next] };
    let (dir, journal, _) = open_bytes(segments);
    let path = segment::path(dir.path(), 1);
    let file = OpenOptions::new().write(true).open(path).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let in_header = bit / 8 < segment::HEADER_BYTES;
        let hit = ends.iter().filter(|end| **end <= bit / 8).count();
        let mut expected: Vec<(u8, Vec<u8>)> = (0u8..)
            .zip(payloads)
            .filter(|(i, _)| in_header || usize::from(*i) != hit)
            .map(|(i, payload)| (i, payload.to_vec()))
            .collect();
        expected.extend((!last).then(|| (0, b"next".to_vec())));
        let place = if in_header {
            (bit / 8 / segment::COPY_BYTES * segment::COPY_BYTES, segment::COPY_BYTES)
        } else {
            (starts[hit], ends[hit] - starts[hit])
        };
        let place = Some((1, place.0 as u64, place.1 as u64));
        let of = |damage: &Damage| (damage.segment, damage.offset, damage.bytes);
        // In place: a file that is cut and written anew is flushed by some file systems, which takes its time.
        file.write_all_at(&flipped, 0).unwrap();
        let mut cursor = journal.read(Position::default()).unwrap();
        assert_eq!(drain(&mut cursor), expected, "bit {bit}");
        let passed = cursor.take_damage();
        assert_eq!(passed.len(), usize::from(!in_header), "bit {bit}");
        assert!(in_header || passed.first().map(of) == place, "bit {bit}: {passed:?}");
        let recover::Found { segments, recovery, .. } = recover::recover(dir.path()).unwrap();
        let synced = Arc::new(Synced::default());
        synced.with(|all| all.extend(segments));
        let mut cursor = Cursor::new(dir.path().to_owned(), synced, Position::default());
        assert_eq!(drain(&mut cursor), expected, "bit {bit}");
        let torn = last && !in_header && hit + 1 == payloads.len();
        assert_eq!(recovery.cut.as_ref().map(of), place.filter(|_| torn), "bit {bit}");
        let damaged: Vec<_> = recovery.damaged.iter().map(of).collect();
        assert_eq!(damaged, Vec::from_iter(place.filter(|_| !torn)), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_is_found_at_its_place_and_costs_one_record() {
    let marker = MARKER.repeat(3);
    let zeros = [0; 40];
    for last in [true, false] {
        check_flips(&[b"first", b"", &marker, b"last"], last);
        check_flips(&[&zeros, &[0xff; 70], b"x"], last);
    }
}

#[test]
fn a_flipped_bit_of_a_record_longer_than_the_window_is_found() {
    let long: Vec<u8> = (0..300_000u32).map(|i| i.to_le_bytes()[usize::from(i % 3 == 0)]).collect();
    let (bytes, ends) = segment_of(&[b"first", &long, b"between", &long, b"last"]);
    for at in [64, 100, ends[0] + 7, ends[0] + 270_000, ends[1] + 1, ends[2] + 299_999, ends[3] + 2]
    {
        let mut flipped = bytes.clone();
        flipped[at] ^= 4;
        let (_dir, journal, recovery) = open_bytes(&[&flipped]);
        let hit = ends.iter().filter(|end| **end <= at).count();
        let kinds: Vec<u8> = all(&journal).iter().map(|(kind, _)| *kind).collect();
        let expected: Vec<u8> = (0..5).filter(|kind| usize::from(*kind) != hit).collect();
        assert_eq!(kinds, expected, "byte {at}");
        let start = if hit == 0 { segment::HEADER_BYTES } else { ends[hit - 1] };
        let found = recovery.cut.iter().chain(&recovery.damaged).map(|d| (d.offset, d.bytes));
        assert_eq!(found.collect::<Vec<_>>(), [(start as u64, (ends[hit] - start) as u64)]);
    }
}

#[test]
fn many_segments_are_reported_in_their_order() {
    let (bytes, ends) = segment_of(&[b"first", b"second", b"third"]);
    let segments: Vec<Vec<u8>> = (1..=40u64)
        .map(|id| {
            let salt = u64::from_le_bytes(bytes[20..28].try_into().unwrap());
            let mut segment = segment::encode_header(id, salt);
            segment.extend_from_slice(&bytes[segment::HEADER_BYTES..]);
            if id % 3 == 0 {
                segment[ends[0] + 21] ^= 1;
            }
            segment
        })
        .collect();
    let (_dir, journal, recovery) =
        open_bytes(&segments.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let damaged: Vec<u64> = recovery.damaged.iter().map(|damage| damage.segment).collect();
    assert_eq!(damaged, (1..=40).filter(|id| id % 3 == 0).collect::<Vec<_>>());
    assert_eq!((all(&journal).len(), recovery.cut), (40 * 3 - 13, None));
    let ids: Vec<u64> = journal.segments().iter().map(|segment| segment.id).collect();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
}

#[test]
fn space_taken_in_advance_is_not_seen_and_is_given_back() {
    use std::os::unix::fs::MetadataExt;
    let dir = TempDir::new().unwrap();
    let (mut journal, _) = Journal::open(options(dir.path(), u64::MAX)).unwrap();
    journal.append(1, &[7; 5_000]).unwrap();
    journal.sync().unwrap();
    let metadata = fs::metadata(segment::path(dir.path(), 1)).unwrap();
    assert_eq!(metadata.len(), journal.bytes());
    // A file system that takes no space in advance has nothing to give back.
    assert!(metadata.blocks() * 512 >= journal.bytes());
    journal.roll().unwrap();
    let metadata = fs::metadata(segment::path(dir.path(), 1)).unwrap();
    assert!(metadata.blocks() * 512 < 1 << 20, "{} blocks", metadata.blocks());
    assert_eq!(all(&journal), [(1, vec![7; 5_000])]);
    drop(journal);
    // A journal that goes on in a segment does not take it for longer than it is.
    let (mut journal, recovery) = open(dir.path());
    assert_eq!((recovery, journal.current_segment()), (Recovery::default(), 2));
    journal.append(2, b"more").unwrap();
    journal.sync().unwrap();
    assert_eq!(all(&journal).len(), 2);
}
