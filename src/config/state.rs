//! Where what outlives a run is kept: `--state` and `[state] url`.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::store::{Location, ObjectUrl};

/// The value that keeps nothing.
const NONE: &str = "none";

/// Where what outlives a run is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateConfig {
    /// Nowhere: `none`.
    Nowhere,
    /// In a folder, which machines may share.
    Folder(PathBuf),
    /// In object storage.
    Objects(ObjectUrl),
}

impl StateConfig {
    /// Reads a path, a URL or `none`. A relative path is below `base`. The error is for a person.
    pub fn parse(text: &str, base: &Path) -> Result<Self, String> {
        if text == NONE {
            return Ok(StateConfig::Nowhere);
        }
        match text.parse().map_err(|why| format!("{text}: {why}"))? {
            Location::Folder(path) => Ok(StateConfig::Folder(base.join(path))),
            Location::Objects(url) => Ok(StateConfig::Objects(url)),
        }
    }
}

impl fmt::Display for StateConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StateConfig::Nowhere => f.write_str(NONE),
            StateConfig::Folder(path) => path.display().fmt(f),
            StateConfig::Objects(url) => url.fmt(f),
        }
    }
}
