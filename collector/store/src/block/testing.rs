//! Sections for tests of what reads them.

use tributary_model::fields::{put_bytes, put_signed, put_varint};

use super::read::Directory;
use super::{BlockName, HEADER_BYTES, clocks, page};
use crate::keys::window_start;

/// A page with one chunk of each of two series.
pub(crate) fn page(times: &[i64], bits: &[u64]) -> Vec<u8> {
    let mut builder = page::Builder::default();
    for (group, series) in [(1, 7), (2, 3)] {
        builder.add(page::Place { group, series }, 0, bits.get(..times.len()).unwrap());
    }
    builder.finish()
}

/// A section with two clocks.
pub(crate) fn clocks(times: &[i64]) -> Vec<u8> {
    let mut builder = clocks::Builder::default();
    builder.number(0, times);
    builder.number(0, &times[times.len() / 2..]);
    builder.close().unwrap().1
}

/// Reads a directory that went through `damage`.
pub(crate) fn directory(damage: &mut dyn FnMut(Vec<u8>) -> Vec<u8>) {
    let name = BlockName { first: 7, windows: 1, number: 1 };
    let mut raw = Vec::new();
    put_bytes(&mut raw, b"eu-1");
    put_varint(&mut raw, 100);
    put_signed(&mut raw, window_start(7));
    put_varint(&mut raw, 5);
    put_varint(&mut raw, 1);
    put_varint(&mut raw, 9);
    put_varint(&mut raw, 4);
    let places = &[0, 0, 0, 1, 7, 0, 0, 0, 2, 3][..];
    for (kind, about) in [(0, places), (3, places), (1, &[0]), (2, &[3])] {
        raw.push(kind);
        put_varint(&mut raw, 50);
        put_bytes(&mut raw, about);
    }
    let end = HEADER_BYTES as u64 + 200;
    assert!(Directory::decode(&raw, &name, end).is_ok());
    let _ = Directory::decode(&damage(raw), &name, end);
}
