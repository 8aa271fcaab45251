//! Where tests find the corpus of real expressions.

use std::path::PathBuf;

/// `TRIBUTARY_SHARED_DATA`, or a folder `shared/data` beside the project.
pub(crate) fn shared() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let folder =
        std::env::var_os("TRIBUTARY_SHARED_DATA").map_or_else(|| beside.into(), PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: there is no folder {}", folder.display());
    None
}
