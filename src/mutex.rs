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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guarded value.
    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
