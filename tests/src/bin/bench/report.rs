//! The table: a row for each thing that was measured, a column for each program, and how we compare.

use std::borrow::Cow;
use std::collections::BTreeMap;

use clap::ValueEnum;
use serde_json::{Value, json};

/// Who is measured. Columns stand in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum System {
    /// This project's collector, and its agents.
    Ours,
    /// Prometheus.
    Prometheus,
    /// VictoriaMetrics, single node.
    Victoriametrics,
    /// vmagent.
    Vmagent,
}

impl System {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Prometheus => "prometheus",
            Self::Victoriametrics => "victoriametrics",
            Self::Vmagent => "vmagent",
        }
    }
}

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The lower one.
    Lower,
    /// The higher one.
    Higher,
    /// Neither.
    Neither,
}

/// What can be measured: a row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    section: &'static str,
    name: Cow<'static, str>,
    better: Better,
}

impl Measure {
    /// One with a name that is known.
    pub const fn new(section: &'static str, name: &'static str, better: Better) -> Self {
        Self { section, name: Cow::Borrowed(name), better }
    }

    /// One with a name that is not.
    pub const fn named(section: &'static str, name: String, better: Better) -> Self {
        Self { section, name: Cow::Owned(name), better }
    }
}

/// What was measured.
#[derive(Debug)]
struct Row {
    measure: Measure,
    values: BTreeMap<System, f64>,
}

/// Everything that was measured, in the order in which it was first told.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    /// Puts a value into its row.
    pub fn set(&mut self, measure: &Measure, system: System, value: f64) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.measure == *measure) {
            row.values.insert(system, value);
            return;
        }
        let row = Row { measure: measure.clone(), values: [(system, value)].into() };
        // Behind the last row of its section.
        let place = self.rows.iter().rposition(|row| row.measure.section == measure.section);
        self.rows.insert(place.map_or(self.rows.len(), |place| place + 1), row);
    }

    /// Adds a sentence below the table.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Adds something that must not be.
    pub fn fail(&mut self, text: impl Into<String>) {
        self.failures.push(text.into());
    }

    /// Whether nothing was found that must not be.
    pub fn is_well(&self) -> bool {
        self.failures.is_empty()
    }

    /// As people read it.
    pub fn table(&self) -> String {
        let systems: Vec<System> = System::value_variants()
            .iter()
            .copied()
            .filter(|system| self.rows.iter().any(|row| row.values.contains_key(system)))
            .collect();
        let mut lines: Vec<Vec<String>> = Vec::new();
        let mut section = "";
        for row in &self.rows {
            if row.measure.section != section {
                section = row.measure.section;
                let mut head = vec![section.to_owned()];
                head.extend(systems.iter().map(|system| system.name().to_owned()));
                head.push("better by".to_owned());
                lines.extend([Vec::new(), head]);
            }
            let mut line = vec![format!("  {}", row.measure.name)];
            let value = |system| row.values.get(system).map_or("-".to_owned(), |v| short(*v));
            line.extend(systems.iter().map(value));
            line.push(row.ratio().map_or("-".to_owned(), |ratio| format!("{}×", short(ratio))));
            lines.push(line);
        }
        let mut text = aligned(&lines);
        if !self.notes.is_empty() || !self.failures.is_empty() {
            text += "\n";
        }
        for note in &self.notes {
            text += &format!("* {note}\n");
        }
        for failure in &self.failures {
            text += &format!("! {failure}\n");
        }
        text
    }

    /// As programs read it.
    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let values: BTreeMap<&str, Option<f64>> = row
                .values
                .iter()
                .map(|(system, value)| (system.name(), value.is_finite().then_some(*value)))
                .collect();
            json!({
                "section": row.measure.section,
                "name": row.measure.name,
                "values": values,
                "better_by": row.ratio(),
            })
        });
        json!({ "rows": rows.collect::<Vec<_>>(), "notes": self.notes, "failures": self.failures })
    }
}

impl Row {
    /// How many times better we are than the best of the others.
    fn ratio(&self) -> Option<f64> {
        let ours = *self.values.get(&System::Ours)?;
        let others =
            self.values.iter().filter(|(system, _)| **system != System::Ours).map(|(_, v)| *v);
        let ratio = match self.measure.better {
            Better::Lower => others.reduce(f64::min)? / ours,
            Better::Higher => ours / others.reduce(f64::max)?,
            Better::Neither => return None,
        };
        ratio.is_finite().then_some(ratio)
    }
}

/// Three digits that matter; whole numbers as they are.
fn short(value: f64) -> String {
    if !value.is_finite() {
        return "?".to_owned();
    }
    match value.abs() {
        size if size >= 9_999_500.0 => format!("{:.1} M", value / 1e6),
        size if size >= 999_500.0 => format!("{:.2} M", value / 1e6),
        size if size >= 10_000.0 => format!("{:.0} k", value / 1e3),
        size if size >= 100.0 || value == value.trunc() => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The first column to the left, the others to the right.
fn aligned(lines: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let widths = lines.iter().filter_map(|line| line.get(column));
        widths.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for line in lines {
        for (column, cell) in line.iter().enumerate() {
            let width = width(column);
            text +=
                &if column == 0 { format!("{cell:width$}") } else { format!("  {cell:>width$}") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_in_their_sections_and_ratios_compare_with_the_best_peer() {
        let mut report = Report::default();
        report.set(&Measure::new("ingest", "speed", Better::Higher), System::Ours, 3e6);
        report.set(&Measure::new("disk", "bytes", Better::Lower), System::Ours, 0.0);
        report.set(&Measure::new("ingest", "memory", Better::Lower), System::Ours, 50.0);
        report.set(&Measure::new("ingest", "memory", Better::Lower), System::Prometheus, 200.0);
        report.set(
            &Measure::new("ingest", "memory", Better::Lower),
            System::Victoriametrics,
            125.0,
        );
        report.set(&Measure::new("ingest", "speed", Better::Higher), System::Prometheus, 2e6);
        report.note("a note");
        report.fail("a failure");
        let expected = "
ingest      ours  prometheus  victoriametrics  better by
  speed   3.00 M      2.00 M                -      1.50×
  memory      50         200              125      2.50×

disk        ours  prometheus  victoriametrics  better by
  bytes        0           -                -          -

* a note
! a failure
";
        assert_eq!(report.table(), expected);
        let json = report.json();
        assert_eq!(json["rows"][1]["better_by"], 2.5);
        assert_eq!(json["rows"][2]["better_by"], Value::Null);
    }
}
