//! Expressions: grown from the grammar, or mutated from ones that were met before.

use tributary_promql::ast::ValueType;
use tributary_promql::ast::operator::AggregateOp;
use tributary_promql::signature::Function;

use super::data::METRICS;
use super::random::Random;

/// How deep expressions nest.
const DEPTH: usize = 4;

/// Texts that are kept to be mutated.
const KEPT: usize = 500;

/// Pieces that matter to the lexer.
const PIECES: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "[5m]",
    "[5m:1m]",
    " offset 1m",
    " offset -5m",
    " @ 600",
    " @ start()",
    " @ end()",
    "sum",
    "rate",
    " by (x)",
    " without ()",
    "\"",
    "'",
    "`",
    "\\",
    "\u{e4}",
    "\0",
    "=~",
    "!=",
    ">/",
    "</",
    " atan2 ",
    " group_left ",
    " on (x) ",
    " fill(0)",
    " anchored",
    " smoothed",
    "NaN",
    "Inf",
    "0x",
    "1e999",
    "_",
    ":",
    "step()",
    "range()",
    ",",
    "-",
    "+",
    "^",
    "# ",
    "\n",
    "9223372036854775807",
    "106751991167d",
    "1y1w1d1h1m1s1ms",
    "bool ",
    "{__name__=~\".+\"}",
];

const OPERATORS: &[&str] = &[
    "+", "-", "*", "/", "%", "^", "atan2", "==", "!=", "<", ">", "<=", ">=", "and", "or", "unless",
    "</", ">/", "== bool", "> bool",
];

/// To begin with.
pub(crate) const SEEDS: &[&str] = &[
    "sum by (x) (rate(c_total[5m]))",
    "histogram_quantile(0.9, sum by (le) (rate(b_bucket[5m])))",
    "h >/ 1 + on (x) group_left (job) g",
    "max_over_time((g offset -1m)[10m:30s] @ end()) and on () vector(time())",
    "label_replace(g, \"y\", \"$1-${2}\", \"x\", \"(.*)(a?)\")",
    "c_total{x=~\"1|2\", job!=\"\"} or -g ^ 2",
    "increase(c_total[5m] smoothed) / ignoring (x) fill (1) g",
    "info(g, {__name__=~\".+_info\"})",
];

/// The next text to try.
pub(crate) fn next(random: &mut Random, texts: &mut Vec<String>) -> String {
    let text = if random.once_in(2) {
        let mut text = String::new();
        let kind = if random.once_in(5) { ValueType::Scalar } else { ValueType::Vector };
        grow(random, kind, DEPTH, &mut text);
        text
    } else {
        mutated(random, texts)
    };
    if texts.len() < KEPT {
        texts.push(text.clone());
    } else {
        let place = random.below(KEPT);
        if let Some(slot) = texts.get_mut(place) {
            slot.clone_from(&text);
        }
    }
    text
}

fn mutated(random: &mut Random, texts: &[String]) -> String {
    let mut chars: Vec<char> = random.pick(texts).map(|t| t.chars().collect()).unwrap_or_default();
    for _ in 0..=random.below(4) {
        let place = random.below(chars.len() + 1);
        match random.below(5) {
            0 if place < chars.len() => {
                chars.remove(place);
            }
            1 => {
                let end = (place + random.below(10)).min(chars.len());
                chars.drain(place..end);
            }
            2 => {
                let other: Vec<char> =
                    random.pick(texts).map(|t| t.chars().collect()).unwrap_or_default();
                let from = random.below(other.len() + 1);
                let part = other.into_iter().skip(from).take(random.below(30));
                chars.splice(place..place, part);
            }
            3 => {
                let c = char::from(u8::try_from(random.below(128)).unwrap_or(b'x'));
                chars.insert(place, c);
            }
            _ => {
                let piece = random.pick(PIECES).copied().unwrap_or("");
                chars.splice(place..place, piece.chars());
            }
        }
    }
    // Longer ones only take longer.
    chars.truncate(2000);
    chars.into_iter().collect()
}

fn grow(random: &mut Random, kind: ValueType, depth: usize, out: &mut String) {
    match kind {
        ValueType::Scalar => scalar(random, depth, out),
        ValueType::String => {
            out.push_str(
                random
                    .pick(&["\"x\"", "\"\"", "\"y\"", "\"$1\"", "\"(.*)\"", "\"le\""])
                    .unwrap_or(&"\"x\""),
            );
        }
        ValueType::Matrix => matrix(random, depth, out),
        ValueType::Vector => vector(random, depth, out),
    }
}

fn scalar(random: &mut Random, depth: usize, out: &mut String) {
    match random.below(if depth == 0 { 3 } else { 6 }) {
        0..=2 => {
            let numbers = [
                "0", "1", "-1", "0.5", "NaN", "Inf", "-Inf", "2", "1e300", "5m", "0x10", "1e-9",
                "3", "0.9", "10",
            ];
            out.push_str(random.pick(&numbers).unwrap_or(&"1"));
        }
        3 => {
            out.push_str("scalar(");
            vector(random, depth - 1, out);
            out.push(')');
        }
        4 => out.push_str(
            random
                .pick(&["time()", "pi()", "step()", "start()", "end()", "range()"])
                .unwrap_or(&"time()"),
        ),
        _ => {
            out.push('(');
            scalar(random, depth - 1, out);
            out.push_str(
                random.pick(&[" + ", " * ", " / ", " % ", " ^ ", " > bool "]).unwrap_or(&" + "),
            );
            scalar(random, depth - 1, out);
            out.push(')');
        }
    }
}

fn selector(random: &mut Random, out: &mut String) {
    match random.below(8) {
        0 => out.push_str("{__name__=~\"h|g|mixed\"}"),
        1 => {
            out.push_str(random.pick(&METRICS).unwrap_or(&"g"));
            out.push_str(
                random
                    .pick(&["{x=\"0\"}", "{x=~\"0|1\"}", "{x!=\"1\"}", "{job=\"job-1\"}"])
                    .unwrap_or(&""),
            );
        }
        _ => out.push_str(random.pick(&METRICS).unwrap_or(&"g")),
    }
}

fn shifted(random: &mut Random, out: &mut String) {
    let shifts = [
        " offset 1m",
        " offset -7m",
        " @ 600",
        " @ start()",
        " @ end() offset 30s",
        " offset step()",
    ];
    if random.once_in(6) {
        out.push_str(random.pick(&shifts).unwrap_or(&""));
    }
}

fn matrix(random: &mut Random, depth: usize, out: &mut String) {
    let ranges = ["5m", "1m", "30s", "1ms", "20m", "step() + 1m", "1h", "5m1ms", "100d"];
    if depth > 0 && random.once_in(3) {
        out.push('(');
        vector(random, depth - 1, out);
        let steps = [":1m", ":", ":30s", ":7s"];
        let range = random.pick(&ranges[..7]).unwrap_or(&"5m");
        let step = random.pick(&steps).unwrap_or(&":");
        out.extend([")[", range, step, "]"]);
    } else {
        selector(random, out);
        let range = random.pick(&ranges).unwrap_or(&"5m");
        out.extend(["[", range, "]"]);
        if random.once_in(8) {
            out.push_str(random.pick(&[" anchored", " smoothed"]).unwrap_or(&""));
        }
    }
    shifted(random, out);
}

fn vector(random: &mut Random, depth: usize, out: &mut String) {
    if depth == 0 {
        selector(random, out);
        if random.once_in(12) {
            out.push_str(" smoothed");
        }
        return shifted(random, out);
    }
    match random.below(10) {
        0..=3 => call(random, depth - 1, out),
        4..=5 => aggregation(random, depth - 1, out),
        6..=8 => binary(random, depth - 1, out),
        _ => {
            out.push_str(if random.once_in(2) { "-" } else { "+" });
            vector(random, depth - 1, out);
        }
    }
}

fn call(random: &mut Random, depth: usize, out: &mut String) {
    let vectors: Vec<Function> = Function::ALL
        .iter()
        .copied()
        .filter(|function| function.signature().returns == ValueType::Vector)
        .collect();
    let Some(function) = random.pick(&vectors) else { return };
    let signature = function.signature();
    out.push_str(signature.name);
    out.push('(');
    let dropped = if random.once_in(2) { signature.optional } else { 0 };
    let count = signature.args.len() - dropped;
    for (index, kind) in signature.args.iter().take(count).enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        if *function == Function::Info && index == 1 {
            out.push_str("{x=~\".*\"}");
        } else {
            grow(random, *kind, depth, out);
        }
    }
    out.push(')');
}

fn aggregation(random: &mut Random, depth: usize, out: &mut String) {
    let Some(op) = random.pick(&AggregateOp::ALL) else { return };
    out.push_str(op.as_str());
    let groupings =
        ["", " by (x)", " by (x, job)", " without (instance)", " by (le)", " without ()"];
    out.push_str(random.pick(&groupings).unwrap_or(&""));
    out.push('(');
    if let Some(kind) = op.param_type() {
        grow(random, kind, depth, out);
        out.push_str(", ");
    }
    vector(random, depth, out);
    out.push(')');
}

fn binary(random: &mut Random, depth: usize, out: &mut String) {
    let operator = random.pick(OPERATORS).unwrap_or(&"+");
    let side = |random: &mut Random, out: &mut String, scalars: bool| {
        if scalars && random.once_in(4) {
            scalar(random, depth, out);
        } else {
            vector(random, depth, out);
        }
    };
    let set = matches!(*operator, "and" | "or" | "unless");
    out.push('(');
    side(random, out, !set);
    out.extend([" ", operator, " "]);
    if random.once_in(2) {
        out.push_str(
            random
                .pick(&["on (x) ", "ignoring (x) ", "on (x, job, instance) ", "on () "])
                .unwrap_or(&""),
        );
        if !set && random.once_in(2) {
            let groups = [
                "group_left ",
                "group_right (job) ",
                "group_left (y) ",
                "fill (0) ",
                "fill_left (1) ",
            ];
            out.push_str(random.pick(&groups).unwrap_or(&""));
        }
        vector(random, depth, out);
    } else {
        side(random, out, !set);
    }
    out.push(')');
}
