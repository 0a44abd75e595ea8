//! A mutex without poison: after a panic the next thread gets the data as they are.
//!
//! A panic is caught where its piece of work ends (`internal::caught`) and reported as that image's failure; the run goes on with the
//! shared state. So no lock here guards an invariant that a panic could break half way, and every caller would ignore the poison.
//! `parking_lot` has the same type; it would add four crates for these lines.

use std::sync::PoisonError;

pub(crate) use std::sync::MutexGuard;

/// [`std::sync::Mutex`] without poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// A mutex that guards `value`.
    pub(crate) const fn new(value: T) -> Mutex<T> {
        Mutex(std::sync::Mutex::new(value))
    }

    /// Blocks until the lock is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        #[cfg(test)]
        if let Some(guard) = model::lock(&self.0) {
            return guard;
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guarded value.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Model checks: the same code under shuttle, which tries many orders of tasks.
#[cfg(test)]
pub(crate) mod model {
    use std::cell::Cell;
    use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

    thread_local! {
        /// A model check runs in this thread; all its tasks do.
        static RUNNING: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `check` in `orders` random orders of its tasks, and as often in orders that delay a few of them much. The next task is chosen
    /// wherever one waits and wherever one takes a lock. Tasks that wait for each other fail the check.
    pub(crate) fn explore(orders: usize, check: impl Fn() + Send + Sync + Clone + 'static) {
        RUNNING.set(true);
        shuttle::check_random(check.clone(), orders);
        shuttle::check_pct(check, orders, 3);
        RUNNING.set(false);
    }

    /// Takes a lock in a model check. There only one task runs at a time, and a task that waits lets others run.
    pub(super) fn lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
        if !RUNNING.get() {
            return None;
        }
        loop {
            shuttle::thread::yield_now();
            match mutex.try_lock() {
                Ok(guard) => return Some(guard),
                Err(TryLockError::Poisoned(poisoned)) => return Some(PoisonError::into_inner(poisoned)),
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }
}
