//! `larder list scan` and `larder list check`.

use std::path::{Path, PathBuf};

use super::args::{ImageArgs, ListCommand, ListFormat};
use super::inputs::{self, Inputs};
use super::printer::Printer;
use super::{Exit, UsageError};
use crate::Error;
use crate::error::printable;
use crate::list::scan::{DistinctReferences, FoundReference, Scanned, is_scanned_by_name, scan};
use crate::list::utf8;

/// How errors of `list scan` name what was being done.
const OPERATION: &str = "scan";

pub(super) fn run(file: Option<&Path>, command: ListCommand, printer: &Printer) -> Result<Exit, UsageError> {
    match command {
        ListCommand::Scan { paths, format } => scan_paths(&paths, format, printer),
        ListCommand::Check { lists, image, to, unmatched } => {
            check(file, &ImageArgs { lists, image, to, unmatched, ..ImageArgs::default() }, printer)
        }
    }
}

fn check(file: Option<&Path>, selection: &ImageArgs, printer: &Printer) -> Result<Exit, UsageError> {
    let inputs = Inputs::read(file, selection)?;
    let lists = inputs.lists.len();
    let checked = crate::sync::check(inputs.lists, &inputs.config.rules, inputs.unmatched, &inputs.target);
    printer.data(&checked.problems.iter().map(|problem| format!("{problem}\n")).collect::<String>());
    let read = format!("{} in {}", counted(checked.entries, "entry", "entries"), counted(lists, "list", "lists"));
    if checked.problems.is_empty() {
        printer.say(&format!("{read}: nothing to complain of"));
        return Ok(Exit::Done);
    }
    printer.say(&format!("{read}: {}", counted(checked.problems.len(), "problem", "problems")));
    Ok(Exit::Failed)
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn scan_paths(paths: &[String], format: ListFormat, printer: &Printer) -> Result<Exit, UsageError> {
    let mut walk = FileWalk::default();
    let missing: Vec<Error> = paths.iter().filter_map(|path| walk.named(path).err()).collect();
    if !missing.is_empty() {
        return Err(missing.into());
    }
    walk.errors.iter().for_each(|error| printer.error(error));
    let mut failed = !walk.errors.is_empty();
    let mut distinct = DistinctReferences::default();
    let mut found: Vec<FoundReference> = Vec::new();
    for file in &walk.files {
        let scanned =
            match inputs::read_for(OPERATION, file, crate::input::MAX_FOREIGN).and_then(|bytes| Ok(scan(file, utf8(file, &bytes)?))) {
                Ok(scanned) => scanned,
                Err(error) => {
                    printer.error(&error);
                    failed = true;
                    continue;
                }
            };
        let Scanned { found: here, problems, notes } = scanned;
        notes.iter().for_each(|note| printer.warn(&note.to_string()));
        problems.iter().for_each(|problem| printer.fail(&problem.to_string(), &serde_json::json!({})));
        failed |= !problems.is_empty();
        found.extend(here.into_iter().filter(|found| distinct.is_new(found)));
    }
    match format {
        ListFormat::Text => failed |= text(&found, printer),
        ListFormat::Csv => printer.data(&csv(&found)),
    }
    printer.say(&format!("{} in {}", counted(found.len(), "image", "images"), counted(walk.files.len(), "file", "files")));
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Prints a text list. What chooses among tags stays a comment, and is said; `true` if there was such.
fn text(found: &[FoundReference], printer: &Printer) -> bool {
    let mut out = String::new();
    let mut incomplete = false;
    for FoundReference { origin, wanted } in found {
        if wanted.tags.is_empty() {
            out.push_str(&format!("{}  # {origin}\n", wanted.image));
            continue;
        }
        let exclude = if wanted.exclude.is_empty() { String::new() } else { format!(", exclude `{}`", printable(&wanted.exclude)) };
        let chooses = format!("{} by tags `{}`{exclude}", wanted.image, printable(&wanted.tags));
        out.push_str(&format!("# {chooses}  # {origin}\n"));
        printer.fail(&format!("{origin}: {chooses}: a text list cannot say this (use --format csv)"), &serde_json::json!({}));
        incomplete = true;
    }
    printer.data(&out);
    incomplete
}

/// A CSV list, each record below a comment that says where it was found.
fn csv(found: &[FoundReference]) -> String {
    let mut out = String::from("image,tags,exclude\n");
    for FoundReference { origin, wanted } in found {
        let fields = [&wanted.image, &wanted.tags, &wanted.exclude].map(|field| quoted(field)).join(",");
        out.push_str(&format!("# {origin}\n{fields}\n"));
    }
    out
}

/// A CSV field (RFC 4180, section 2).
fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) || field != field.trim() {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// The files to be read, in the order in which they are.
#[derive(Default)]
struct FileWalk {
    files: Vec<String>,
    /// Folders below the named ones that cannot be read.
    errors: Vec<Error>,
}

impl FileWalk {
    /// A path that the user named.
    fn named(&mut self, path: &str) -> Result<(), Error> {
        if path == "-" {
            self.files.push(path.to_owned());
            return Ok(());
        }
        let kind = std::fs::metadata(path).map_err(|error| Error::io(OPERATION, Path::new(path), &error))?;
        if kind.is_dir() {
            self.folder(Path::new(path));
        } else {
            self.files.push(path.to_owned());
        }
        Ok(())
    }

    /// Everything in a folder, by name; hidden folders (`.git`) hold no manifests, and links to folders may lead in circles.
    fn folder(&mut self, top: &Path) {
        let mut folders = vec![top.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match std::fs::read_dir(&folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
                Ok(entries) => entries,
                Err(error) => {
                    self.errors.push(Error::io(OPERATION, &folder, &error));
                    continue;
                }
            };
            let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
            paths.sort();
            let mut below = Vec::new();
            for path in paths {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_link = path.is_symlink();
                if path.is_dir() {
                    if !is_link && !name.starts_with('.') {
                        below.push(path);
                    }
                } else if is_scanned_by_name(&name) && path.is_file() {
                    self.files.push(path.display().to_string());
                }
            }
            folders.extend(below.into_iter().rev());
        }
    }
}
