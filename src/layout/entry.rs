//! The entries of `index.json`: what names them, and what their annotations say.

use serde_json::{Value, json};

use crate::content::{ABSENT, Descriptor, Digest, Repository, SPARSE};
use crate::name::{Reference, check_tag};

/// The annotation that names an entry of `index.json` (image-spec annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's annotation for the full name of an image (containerd `images/annotations.go`).
pub(super) const IMAGE_NAME: &str = "io.containerd.image.name";
/// containerd's annotation for what a manifest in a layout is about (containerd `core/images/archive`).
pub(super) const SUBJECT: &str = "io.containerd.manifest.subject";

/// An entry of `index.json`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexEntry {
    /// What it points to, with its annotations.
    pub descriptor: Descriptor,
    /// `org.opencontainers.image.ref.name`: `library/alpine:3.20` where larder wrote it, often a bare tag elsewhere.
    pub name: Option<String>,
    /// `io.containerd.image.name`: the canonical name of what it was copied from.
    pub source: Option<String>,
}

impl IndexEntry {
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        serde_json::from_value::<Descriptor>(value.clone()).map(Self::of).map_err(|error| error.to_string())
    }

    /// An entry with what the annotations of `descriptor` say.
    pub fn of(descriptor: Descriptor) -> Self {
        let annotation = |key| descriptor.annotations.get(key).filter(|value: &&String| !value.is_empty()).cloned();
        IndexEntry { name: annotation(REF_NAME), source: annotation(IMAGE_NAME), descriptor }
    }

    /// Its repository, and its tag or digest there, if it states them: by larder's own name, else by the name of what it was copied
    /// from. A bare tag, as other tools write it, does not say which repository it belongs to.
    pub fn title(&self) -> Option<(Repository, Reference)> {
        split(self.full_name()?)
    }

    /// The full name that it states for itself. A tag alone is not a full name, in either annotation.
    pub(super) fn full_name(&self) -> Option<&str> {
        let full = |name: &&str| !is_bare(name);
        self.name.as_deref().filter(full).or_else(|| self.source.as_deref().filter(full))
    }

    /// What it says that its manifest is about.
    pub(super) fn subject(&self) -> Option<Digest> {
        Digest::parse(self.descriptor.annotations.get(SUBJECT)?).ok()
    }

    /// Whether it says which repository it belongs to.
    pub fn states_repository(&self) -> bool {
        self.full_name().is_some()
    }

    /// How messages call the image.
    pub(super) fn display_name(&self) -> String {
        match (&self.name, &self.source) {
            (Some(name), Some(source)) if is_bare(name) => source.clone(),
            (Some(name), _) => name.clone(),
            (None, Some(source)) => source.clone(),
            (None, None) => match self.subject() {
                Some(subject) => format!("a referrer of {subject}"),
                None => format!("an entry without a name ({})", self.descriptor.digest),
            },
        }
    }
}

/// Whether a ref.name is a tag without a repository.
pub(super) fn is_bare(name: &str) -> bool {
    !name.contains(['/', ':', '@'])
}

/// `library/alpine:3.20` and `library/alpine@sha256:…`, in two.
fn split(name: &str) -> Option<(Repository, Reference)> {
    let (repository, reference) = match name.split_once('@') {
        // Of `name:tag@digest` the tag is for people.
        Some((repository, digest)) => {
            let repository =
                repository.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(repository, |(repository, _)| repository);
            (repository, Reference::Digest(Digest::parse(digest).ok()?))
        }
        None => {
            let (repository, tag) = name.rsplit_once(':')?;
            check_tag(tag).ok()?;
            (repository, Reference::Tag(tag.to_owned()))
        }
    };
    let plain = !repository.is_empty() && !repository.contains(|c: char| c.is_whitespace() || c.is_control());
    plain.then(|| (Repository::new(repository), reference))
}

/// What `org.opencontainers.image.ref.name` says: `library/alpine:3.20`, `repo@sha256:…`.
pub(super) fn name_of(repository: &Repository, reference: &Reference) -> String {
    format!("{repository}{}", reference.suffix())
}

/// A descriptor without what belongs to one entry only, but with what was left out below it.
pub(super) fn bare(descriptor: &Descriptor) -> Descriptor {
    let mut bare = Descriptor::new(descriptor.media_type.clone(), descriptor.digest.clone(), descriptor.size);
    let kept = [SPARSE, ABSENT].into_iter().filter_map(|key| descriptor.annotations.get_key_value(key));
    bare.annotations.extend(kept.map(|(key, value)| (key.clone(), value.clone())));
    bare
}

/// An entry of `index.json` of this name, with the descriptor's own annotations.
pub(super) fn entry_json(name: &str, of: &Descriptor, source: Option<&str>, subject: Option<&Digest>) -> Value {
    let mut annotations = of.annotations.clone();
    // Other tools take this annotation for the image's name, so only a full reference is written.
    let source = source.filter(|source| crate::name::is_full_reference(source));
    let ours = [(REF_NAME, Some(name)), (IMAGE_NAME, source), (SUBJECT, subject.map(Digest::as_str))];
    annotations.extend(ours.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned()))));
    json!({"mediaType": of.media_type, "digest": of.digest, "size": of.size, "annotations": annotations})
}
