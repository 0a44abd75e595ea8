//! Text lists: one reference a line, `#` starts a comment at line start or after white space.

use std::sync::Arc;

use super::{LineOrigin, ParsedList, line};

pub(super) fn parse(file: &Arc<str>, text: &str) -> ParsedList {
    let mut parsed = ParsedList::default();
    for (index, line) in text.lines().enumerate() {
        let reference = without_comment(line).trim();
        if !reference.is_empty() {
            parsed.add(LineOrigin { file: file.clone(), line: index + 1 }, reference, meaning(reference));
        }
    }
    parsed
}

/// The problem with a first line that belongs to another format: what it is, and what to do.
pub(super) fn misread(first: &str) -> Option<String> {
    let first = without_comment(first.lines().next().unwrap_or_default()).trim_end();
    let key = first.split_once(':').filter(|(key, rest)| !key.is_empty() && (rest.is_empty() || rest.starts_with(' ')));
    let what = match first.chars().next() {
        Some('{' | '[') => "JSON",
        _ if first == "---" || first.starts_with("- ") || key.is_some() => "YAML",
        _ => return None,
    };
    Some(format!("this is {what}, and a list is text or CSV: `larder list scan FILE` finds the images in it, and prints a list"))
}

fn without_comment(line: &str) -> &str {
    let starts_comment = |at: &usize| line[..*at].chars().next_back().is_none_or(char::is_whitespace);
    match line.match_indices('#').map(|(at, _)| at).find(starts_comment) {
        Some(at) => &line[..at],
        None => line,
    }
}

/// Parses a reference; the error has a hint if the line looks like CSV.
fn meaning(reference: &str) -> Result<line::ParsedLine, String> {
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
