//! Times what an acknowledgement waits for: appending records and making them durable, in groups; and opening.
//!
//! The folder is below `$TMPDIR`: point that at the disk that is meant.

#![expect(clippy::unwrap_used, reason = "a benchmark stops at what does not work")]

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, Throughput};
use tributary_journal::{Journal, Options};

/// About a frame of a scrape.
const RECORD_BYTES: usize = 2 << 10;
const SEGMENT_BYTES: u64 = 16 << 20;
/// What a journal of 64 MiB has to check when it is opened.
const OPENED_RECORDS: u32 = 32 << 10;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    appending(&mut criterion);
    opening(&mut criterion);
    criterion.final_summary();
}

fn appending(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("append and sync");
    for records in [1_u64, 10, 100] {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = open(folder.path());
        group.throughput(Throughput::Elements(records));
        group.bench_function(format!("{records} records"), |bencher| {
            bencher.iter(|| {
                for _ in 0..records {
                    journal.append(1, black_box(&[7; RECORD_BYTES])).unwrap();
                }
                journal.sync().unwrap();
                // What is in the way of nobody any more goes, as it does in use.
                journal.delete_before(journal.current_segment()).unwrap();
            });
        });
    }
    group.finish();
}

fn opening(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = open(folder.path());
    for _ in 0..OPENED_RECORDS {
        journal.append(1, &[7; RECORD_BYTES]).unwrap();
    }
    journal.sync().unwrap();
    let bytes = journal.bytes();
    drop(journal);
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Bytes(bytes));
    group.sample_size(20);
    group.bench_function("64 MiB", |bencher| bencher.iter(|| open(black_box(folder.path()))));
    group.finish();
}

fn open(folder: &Path) -> Journal {
    let options = Options { dir: folder.to_owned(), segment_bytes: SEGMENT_BYTES };
    Journal::open(options).unwrap().0
}
