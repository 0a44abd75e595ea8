//! What a registry says about its limits: headers, and the bodies of refusals. Pure text in, values out; no input panics.

use std::time::Duration;

use jiff::Timestamp;

/// No limit is longer. Larger values would only overflow clocks, and are cut to this.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// What one answer said about the pull budget (docs/registries.md, "Docker Hub").
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Quota {
    /// `ratelimit-limit: 100;w=21600`: pulls per window. `None`: the header is missing or has no number.
    pub limit: Option<u64>,
    /// `ratelimit-remaining: 20;w=21600`: pulls left in this window, for larder and all others.
    pub remaining: Option<u64>,
    /// `w=` of either header.
    pub window: Option<Duration>,
    /// `docker-ratelimit-source`: who is counted, an address or an account's UUID.
    pub source: Option<String>,
    present: bool,
}

impl Quota {
    /// Reads the headers through `get` (a lower-case name to its value).
    pub fn read<'a>(get: impl Fn(&'static str) -> Option<&'a str>) -> Self {
        let (limit, remaining) = (get("ratelimit-limit"), get("ratelimit-remaining"));
        let present = limit.is_some() || remaining.is_some();
        let (limit, limit_window) = limit.map_or((None, None), counted);
        let (remaining, remaining_window) = remaining.map_or((None, None), counted);
        // It becomes part of a file and of reports: bounded, and printable.
        let source = get("docker-ratelimit-source").map(str::trim).filter(|source| !source.is_empty() && source.len() <= 256);
        Quota {
            limit,
            remaining,
            window: limit_window.or(remaining_window),
            source: source.map(|source| crate::error::printable(source).replace('|', "_")),
            present,
        }
    }

    /// Neither header was there: whoever answered with 200 does not count this pull (docs/registries.md, "Docker Hub": paid accounts,
    /// and images of partners). An empty number (`;w=21600`) is *not* that, but an upstream's passing fault
    /// (docker/hub-feedback#2081).
    pub fn is_absent(&self) -> bool {
        !self.present
    }
}

/// `100;w=21600` → the number, and the window. Either may be missing.
fn counted(value: &str) -> (Option<u64>, Option<Duration>) {
    let mut parts = value.split(';').map(str::trim);
    let number = parts.next().and_then(|number| number.parse().ok());
    let window = parts
        .filter_map(|part| part.split_once('='))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case("w"))
        .and_then(|(_, seconds)| seconds.trim().trim_matches('"').parse().ok())
        .filter(|seconds| *seconds > 0)
        .map(|seconds| Duration::from_secs(seconds).min(LONGEST));
    (number, window)
}

/// `Retry-After` (RFC 9110 10.2.3): seconds, or a date, which has passed if it is not after `now`. A fraction is accepted,
/// because some registries send one.
pub fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // Digits that do not fit a u64 are a very long time, not a missing header.
        return Some(value.parse().map_or(LONGEST, Duration::from_secs).min(LONGEST));
    }
    if value.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Duration::try_from_secs_f64(value.parse().ok()?).ok().map(|wait| wait.min(LONGEST));
    }
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let Ok(date) = parser.parse_timestamp(value) else { return is_far_away(value, now).then_some(LONGEST) };
    Some(Duration::try_from(date.duration_since(now)).unwrap_or(Duration::ZERO).min(LONGEST))
}

/// Whether a date that cannot be read names a year to come: the last day of the year 9999 is beyond what the parser takes.
fn is_far_away(value: &str, now: Timestamp) -> bool {
    let this_year = now.to_zoned(jiff::tz::TimeZone::UTC).year();
    let years = value.split_ascii_whitespace().filter(|word| word.len() >= 4 && word.bytes().all(|byte| byte.is_ascii_digit()));
    value.contains(',') && years.map(|year| year.parse::<i64>().unwrap_or(i64::MAX)).any(|year| year > i64::from(this_year))
}

/// GHCR puts the delay into the message (docs/registries.md, "GitHub"): `retry-after: 10.305464ms, allowed: 2000/minute`.
pub fn retry_after_in_message(message: &str) -> Option<Duration> {
    const WORD: &str = "retry-after:";
    // ASCII lower-casing keeps byte offsets.
    let start = message.to_ascii_lowercase().find(WORD)? + WORD.len();
    let rest = message.get(start..)?.trim_start();
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | ')')).unwrap_or(rest.len());
    go_duration(rest.get(..end)?)
}

/// A duration as Go's `time.Duration` prints it: `10.305464ms`, `880.092µs`, `1h2m3.5s`, `0`. Negative ones are refused.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: u128 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        nanos = nanos.checked_add(scaled(number, unit_nanos(unit)?)?)?;
        rest = tail;
        parts += 1;
    }
    let most = LONGEST.as_nanos();
    (parts > 0).then(|| u64::try_from(nanos.min(most)).map_or(LONGEST, Duration::from_nanos))
}

/// Nanoseconds of one unit; both micro signs are in use (U+00B5, U+03BC).
fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60 * 1_000_000_000,
        "h" => 3_600 * 1_000_000_000,
        _ => return None,
    })
}

/// `12.5` of `unit`, in whole nanoseconds.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    // 15 digits below the point of an hour are less than a nanosecond.
    let fraction = fraction.get(..fraction.len().min(15))?;
    let below = digits(fraction)?.checked_mul(unit)? / 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    digits(whole)?.checked_mul(unit)?.checked_add(below)
}

/// What kind of 429 this was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Throttle {
    /// The pull window of the account is spent: nothing goes on before it opens again.
    PullLimit {
        /// Passed through a cache: the limit is the upstream's, met by this rule of the cache.
        cache_rule: Option<String>,
    },
    /// Too many requests at a time, of any kind: the host needs a pause.
    Abuse,
    /// Any other 429: requests per second or minute. The host is paused as well.
    Other,
}

/// Tells a spent pull window from an abuse limit, by the body of a 429 (docs/registries.md, "Azure: what a pull does", "Docker Hub").
pub fn classify(body: &str) -> Throttle {
    let lower = body.to_ascii_lowercase();
    if let Some(rule) = cache_rule(body, &lower) {
        return Throttle::PullLimit { cache_rule: Some(rule) };
    }
    // Docker Hub's words, old and new, anonymous and with a name: "your pull rate limit", "your unauthenticated pull rate limit".
    if lower.contains("pull rate limit") {
        return Throttle::PullLimit { cache_rule: None };
    }
    // The abuse limit is the bare phrase as plain text; JSON and HTML that hold it are somebody's per-second limits.
    if lower.trim_start().starts_with("too many requests") {
        return Throttle::Abuse;
    }
    Throttle::Other
}

/// `TOOMANYREQUESTS: too many requests to source registry for cache rule <name>` → the name.
fn cache_rule(body: &str, lower: &str) -> Option<String> {
    const WORDS: &str = "for cache rule ";
    if !lower.contains("toomanyrequests") && !lower.contains("too many requests") {
        return None;
    }
    let rest = body.get(lower.find(WORDS)? + WORDS.len()..)?;
    let rest = rest.trim_start_matches(['\'', '"', '`', '<', '\\', ' ']);
    let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').take(50).collect();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What an upstream that counts says.
    pub(in crate::limits) fn quota_of(limit: u64, remaining: u64, window: Duration) -> Quota {
        Quota { limit: Some(limit), remaining: Some(remaining), window: Some(window), source: Some("192.0.2.1".to_owned()), present: true }
    }

    fn quota(limit: Option<&'static str>, remaining: Option<&'static str>) -> Quota {
        Quota::read(|name| match name {
            "ratelimit-limit" => limit,
            "ratelimit-remaining" => remaining,
            "docker-ratelimit-source" => Some(" 192.0.2.1 "),
            _ => None,
        })
    }

    #[test]
    fn docker_hubs_headers_are_read() {
        let six_hours = Some(Duration::from_secs(21_600));
        for (limit, remaining, expected) in [
            (Some("100;w=21600"), Some("20;w=21600"), (Some(100), Some(20), six_hours, false)),
            (Some("100; w=21600"), Some("0"), (Some(100), Some(0), six_hours, false)),
            (Some("100"), Some("7;W=21600"), (Some(100), Some(7), six_hours, false)),
            // docker/hub-feedback#2081
            (Some(";w=21600"), Some(";w=21600"), (None, None, six_hours, false)),
            (Some("many;w=soon"), Some("-1;w=0"), (None, None, None, false)),
            (None, None, (None, None, None, true)),
        ] {
            let quota = quota(limit, remaining);
            assert_eq!((quota.limit, quota.remaining, quota.window, quota.is_absent()), expected, "{limit:?} {remaining:?}");
            assert_eq!(quota.source.as_deref(), Some("192.0.2.1"));
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("1.5", Some(1)),
            ("99999999999999999999999", Some(LONGEST.as_secs())),
            ("Sun, 01 Mar 2026 12:01:30 GMT", Some(90)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("Mon, 01 Mar 2026 12:01:30 GMT", Some(90)),
            ("Fri, 31 Dec 9999 23:59:59 GMT", Some(LONGEST.as_secs())),
            ("Fri, 31 Dec 99999 23:59:59 GMT", Some(LONGEST.as_secs())),
            ("Fri, 31 Foo 1999 23:59:59 GMT", None),
            ("", None),
            ("soon", None),
            ("-5", None),
            ("1.2.3", None),
        ] {
            assert_eq!(retry_after(value, now).map(|wait| wait.as_secs()), seconds, "{value:?}");
        }
    }

    #[test]
    fn go_durations() {
        for (text, nanos) in [
            ("10.305464ms", Some(10_305_464)),
            ("880.092µs", Some(880_092)),
            ("880.092μs", Some(880_092)),
            ("5us", Some(5_000)),
            ("7ns", Some(7)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            (".5s", Some(500_000_000)),
            ("0", Some(0)),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1.2.3s", None),
            ("-1s", None),
            ("1y", None),
            ("", None),
        ] {
            assert_eq!(go_duration(text).map(|d| d.as_nanos()), nanos, "{text:?}");
        }
        assert_eq!(go_duration("99999999999999h"), Some(LONGEST));
        assert_eq!(
            retry_after_in_message("TOOMANYREQUESTS: Retry-After: 10.305464ms, allowed: 2000/minute"),
            Some(Duration::from_nanos(10_305_464))
        );
        assert_eq!(retry_after_in_message("toomanyrequests: retry-after: 880.092µs"), Some(Duration::from_nanos(880_092)));
        assert_eq!(retry_after_in_message("toomanyrequests: Rate exceeded"), None);
    }

    #[test]
    fn a_spent_window_is_told_from_abuse() {
        let pull = Throttle::PullLimit { cache_rule: None };
        let cache = Throttle::PullLimit { cache_rule: Some("docker-hub".to_owned()) };
        for (body, expected) in [
            (
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}"#,
                &pull,
            ),
            (
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}"#,
                &pull,
            ),
            ("toomanyrequests: You have reached your pull rate limit as 'bob'", &pull),
            ("Too Many Requests (HAP429).\n", &Throttle::Abuse),
            ("Too Many Requests", &Throttle::Abuse),
            ("<html><title>429 Too Many Requests</title></html>", &Throttle::Other),
            (r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Rate exceeded"}]}"#, &Throttle::Other),
            ("TOOMANYREQUESTS: retry-after: 10.305464ms, allowed: 2000/minute", &Throttle::Other),
            (
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"too many requests to source registry for cache rule docker-hub"}]}"#,
                &cache,
            ),
            (
                r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Too many requests to source registry for cache rule 'docker-hub'."}]}"#,
                &cache,
            ),
            ("unauthorized: authentication required with source registry for cache rule docker-hub", &Throttle::Other),
            ("", &Throttle::Other),
        ] {
            assert_eq!(&classify(body), expected, "{body}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}", near in "[0-9.;w= nuµmsh:,-]{0,40}") {
            let now = Timestamp::UNIX_EPOCH;
            for text in [text.as_str(), near.as_str(), &format!("retry-after: {near}"), &format!("toomanyrequests for cache rule {text}")] {
                let _ = (counted(text), retry_after(text, now), go_duration(text), retry_after_in_message(text), classify(text));
            }
        }

        #[test]
        fn what_go_prints_is_read_back(nanos in 0u64..10_000_000_000_000) {
            let (h, rest) = (nanos / 3_600_000_000_000, nanos % 3_600_000_000_000);
            let (m, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
            let text = format!("{h}h{m}m{}.{:09}s", rest / 1_000_000_000, rest % 1_000_000_000);
            prop_assert_eq!(go_duration(&text), Some(Duration::from_nanos(nanos)));
        }
    }
}
