//! `larder list scan` and `larder list check`.

// These texts are the program's help, where `[...]` and `<...>` are not links and tags.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)]

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use super::exit::{Exit, UsageError};
use super::inputs::{self, Inputs};
use super::options::{ImageArgs, UnmatchedArg};
use super::printer::Printer;
use super::text::count;
use crate::error::printable;
use crate::list::scan::{DistinctReferences, FoundReference, Scanned, is_scanned_by_name, scan};
use crate::list::utf8;
use crate::{Error, Operation};

/// The operation that errors of `list scan` name.
const OPERATION: Operation = Operation::Scan;

#[derive(Debug, Subcommand)]
pub(super) enum ListCommand {
    /// Print the image references in Kubernetes YAML, Compose files, skopeo-sync and regsync YAML and Dockerfiles, as a list
    Scan {
        /// Files, or folders in which .yaml, .yml and Dockerfiles are read; - is standard input
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<String>,
        /// Format of the list; csv can also hold selections among several tags
        #[arg(long, value_enum, default_value_t = ListFormat::Text)]
        format: ListFormat,
    },
    /// Check lists against the rules, without any network
    Check {
        /// Image lists: text, or CSV with a header; - is standard input. Default: `lists` of the configuration
        #[arg(value_name = "LIST")]
        lists: Vec<String>,
        /// One image, as a list of one line; repeatable
        #[arg(long, value_name = "REF")]
        image: Vec<String>,
        /// Where to, instead of the configuration's target: HOST[:PORT][/PREFIX] or oci:DIR
        #[arg(long, value_name = "TARGET")]
        to: Option<String>,
        /// What to do with images that no rule covers. Default: fail; without a configuration file, mirror
        #[arg(long, value_enum, value_name = "fail|mirror")]
        unmatched: Option<UnmatchedArg>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ListFormat {
    Text,
    Csv,
}

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
    let entries = if checked.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", checked.entries) };
    let read = format!("{entries} in {}", count(lists, "list"));
    if checked.problems.is_empty() {
        printer.say(&format!("{read}: no problems found"));
        return Ok(Exit::Done);
    }
    printer.say(&format!("{read}: {}", count(checked.problems.len(), "problem")));
    Ok(Exit::Failed)
}

fn scan_paths(paths: &[String], format: ListFormat, printer: &Printer) -> Result<Exit, UsageError> {
    let mut walk = FileWalk::default();
    let missing: Vec<Error> = paths.iter().filter_map(|path| walk.add(path).err()).collect();
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
    printer.say(&format!("{} in {}", count(found.len(), "image"), count(walk.files.len(), "file")));
    Ok(if failed { Exit::Failed } else { Exit::Done })
}

/// Prints a text list. A selection among tags becomes a comment and an error, because text cannot express it. Returns whether there
/// was one.
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
        printer.fail(&format!("{origin}: {chooses}: a text list cannot express this (use --format csv)"), &serde_json::json!({}));
        incomplete = true;
    }
    printer.data(&out);
    incomplete
}

/// A CSV list. A comment above each record says where it was found.
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

/// The files to scan, in order.
#[derive(Default)]
struct FileWalk {
    files: Vec<String>,
    /// Subfolders that cannot be read.
    errors: Vec<Error>,
}

impl FileWalk {
    /// Adds a path of the command line.
    fn add(&mut self, path: &str) -> Result<(), Error> {
        if path == "-" {
            self.files.push(path.to_owned());
            return Ok(());
        }
        let kind = std::fs::metadata(path).map_err(|error| Error::io(OPERATION, Path::new(path), &error))?;
        if kind.is_dir() {
            self.add_folder(Path::new(path));
        } else {
            self.files.push(path.to_owned());
        }
        Ok(())
    }

    /// Adds the files below a folder that are scanned by name. Skips hidden folders (`.git`), and links to folders, which may be circular.
    fn add_folder(&mut self, top: &Path) {
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
