//! Wording that several commands share: failures, counts, sizes, times and durations.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

use crate::Error;
use crate::error::printable;
use crate::report::ImageOutcome;

/// A failed row in one line, `file:line` first. A message about the line itself begins with that already.
pub(super) fn failure(outcome: &ImageOutcome, error: &Error) -> String {
    let origin = printable(&outcome.origin());
    let message = error.message();
    if message.starts_with(&origin) { message } else { format!("{origin}: {error}") }
}

/// A list line that selects no tag, where that is no failure.
pub(super) fn empty_selection(source: &str, explanation: &str) -> String {
    format!("{:<8} {}: no tag is selected, which min_tags = 0 allows: {explanation}", "note", printable(source))
}

/// A size in powers of ten, as registries and disks count.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize(bytes).display().si().to_string()
}

/// `1 image`, `2 images`.
pub(super) fn count<N: Copy + std::fmt::Display + PartialEq + From<u8>>(n: N, noun: &str) -> String {
    let plural = if n == N::from(1) { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

/// A time to the second: local on a terminal, RFC 3339 in UTC elsewhere.
pub(super) fn moment(at: Timestamp, terminal: bool) -> String {
    if terminal {
        zoned(at, terminal).strftime("%a %Y-%m-%d %H:%M:%S").to_string()
    } else {
        at.round(jiff::Unit::Second).unwrap_or(at).to_string()
    }
}

/// [`moment`] of a time in text, as reports have it.
pub(super) fn moment_of(text: &str, terminal: bool) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |at| moment(at, terminal))
}

/// A time within the next days: `Tue 06:00` (local) on a terminal, `Tue 06:00Z` elsewhere.
pub(super) fn soon(at: Timestamp, terminal: bool) -> String {
    // Rounded up, so that a run started at that minute is not too early.
    let whole = at.as_second() + i64::from(at.subsec_nanosecond() > 0);
    let minute = Timestamp::from_second(whole.div_euclid(60) * 60 + if whole.rem_euclid(60) > 0 { 60 } else { 0 }).unwrap_or(at);
    zoned(minute, terminal).strftime(if terminal { "%a %H:%M" } else { "%a %H:%MZ" }).to_string()
}

fn zoned(at: Timestamp, terminal: bool) -> Zoned {
    at.to_zoned(if terminal { TimeZone::system() } else { TimeZone::UTC })
}

/// A duration in hours, in minutes below an hour, in seconds below a minute.
pub(super) fn duration(seconds: f64) -> String {
    if seconds >= 3600.0 {
        let hours = format!("{:.1}", seconds / 3600.0);
        return format!("{} h", hours.strip_suffix(".0").unwrap_or(&hours));
    }
    match seconds.round() {
        seconds if seconds >= 60.0 => format!("{:.0} min", (seconds / 60.0).round()),
        seconds => format!("{seconds:.0} s"),
    }
}

/// The time until then, in hours, minutes and seconds: `3:12:44`.
pub(super) fn countdown(until: Timestamp, now: Timestamp) -> String {
    let seconds = until.duration_since(now).as_secs().max(0);
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_times_are_short() {
        for (seconds, text) in
            [(3600.0, "1 h"), (21_600.0, "6 h"), (48_600.0, "13.5 h"), (1800.0, "30 min"), (3599.0, "60 min"), (10.0, "10 s")]
        {
            assert_eq!(duration(seconds), text);
        }
        let at: Timestamp = "2026-01-06T05:59:59.5Z".parse().unwrap();
        assert_eq!((soon(at, false).as_str(), moment(at, false).as_str()), ("Tue 06:00Z", "2026-01-06T06:00:00Z"));
        assert_eq!(countdown("2026-01-06T09:12:44Z".parse().unwrap(), "2026-01-06T06:00:00Z".parse().unwrap()), "3:12:44");
        assert_eq!((count(1_u64, "image"), count(0_u64, "image")), ("1 image".to_owned(), "0 images".to_owned()));
    }
}
