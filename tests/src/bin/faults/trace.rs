//! Reads what strace writes: which calls were made on which files, and which of them were made to fail.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What a run without faults did to the files below a folder.
#[derive(Debug, Default)]
pub struct Seen {
    /// For each call, the ordinals that a thread reached.
    pub ordinals: BTreeMap<String, Vec<usize>>,
    /// The files and folders.
    pub paths: Vec<String>,
}

/// Reads a trace of a run without faults.
pub fn seen(trace: &str, folder: &str) -> Seen {
    let mut counts: HashMap<(&str, &str), usize> = HashMap::new();
    let (mut most, mut paths) = (BTreeMap::<&str, usize>::new(), BTreeSet::new());
    for (thread, call, rest) in trace.lines().filter_map(begun) {
        let touched = paths_below(rest, folder);
        if touched.is_empty() {
            continue;
        }
        // A rename counts when either name is known, so both are.
        paths.extend(touched);
        let count = counts.entry((thread, call)).or_default();
        *count += 1;
        let changes = call != "openat" || rest.contains("O_CREAT");
        let most = most.entry(call).or_default();
        if changes {
            *most = (*most).max(*count);
        }
    }
    let ordinals = most
        .into_iter()
        .filter(|(_, most)| *most > 0)
        .map(|(call, most)| (call.to_owned(), (1..=most).collect()))
        .collect();
    Seen { ordinals, paths: paths.into_iter().map(str::to_owned).collect() }
}

/// What a run with faults did.
#[derive(Debug, Default)]
pub struct Faulty {
    /// Calls that were made to fail.
    pub injected: usize,
    /// Rounds noted after the first failed sync of the store's journal, but for one: that was answered before, and is noted
    /// by another thread. Copies of the journal in a snapshot are not the journal.
    pub late: usize,
}

/// Reads a trace of a run with faults; `log` is where acknowledged rounds are noted.
pub fn faulty(trace: &str, log: &str) -> Faulty {
    let mut out = Faulty::default();
    let mut open: HashMap<&str, &str> = HashMap::new();
    let mut failed = false;
    for line in trace.lines() {
        let resumed =
            line.split_once(' ').filter(|(_, rest)| rest.trim_start().starts_with("<... "));
        let start = match (begun(line), resumed) {
            (Some((thread, ..)), _) => {
                open.insert(thread, line);
                line
            }
            (None, Some((thread, _))) => open.get(thread).copied().unwrap_or(line),
            (None, None) => continue,
        };
        if failed
            && begun(line).is_some_and(|(_, call, rest)| call == "write" && rest.contains(log))
        {
            out.late += 1;
        }
        if line.contains("(INJECTED)") {
            out.injected += 1;
            let is_sync = begun(start).is_some_and(|(_, call, rest)| {
                matches!(call, "fsync" | "fdatasync")
                    && rest.contains(".journal>")
                    && !rest.contains("/snapshot")
            });
            failed |= is_sync;
        }
    }
    out.late = out.late.saturating_sub(1);
    out
}

/// The thread, the call's name and its arguments, if the line is the beginning of a call.
fn begun(line: &str) -> Option<(&str, &str, &str)> {
    let (thread, rest) = line.split_once(' ')?;
    let (call, rest) = rest.trim_start().split_once('(')?;
    let named = call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (named && thread.bytes().all(|b| b.is_ascii_digit())).then_some((thread, call, rest))
}

/// Every path below a folder that a call names, by descriptor or in quotes.
fn paths_below<'a>(arguments: &'a str, folder: &str) -> Vec<&'a str> {
    let arguments = arguments.split(" = ").next().unwrap_or(arguments);
    arguments
        .split(['<', '>', '"'])
        .map(|part| part.strip_suffix("(deleted)").unwrap_or(part))
        .filter(|part| {
            *part == folder || part.strip_prefix(folder).is_some_and(|r| r.starts_with('/'))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
10 openat(AT_FDCWD</tmp>, \"/s/j/1.journal\", O_WRONLY|O_CREAT|O_EXCL|O_APPEND|O_CLOEXEC, 0666) = 3</s/j/1.journal>
11 write(3</s/j/1.journal>, \"x\", 1 <unfinished ...>
10 write(5</log>, \"1\\n\", 2) = 2
11 <... write resumed>)              = 1
11 fdatasync(3</s/j/1.journal>) = 0
11 write(3</s/j/1.journal>, \"y\", 1) = 1
12 write(1</dev/null>, \"/s/j\", 4) = 4
12 openat(AT_FDCWD</tmp>, \"/s/j\", O_RDONLY|O_CLOEXEC) = 6</s/j>
";

    #[test]
    fn calls_are_counted_for_each_thread() {
        let seen = seen(TRACE, "/s");
        let ordinals: Vec<_> =
            seen.ordinals.iter().map(|(call, n)| (call.as_str(), n.len())).collect();
        assert_eq!(ordinals, [("fdatasync", 1), ("openat", 1), ("write", 2)]);
        assert_eq!(seen.paths, ["/s/j", "/s/j/1.journal"]);
    }

    #[test]
    fn notes_after_a_failed_sync_are_found() {
        let faults = "\
11 write(5</log>, \"1\\n\", 2) = 2
11 fdatasync(3</s/j/1.journal> <unfinished ...>
10 write(5</log>, \"2\\n\", 2) = 2
11 <... fdatasync resumed>) = -1 EIO (Input/output error) (INJECTED)
10 write(5</log>, \"3\\n\", 2) = 2
10 write(5</log>, \"4\\n\", 2) = 2
";
        let found = faulty(faults, "/log");
        assert_eq!((found.injected, found.late), (1, 1));
        // A snapshot's copy is not the store's journal.
        let found = faulty(&faults.replace("/s/j/", "/s/snapshot.partial/j/"), "/log");
        assert_eq!((found.injected, found.late), (1, 0));
        // A failed sync of another file is not the journal's.
        let found = faulty(&faults.replace("1.journal", "db"), "/log");
        assert_eq!((found.injected, found.late), (1, 0));
    }
}
