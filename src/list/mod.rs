//! Image lists: text and CSV become [`ListEntry`]s. The parsers take text. Reading files and standard input belongs to
//! the caller, and finding duplicates and collisions to `sync`, which knows the rules.
//!
//! A line that does not parse becomes a [`LineError`], and the other lines are still read. An [`Error`] means that the
//! whole file is unusable: an unknown column, no `image` column, bytes that are not UTF-8.

mod columns;
mod line;
mod records;
pub mod scan;
mod text;

use crate::Operation;
use std::fmt;
use std::sync::Arc;

use crate::content::{Digest, PlatformFilter, Policy};
use crate::error::{Error, Result, printable};
use crate::name::RegistryRepository;
use crate::select::Selector;

/// The file name of images given by `--image`.
pub const FLAG: &str = "--image";

/// The position of a line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineOrigin {
    /// The file as the user gave it; `-` for standard input, `--image` for a flag.
    pub file: Arc<str>,
    /// The line number, from 1; the first line of a CSV record that has several.
    pub line: usize,
}

impl fmt::Display for LineOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", printable(&self.file), self.line)
    }
}

/// What one line of a list requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// The position of the line.
    pub origin: LineOrigin,
    /// The line without surrounding white space and without a comment, safe to print.
    pub text: String,
    /// The repository, in normal form.
    pub source: RegistryRepository,
    /// The images of the repository.
    pub selection: ImageSelection,
    /// Where they go, if the line has a `target`; otherwise a rule decides.
    pub target: Option<TargetName>,
    /// The platforms, if the line has any; otherwise a rule decides.
    pub platforms: Vec<PlatformFilter>,
    /// The policy, if a lock has recorded it.
    pub decided: Option<Policy>,
    /// Higher goes first; 0 by default.
    pub priority: i64,
}

/// Which images of a repository a line selects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSelection {
    /// One image, by tag, digest or both. With both it is that digest, with the tag `tag` at the target.
    One {
        /// The tag; `latest` for a line with neither tag nor digest.
        tag: Option<String>,
        /// The digest.
        digest: Option<Digest>,
    },
    /// The choice of the `tags` and `exclude` columns. Columns that can select one tag only are an
    /// [`ImageSelection::One`].
    Terms(Box<Selector>),
}

/// The `target` column: a repository below the target's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetName {
    /// The repository path, checked.
    pub repository: String,
    /// The tag at the target, if it differs from the source's. Only for lines that select one tag.
    pub tag: Option<String>,
}

/// A line that did not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Its position.
    pub origin: LineOrigin,
    /// The line, safe to print; reports show it in place of an image.
    pub text: String,
    /// The problem, safe to print.
    pub message: String,
}

impl LineError {
    /// Makes `text` and `message` safe to print.
    pub(crate) fn new(origin: LineOrigin, text: &str, message: impl AsRef<str>) -> Self {
        LineError { origin, text: printable(text), message: printable(message.as_ref()) }
    }

    /// The error in a report's row for this line.
    pub fn to_error(&self) -> Error {
        Error::local(OPERATION, self.to_string())
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// The content of a list, in the order of its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedList {
    /// The lines that parsed.
    pub entries: Vec<ListEntry>,
    /// The lines that did not.
    pub errors: Vec<LineError>,
}

impl ParsedList {
    /// Adds a parsed line or its error.
    fn add(&mut self, origin: LineOrigin, text: &str, outcome: Result<line::ParsedLine, String>) {
        match outcome {
            Ok(line::ParsedLine { source, selection, target, platforms, priority }) => {
                self.entries.push(ListEntry {
                    origin,
                    text: printable(text),
                    source,
                    selection,
                    target,
                    platforms,
                    decided: None,
                    priority,
                });
            }
            Err(message) => self.errors.push(LineError::new(origin, text, message)),
        }
    }
}

/// The operation in the errors of lists.
const OPERATION: Operation = Operation::ReadList;

/// The longest line that is parsed, in bytes. A line names one repository: even with 1,000 exact tags of 60 characters
/// it is shorter.
const LONGEST_LINE: usize = 64 * 1024;

fn too_long(text: &str) -> String {
    format!("the line has {} bytes; at most {LONGEST_LINE} are read", text.len())
}

/// Parses a list. `file` is its name as the user gave it (`-` for standard input).
///
/// It is CSV if the name ends in `.csv` or its first data line is a header with a field `image`; otherwise text. A byte order
/// mark and CRLF are accepted.
///
/// # Errors
/// Usage errors of the whole file, as `file:line: reason`: a CSV header that names an unknown column or one column
/// twice, or has no `image`.
pub fn parse(file: &str, text: &str) -> Result<ParsedList> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let name: Arc<str> = file.into();
    if is_csv(file, text) {
        return columns::parse(&name, text);
    }
    if let Some(first) = records::records(text).next()
        && let Some(message) = columns::misread(first.text).or_else(|| text::misread(first.text))
    {
        return Err(file_error(file, first.line, message));
    }
    Ok(text::parse(&name, text))
}

/// [`parse`] for the bytes of a file.
///
/// # Errors
/// As [`parse`], and if the text is not UTF-8; the error names the line.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<ParsedList> {
    parse(file, utf8(file, bytes)?)
}

/// Decodes the text of a file.
///
/// # Errors
/// If it is not UTF-8; the error names the line.
pub fn utf8<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    // UTF-16 ("Unicode" in Windows tools) begins with its byte order mark (Unicode 23.8).
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(file_error(file, 1, "this is UTF-16; save it as UTF-8"));
    }
    let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
    let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
    Err(file_error(file, line, format!("byte 0x{byte:02x} is not UTF-8; save the list as UTF-8")))
}

/// The list of an `--image REF`: one line.
pub fn from_flag(image: &str) -> ParsedList {
    let mut parsed = ParsedList::default();
    parsed.add(LineOrigin { file: FLAG.into(), line: 1 }, image.trim(), line::reference(image.trim()));
    parsed
}

fn is_csv(file: &str, text: &str) -> bool {
    let named = file.rsplit_once('.').is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("csv"));
    named || records::records(text).next().is_some_and(|first| columns::is_header(first.text))
}

fn file_error(file: &str, line: usize, message: impl AsRef<str>) -> Error {
    Error::local(OPERATION, format!("{file}:{line}: {}", message.as_ref()))
}

#[cfg(test)]
mod tests;
