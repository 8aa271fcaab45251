//! Crash, reopen, over-full, acknowledged, damaged.

use super::*;
use tributary_proto::frame::{Decoder, Frame};
use tributary_proto::limits::Limits;

/// A companion whose state is a number.
#[derive(Default)]
struct Counter {
    state: u8,
    told: u8,
}

impl Companion for Counter {
    fn snapshot(&self) -> Vec<u8> {
        vec![self.state]
    }

    fn changes(&mut self) -> Option<Vec<u8>> {
        let changed = self.state != self.told;
        self.told = self.state;
        changed.then(|| vec![self.state])
    }
}

struct Bench {
    folder: tempfile::TempDir,
    max_bytes: u64,
    counter: Counter,
}

impl Bench {
    fn new(max_bytes: u64) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), max_bytes, counter: Counter::default() }
    }

    fn open(&mut self) -> (Spool, Recovered) {
        let options = Options { dir: self.folder.path().to_owned(), max_bytes: self.max_bytes };
        let (mut spool, recovered) = Spool::open(&options).unwrap();
        spool.begin(&mut self.counter, &[]).unwrap();
        (spool, recovered)
    }

    /// Appends `series` noisy samples at `second`.
    fn append(&mut self, spool: &mut Spool, second: i64, series: usize) {
        let samples: Vec<(Labels, Sample)> = (0..series)
            .map(|n| {
                let labels = Labels::from_pairs([("__name__", "m"), ("n", &n.to_string())]);
                let noise = (second as f64 * 0.618 + n as f64 * 0.414).sin();
                (labels.unwrap(), Sample::new(second * 1000, noise))
            })
            .collect();
        let batch = Batch {
            samples: &samples,
            histograms: &[],
            metadata: &[],
            gaps: &[],
            complete_until: at(second),
        };
        self.counter.state = self.counter.state.wrapping_add(1);
        spool.append(&batch, &mut self.counter, at(second)).unwrap();
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1000)
}

/// Everything a session would send, decoded.
fn read(spool: &Spool, after: u64, from_segment_start: bool) -> Vec<Frame> {
    let mut reader = spool.reader(after, from_segment_start).unwrap();
    let mut decoder = Decoder::new(Limits::default());
    let mut frames = Vec::new();
    while let Some(outgoing) = reader.next().unwrap() {
        frames.push(decoder.decode(&outgoing.bytes).unwrap());
    }
    frames
}

#[test]
fn a_reopened_spool_goes_on_where_it_stopped() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, recovered) = bench.open();
    assert_eq!(recovered.newest, None);
    let epoch = spool.status().epoch;
    for second in 1..=3 {
        bench.append(&mut spool, second, 10);
    }
    assert_eq!(spool.status().waiting(), 3);
    drop(spool);
    let (mut spool, recovered) = bench.open();
    assert_eq!(recovered.newest, Some(at(3)));
    assert_eq!(recovered.snapshot, Some(vec![0]));
    assert_eq!(recovered.changes, [[1], [2], [3]]);
    assert_eq!((spool.status().epoch, spool.status().next_seq), (epoch, 4));
    bench.append(&mut spool, 4, 10);
    let frames = read(&spool, 0, true);
    assert_eq!(frames.iter().map(|f| f.header.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(frames[3].header.starts_segment, "another process, another segment");
    assert_eq!(frames[3].new_series.len(), 10);
    drop(spool);
    let (_, recovered) = bench.open();
    assert_eq!((recovered.snapshot, recovered.changes), (Some(vec![3]), vec![vec![4]]));
}

#[test]
fn readers_start_where_the_peer_can_follow() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, _) = bench.open();
    for second in 1..=3 {
        bench.append(&mut spool, second, 10);
    }
    let mut reader = spool.reader(2, false).unwrap();
    assert_eq!(reader.next().unwrap().unwrap().seq, 3);
    assert_eq!(reader.next().unwrap(), None);
    bench.append(&mut spool, 4, 10);
    assert_eq!(reader.next().unwrap().unwrap().seq, 4);
    assert_eq!(read(&spool, 2, true).len(), 4, "from the segment's start");
    // Old enough for a new segment: nothing of the first one is needed any more.
    bench.append(&mut spool, 4000, 10);
    let frames = read(&spool, 4, true);
    assert_eq!(frames.len(), 1);
    assert!(frames[0].header.starts_segment);
}

#[test]
fn acknowledged_segments_are_deleted_and_numbers_go_on() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, _) = bench.open();
    bench.append(&mut spool, 1, 10);
    bench.append(&mut spool, 4000, 10);
    spool.ack(1).unwrap();
    assert_eq!(spool.status().first_seq, 2);
    spool.ack(99).unwrap();
    assert_eq!((spool.status().acked, spool.status().waiting()), (2, 0));
    drop(spool);
    // The new process has no frames of its own yet when the acknowledgement deletes the last old one.
    let (mut spool, _) = bench.open();
    spool.ack(2).unwrap();
    drop(spool);
    let (spool, _) = bench.open();
    assert_eq!((spool.status().next_seq, spool.status().acked), (3, 2));
    assert_eq!(spool.status().first_seq, 3);
}

#[test]
fn a_full_spool_drops_the_oldest_and_remembers_the_gap() {
    let mut bench = Bench::new(1 << 20);
    let (mut spool, _) = bench.open();
    let mut second = 0;
    while spool.status().dropped_segments < 3 {
        second += 1;
        bench.append(&mut spool, second, 100);
        assert!(spool.status().bytes <= 1 << 20);
        if second == 2 {
            spool.ack(2).unwrap();
        }
    }
    assert!(!spool.pending.is_empty());
    let status = spool.status();
    assert_eq!(status.dropped_samples, (status.first_seq - 3) * 100, "two frames were safe");
    drop(spool);
    let (mut spool, _) = bench.open();
    assert!(!spool.pending.is_empty(), "gaps survive the process");
    bench.append(&mut spool, second + 1, 100);
    assert!(spool.pending.is_empty());
    let frames = read(&spool, 2, true);
    assert_eq!(frames[0].header.seq, spool.status().first_seq);
    // Those that were sent in a frame that is still here, and those that waited: together, everything from frame 3 on.
    let gaps: Vec<Gap> = frames.iter().flat_map(|frame| frame.gaps.clone()).collect();
    assert!(gaps.iter().all(|gap| gap.cause == GapCause::SpoolFull));
    assert_eq!(gaps.iter().map(|gap| gap.from).min(), Some(at(3)));
    let last_dropped = i64::try_from(frames[0].header.seq).unwrap() - 1;
    assert_eq!(gaps.iter().map(|gap| gap.to).max(), Some(at(last_dropped)));
    assert_eq!(gaps.iter().map(|gap| gap.samples).sum::<u64>(), status.dropped_samples);
}

#[test]
fn a_large_batch_becomes_several_frames() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, _) = bench.open();
    bench.append(&mut spool, 1, 30_000);
    let frames = read(&spool, 0, true);
    assert!(frames.len() > 1);
    assert_eq!(frames.iter().map(|frame| frame.samples.len()).sum::<usize>(), 30_000);
}

#[test]
fn damage_costs_the_rest_of_its_segment_and_is_a_gap() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, _) = bench.open();
    for second in 1..=4 {
        bench.append(&mut spool, second, 10);
    }
    let segment = spool.journal.current_segment();
    let place = {
        let mut cursor = spool.journal.read(Position { segment, offset: 0 }).unwrap();
        let frames = std::iter::from_fn(|| cursor.next().unwrap());
        frames.filter(|r| r.kind == kind::FRAME).nth(1).unwrap().position.offset
    };
    drop(spool);
    let file = std::fs::read_dir(bench.folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let path = file.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[usize::try_from(place).unwrap() + 30] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (mut spool, recovered) = bench.open();
    assert_eq!(recovered.notes.len(), 1, "{:?}", recovered.notes);
    assert_eq!(spool.status().next_seq, 5);
    bench.append(&mut spool, 5, 10);
    let frames = read(&spool, 0, true);
    assert_eq!(frames.iter().map(|f| f.header.seq).collect::<Vec<_>>(), [1, 5]);
    let gap = frames[1].gaps[0];
    assert_eq!((gap.cause, gap.from, gap.to), (GapCause::Damaged, at(1), at(4)));
}

#[test]
fn an_old_copy_of_a_spool_is_renumbered() {
    let mut bench = Bench::new(64 << 20);
    let (mut spool, _) = bench.open();
    bench.append(&mut spool, 1, 10);
    spool.renumber(50).unwrap();
    assert_eq!((spool.status().next_seq, spool.status().waiting()), (51, 0));
    bench.append(&mut spool, 2, 10);
    let frames = read(&spool, 50, false);
    assert_eq!((frames[0].header.seq, frames[0].header.starts_segment), (51, true));
    assert_eq!(frames[0].gaps[0].cause, GapCause::Damaged);
    drop(spool);
    let (spool, _) = bench.open();
    assert_eq!((spool.status().next_seq, spool.pending.is_empty()), (52, true));
}
