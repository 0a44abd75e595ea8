//! The store of what outlives a run and what several machines share: small objects with a name each, changed only by those who know the
//! version they change. It lies in object storage, so that a fleet of machines needs no server of larder's own. What the objects mean is
//! not known here.

mod error;
mod interface;
mod location;
#[cfg(test)]
pub(crate) mod memory;
mod object;
mod probe;
mod transaction;

pub use error::StoreError;
pub(crate) use interface::unique_name;
pub use interface::{ListedObject, ObjectVersion, Put, Store, StoredObject};
pub use location::{Location, ObjectUrl};
pub use object::ObjectStore;
pub use probe::{StoreClock, probe};
pub use transaction::{Change, transact};

#[cfg(test)]
mod tests;
