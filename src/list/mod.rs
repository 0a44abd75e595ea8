//! Image lists: text and CSV become [`ListEntry`]s. The parsers take text; reading files and standard input is the caller's, and
//! nothing here knows rules, registries or other lines (duplicates and collisions are decided once rules have spoken).
//!
//! A line that does not parse is a [`LineError`] beside the entries, the other lines go on. Only what makes a whole file
//! meaningless (an unknown column, no `image` column, bytes that are no UTF-8) is an [`Error`].

mod columns;
mod line;
mod records;
pub mod scan;
mod text;

use std::fmt;
use std::sync::Arc;

use crate::content::{Digest, PlatformFilter, Policy};
use crate::error::{Error, Result, printable};
use crate::name::RegistryRepository;
use crate::select::Selector;

/// The file name that stands for images given by `--image`.
pub const FLAG: &str = "--image";

/// Where a line stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LineOrigin {
    /// The file as the user gave it; `-` for standard input, `--image` for a flag.
    pub file: Arc<str>,
    /// The line, counted from 1. Of a CSV record that spans several lines, the first.
    pub line: usize,
}

impl fmt::Display for LineOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", printable(&self.file), self.line)
    }
}

/// What one line of a list asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListEntry {
    /// Where it was asked for.
    pub origin: LineOrigin,
    /// The line without surrounding white space and (in text lists) its comment, safe to print.
    pub text: String,
    /// The repository, in normal form.
    pub source: RegistryRepository,
    /// Which of its images.
    pub selection: ImageSelection,
    /// Where they go, if the line says so itself instead of leaving it to a rule.
    pub target: Option<TargetName>,
    /// The platforms, if the line says so itself instead of leaving it to a rule; else none.
    pub platforms: Vec<PlatformFilter>,
    /// What of its images is delivered, where that is decided already: a lock's record.
    pub decided: Option<Policy>,
    /// Higher goes first; 0 if the line does not say.
    pub priority: i64,
}

/// Which images of a repository a line means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSelection {
    /// One image, by tag, digest or both: at least one is there. With both, it is that digest, tagged `tag` at the target.
    One {
        /// The tag. A line with neither tag nor digest means `latest`, and has it here.
        tag: Option<String>,
        /// The digest.
        digest: Option<Digest>,
    },
    /// What the `tags` and `exclude` columns choose. Columns that can mean one tag only are a [`ImageSelection::One`].
    Terms(Box<Selector>),
}

/// The `target` column: a repository below the target's prefix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetName {
    /// The repository path, checked.
    pub repository: String,
    /// The tag at the target, where it differs from the source's. Only lines that mean one tag have it.
    pub tag: Option<String>,
}

/// A line that did not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineError {
    /// Where it stands.
    pub origin: LineOrigin,
    /// The line, safe to print; what a report shows in place of an image.
    pub text: String,
    /// What is wrong, safe to print.
    pub message: String,
}

impl LineError {
    /// `text` and `message` are made safe to print.
    pub(crate) fn new(origin: LineOrigin, text: &str, message: impl AsRef<str>) -> Self {
        LineError { origin, text: printable(text), message: printable(message.as_ref()) }
    }

    /// The failure that a report's row for this line holds.
    pub fn to_error(&self) -> Error {
        Error::local(OPERATION, self.to_string())
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.message)
    }
}

/// What a list holds, in the order of its lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParsedList {
    /// The lines that parsed.
    pub entries: Vec<ListEntry>,
    /// The lines that did not.
    pub errors: Vec<LineError>,
}

impl ParsedList {
    /// Files a line under what became of it.
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

/// The verb phrase of this room's errors.
const OPERATION: &str = "read list";

/// A line names one repository: with 1,000 exact tags of 60 characters it is shorter. What is longer is no line of a list, and is not
/// looked at.
const LONGEST_LINE: usize = 64 * 1024;

fn too_long(text: &str) -> String {
    format!("the line has {} bytes; at most {LONGEST_LINE} are read", text.len())
}

/// Reads a list. `file` is its name as the user gave it (`-` for standard input).
///
/// It is CSV if the name ends in `.csv` or its first data line is a header with a field `image`; otherwise text. A byte order
/// mark and CRLF are accepted.
///
/// # Errors
/// Usage errors of the whole file, as `file:line: what is wrong`: a CSV header that names an unknown column or one twice, or
/// has no `image`.
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

/// [`parse`] for bytes as they come from a file.
///
/// # Errors
/// As [`parse`], and text that is not UTF-8: the line is named.
pub fn parse_bytes(file: &str, bytes: &[u8]) -> Result<ParsedList> {
    parse(file, utf8(file, bytes)?)
}

/// The text of a file.
///
/// # Errors
/// It is not UTF-8: the line is named.
pub fn utf8<'b>(file: &str, bytes: &'b [u8]) -> Result<&'b str> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text),
        Err(error) => error,
    };
    // What Windows tools call "Unicode": its byte order mark (Unicode 23.8) comes first.
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(file_error(file, 1, "this is UTF-16; save it as UTF-8"));
    }
    let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
    let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
    Err(file_error(file, line, format!("byte 0x{byte:02x} is not UTF-8; save the list as UTF-8")))
}

/// `--image REF`: a list of one line.
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
