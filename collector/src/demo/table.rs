//! The live table: redrawn in place on a terminal, a line for each change elsewhere.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write};

use super::files::CLUSTERS;
use super::watch::Cluster;

/// Shows the clusters.
pub struct Table<W> {
    out: W,
    redraws: bool,
    /// Lines of the table that stand at the end of the terminal.
    drawn: usize,
    /// What was said about each cluster, where nothing is redrawn.
    said: BTreeMap<&'static str, (bool, bool)>,
}

impl Table<io::Stdout> {
    /// On standard output.
    pub fn stdout() -> Self {
        let out = io::stdout();
        let redraws = out.is_terminal();
        Self::new(out, redraws)
    }
}

impl<W: Write> Table<W> {
    fn new(out: W, redraws: bool) -> Self {
        Self { out, redraws, drawn: 0, said: BTreeMap::new() }
    }

    /// Prints text above the table.
    pub fn say(&mut self, text: &str) -> io::Result<()> {
        self.erase()?;
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Shows the state of the clusters and one more line.
    pub fn show(&mut self, clusters: &BTreeMap<String, Cluster>, footer: &str) -> io::Result<()> {
        if !self.redraws {
            return self.changes(clusters);
        }
        self.erase()?;
        let heads = ["CLUSTER", "LAST SAMPLE", "SERIES", "SAMPLES/S", "SPOOL"];
        let mut lines = vec![row(&heads.map(str::to_owned))];
        for name in CLUSTERS {
            lines.push(row(&cells(name, clusters.get(name))));
        }
        lines.push(footer.to_owned());
        writeln!(self.out, "{}", lines.join("\n"))?;
        self.drawn = lines.len();
        self.out.flush()
    }

    /// Takes the table away, so that other text can stand there.
    fn erase(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            // Up so many lines, and clear from there to the end of the screen.
            write!(self.out, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }

    fn changes(&mut self, clusters: &BTreeMap<String, Cluster>) -> io::Result<()> {
        for name in CLUSTERS {
            let Some(cluster) = clusters.get(name) else { continue };
            let state = (cluster.connected, cluster.samples > 0);
            if self.said.insert(name, state) != Some(state) {
                let link = if cluster.connected { "connected" } else { "not connected" };
                let [_, age, series, rate, spool] = cells(name, Some(cluster));
                writeln!(
                    self.out,
                    "{name}: {link}, last sample {age}, {series} series, {rate} samples/s, spool {spool}"
                )?;
            }
        }
        self.out.flush()
    }
}

fn row(cells: &[String; 5]) -> String {
    let [name, age, series, rate, spool] = cells;
    format!("  {name:<10} {age:>12} {series:>8} {rate:>10} {spool:>10}")
}

fn cells(name: &str, cluster: Option<&Cluster>) -> [String; 5] {
    let Some(cluster) = cluster else {
        return [name.to_owned(), "waiting".into(), "-".into(), "-".into(), "-".into()];
    };
    let age = match cluster.age {
        _ if !cluster.connected => "not connected".to_owned(),
        Some(age) => format!("{:.1} s ago", age.as_secs_f64()),
        None => "none yet".to_owned(),
    };
    let rate = format!("{:.1}", cluster.rate);
    [name.to_owned(), age, cluster.series.to_string(), rate, bytes(cluster.spool)]
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{} KiB", count >> 10),
        _ => format!("{} MiB", count >> 20),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn clusters(samples: u64) -> BTreeMap<String, Cluster> {
        let age = Some(Duration::from_millis(1500));
        let cluster =
            Cluster { connected: true, age, series: 12, samples, rate: 6.04, spool: 2048 };
        [("eu-1".to_owned(), cluster)].into()
    }

    #[test]
    fn redraws_on_a_terminal() {
        let mut table = Table::new(Vec::new(), true);
        table.show(&clusters(1), "footer").unwrap();
        table.say("a mail").unwrap();
        let text = String::from_utf8(table.out).unwrap();
        assert!(
            text.contains("  eu-1          1.5 s ago       12        6.0      2 KiB\n"),
            "{text}"
        );
        assert!(text.contains("  lab             waiting        -"), "{text}");
        assert!(text.ends_with("footer\n\x1b[5A\x1b[Ja mail\n"), "{text:?}");
    }

    #[test]
    fn says_changes_elsewhere() {
        let mut table = Table::new(Vec::new(), false);
        for samples in [0, 0, 1, 2] {
            table.show(&clusters(samples), "").unwrap();
        }
        let text = String::from_utf8(table.out).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.starts_with("eu-1: connected, last sample 1.5 s ago, 12 series, 6.0 samples/s")
        );
    }
}
