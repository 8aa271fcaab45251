//! The small durable state in the key-value store: values longer than a value may be are cut into parts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::codec::checked::{checked, unchecked};
use crate::error::Error;
use crate::keys;
use crate::kv::{Change, Kv, MAX_VALUE_BYTES};
use crate::record::StateChanges;

/// Longest key.
pub(crate) const MAX_KEY_BYTES: usize = 512;
/// Longest value. Longer ones are refused.
pub(crate) const MAX_STATE_BYTES: usize = 4 << 20;
/// Bytes of a part's checksum.
const CHECK_BYTES: usize = 4;
/// Bytes behind the key that number the part.
const PART_BYTES: usize = 4;

/// The changes of the tree that these changes of state amount to.
pub(crate) fn changes(kv: &dyn Kv, state: &StateChanges) -> Result<Vec<Change>, Error> {
    let mut out: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
    for (key, value) in state {
        for_parts(kv, key, |part, _| {
            out.insert(part.to_vec(), None);
        })?;
        let Some(value) = value else { continue };
        let mut parts: Vec<&[u8]> = value.chunks(MAX_VALUE_BYTES - CHECK_BYTES).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        for (number, part) in (0u32..).zip(parts) {
            let key = [key.as_bytes(), &[0], &number.to_be_bytes()].concat();
            let part = checked(&key, part);
            out.insert(key, Some(part));
        }
    }
    Ok(out.into_iter().collect())
}

/// Reads everything.
pub(crate) fn load(
    kv: &dyn Kv,
    damaged: &mut Vec<String>,
) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let mut out: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut broken = BTreeSet::new();
    kv.range(keys::STATE, &[], &mut |key, value| {
        let name = key.len().checked_sub(PART_BYTES + 1).and_then(|end| key.get(..end));
        if let Some(Ok(name)) = name.map(|name| String::from_utf8(name.to_vec())) {
            match unchecked(key, value) {
                Ok(part) => out.entry(name).or_default().extend_from_slice(part),
                Err(why) => {
                    damaged.push(format!("the state \"{name}\": {why}"));
                    broken.insert(name);
                }
            }
        }
        ControlFlow::Continue(())
    })
    .map_err(Error::kv("reading the state"))?;
    // A value without one of its parts is no value.
    out.retain(|name, _| !broken.contains(name));
    Ok(out)
}

fn for_parts(kv: &dyn Kv, key: &str, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), Error> {
    let prefix = [key.as_bytes(), &[0]].concat();
    kv.range(keys::STATE, &prefix, &mut |part, value| {
        if part.len() == prefix.len() + PART_BYTES && part.starts_with(&prefix) {
            visit(part, value);
            return ControlFlow::Continue(());
        }
        if part.starts_with(&prefix) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .map_err(Error::kv("reading the state"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::memory::Memory;

    #[test]
    fn long_values_are_cut_and_put_together() {
        let kv = Memory::default();
        let long: Vec<u8> = (0..20_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        for (key, value) in [
            ("a", Some(long.clone())),
            ("ab", Some(vec![])),
            ("a/b", Some(vec![1])),
            ("a", Some(vec![9; 8000])),
            ("a/b", None),
        ] {
            let change = changes(&kv, &vec![(key.to_owned(), value)]).unwrap();
            kv.batch(keys::STATE, change).unwrap();
        }
        let expected = BTreeMap::from([("a".to_owned(), vec![9; 8000]), ("ab".to_owned(), vec![])]);
        assert_eq!(load(&kv, &mut Vec::new()).unwrap(), expected);
        let change = changes(&kv, &vec![("a".to_owned(), Some(long.clone()))]).unwrap();
        kv.batch(keys::STATE, change).unwrap();
        assert_eq!(load(&kv, &mut Vec::new()).unwrap()["a"], long);
    }
}
