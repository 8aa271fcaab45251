//! SHA-256, for identifiers that must be stable and must not reveal what they stand for.

use aws_lc_rs::digest;

use crate::certificate::hex;

/// The SHA-256 of some bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut hash = [0; 32];
    hash.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    hash
}

/// The SHA-256 of some bytes in lower-case hexadecimal, 64 characters.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(&sha256(bytes))
}

/// Reads a hash of 64 hexadecimal digits, with or without `sha256:` before it.
pub fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    if digits.len() != 64 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = [0; 32];
    for (index, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_sha256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256_hex(b""), empty);
        assert_eq!(hex(&parse_hex(empty).unwrap()), empty);
    }

    #[test]
    fn what_is_no_hash_is_refused() {
        let good = "ab".repeat(32);
        assert!(parse_hex(&format!("sha256:{good}")).is_some());
        for bad in [String::new(), good[1..].to_owned(), format!("{good}0"), "é".repeat(32)] {
            assert!(parse_hex(&bad).is_none(), "{bad:?}");
        }
        assert!(parse_hex(&good.replace('a', "+")).is_none());
    }
}
