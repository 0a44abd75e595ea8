//! How limits are written: durations, counts and rates of requests.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo};
use toml::Value;

use crate::limits::Rate;

/// Docker Hub's window (docs/registries.md, "Docker Hub"): what `pulls.window` is where only the limit is given.
pub(super) const USUAL_WINDOW: Duration = Duration::from_secs(6 * 60 * 60);

/// Nobody waits for more than a year; longer times are slips of the pen, and would overflow clocks.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// A time that passes: `30s`, `5m`, `1h30m`, `7d`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write it like 30s, 5m, 6h or 7d");
    let span: Span = text.parse().map_err(|_| wrong())?;
    let length = span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong())?;
    match Duration::try_from(length) {
        Ok(Duration::ZERO) | Err(_) => Err(format!("`{text}` is no time at all: it must be longer than 0")),
        Ok(length) if length > LONGEST => Err(format!("`{text}` is longer than a year")),
        Ok(length) => Ok(length),
    }
}

/// A duration as [`duration`] reads it.
pub(super) fn in_words(length: Duration) -> String {
    SignedDuration::try_from(length).map_or_else(|_| format!("{}s", length.as_secs()), |length| format!("{length:#}"))
}

/// A bandwidth, exactly, in the largest unit that it is a multiple of.
pub(super) fn bandwidth_in_words(rate: Rate) -> String {
    const UNITS: [(u64, &str); 6] =
        [(1_000_000_000, "GB"), (1 << 30, "GiB"), (1_000_000, "MB"), (1 << 20, "MiB"), (1_000, "kB"), (1 << 10, "KiB")];
    let bytes = rate.per_second();
    let (unit, name) = UNITS.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit)).unwrap_or((1, "B"));
    format!("{}{name}/s", bytes / unit)
}

/// A bandwidth: `20MB/s`. Later versions take a list of them.
pub(super) fn bandwidth(value: &Value) -> Result<Rate, String> {
    match value {
        Value::String(text) => text.parse(),
        Value::Array(_) => Err("rates by the time of day are not in this version: write one, \"20MB/s\"".to_owned()),
        _ => Err("must be a text: \"20MB/s\"".to_owned()),
    }
}

/// The slowest that a transfer may be: `1KiB/s`.
pub(super) fn min_rate(text: &str) -> Result<Rate, String> {
    text.parse().map_err(|_| format!("`{text}` is not a rate: write it like 1KiB/s; 1B/s is the smallest"))
}

/// A number of pulls, at least `least`.
pub(super) fn count(number: i64, least: u64) -> Result<u64, String> {
    u64::try_from(number).ok().filter(|number| *number >= least).ok_or_else(|| format!("must be {least} or more"))
}

/// Requests a second: `10`, `0.5`. The slowest is one a day, which is what [`crate::limits::RequestPacer`] takes.
pub(super) fn rate(value: &Value) -> Result<f64, String> {
    let rate = match value {
        Value::Float(rate) => Some(*rate),
        // So many requests a second are exact in a float.
        Value::Integer(rate) => u32::try_from(*rate).ok().map(f64::from),
        _ => None,
    };
    rate.filter(|rate| crate::limits::RequestPacer::new(*rate, 1).is_some())
        .ok_or_else(|| "must be a number greater than 0: 10, or 0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_as_people_write_them() {
        for (text, seconds) in [
            ("30s", 30),
            ("5m", 300),
            ("6h", 21_600),
            ("1h30m", 5400),
            ("1h 30m", 5400),
            ("7d", 604_800),
            ("2w", 1_209_600),
            ("90 minutes", 5400),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "5", "m", "0s", "-5m", "5m ago", "5 apples", "1mo", "1y", "400d", "99999999999999999999s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_numbers_greater_than_zero() {
        for (value, expected) in
            [(Value::from(10), Some(10.0)), (Value::from(0.5), Some(0.5)), (Value::from(0), None), (Value::from(-1.0), None)]
        {
            assert_eq!(rate(&value).ok(), expected, "{value}");
        }
        assert!(rate(&Value::from(f64::NAN)).is_err() && rate(&Value::from("10")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read(seconds in 1u64..=LONGEST.as_secs()) {
            let length = Duration::from_secs(seconds);
            prop_assert_eq!(duration(&in_words(length)), Ok(length));
        }
        #[test]
        fn bandwidths_are_shown_exactly(bytes in 1u64..1 << 50) {
            let rate: Rate = format!("{bytes}B/s").parse().unwrap();
            prop_assert_eq!(bandwidth_in_words(rate).parse(), Ok(rate));
        }
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,30}") {
            let _ = duration(&text);
        }
    }
}
