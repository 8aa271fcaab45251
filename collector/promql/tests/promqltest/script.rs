//! Reads a script into its commands.

use std::time::Duration;

use tributary_model::duration;

/// One command and the line it starts on, from 1.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) command: Command,
}

#[derive(Debug)]
pub(crate) enum Command {
    Clear,
    /// Series at multiples of the step.
    Load {
        step: Duration,
        series: Vec<String>,
        /// Classic histograms also become native ones with custom bounds.
        with_custom: bool,
    },
    Eval(Eval),
}

/// An evaluation and the lines below it.
#[derive(Debug)]
pub(crate) struct Eval {
    pub(crate) when: When,
    pub(crate) expression: String,
    /// The deprecated suffix: `fail`, `warn`, `info`, `ordered`.
    pub(crate) suffix: Option<String>,
    pub(crate) lines: Vec<String>,
}

/// The times of an evaluation, since the epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    Instant(Duration),
    Range { start: Duration, end: Duration, step: Duration },
}

/// The commands of a script.
pub(crate) fn read(text: &str) -> Result<Vec<Block>, String> {
    let lines: Vec<&str> = text
        .lines()
        .map(|line| {
            let line = line.trim();
            if line.starts_with('#') { "" } else { line }
        })
        .collect();
    let mut out = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = lines[at];
        let start = at + 1;
        at += 1;
        if line.is_empty() {
            continue;
        }
        let below = lines[at..].iter().take_while(|line| !line.is_empty()).count();
        let first = line.split_whitespace().next().unwrap_or("").to_ascii_lowercase();
        let command = if first == "clear" {
            Command::Clear
        } else if first.starts_with("load") {
            let step = line.split_whitespace().nth(1).ok_or(format!("{start}: no step"))?;
            let series = lines[at..at + below].iter().map(|line| (*line).to_owned()).collect();
            at += below;
            Command::Load { step: time(step)?, series, with_custom: first == "load_with_nhcb" }
        } else if first.starts_with("eval") {
            let mut eval = eval(line).map_err(|e| format!("{start}: {e}"))?;
            eval.lines = lines[at..at + below].iter().map(|line| (*line).to_owned()).collect();
            at += below;
            Command::Eval(eval)
        } else {
            return Err(format!("{start}: unknown command {line}"));
        };
        out.push(Block { line: start, command });
    }
    Ok(out)
}

/// A time since the epoch.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|e| e.to_string())
}

fn eval(line: &str) -> Result<Eval, String> {
    let mut words = Words(line);
    let command = words.next();
    let suffix = command.split_once('_').map(|(_, suffix)| suffix.to_owned());
    let when = match words.next() {
        "instant" => {
            words.expect("at")?;
            When::Instant(time(words.next())?)
        }
        "range" => {
            words.expect("from")?;
            let start = time(words.next())?;
            words.expect("to")?;
            let end = time(words.next())?;
            words.expect("step")?;
            When::Range { start, end, step: time(words.next())? }
        }
        other => return Err(format!("neither instant nor range: {other}")),
    };
    Ok(Eval { when, expression: words.0.trim().to_owned(), suffix, lines: Vec::new() })
}

/// Takes words off the front of a text.
pub(crate) struct Words<'a>(pub &'a str);

impl<'a> Words<'a> {
    pub(crate) fn next(&mut self) -> &'a str {
        let text = self.0.trim_start();
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        self.0 = rest;
        word
    }

    pub(crate) fn expect(&mut self, wanted: &str) -> Result<(), String> {
        let found = self.next();
        if found == wanted { Ok(()) } else { Err(format!("expected {wanted}, found {found}")) }
    }
}
