//! Finds image references in files of other tools: Kubernetes manifests and the output of `helm template`, Compose
//! files, the lists of `skopeo sync` and `regsync`, Dockerfiles. Reading files and walking folders belongs to the
//! caller.
//!
//! A document's keys tell its kind; in an unknown one, fields named `image` are searched. A broken document is a
//! problem with its line, and the rest is still read.

mod dockerfile;
mod manifest;
mod mirrors;
#[cfg(test)]
mod tests;
mod variables;
mod yaml;

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::{LineError, LineOrigin};
use crate::name::ImageName;
use yaml::YamlNode;

/// The references of a file, in the order of its lines.
#[derive(Debug, Default)]
pub struct Scanned {
    /// The references.
    pub found: Vec<FoundReference>,
    /// What could not be parsed, or is only known when something runs. Its images are missing in `found`.
    pub problems: Vec<LineError>,
    /// What was skipped on purpose.
    pub notes: Vec<LineError>,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundReference {
    /// Its position.
    pub origin: LineOrigin,
    /// What it requests.
    pub wanted: ScannedEntry,
}

/// The content of a list line.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScannedEntry {
    /// The normalised name, with a tag or digest unless `tags` is set.
    pub image: String,
    /// The `tags` column of a CSV list; empty for one image. Text lists cannot express it.
    pub tags: String,
    /// The `exclude` column.
    pub exclude: String,
}

/// Removes repeated references: the first position of each stays.
#[derive(Debug, Default)]
pub struct DistinctReferences(HashSet<ScannedEntry>);

impl DistinctReferences {
    /// Whether `found` is the first of its kind.
    pub fn is_new(&mut self, found: &FoundReference) -> bool {
        self.0.insert(found.wanted.clone())
    }
}

/// Whether a file of this name is read when a folder is walked. A file that the user names is always read.
pub fn is_scanned_by_name(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower.ends_with(".yaml") || lower.ends_with(".yml") || is_dockerfile(&lower)
}

/// `Dockerfile`, `Dockerfile.alpine`, `api.Dockerfile`, and the same with `Containerfile`.
fn is_dockerfile(lower: &str) -> bool {
    ["dockerfile", "containerfile"].iter().any(|kind| {
        lower == *kind
            || lower.strip_prefix(kind).is_some_and(|rest| rest.starts_with('.'))
            || lower.strip_suffix(kind).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// Finds the references in a file. `file` is its name as the user gave it. If the name does not tell the format, the
/// text does.
pub fn scan(file: &str, text: &str) -> Scanned {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut finder = Finder { file: file.into(), scanned: Scanned::default() };
    let name = file.rsplit(['/', '\\']).next().unwrap_or(file).to_ascii_lowercase();
    if is_dockerfile(&name) || !is_scanned_by_name(&name) && dockerfile::is_one(text) {
        dockerfile::scan(text, &mut finder);
    } else {
        for document in yaml::documents(text) {
            match document {
                Ok(roots) => roots.iter().for_each(|root| document_of(root, &mut finder)),
                Err(broken) => finder.problem(broken.line, &broken.message),
            }
        }
    }
    let Scanned { mut found, mut problems, mut notes } = finder.scanned;
    // The target of an alias or merge key is reported where it was written.
    found.sort_by_key(|found| found.origin.line);
    problems.sort_by_key(|problem| problem.origin.line);
    notes.sort_by_key(|note| note.origin.line);
    Scanned { found, problems, notes }
}

fn document_of(root: &Rc<YamlNode>, finder: &mut Finder) {
    if let Some(first) = root.text().and_then(|text| text.split_whitespace().next())
        && ImageName::parse(first).is_ok_and(|name| name.tag.is_some() || name.digest.is_some())
    {
        finder.problem(root.line, "this is a list of images already: give it to larder as it is");
    } else if manifest::is_kubernetes(root) {
        manifest::scan(root, manifest::FieldTrust::Certain, finder);
    } else if manifest::is_compose(root) {
        manifest::scan_compose(root, finder);
    } else if mirrors::is_regsync(root) {
        mirrors::scan_regsync(root, finder);
    } else if mirrors::is_skopeo(root) {
        mirrors::scan_skopeo(root, finder);
    } else {
        manifest::scan(root, manifest::FieldTrust::Likely, finder);
    }
}

/// Collects the references of one file.
struct Finder {
    file: Arc<str>,
    scanned: Scanned,
}

impl Finder {
    fn origin(&self, line: usize) -> LineOrigin {
        LineOrigin { file: Arc::clone(&self.file), line }
    }

    fn problem(&mut self, line: usize, message: &str) {
        let problem = LineError::new(self.origin(line), "", message);
        self.scanned.problems.push(problem);
    }

    fn note(&mut self, line: usize, message: &str) {
        let note = LineError::new(self.origin(line), "", message);
        self.scanned.notes.push(note);
    }

    /// Adds a value that must be a reference: an invalid one is a problem.
    fn reference(&mut self, line: usize, text: &str) {
        match normalised(text) {
            Ok(image) => self.found(line, ScannedEntry { image, tags: String::new(), exclude: String::new() }),
            Err(why) => self.problem(line, &why),
        }
    }

    fn found(&mut self, line: usize, wanted: ScannedEntry) {
        let origin = self.origin(line);
        self.scanned.found.push(FoundReference { origin, wanted });
    }
}

/// The normal form of a reference: `nginx` is `docker.io/library/nginx:latest`.
fn normalised(text: &str) -> Result<String, String> {
    if text.contains("{{") {
        return Err(format!("`{text}` is a template: scan what it renders (`helm template`)"));
    }
    let mut name = ImageName::parse(text).map_err(|why| if why.contains(text) { why } else { format!("`{text}`: {why}") })?;
    if name.tag.is_none() && name.digest.is_none() {
        name.tag = Some(super::line::DEFAULT_TAG.to_owned());
    }
    Ok(name.to_string())
}
