//! The file that names a spool: a random number, made with the folder.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::SpoolError;

const FILE: &str = "epoch";

/// The epoch in the folder's file; otherwise `found`, the one in its frames, or a new one, written first.
pub(super) fn load(dir: &Path, found: Option<u64>) -> Result<u64, SpoolError> {
    let path = dir.join(FILE);
    let fail = |source| SpoolError::Epoch { path: path.clone(), source };
    match fs::read_to_string(&path) {
        Ok(text) => {
            if let Ok(epoch) = u64::from_str_radix(text.trim(), 16) {
                return Ok(epoch);
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(fail(error)),
    }
    let epoch = found.unwrap_or_else(rand::random);
    write(dir, epoch).map_err(fail)?;
    Ok(epoch)
}

/// Whole or not at all, and durable.
fn write(dir: &Path, epoch: u64) -> io::Result<()> {
    let new = dir.join("epoch.new");
    let mut file = File::create(&new)?;
    writeln!(file, "{epoch:016x}")?;
    file.sync_all()?;
    fs::rename(&new, dir.join(FILE))?;
    File::open(dir)?.sync_all()
}
