//! CSV lists: a header that names columns, then one record for each entry.
//!
//! Lines whose first character other than white space is `#` are comments, as in text lists (an image cannot begin with
//! `#`). Records with only empty fields, which spreadsheets write, count as blank lines.

use std::sync::Arc;

use super::line::{self, CsvFields};
use super::records::{ListRecord, records};
use super::{LineError, LineOrigin, ParsedList, file_error};
use crate::error::Result;

/// A column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Column {
    Image,
    Tags,
    Exclude,
    Platforms,
    Target,
    Priority,
}

/// The columns by their names in headers.
const COLUMNS: [(&str, Column); 6] = [
    ("image", Column::Image),
    ("tags", Column::Tags),
    ("exclude", Column::Exclude),
    ("platforms", Column::Platforms),
    ("target", Column::Target),
    ("priority", Column::Priority),
];

pub(super) fn parse(file: &Arc<str>, text: &str) -> Result<ParsedList> {
    let mut parsed = ParsedList::default();
    let mut records = records(text);
    let Some(first) = records.next() else { return Ok(parsed) };
    let header = header(&first).map_err(|message| file_error(file, first.line, message))?;
    for record in records {
        let origin = LineOrigin { file: file.clone(), line: record.line };
        if record.text.len() > super::LONGEST_LINE {
            parsed.errors.push(LineError::new(origin, record.text.trim(), super::too_long(record.text)));
        } else if let Some(outcome) = meaning(&header, &record) {
            parsed.add(origin, record.text.trim(), outcome);
        }
    }
    Ok(parsed)
}

/// The problem with a first data line that looks like a header but is not one: what was read, and what to write
/// instead.
pub(super) fn misread(first: &str) -> Option<String> {
    let is_image = |field: &str| field.trim().trim_matches('"').eq_ignore_ascii_case("image");
    for (separator, name) in [(';', "`;`"), ('\t', "tabs"), ('|', "`|`")] {
        if first.contains(separator) && first.split(separator).any(is_image) {
            return Some(format!(
                "the header's fields are separated by {name}: write `,` between them (`;` separates values in one field)"
            ));
        }
    }
    let fields = fields(first).ok()?;
    let written = fields.iter().map(|field| field.trim()).find(|field| *field != "image" && is_image(field))?;
    Some(format!("the header has a column `{written}`: write it in small letters, `image`"))
}

/// Whether the first data line of a file makes it a CSV list.
pub(super) fn is_header(first: &str) -> bool {
    fields(first).is_ok_and(|fields| fields.iter().any(|field| field.trim() == "image"))
}

fn header(record: &ListRecord<'_>) -> Result<Vec<Column>, String> {
    let names = COLUMNS.map(|(name, _)| name).join(", ");
    let fields = closed_fields(record)?;
    if let Some(message) = misread(record.text) {
        return Err(message);
    }
    if !fields.iter().any(|field| field.trim() == "image") {
        return Err(format!("no column `image`: the first line of a CSV list names its columns (known: {names})"));
    }
    let mut header = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        let name = field.trim();
        match COLUMNS.iter().find(|(known, _)| *known == name) {
            None if name.is_empty() => return Err(format!("column {} has no name (known: {names})", index + 1)),
            None => return Err(format!("unknown column `{name}` (known: {names})")),
            Some((_, column)) if header.contains(column) => return Err(format!("column `{name}` is there twice")),
            Some((_, column)) => header.push(*column),
        }
    }
    Ok(header)
}

/// The entry of a record; `None` if it is blank.
fn meaning(header: &[Column], record: &ListRecord<'_>) -> Option<Result<line::ParsedLine, String>> {
    let fields = match closed_fields(record) {
        Ok(fields) => fields,
        Err(message) => return Some(Err(message)),
    };
    if fields.iter().all(|field| field.trim().is_empty()) {
        return None;
    }
    if fields.len() != header.len() {
        return Some(Err(format!(
            "the header has {}, this line {} (values in one field are separated by `;`)",
            plural(header.len()),
            fields.len()
        )));
    }
    let mut row = CsvFields::default();
    for (column, field) in header.iter().zip(&fields) {
        let field = field.trim();
        match column {
            Column::Image => row.image = field,
            Column::Tags => row.tags = field,
            Column::Exclude => row.exclude = field,
            Column::Platforms => row.platforms = field,
            Column::Target => row.target = field,
            Column::Priority => row.priority = field,
        }
    }
    Some(row.meaning())
}

fn plural(fields: usize) -> String {
    if fields == 1 { "1 field".to_owned() } else { format!("{fields} fields") }
}

fn closed_fields(record: &ListRecord<'_>) -> Result<Vec<String>, String> {
    if record.closed { fields(record.text) } else { Err("a field begins with `\"` and never ends".to_owned()) }
}

/// The fields of one record, unquoted.
pub(super) fn fields(record: &str) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        // Line ends are removed already; a lone carriage return is part of a field, where it is invalid.
        .terminator(csv::Terminator::Any(b'\n'))
        .buffer_capacity(record.len().max(1))
        .from_reader(record.as_bytes());
    match reader.records().next() {
        Some(Ok(fields)) => Ok(fields.iter().map(str::to_owned).collect()),
        Some(Err(error)) => Err(format!("this is not CSV: {error}")),
        None => Ok(Vec::new()),
    }
}
