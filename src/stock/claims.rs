//! Who may fill which name at the target: the first source that claims it; the same source again is no conflict.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Want;
use crate::content::Place;
use crate::name::Reference;
use crate::{Error, Kind, Side};

/// The names claimed so far.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<HashMap<(Place, Reference), Claim>>);

#[derive(Debug, Clone)]
struct Claim {
    source: String,
    origin: String,
}

/// What came of claiming a name.
#[derive(Debug)]
pub(super) enum Claimed {
    /// It is this want's now.
    New,
    /// The same source has it already.
    Again,
}

impl Claims {
    /// Claims the want's target name.
    ///
    /// # Errors
    /// Another source has it; the error names both lines.
    pub(super) fn claim(&self, want: &Want) -> Result<Claimed, Error> {
        let claim = Claim { source: want.source(), origin: want.item.entry.origin.to_string() };
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(&(want.item.to.clone(), want.publish.clone())) {
            None => {
                names.insert((want.item.to.clone(), want.publish.clone()), claim);
                Ok(Claimed::New)
            }
            Some(first) if first.source == claim.source => Ok(Claimed::Again),
            Some(first) => {
                let name = format!("{}{}", want.item.to, want.publish.suffix());
                let message = format!("{}: target name {name} is already filled from {} ({})", claim.origin, first.source, first.origin);
                Err(Error::new(Side::Local, "merge lists", Kind::Local, message)
                    .subject(claim.source)
                    .remedy("remove one of the two lines, or give one of them another `target`"))
            }
        }
    }
}

/// Claims a name for each of `wants`, in order: duplicates become one want with the highest priority; a want whose name
/// another source has comes back with its error.
pub(super) fn merge(claims: &Claims, wants: Vec<Want>) -> (Vec<Want>, Vec<(Want, Error)>) {
    let mut kept: Vec<Want> = Vec::with_capacity(wants.len());
    let mut index: HashMap<(Place, Reference), usize> = HashMap::new();
    let mut refused = vec![];
    for want in wants {
        let key = (want.item.to.clone(), want.publish.clone());
        match claims.claim(&want) {
            Ok(Claimed::New) => {
                index.insert(key, kept.len());
                kept.push(want);
            }
            Ok(Claimed::Again) => {
                if let Some(first) = index.get(&key).and_then(|at| kept.get_mut(*at)) {
                    first.priority = first.priority.max(want.priority);
                }
            }
            Err(error) => refused.push((want, error)),
        }
    }
    (kept, refused)
}
