//! Numbers as Go writes and reads them, which is how Prometheus writes and reads them.

/// Shortest decimal form without exponent, as Go's `strconv.FormatFloat(v, 'f', -1, 64)`; `NaN`, `+Inf`, `-Inf`.
pub fn format_plain(value: f64) -> String {
    special(value).map_or_else(|| value.to_string(), str::to_owned)
}

/// Shortest form with a two-digit exponent, as Go's `'e'`: `1e+00`, `1.5e-07`.
pub fn format_exponent(value: f64) -> String {
    if let Some(text) = special(value) {
        return text.to_owned();
    }
    let text = format!("{value:e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// The form of sample values in Prometheus' JSON: plain, but with an exponent below 1e-6 and from 1e21 on
/// (`util/jsonutil/marshal.go`).
pub fn format_json(value: f64) -> String {
    let mut text = Vec::new();
    append_json(&mut text, value);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends what [`format_json`] gives.
pub fn append_json(out: &mut Vec<u8>, value: f64) {
    #[expect(clippy::cast_possible_truncation, reason = "compared with what it was")]
    let whole = value as i64;
    let is_whole = whole as f64 == value && (whole != 0 || value.is_sign_positive());
    let magnitude = value.abs();
    if is_whole && magnitude < 1e15 {
        append_integer(out, whole);
    } else if (1e-4..1e15).contains(&magnitude) {
        // Neither needs an exponent there.
        out.extend_from_slice(zmij::Buffer::new().format_finite(value).as_bytes());
    } else {
        out.extend_from_slice(json(value).as_bytes());
    }
}

/// Appends a whole number.
pub fn append_integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn json(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-6..1e21).contains(&magnitude) && magnitude.is_finite() {
        format_exponent(value)
    } else {
        format_plain(value)
    }
}

/// The shortest form, with an exponent below 1e-4 and from 1e6 on, as Go's `%g` and `%v`.
pub fn format_general(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && magnitude.is_finite() && !(1e-4..1e6).contains(&magnitude) {
        format_exponent(value)
    } else {
        format_plain(value)
    }
}

fn special(value: f64) -> Option<&'static str> {
    if value.is_nan() {
        Some("NaN")
    } else if value == f64::INFINITY {
        Some("+Inf")
    } else if value == f64::NEG_INFINITY {
        Some("-Inf")
    } else {
        None
    }
}

/// Reads a float as Go's `strconv.ParseFloat` does: decimal, hexadecimal (`0x1p-2`), `inf`, `infinity`, `nan` in any
/// case with a sign, and underscores only when Go's literal rules (base prefix) allow them. Out of range is ±Inf.
pub fn parse_float(text: &str) -> Option<f64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let sign = |v: f64| if negative { -v } else { v };
    let lower = body.to_ascii_lowercase();
    match lower.as_str() {
        "inf" | "infinity" => return Some(sign(f64::INFINITY)),
        "nan" => return Some(f64::NAN),
        _ => {}
    }
    if let Some(hex) = lower.strip_prefix("0x") {
        return parse_hex(hex).map(sign);
    }
    let plausible =
        body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let signed = body.starts_with(['+', '-']);
    if !plausible || signed || !body.bytes().any(|b| b.is_ascii_digit()) {
        return None;
    }
    body.parse().ok().map(sign)
}

/// Hexadecimal mantissa with a binary exponent; without an exponent the digits must be an integer.
fn parse_hex(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once('p') {
        Some((m, e)) => (m, e.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0_f64;
    for c in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + f64::from(c.to_digit(16)?);
    }
    let scale = exponent.checked_sub(i32::try_from(fraction.len()).ok()?.checked_mul(4)?)?;
    Some(value * 2.0_f64.powi(scale))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_quick_ways_write_the_same(bits in any::<u64>(), small in any::<i32>(), power in 0..9_i32) {
            let decimal = f64::from(small) / 10f64.powi(power);
            for value in [f64::from_bits(bits), f64::from(small), decimal, decimal * 1e6, decimal / 1e3] {
                prop_assert_eq!(format_json(value), json(value));
            }
        }
    }

    #[test]
    fn formats_as_go() {
        for (value, plain, exponent, json) in [
            (1.0, "1", "1e+00", "1"),
            (-0.0, "-0", "-0e+00", "-0"),
            (1e-7, "0.0000001", "1e-07", "1e-07"),
            (1e21, "1000000000000000000000", "1e+21", "1e+21"),
            (123_456.5, "123456.5", "1.234565e+05", "123456.5"),
            (1e100, &format!("1{}", "0".repeat(100)), "1e+100", "1e+100"),
            (f64::INFINITY, "+Inf", "+Inf", "+Inf"),
            (f64::NEG_INFINITY, "-Inf", "-Inf", "-Inf"),
            (f64::NAN, "NaN", "NaN", "NaN"),
        ] {
            assert_eq!(format_plain(value), plain);
            assert_eq!(format_exponent(value), exponent);
            assert_eq!(format_json(value), json);
        }
    }

    #[test]
    fn parses_as_go() {
        for (text, value) in [
            ("1", 1.0),
            ("+1.5e3", 1500.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-Inf", f64::NEG_INFINITY),
            ("0x1F", 31.0),
            ("-0x1p-2", -0.25),
            ("1e999", f64::INFINITY),
        ] {
            assert_eq!(parse_float(text), Some(value), "{text}");
        }
        assert!(parse_float("nan").unwrap().is_nan());
        for bad in ["", "-", "1_0", "e5", "0x", "1 ", "0xg", "+-1", "1e", "--1", "."] {
            assert_eq!(parse_float(bad), None, "{bad}");
        }
    }
}
