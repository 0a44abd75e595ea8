//! The byte budgets that the bodies of one host draw on: the run's, and the host's own.

use std::sync::Arc;

use tokio::time::Instant;

use crate::limits::{Bandwidth, Rate};

/// None, one or two byte budgets.
#[derive(Debug, Clone)]
pub(crate) struct BandwidthStack(Arc<[Arc<Bandwidth>]>);

impl BandwidthStack {
    pub(crate) fn new(run: Option<Arc<Bandwidth>>, own: Option<Rate>) -> Self {
        BandwidthStack(run.into_iter().chain(own.map(|rate| Arc::new(Bandwidth::new(rate)))).collect())
    }

    /// Draws `bytes` from all of them. When they may pass, if that is not now.
    pub(crate) fn draw(&self, bytes: u64) -> Option<Instant> {
        let now = Instant::now();
        self.0.iter().map(|budget| budget.draw(bytes, now)).max().filter(|at| *at > now)
    }

    /// Waits until `bytes` may pass.
    pub(crate) async fn take(&self, bytes: u64) {
        if let Some(at) = self.draw(bytes) {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_narrower_of_both_decides_and_hosts_share_the_runs() {
        let run = Arc::new(Bandwidth::new("1MB/s".parse().unwrap()));
        let wide = BandwidthStack::new(Some(Arc::clone(&run)), Some("10MB/s".parse().unwrap()));
        let narrow = BandwidthStack::new(Some(run), Some("500kB/s".parse().unwrap()));
        let began = Instant::now();
        // 100 ms of each run ahead of its rate.
        wide.take(1_100_000).await;
        assert_eq!(began.elapsed().as_millis(), 1000);
        narrow.take(550_000).await;
        assert_eq!(began.elapsed().as_millis(), 2000);
        assert_eq!(BandwidthStack::new(None, None).draw(u64::MAX), None);
    }
}
