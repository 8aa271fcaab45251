//! Tables and spans of time as the commands print them.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

/// Columns as wide as their widest cell, two spaces between them, nothing at the ends of lines.
pub(crate) fn text<const N: usize>(
    head: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let cells: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0_usize; N];
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in &cells {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The two largest units: `9y 362d`, `89d`, `1d 3h`, `5h 3m`, `12m`, `40s`.
pub(crate) fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match days {
        365.. => format!("{}y {}d", days / 365, days % 365),
        2.. => format!("{days}d"),
        1 => format!("1d {hours}h"),
        _ if hours > 0 => format!("{hours}h {minutes}m"),
        _ if minutes > 0 => format!("{minutes}m"),
        _ => format!("{seconds}s"),
    }
}

/// How long ago something was.
pub(crate) fn ago(then: SystemTime, now: SystemTime) -> String {
    span(now.duration_since(then).unwrap_or_default())
}
