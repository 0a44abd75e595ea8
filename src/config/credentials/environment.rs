//! What of the surroundings credentials are read from: the variables and the home directory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

/// The variables and the home directory of a process, given explicitly so that tests have their own.
#[derive(Clone, Default)]
pub struct Environment {
    /// The variables; commands and credential helpers get exactly these.
    pub vars: HashMap<OsString, OsString>,
    /// Where `~` is.
    pub home: Option<PathBuf>,
}

impl Environment {
    /// This process's own.
    pub fn process() -> Self {
        Environment { vars: std::env::vars_os().collect(), home: std::env::home_dir() }
    }

    /// The path in a variable; an empty one counts as not set.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.vars.get(std::ffi::OsStr::new(name)).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// The text in a variable. The error does not repeat it.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        let value = self.vars.get(std::ffi::OsStr::new(name)).ok_or_else(|| format!("environment variable {name} is not set"))?;
        value.to_str().map(str::to_owned).ok_or_else(|| format!("environment variable {name} is not UTF-8"))
    }
}

/// Names only: the values are where secrets are.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").field("vars", &self.vars.len()).field("home", &self.home).finish()
    }
}
