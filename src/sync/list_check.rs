//! What is wrong with lists, as far as it can be told without asking anybody.

use std::sync::Arc;

use super::name_claims::NameClaims;
use super::{RuledEntry, SyncOptions};
use crate::config::TargetConfig;
use crate::list::{LineError, ParsedList};
use crate::rules::{RuleSet, Unmatched};

/// What [`check`] found.
#[derive(Debug, Default)]
pub struct ListCheck {
    /// Lines that mean something.
    pub entries: usize,
    /// Lines that do not parse, that have no place at the target, or whose name there another line has. In list order.
    pub problems: Vec<LineError>,
}

/// Resolves every line of `lists`. What globs and other patterns choose is not known, so that of their tags nothing is said.
pub fn check(lists: Vec<ParsedList>, rules: &RuleSet, unmatched: Unmatched, target: &TargetConfig) -> ListCheck {
    let options = SyncOptions { unmatched, ..SyncOptions::default() };
    let claims = NameClaims::default();
    let mut checked = ListCheck::default();
    let mut order = 0;
    for list in lists {
        let mut problems = list.errors;
        checked.entries += list.entries.len();
        for entry in list.entries {
            order += 1;
            let (origin, text) = (entry.origin.clone(), entry.text.clone());
            match RuledEntry::resolve(entry, order, rules, &options, target) {
                Ok(line) => {
                    for (_, error) in claims.merge(Arc::new(line).requests()).refused {
                        let message = error.message();
                        let here = format!("{origin}: ");
                        problems.push(LineError::new(origin.clone(), &text, message.strip_prefix(&here).unwrap_or(&message)));
                    }
                }
                Err(row) => {
                    let why = row.error.as_ref().map(crate::Error::message).unwrap_or_default();
                    problems.push(LineError::new(origin, &text, why));
                }
            }
        }
        problems.sort_by_key(|problem| problem.origin.line);
        checked.problems.extend(problems);
    }
    checked
}
