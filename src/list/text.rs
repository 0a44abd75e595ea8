//! Text lists: one reference a line, `#` starts a comment at line start or after white space.

use std::sync::Arc;

use super::{Origin, Parsed, line};

pub(super) fn parse(file: &Arc<str>, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for (index, line) in text.lines().enumerate() {
        let reference = without_comment(line).trim();
        if !reference.is_empty() {
            parsed.add(Origin { file: file.clone(), line: index + 1 }, reference, meaning(reference));
        }
    }
    parsed
}

fn without_comment(line: &str) -> &str {
    let starts_comment = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    match line.match_indices('#').map(|(at, _)| at).find(starts_comment) {
        Some(at) => &line[..at],
        None => line,
    }
}

/// A reference, and a word for those who meant columns.
fn meaning(reference: &str) -> Result<line::Meaning, String> {
    if reference.len() > super::LONGEST_LINE {
        return Err(super::too_long(reference));
    }
    if reference.contains(',') {
        return Err("a text list has one image a line (for columns, name the file `.csv` or begin with a header line)".to_owned());
    }
    if reference.contains(char::is_whitespace) {
        return Err("a text list has one image a line, and comments begin with `#`".to_owned());
    }
    line::reference(reference)
}
