//! Converts the rules of other caches, as their own commands print them, to `larder.toml`.
//!
//! Each system has a file that parses its rows into a `Draft`; what a draft cannot express is listed, never dropped.
//! The formats are those of the public documentation (docs/registries.md, "Azure: limits and names", "Amazon ECR:
//! pull-through cache rules", "Harbor: proxy projects").

mod acr;
mod ecr;
mod harbor;
mod names;
#[cfg(test)]
mod tests;
mod write;

use crate::Operation;
use std::fmt;

use serde_json::Value;

use crate::error::{Error, Result};

/// The operation in errors.
const OPERATION: Operation = Operation::ImportRules;

/// The result of an import.
#[derive(Debug)]
pub struct ImportedRules {
    /// A `larder.toml` that loads as it is.
    pub text: String,
    /// The number of rules in it.
    pub rules: usize,
    /// What it cannot express, a line each; comments at its top list the same.
    pub lost: Vec<String>,
    /// What the user has to complete or know; comments in it list the same.
    pub notes: Vec<String>,
}

/// A system whose rules can be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SourceSystem {
    Acr,
    Ecr,
    Harbor,
}

impl fmt::Display for SourceSystem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SourceSystem::Acr => "Azure Container Registry",
            SourceSystem::Ecr => "Amazon ECR",
            SourceSystem::Harbor => "Harbor",
        })
    }
}

/// The kind of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RowShape {
    AcrRule,
    AcrSet,
    EcrRule,
    HarborProject,
    HarborRegistry,
}

impl RowShape {
    fn of(row: &Value) -> Option<Self> {
        let has = |name: &str| row.get(name).is_some();
        if field(row, "sourceRepository").is_some() && field(row, "targetRepository").is_some() {
            Some(RowShape::AcrRule)
        } else if field(row, "loginServer").is_some() && field(row, "authCredentials").is_some() {
            Some(RowShape::AcrSet)
        } else if has("ecrRepositoryPrefix") {
            Some(RowShape::EcrRule)
        } else if has("project_id") && has("name") {
            Some(RowShape::HarborProject)
        } else if has("id") && has("url") {
            Some(RowShape::HarborRegistry)
        } else {
            None
        }
    }

    fn system(self) -> SourceSystem {
        match self {
            RowShape::AcrRule | RowShape::AcrSet => SourceSystem::Acr,
            RowShape::EcrRule => SourceSystem::Ecr,
            RowShape::HarborProject | RowShape::HarborRegistry => SourceSystem::Harbor,
        }
    }
}

/// What was parsed from the files.
#[derive(Debug, Default)]
struct Draft {
    /// The cache's own host.
    target: String,
    /// Whether the longest of overlapping wildcards wins.
    longest: bool,
    /// The target's profile, if its name does not tell it.
    profile: Option<&'static str>,
    rules: Vec<DraftRule>,
    sets: Vec<DraftSet>,
    /// Upstreams that are not reached by verified HTTPS.
    registries: Vec<DraftRegistry>,
    lost: Vec<String>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct DraftRule {
    /// Its name in its system, for messages.
    known_as: String,
    /// Its name in larder.
    name: String,
    /// `docker.io/library/*`
    source: String,
    /// `library/*`
    target: String,
    /// An index into the draft's sets.
    set: Option<usize>,
}

#[derive(Debug)]
struct DraftSet {
    /// Its identifier in its system.
    key: String,
    name: String,
    login_server: String,
    /// Where its system keeps the secrets, for messages.
    kept: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct DraftRegistry {
    host: String,
    plain_http: bool,
    insecure: bool,
}

impl Draft {
    fn lose(&mut self, what: impl AsRef<str>) {
        self.lost.push(crate::error::printable(what.as_ref()));
    }

    fn note(&mut self, what: impl AsRef<str>) {
        self.notes.push(crate::error::printable(what.as_ref()));
    }
}

/// Reads files, each a name and its text, into one `larder.toml`. `target` (`HOST[/PREFIX]`) is where the cache is, for files
/// that do not say it.
///
/// # Errors
/// Of the files as a whole: no JSON, rows that nobody knows, rules of several systems.
pub fn import(files: &[(String, String)], target: Option<(&str, &str)>) -> Result<ImportedRules> {
    let mut rows: Vec<(RowShape, Value)> = Vec::new();
    let mut draft = Draft::default();
    for (file, text) in files {
        rows.extend(read(file, text, &mut draft)?);
    }
    let system = one_system(&rows)?;
    let of = |shape: RowShape| rows.iter().filter(move |(kind, _)| *kind == shape).map(|(_, row)| row);
    match system {
        SourceSystem::Acr => acr::read(of(RowShape::AcrRule), of(RowShape::AcrSet), &mut draft)?,
        SourceSystem::Ecr => ecr::read(of(RowShape::EcrRule), &mut draft)?,
        SourceSystem::Harbor => harbor::read(of(RowShape::HarborProject), of(RowShape::HarborRegistry), &mut draft),
    }
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    Ok(write::write(draft, system, &names, target))
}

/// The rows of a file: of an array, of what a service wraps one in, or the only one.
fn read(file: &str, text: &str, draft: &mut Draft) -> Result<Vec<(RowShape, Value)>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Error::local(OPERATION, format!("{file}:{}: this is not JSON: {error}", error.line().max(1))).remedy("print it with `-o json`")
    })?;
    if value.get("nextToken").is_some_and(|token| !token.is_null()) {
        draft.lose(format!("{file} is one page of several: the rules of the other pages are not in it"));
    }
    let wrapped = ["pullThroughCacheRules", "value"].iter().find_map(|key| value.get(*key)).and_then(Value::as_array);
    let rows = match (wrapped, &value) {
        (Some(rows), _) | (None, Value::Array(rows)) => rows.clone(),
        (None, one) => vec![one.clone()],
    };
    let known = |(at, row): (usize, Value)| match RowShape::of(&row) {
        Some(shape) => Ok((shape, row)),
        None => Err(Error::local(OPERATION, format!("{file}: entry {} is none that is known here", at + 1)).remedy(
            "give the JSON of `az acr cache list`, `az acr credential-set list`, `aws ecr describe-pull-through-cache-rules`, \
             or of Harbor's /api/v2.0/projects and /api/v2.0/registries",
        )),
    };
    rows.into_iter().enumerate().map(known).collect()
}

fn one_system(rows: &[(RowShape, Value)]) -> Result<SourceSystem> {
    let mut systems: Vec<SourceSystem> = Vec::new();
    for (shape, _) in rows {
        if !systems.contains(&shape.system()) {
            systems.push(shape.system());
        }
    }
    match systems.as_slice() {
        [one] => Ok(*one),
        [] => Err(Error::local(OPERATION, "there is nothing in the files")),
        [one, other, ..] => {
            Err(Error::local(OPERATION, format!("rules of {one} and of {other} have two targets")).remedy("import each system on its own"))
        }
    }
}

/// A field of a row, or of its `properties`, where Azure's API keeps it; null is none.
fn field<'v>(row: &'v Value, name: &str) -> Option<&'v Value> {
    [row.get(name), row.get("properties").and_then(|properties| properties.get(name))].into_iter().flatten().find(|value| !value.is_null())
}

fn text<'v>(row: &'v Value, name: &str) -> Option<&'v str> {
    field(row, name).and_then(Value::as_str).filter(|text| !text.is_empty())
}
