//! How many pulls a budget has room for.

/// Room for pulls at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetRoom {
    /// Pulls that may be reserved.
    pub left: u64,
    /// Pulls of a whole window that may be spent here.
    pub per_window: u64,
    /// No pull of this window was spent here, and at least half of them are left: a graph larger than a window may start.
    /// (Half, not all: where others spend too, a full window may never be seen.)
    pub fresh: bool,
}

impl BudgetRoom {
    /// No limit.
    pub const UNLIMITED: BudgetRoom = BudgetRoom { left: u64::MAX, per_window: u64::MAX, fresh: true };

    /// How many of `pulls` may be granted now: all, a whole window's worth of a graph larger than that, or none.
    pub fn grant(self, pulls: u64) -> Option<u64> {
        if pulls <= self.left { Some(pulls) } else { (pulls > self.per_window && self.fresh && self.left > 0).then_some(self.left) }
    }
}
