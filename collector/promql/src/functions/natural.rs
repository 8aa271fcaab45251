//! The order of `sort_by_label`: runs of digits compare as numbers.

use std::cmp::Ordering;

/// Compares piece by piece, where a piece is a run of digits or of anything else. Two numbers compare by value, then
/// the shorter one first; everything else by its bytes.
pub(crate) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() && !b.is_empty() {
        let (piece_a, rest_a) = split(a);
        let (piece_b, rest_b) = split(b);
        let order = compare_pieces(piece_a, piece_b);
        if order != Ordering::Equal {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    a.len().cmp(&b.len())
}

/// The first piece and the rest.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    let digits = text.first().is_some_and(u8::is_ascii_digit);
    let end = text.iter().position(|b| b.is_ascii_digit() != digits).unwrap_or(text.len());
    text.split_at_checked(end).unwrap_or((text, &[]))
}

fn compare_pieces(a: &[u8], b: &[u8]) -> Ordering {
    let is_number = |piece: &[u8]| piece.first().is_some_and(u8::is_ascii_digit);
    if !is_number(a) || !is_number(b) {
        return a.cmp(b);
    }
    let digits = |piece: &'_ [u8]| piece.iter().take_while(|b| **b == b'0').count();
    let (value_a, value_b) = (a.get(digits(a)..), b.get(digits(b)..));
    let length = |value: Option<&[u8]>| value.map_or(0, <[u8]>::len);
    length(value_a)
        .cmp(&length(value_b))
        .then_with(|| value_a.cmp(&value_b))
        .then_with(|| a.len().cmp(&b.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count() {
        for (less, more) in [
            ("a2", "a10"),
            ("2", "10"),
            ("node-9", "node-11"),
            ("10", "a"),
            ("a", "a1"),
            ("1.2", "1.10"),
            ("", "a"),
            ("007", "0008"),
        ] {
            assert_eq!(compare(less, more), Ordering::Less, "{less} {more}");
            assert_eq!(compare(more, less), Ordering::Greater, "{more} {less}");
        }
        assert_eq!(compare("a1b", "a1b"), Ordering::Equal);
    }
}
