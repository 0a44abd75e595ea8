//! Times and spans, as people read them.

use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};

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

/// A time within the next days: `Tue 06:00`, local on a terminal, `Tue 06:00Z` elsewhere.
pub(super) fn soon(at: Timestamp, terminal: bool) -> String {
    // Rounded up: whoever comes at that minute does not come too early.
    let whole = at.as_second() + i64::from(at.subsec_nanosecond() > 0);
    let minute = Timestamp::from_second(whole.div_euclid(60) * 60 + if whole.rem_euclid(60) > 0 { 60 } else { 0 }).unwrap_or(at);
    zoned(minute, terminal).strftime(if terminal { "%a %H:%M" } else { "%a %H:%MZ" }).to_string()
}

fn zoned(at: Timestamp, terminal: bool) -> Zoned {
    at.to_zoned(if terminal { TimeZone::system() } else { TimeZone::UTC })
}

/// A span in hours, or in minutes below an hour, or in seconds below a minute.
pub(super) fn span(seconds: f64) -> String {
    if seconds >= 3600.0 {
        let hours = format!("{:.1}", seconds / 3600.0);
        return format!("{} h", hours.strip_suffix(".0").unwrap_or(&hours));
    }
    match seconds.round() {
        seconds if seconds >= 60.0 => format!("{:.0} min", (seconds / 60.0).round()),
        seconds => format!("{seconds:.0} s"),
    }
}

/// Until then: `3:12:44`.
pub(super) fn countdown(until: Timestamp, now: Timestamp) -> String {
    let seconds = until.duration_since(now).as_secs().max(0);
    format!("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// `1 image`, `2 images`.
pub(super) fn images(n: u64) -> String {
    if n == 1 { "1 image".to_owned() } else { format!("{n} images") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_times_are_short() {
        for (seconds, text) in
            [(3600.0, "1 h"), (21_600.0, "6 h"), (48_600.0, "13.5 h"), (1800.0, "30 min"), (3599.0, "60 min"), (10.0, "10 s")]
        {
            assert_eq!(span(seconds), text);
        }
        let at: Timestamp = "2026-01-06T05:59:59.5Z".parse().unwrap();
        assert_eq!((soon(at, false).as_str(), moment(at, false).as_str()), ("Tue 06:00Z", "2026-01-06T06:00:00Z"));
        assert_eq!(countdown("2026-01-06T09:12:44Z".parse().unwrap(), "2026-01-06T06:00:00Z".parse().unwrap()), "3:12:44");
        assert_eq!((images(1), images(0)), ("1 image".to_owned(), "0 images".to_owned()));
    }
}
