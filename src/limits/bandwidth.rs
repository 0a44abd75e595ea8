//! Bytes per second, shared by all bodies: `--bandwidth 20MB/s`, and `bandwidth` of one registry.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tokio::time::Instant;

use crate::mutex::Mutex;

/// Bytes per second, as people write them: `20MB/s` (10^6), `20MiB/s` (2^20).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(u64);

impl Rate {
    /// Bytes per second, at least 1.
    pub fn per_second(self) -> u64 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a bandwidth: write it like 20MB/s or 512KiB/s");
        let size = text.trim().strip_suffix("/s").ok_or_else(wrong)?.trim_end();
        match size.parse::<bytesize::ByteSize>() {
            Ok(bytesize::ByteSize(0)) => Err(format!("`{text}` is no bandwidth at all: leave the setting out for no limit")),
            Ok(bytesize::ByteSize(bytes)) => Ok(Rate(bytes)),
            Err(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", bytesize::ByteSize(self.0).display().si())
    }
}

/// How much may run ahead of the rate: enough for a few network reads to pass without a timer each, too little to be
/// seen on a meter.
const AHEAD: Duration = Duration::from_millis(100);

/// The byte budget that all bodies draw on.
#[derive(Debug)]
pub struct Bandwidth {
    rate: u64,
    next: Mutex<Option<Instant>>,
}

impl Bandwidth {
    /// At most `rate`, all users of it together.
    pub fn new(rate: Rate) -> Self {
        Bandwidth { rate: rate.0, next: Mutex::new(None) }
    }

    /// Draws `bytes` and says when they may pass: at `now`, or later.
    pub fn draw(&self, bytes: u64, now: Instant) -> Instant {
        // Cannot overflow: 2^64 bytes at 1 B/s are cut to 2^64 ns, some 584 years.
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut next = self.next.lock();
        let paid = next.unwrap_or(now).max(now).checked_add(cost).unwrap_or(now);
        *next = Some(paid);
        paid.checked_sub(AHEAD).map_or(now, |at| at.max(now))
    }

    /// Waits until `bytes` may pass. Call it with what one read returned; the wait is then short, and others get their share.
    pub async fn take(&self, bytes: u64) {
        let at = self.draw(bytes, Instant::now());
        tokio::time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn rates_as_people_write_them() {
        for (text, bytes) in [
            ("20MB/s", 20_000_000),
            ("20 MB/s", 20_000_000),
            ("20MiB/s", 20 << 20),
            ("1GB/s", 1_000_000_000),
            ("1GiB/s", 1 << 30),
            ("1.5MB/s", 1_500_000),
            ("500kB/s", 500_000),
            ("1000/s", 1000),
        ] {
            assert_eq!(text.parse::<Rate>().map(Rate::per_second), Ok(bytes), "{text}");
        }
        for text in ["20MB", "0MB/s", "-1MB/s", "MB/s", "/s", "", "20MBit/s", "fast"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_bodies_share_one_rate() {
        let pipe = Arc::new(Bandwidth::new("1MB/s".parse().unwrap()));
        let start = Instant::now();
        let bodies: Vec<_> = (0..8)
            .map(|_| {
                let pipe = Arc::clone(&pipe);
                tokio::spawn(async move {
                    for _ in 0..100 {
                        pipe.take(16_384).await;
                    }
                })
            })
            .collect();
        for body in bodies {
            body.await.unwrap();
        }
        let (bytes, seconds) = (8.0 * 100.0 * 16_384.0, start.elapsed().as_secs_f64());
        assert!(bytes <= 1e6 * (seconds + 0.101), "{bytes} bytes in {seconds} s");
        assert!(bytes >= 1e6 * seconds, "the pipe was not filled: {bytes} bytes in {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn time_not_used_is_not_saved_up() {
        let pipe = Bandwidth::new("1MB/s".parse().unwrap());
        tokio::time::advance(Duration::from_secs(3600)).await;
        let start = Instant::now();
        pipe.take(2_000_000).await;
        assert_eq!(start.elapsed(), Duration::from_millis(1900));
    }
}
