//! Failures that many images share (a dead registry, a wrong password, an unset variable, a refused push) are printed once, at the
//! end, with the number of images. The report has a row for each image.

use std::collections::HashMap;

use serde_json::json;

use super::printer::Printer;
use super::text::failure;
use crate::report::ImageOutcome;
use crate::{Error, Kind, Operation, Side};

/// Whether other images may fail with the same cause, so that it is printed at the end.
pub(super) fn is_shared(error: &Error) -> bool {
    let refused_push =
        error.side() == Side::Target && error.kind() == Kind::Refused && matches!(error.http_status(), Some(401 | 403 | 405));
    let no_secret = error.kind() == Kind::Local && error.operation() == Operation::LookUpCredentials;
    error.outage().is_some() || error.kind() == Kind::Unauthorized || refused_push || no_secret
}

/// Prints one line for each cause that is shared (see [`is_shared`]).
pub(super) fn print(rows: &[ImageOutcome], printer: &Printer) {
    let mut groups: Vec<Vec<(&ImageOutcome, &Error)>> = vec![];
    let mut group_of: HashMap<String, usize> = HashMap::new();
    for row in rows {
        let Some(error) = row.error.as_ref().filter(|error| is_shared(error)) else { continue };
        let group = *group_of.entry(error.cause_key()).or_insert(groups.len());
        match groups.get_mut(group) {
            Some(group) => group.push((row, error)),
            None => groups.push(vec![(row, error)]),
        }
    }
    for group in groups {
        let Some((row, error)) = group.first() else { continue };
        let facts = json!({
            "images": group.len(), "side": error.side(), "operation": error.operation(),
            "status": error.http_status(), "code": error.registry_code(), "host": error.at_host(),
        });
        let text = match group.len() {
            1 => failure(row, error),
            many => format!("{many} images failed: {}", error.without_subject()),
        };
        printer.failure(error, &text, facts);
    }
}
