//! What a command works on: configuration, target, lists.

use std::path::Path;

use super::UsageError;
use super::args::{ImageArgs, UnmatchedArg};
use crate::Error;
use crate::config::{Config, TargetConfig};
use crate::input;
use crate::list::{self, ParsedList};
use crate::rules::Unmatched;

/// Everything that is known before anybody is asked.
pub(super) struct Inputs {
    pub(super) config: Config,
    pub(super) target: TargetConfig,
    pub(super) lists: Vec<ParsedList>,
    pub(super) unmatched: Unmatched,
    /// Asked before blobs are read.
    pub(super) room: Option<std::sync::Arc<dyn crate::copy::Room>>,
}

impl Inputs {
    /// Reads configuration and lists; a file that cannot be read, or a CSV column that nobody knows, refuses all.
    pub(super) fn read(file: Option<&Path>, selection: &ImageArgs) -> Result<Self, UsageError> {
        Self::with(file, selection, |config| lists(config, selection))
    }

    /// As [`Inputs::read`], with lists that come from elsewhere.
    pub(super) fn with(
        file: Option<&Path>,
        selection: &ImageArgs,
        lists: impl FnOnce(&Config) -> Result<Vec<ParsedList>, UsageError>,
    ) -> Result<Self, UsageError> {
        let config = Config::load(file)?;
        let target = match &selection.to {
            Some(to) => TargetConfig::parse(to).map_err(|why| UsageError::usage(Error::local("read --to", why)))?,
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
        let error =
            Error::local("read lists", "no image list is given").remedy("name a list, use --image REF, or set `lists` in larder.toml");
        return Err(UsageError::usage(error));
    }
    let (mut parsed, nothing_failed) = read_all(&files)?;
    parsed.extend(selection.image.iter().map(|image| list::from_flag(image)));
    check_entries(&parsed, &files, selection.allow_empty || nothing_failed)?;
    Ok(parsed)
}

/// What a lock says, as the only list.
pub(super) fn lock_entries(listed: ParsedList, selection: &ImageArgs) -> Result<Vec<ParsedList>, UsageError> {
    let lists = vec![listed];
    check_entries(&lists, &[], selection.allow_empty)?;
    Ok(lists)
}

/// Refuses lists that hold nothing: a file that was emptied by accident would make every night a success. A line that does not parse is
/// something.
pub(super) fn check_entries(lists: &[ParsedList], files: &[String], allow_empty: bool) -> Result<(), UsageError> {
    if allow_empty || lists.iter().any(|list| !(list.entries.is_empty() && list.errors.is_empty())) {
        return Ok(());
    }
    let message = match files {
        [] => "no image is listed".to_owned(),
        [file] => format!("{file} lists no image"),
        files => format!("no image is listed in {}", files.join(", ")),
    };
    Err(UsageError::usage(Error::local("read lists", message).remedy("if that is meant: --allow-empty")))
}

/// These lists; all that cannot be read are named.
pub(super) fn files(files: &[String]) -> Result<Vec<ParsedList>, UsageError> {
    read_all(files).map(|(parsed, _)| parsed)
}

/// As [`files()`], and whether one of them is what `--failed` has written because nothing failed: it is empty on purpose.
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

/// The lists of the configuration.
pub(super) fn configured(config: &Config) -> Result<Vec<ParsedList>, UsageError> {
    let files = config.lists.iter().map(|path| path.display().to_string());
    let parsed = files.map(|file| read(&file).and_then(|bytes| list::parse_bytes(&file, &bytes)));
    parsed.collect::<Result<_, _>>().map_err(UsageError::usage)
}

fn read(file: &str) -> Result<Vec<u8>, Error> {
    read_for("read list", file, input::MAX_LIST)
}

/// The bytes of a file, or of standard input (`-`), if there are no more than `most`; `operation` is what they are read for.
pub(super) fn read_for(operation: &'static str, file: &str, most: u64) -> Result<Vec<u8>, Error> {
    if file == "-" {
        let read = input::read_from(std::io::stdin().lock(), most);
        return read.map_err(|error| Error::local(operation, format!("standard input: {error}")));
    }
    input::read(Path::new(file), most).map_err(|error| Error::io(operation, Path::new(file), &error))
}
