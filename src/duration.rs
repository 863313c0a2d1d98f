//! Go's duration strings ("30s", "1m30s", "1.5h"): the notation of Dapr's component metadata.
//!
//! Kept here because no maintained crate reads exactly Go's grammar: `humantime` takes "1min" and refuses
//! "1.5s", and a property that works in Dapr must work here.

use alloc::format;
use alloc::string::String;
use core::time::Duration;

use crate::json::quoted;

/// Parses what Go's `time.ParseDuration` accepts, except negative values, which no property here can mean.
///
/// A duration is a sequence of decimal numbers, each with a unit: `ns`, `us` (`µs`, `μs`), `ms`, `s`, `m`,
/// `h`. The error says what was expected and is meant to follow the name of the property.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{} is not a duration; write for example \"30s\", \"500ms\" or \"1m30s\"", quoted(text));
    let body = text.strip_prefix('+').unwrap_or(text);
    if body == "0" {
        return Ok(Duration::ZERO);
    }
    if body.is_empty() {
        return Err(wrong());
    }
    let mut rest = body;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_nanos: u64 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(wrong()),
        };
        let nanos = nanos(number, unit_nanos).ok_or_else(wrong)?;
        total = total.checked_add(nanos).ok_or_else(wrong)?;
        rest = next;
    }
    Ok(Duration::from_nanos(total))
}

/// `number` (decimal digits with at most one point, at least one digit) times `unit`, cut below a nanosecond.
fn nanos(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut part: u64 = 0;
    // From the last digit on, so that "0.3" is exact and no number is larger than ten units.
    for digit in fraction.bytes().rev() {
        part = u64::from(digit.checked_sub(b'0')?).checked_mul(unit)?.checked_add(part)? / 10;
    }
    whole.checked_mul(unit)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn gos_notation() {
        for (text, nanos) in [
            ("0", 0),
            ("0s", 0),
            ("5s", 5_000_000_000),
            ("+5s", 5_000_000_000),
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("0.3s", 300_000_000),
            ("100ms", 100_000_000),
            ("2us3ns", 2_003),
            ("1µs", 1_000),
            ("0.1000000000000000000001s", 100_000_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "5", "-5s", ".s", "s", "5 s", "1.2.3s", "5min", "5S", "9999999999h", "5s ", "+", "1e3s"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*") { let _ = parse(&text); }

        #[test]
        fn milliseconds_come_back(ms in 0u64..1 << 40) {
            prop_assert_eq!(parse(&format!("{ms}ms")), Ok(Duration::from_millis(ms)));
        }
    }
}
