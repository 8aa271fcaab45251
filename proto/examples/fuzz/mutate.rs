//! Damages frames, and makes them hostile: the checksum is right again afterwards, so that the damage is read.

use crate::random::Random;

/// Kind of a dictionary section.
const DICTIONARY: u8 = 1;
/// A section as it is.
const PLAIN: u8 = 0;
/// A compressed section.
const ZSTD: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// The frames of a segment, some of them damaged, in order, repeated, or missing.
pub fn frames(whole: &[Vec<u8>], random: &mut Random) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    // Half of the segments have one bad frame or none, so that others build on what it left.
    let calm = random.one_in(2).then(|| random.below(whole.len() + 1));
    for (place, frame) in whole.iter().enumerate() {
        if calm.is_some_and(|chosen| chosen != place) {
            out.push(frame.clone());
            continue;
        }
        if random.one_in(30) {
            continue;
        }
        out.push(match random.below(10) {
            0..=2 => frame.clone(),
            3 => noise(random),
            4 => {
                // The checksum does not match.
                let mut frame = frame.clone();
                damage(&mut frame, whole, random);
                frame
            }
            5 | 6 => {
                let mut frame = content(frame).to_vec();
                damage(&mut frame, whole, random);
                sealed(frame)
            }
            7 | 8 => with_damaged_sections(frame, whole, random).unwrap_or_else(|| frame.clone()),
            _ => hostile(frame, random).unwrap_or_else(|| frame.clone()),
        });
        if random.one_in(30) {
            out.extend(whole.first().cloned());
        }
    }
    if random.one_in(50)
        && let Some(first) = whole.first()
    {
        out.extend(many_symbols(first, random));
    }
    out
}

/// A few changes at random places.
fn damage(bytes: &mut Vec<u8>, whole: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let to = (at + random.below(9)).min(bytes.len());
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            2 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = random.byte();
                }
            }
            3 => {
                bytes.drain(at..to);
            }
            4 => {
                let new: Vec<u8> = (at..to).map(|_| random.byte()).collect();
                bytes.splice(at..at, new);
            }
            5 => {
                let again = bytes.get(at..to).unwrap_or_default().to_vec();
                bytes.splice(at..at, again);
            }
            6 => {
                let mut number = Vec::new();
                put(&mut number, random.skewed());
                bytes.splice(at..(at + 1).min(bytes.len()), number);
            }
            _ => {
                let donor = whole.get(random.below(whole.len())).map_or(&[][..], |frame| frame);
                let from = random.below(donor.len());
                let upto = (from + random.below(40)).min(donor.len());
                let part = donor.get(from..upto).unwrap_or_default().to_vec();
                bytes.splice(at..to, part);
            }
        }
    }
}

fn noise(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    if !random.one_in(3) {
        out.extend_from_slice(b"TRBF");
        out.push(1 + random.small(2));
        out.push(random.small(2));
    }
    out.extend((0..random.below(200)).map(|_| 0));
    for byte in out.iter_mut().skip(6) {
        *byte = random.byte();
    }
    sealed(out)
}

/// The frame with its sections taken apart, damaged in plain, and put together again.
fn with_damaged_sections(frame: &[u8], whole: &[Vec<u8>], random: &mut Random) -> Option<Vec<u8>> {
    let (head, sections) = parts(frame)?;
    let mut out = head.to_vec();
    let chosen = random.below(sections.len());
    for (place, (kind, mut body)) in sections.into_iter().enumerate() {
        if place == chosen || random.one_in(4) {
            damage(&mut body, whole, random);
        }
        if random.one_in(20) {
            continue;
        }
        let kind = if random.one_in(20) { random.byte() } else { kind };
        put_section(&mut out, kind, &body, random.one_in(3))?;
    }
    Some(sealed(out))
}

/// Frames that ask for much with few bytes.
fn hostile(frame: &[u8], random: &mut Random) -> Option<Vec<u8>> {
    let (head, _) = parts(frame)?;
    let mut out = head.to_vec();
    let kind = 1 + random.small(4);
    let mut body = Vec::new();
    match random.below(5) {
        // A number, and then one byte over and over.
        0 => {
            put(&mut body, random.skewed());
            put(&mut body, random.skewed());
            let byte = random.byte();
            body.resize(body.len() + random.below(1 << 20), byte);
        }
        // A section that is as long as it may be, and a little longer.
        1 => body.resize((4 << 20) - 1 + random.below(3), random.byte()),
        // A compressed section that says another length than it has.
        2 => {
            let packed = zstd::bulk::compress(&vec![0; random.below(1 << 22)], 1).ok()?;
            out.extend([kind, ZSTD]);
            put(&mut out, random.skewed());
            put(&mut out, packed.len() as u64);
            out.extend(packed);
            return Some(sealed(out));
        }
        // Series with as many labels as there may be, each the symbols of the one before.
        3 => {
            put(&mut body, 0);
            put(&mut body, 256);
            for n in 0..=255u8 {
                body.extend([0, 2, b'a' + n % 16, b'a' + n / 16]);
            }
            put(&mut body, 10_000);
            for n in 0..10_000 {
                let labels = 1 + random.below(128);
                put(&mut body, labels as u64);
                body.extend((0..labels * 2).map(|_| u8::from(n == 0)));
            }
            put_section(&mut out, DICTIONARY, &body, true)?;
            return Some(sealed(out));
        }
        // Numbers of every size.
        _ => {
            for _ in 0..random.below(2_000) {
                put(&mut body, random.skewed());
            }
        }
    }
    put_section(&mut out, kind, &body, true)?;
    Some(sealed(out))
}

/// A segment of nothing but symbols, a byte or two each, frame after frame.
fn many_symbols(first: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let mut body = vec![0];
    let count = 2 + random.below(1 << 20) as u64;
    put(&mut body, count);
    body.extend([0, 1, b'a']);
    body.extend((1..count).flat_map(|_| [1, 0]));
    body.push(0);
    let mut out = Vec::new();
    for n in 0..40 + random.below(10) as u64 {
        let Some(mut frame) = renumbered(first, n) else { break };
        if put_section(&mut frame, DICTIONARY, &body, true).is_none() {
            break;
        }
        out.push(sealed(frame));
    }
    out
}

/// The header of the `nth` frame of a segment without samples.
fn renumbered(first: &[u8], nth: u64) -> Option<Vec<u8>> {
    let (magic, rest) = first.split_at_checked(4)?;
    let mut out = magic.to_vec();
    out.extend([2, u8::from(nth == 0)]);
    out.extend_from_slice(rest.get(2..10)?);
    put(&mut out, nth + 1);
    for _ in 0..5 {
        put(&mut out, 0);
    }
    Some(out)
}

/// A section's kind and body.
type Section = (u8, Vec<u8>);

/// The header, and the sections, decompressed, with their kinds.
fn parts(frame: &[u8]) -> Option<(&[u8], Vec<Section>)> {
    let content = content(frame);
    let mut rest = content.get(14..)?;
    // Version 3 has one number more.
    let numbers = if content.get(4) == Some(&3) { 7 } else { 6 };
    for _ in 0..numbers {
        number(&mut rest)?;
    }
    let head = content.get(..content.len() - rest.len())?;
    let mut sections = Vec::new();
    while let [kind, packing, more @ ..] = rest {
        rest = more;
        let plain = if *packing == ZSTD { number(&mut rest)? } else { 0 };
        let length = number(&mut rest)?;
        let (body, more) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        rest = more;
        let body = match *packing {
            ZSTD => zstd::bulk::decompress(body, usize::try_from(plain).ok()?).ok()?,
            _ => body.to_vec(),
        };
        sections.push((*kind, body));
    }
    Some((head, sections))
}

fn put_section(out: &mut Vec<u8>, kind: u8, body: &[u8], packed: bool) -> Option<()> {
    out.push(kind);
    if packed {
        let packed = zstd::bulk::compress(body, 1).ok()?;
        out.push(ZSTD);
        put(out, body.len() as u64);
        put(out, packed.len() as u64);
        out.extend(packed);
    } else {
        out.push(PLAIN);
        put(out, body.len() as u64);
        out.extend_from_slice(body);
    }
    Some(())
}

/// A frame without its checksum.
fn content(frame: &[u8]) -> &[u8] {
    frame.get(..frame.len().saturating_sub(CHECKSUM_BYTES)).unwrap_or_default()
}

fn sealed(mut content: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&content);
    content.extend_from_slice(&checksum.to_le_bytes());
    content
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, more) = rest.split_first()?;
        *rest = more;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
