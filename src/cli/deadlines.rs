//! `--until` and `--max-wait`: how long a run may wait for pull windows.

use std::time::Duration;

use jiff::civil::Time;
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};
use tokio::time::Instant;

use super::exit::UsageError;
use crate::{Error, Operation};

/// The deadlines of a run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deadlines {
    /// Pulls may be waited for until then. `None`: do not wait.
    pub(super) wait: Option<Instant>,
    /// No image starts after this.
    pub(super) start: Option<Instant>,
}

impl Deadlines {
    /// Reads the values of the two options, of which at most one is given.
    pub(super) fn parse(until: Option<&str>, max_wait: Option<&str>) -> Result<Self, UsageError> {
        let refuse =
            |option: &'static str, why: String| UsageError::usage(Error::local(Operation::ReadOptions, format!("{option}: {why}")));
        if let Some(text) = until {
            let end = instant(text, &Zoned::now()).map_err(|why| refuse("--until", why))?;
            let end = Instant::now() + Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
            return Ok(Deadlines { wait: Some(end), start: Some(end) });
        }
        if let Some(text) = max_wait {
            let wait = duration(text).map_err(|why| refuse("--max-wait", why))?;
            return Ok(Deadlines { wait: Some(Instant::now() + wait), start: None });
        }
        Ok(Deadlines::default())
    }
}

/// A local time of day (its next occurrence after `now`), or an instant as RFC 3339 writes it.
fn instant(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let wrong = || format!("`{text}` is neither a time of day (06:00) nor RFC 3339 (2026-01-31T06:00:00Z)");
    if let Ok(at) = text.parse::<Timestamp>() {
        return if at > now.timestamp() { Ok(at) } else { Err(format!("`{text}` is in the past")) };
    }
    let time: Time = text.parse().map_err(|_| wrong())?;
    let today = now.with().time(time).build().map_err(|_| wrong())?;
    let next =
        if today > *now { today } else { now.checked_add(1.day()).and_then(|day| day.with().time(time).build()).map_err(|_| wrong())? };
    Ok(next.timestamp())
}

/// `2h`, `90m`, `1h 30m`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration (2h, 90m)");
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    Duration::try_from(duration).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_day_is_its_next_occurrence() {
        let zone = jiff::tz::TimeZone::fixed(jiff::tz::offset(1));
        let now = jiff::civil::date(2026, 3, 28).at(22, 10, 0, 0).to_zoned(zone).unwrap();
        let next = |text: &str| instant(text, &now).unwrap().to_zoned(now.time_zone().clone()).datetime().to_string();
        assert_eq!(next("23:00"), "2026-03-28T23:00:00");
        assert_eq!(next("06:00"), "2026-03-29T06:00:00");
        assert_eq!(next("22:10"), "2026-03-29T22:10:00");
        assert_eq!(instant("2026-03-29T00:00:00Z", &now).unwrap().to_string(), "2026-03-29T00:00:00Z");
        assert!(instant("2020-01-01T00:00:00Z", &now).unwrap_err().contains("past"));
        for wrong in ["", "25:00", "six", "06:00:00:00"] {
            assert!(instant(wrong, &now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("2h").unwrap(), Duration::from_secs(7200));
        assert_eq!(duration("1h 30m").unwrap(), Duration::from_secs(5400));
        assert!(duration("-2h").is_err() && duration("2").is_err() && duration("soon").is_err());
    }
}
