//! The minimum rate of a blob download: a slower connection is closed, and the blob is continued over another.

use std::time::Duration;

/// The speed is measured over this time: the idle timeout of common proxies (nginx, AWS load balancers), within which every
/// healthy connection brings something.
const SPAN: Duration = Duration::from_secs(60);

/// The slowest that a blob may come, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MinRate(u64);

impl Default for MinRate {
    /// 1 KiB/s, a tenth of what a bad mobile connection brings: a layer of 100 MB would take more than a day.
    fn default() -> Self {
        MinRate(1024)
    }
}

impl MinRate {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        MinRate(bytes_per_second)
    }
}

/// How fast one body comes, counting only the time in which it is waited for.
#[derive(Debug)]
pub(super) struct RateMeter {
    min_rate: MinRate,
    waited: Duration,
    bytes: u64,
}

impl RateMeter {
    pub(super) fn new(min_rate: MinRate) -> Self {
        RateMeter { min_rate, waited: Duration::ZERO, bytes: 0 }
    }

    /// `bytes` came, and were waited for for so long.
    ///
    /// # Errors
    /// The body was too slow over a whole span; how slow, in words.
    pub(super) fn came(&mut self, bytes: u64, waited: Duration) -> Result<(), String> {
        self.waited += waited;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.waited < SPAN {
            return Ok(());
        }
        // A rate beyond 2^64 bytes a minute is as good as the largest number.
        let enough = self.min_rate.0.saturating_mul(self.waited.as_secs());
        let (seen, waited) = (self.bytes, self.waited);
        (self.bytes, self.waited) = (0, Duration::ZERO);
        if seen >= enough {
            return Ok(());
        }
        let rate = bytesize::ByteSize(self.min_rate.0);
        Err(format!("only {seen} bytes came in {} s, which is slower than min_rate ({rate}/s)", waited.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_body_at_its_floor_is_never_broken_off_and_one_at_half_of_it_is(rate in 2u64..1 << 40, step in 1u64..30) {
            let run = |rate: u64| {
                let mut meter = RateMeter::new(MinRate::new(rate));
                (0..200).try_for_each(|_| meter.came(rate * step, Duration::from_secs(step)))
            };
            prop_assert!(run(rate).is_ok());
            let mut meter = RateMeter::new(MinRate::new(rate));
            prop_assert!((0..200).any(|_| meter.came(rate * step / 2 - 1, Duration::from_secs(step)).is_err()));
        }
    }

    #[test]
    fn a_reader_that_never_waits_is_never_too_slow() {
        let mut meter = RateMeter::new(MinRate::default());
        assert!((0..10_000).all(|_| meter.came(1, Duration::ZERO).is_ok()));
    }
}
