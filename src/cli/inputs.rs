//! The inputs of a command: configuration, target, lists.

use std::path::{Path, PathBuf};

use super::exit::UsageError;
use super::options::{ImageArgs, UnmatchedArg};
use crate::config::{Config, TargetConfig};
use crate::input;
use crate::list::{self, ParsedList};
use crate::rules::Unmatched;
use crate::{Error, Operation};

/// Everything that is known before the first request.
pub(super) struct Inputs {
    pub(super) config: Config,
    pub(super) target: TargetConfig,
    pub(super) lists: Vec<ParsedList>,
    pub(super) unmatched: Unmatched,
    /// Checked before blobs are downloaded.
    pub(super) room: Option<std::sync::Arc<dyn crate::copy::Room>>,
}

impl Inputs {
    /// Reads configuration and lists. A file that cannot be read or an unknown CSV column is an error.
    pub(super) fn read(file: Option<&Path>, selection: &ImageArgs) -> Result<Self, UsageError> {
        Self::with(file, selection, |config| lists(config, selection))
    }

    /// As [`Inputs::read`], with lists from another origin.
    pub(super) fn with(
        file: Option<&Path>,
        selection: &ImageArgs,
        lists: impl FnOnce(&Config) -> Result<Vec<ParsedList>, UsageError>,
    ) -> Result<Self, UsageError> {
        let config = Config::load(file)?;
        let target = match &selection.to {
            Some(to) => TargetConfig::parse(to).map_err(|why| UsageError::usage(Error::local(Operation::ReadTo, why)))?,
            None => config.target.clone(),
        };
        let unmatched = match selection.unmatched {
            Some(UnmatchedArg::Fail) => Unmatched::Fail,
            Some(UnmatchedArg::Mirror) => Unmatched::Mirror,
            None => config.default_unmatched(),
        };
        let lists = lists(&config)?;
        Ok(Inputs { config, target, lists, unmatched, room: None })
    }
}

/// Every file that is a list, on the command line or in the configuration: no output may overwrite it, even if it is not read.
pub(super) fn list_files(file: Option<&Path>, selection: &ImageArgs) -> Vec<String> {
    let configured = Config::load(file).map(|config| config.lists).unwrap_or_default();
    selection.lists.iter().cloned().chain(configured.iter().map(|path| path.display().to_string())).collect()
}

/// Whether any list is given, on the command line or in the configuration.
pub(super) fn any_list(config: &Config, selection: &ImageArgs) -> bool {
    !(selection.lists.is_empty() && selection.image.is_empty() && config.lists.is_empty())
}

/// The lists of the command line, else those of the configuration; and the images of `--image`.
pub(super) fn lists(config: &Config, selection: &ImageArgs) -> Result<Vec<ParsedList>, UsageError> {
    let mut files = selection.lists.clone();
    if files.is_empty() && selection.image.is_empty() {
        files = config.lists.iter().map(|path| path.display().to_string()).collect();
    }
    if files.is_empty() && selection.image.is_empty() && !selection.allow_empty {
        let error = Error::local(Operation::ReadLists, "no image list is given")
            .remedy("name a list, use --image REF, or set `lists` in larder.toml");
        return Err(UsageError::usage(error));
    }
    let (mut parsed, nothing_failed) = read_all(&files)?;
    parsed.extend(selection.image.iter().map(|image| list::from_flag(image)));
    check_entries(&parsed, &files, selection.allow_empty || nothing_failed)?;
    Ok(parsed)
}

/// The entries of a lock, as the only list.
pub(super) fn lock_entries(listed: ParsedList, selection: &ImageArgs) -> Result<Vec<ParsedList>, UsageError> {
    let lists = vec![listed];
    check_entries(&lists, &[], selection.allow_empty)?;
    Ok(lists)
}

/// Refuses lists without any line: with a file emptied by accident every run would succeed. A line that does not parse counts.
pub(super) fn check_entries(lists: &[ParsedList], files: &[String], allow_empty: bool) -> Result<(), UsageError> {
    if allow_empty || lists.iter().any(|list| !(list.entries.is_empty() && list.errors.is_empty())) {
        return Ok(());
    }
    let message = match files {
        [] => "no image is listed".to_owned(),
        [file] => format!("{file} lists no image"),
        files => format!("no image is listed in {}", files.join(", ")),
    };
    Err(UsageError::usage(Error::local(Operation::ReadLists, message).remedy("if this is intended: --allow-empty")))
}

/// Reads these lists. The error names all that cannot be read.
pub(super) fn files(files: &[String]) -> Result<Vec<ParsedList>, UsageError> {
    read_all(files).map(|(parsed, _)| parsed)
}

/// As [`files()`]. Also whether one of them was written by `--failed` of a run without failures: that one is empty on purpose.
fn read_all(files: &[String]) -> Result<(Vec<ParsedList>, bool), UsageError> {
    let mut parsed = Vec::with_capacity(files.len());
    let (mut errors, mut nothing_failed) = (vec![], false);
    for file in files {
        let list = read(file).and_then(|bytes| {
            nothing_failed |= crate::report::is_empty_failed_list(&bytes);
            list::parse_bytes(file, &bytes)
        });
        match list {
            Ok(list) => parsed.push(list),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok((parsed, nothing_failed)) } else { Err(errors.into()) }
}

/// Reads the lists of the configuration.
pub(super) fn configured(config: &Config) -> Result<Vec<ParsedList>, UsageError> {
    let files = config.lists.iter().map(|path| path.display().to_string());
    let parsed = files.map(|file| read(&file).and_then(|bytes| list::parse_bytes(&file, &bytes)));
    parsed.collect::<Result<_, _>>().map_err(UsageError::usage)
}

fn read(file: &str) -> Result<Vec<u8>, Error> {
    read_for(Operation::ReadList, file, input::MAX_LIST)
}

/// Reads a file, or standard input (`-`), of at most `most` bytes. `operation` is for the error.
pub(super) fn read_for(operation: Operation, file: &str, most: u64) -> Result<Vec<u8>, Error> {
    if file == "-" {
        let read = input::read_from(std::io::stdin().lock(), most);
        return read.map_err(|error| Error::local(operation, format!("standard input: {error}")));
    }
    input::read(Path::new(file), most).map_err(|error| Error::io(operation, Path::new(file), &error))
}

/// The layout that `text` names: an existing path, else as `--to` takes it.
pub(super) fn layout_path(text: &str, operation: Operation) -> Result<PathBuf, UsageError> {
    if Path::new(text).exists() {
        return Ok(PathBuf::from(text));
    }
    match TargetConfig::parse(text) {
        Ok(TargetConfig::Layout { path }) if path.exists() => Ok(path),
        _ => Err(UsageError::usage(Error::local(operation, format!("`{text}`: no such folder")))),
    }
}
