//! The name at a target of an image from a layout or archive.

use std::path::Path;

use crate::content::Repository;
use crate::layout::IndexEntry;
use crate::name::{ImageName, Reference, RegistryRepository, check_path, split_host};
use crate::rules::{RuleSet, Unmatched};

/// Repository and reference at the target, without prefix, and a remark; or the reason why there is no such name.
pub type Named = Result<(Repository, Reference, Option<String>), String>;

/// Maps names of other tools to names at a target.
#[derive(Debug)]
pub struct NameMapping<'a> {
    /// Cache rules: they map images of their sources to target repositories.
    pub rules: &'a RuleSet,
    /// Whether the target is a registry.
    pub registry: bool,
    /// The name of images that do not state a repository.
    pub given: Option<GivenName>,
}

/// The value of `--name`, for images that do not state a repository: `team/app`, `quay.io/team/app:1`.
#[derive(Debug)]
pub struct GivenName {
    /// As it was written.
    text: String,
    name: ImageName,
    /// How many images were named by it.
    used: std::cell::Cell<usize>,
}

impl GivenName {
    /// Parses it.
    ///
    /// # Errors
    /// A message if it is not an image name, or has a digest.
    pub fn parse(text: &str) -> Result<Self, String> {
        let name = ImageName::parse(text)?;
        if name.digest.is_some() {
            return Err(format!("`{text}` has a digest; give a repository, or a repository and a tag"));
        }
        Ok(GivenName { text: text.to_owned(), name, used: std::cell::Cell::new(0) })
    }

    /// Checks, after all images have their names, that it was used, and for one image only if it has a tag.
    ///
    /// # Errors
    /// A message if not.
    pub fn check(&self) -> Result<(), String> {
        match (self.used.get(), &self.name.tag) {
            (0, _) => Err(format!("`{}` is for images that do not state a repository, and these do", self.text)),
            (2.., Some(_)) => Err(format!("`{}` is the name of one image, and {} state no repository", self.text, self.used.get())),
            _ => Ok(()),
        }
    }
}

impl NameMapping<'_> {
    /// The name of `entry` at the target:
    ///
    /// 1. larder's own name, unchanged: a full `org.opencontainers.image.ref.name` beside an `io.containerd.image.name`;
    /// 2. a full name by another tool (`docker.io/library/redis:7`): mapped by a cache rule, else without its host;
    /// 3. a bare tag, or nothing: below the name of the folder or file, `stem`, with a remark.
    ///
    /// # Errors
    /// A message if that is not a valid name.
    pub fn name(&self, entry: &IndexEntry, stem: &str) -> Named {
        let whole = |name: &&str| name.contains(['/', ':', '@']);
        let stated = entry.name.as_deref().filter(whole);
        match (stated, entry.source.as_deref().filter(whole)) {
            (Some(name), None) if split_host(name).0.is_some() => self.foreign(name, entry),
            (Some(name), _) => entry
                .title()
                .map(|(repository, reference)| (repository, reference, None))
                .ok_or_else(|| format!("invalid image name `{name}`")),
            (None, Some(source)) => self.foreign(source, entry),
            (None, None) => self.given.as_ref().map_or_else(|| bare(entry, stem), |given| self.given(given, entry)),
        }
    }

    fn foreign(&self, name: &str, entry: &IndexEntry) -> Named {
        let ImageName { repository, tag, digest } = ImageName::parse(name)?;
        if let Some(digest) = digest.as_ref().filter(|digest| **digest != entry.descriptor.digest) {
            return Err(format!("its name has {digest}, but its digest is {}", entry.descriptor.digest));
        }
        let reference = match (tag, digest) {
            (Some(tag), _) => Reference::Tag(tag),
            (None, Some(digest)) => Reference::Digest(digest),
            (None, None) => Reference::Tag("latest".to_owned()),
        };
        Ok((self.repository(&repository), reference, None))
    }

    /// The name of an image that does not state a repository, from `--name`.
    fn given(&self, given: &GivenName, entry: &IndexEntry) -> Named {
        given.used.set(given.used.get() + 1);
        let own = entry.name.clone().filter(|tag| crate::name::check_tag(tag).is_ok());
        let tag = given.name.tag.clone().or(own).unwrap_or_else(|| "latest".to_owned());
        let repository = match split_host(&given.text).0 {
            Some(_) => self.repository(&given.name.repository),
            // Without a host it is a repository of the target.
            None => Repository::new(given.text.strip_suffix(&format!(":{tag}")).unwrap_or(&given.text)),
        };
        Ok((repository, Reference::Tag(tag), None))
    }

    fn repository(&self, repository: &RegistryRepository) -> Repository {
        let resolved = self.rules.resolve(repository, Unmatched::Fail, self.registry);
        resolved.map_or_else(|_| Repository::new(repository.path.as_str()), |resolution| resolution.target)
    }
}

/// The name of an image that does not state a repository, from the name of its file.
fn bare(entry: &IndexEntry, stem: &str) -> Named {
    check_path(stem).map_err(|_| format!("the image states no repository, and `{stem}` cannot be one; give it a name with --name REF"))?;
    let reference = match &entry.name {
        Some(tag) if crate::name::check_tag(tag).is_ok() => Reference::Tag(tag.clone()),
        Some(tag) => return Err(format!("invalid tag `{tag}`")),
        None => Reference::Digest(entry.descriptor.digest.clone()),
    };
    let note = format!("it states no repository: it is named after {stem}, where it was found");
    Ok((Repository::new(stem), reference, Some(note)))
}

/// The name of a folder or file, in lower case, without the endings of archives.
pub fn stem(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let endings = [".gz", ".zst", ".xz", ".bz2", ".tgz", ".tzst", ".txz", ".tbz2", ".tar", ".oci", ".docker"];
    let name = endings.iter().fold(name.as_str(), |name, ending| name.strip_suffix(ending).unwrap_or(name));
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Descriptor, Digest};

    fn named(name: Option<&str>, source: Option<&str>, stem: &str) -> Result<String, String> {
        let rules = "version = 1\n[[rule]]\nname = \"quay\"\nsource = \"quay.io/*\"\ntarget = \"mirror/*\"\n";
        let config = crate::config::Config::parse(rules, Path::new("larder.toml")).unwrap();
        let naming = NameMapping { rules: &config.rules, registry: true, given: None };
        let descriptor = Descriptor::new("", Digest::sha256(b"x"), 1);
        let entry = IndexEntry { descriptor, name: name.map(str::to_owned), source: source.map(str::to_owned) };
        naming.name(&entry, stem).map(|(repository, reference, _)| format!("{repository}{}", reference.suffix()))
    }

    #[test]
    fn own_names_stay_and_other_names_are_mapped_by_a_rule_or_lose_their_host() {
        let by_digest = format!("my-app@{}", Digest::sha256(b"x"));
        for (name, source, expected) in [
            // Mirrored by larder: the host is part of the repository.
            (Some("docker.io/library/redis:7"), Some("docker.io/library/redis:7"), "docker.io/library/redis:7"),
            (Some("library/redis:7"), None, "library/redis:7"),
            (Some("7"), Some("docker.io/library/redis:7"), "library/redis:7"),
            (None, Some("docker.io/library/redis:7"), "library/redis:7"),
            (Some("docker.io/library/redis:7"), None, "library/redis:7"),
            (Some("quay.io/a/b:1"), None, "mirror/a/b:1"),
            (None, Some("quay.io/a/b"), "mirror/a/b:latest"),
            (Some("localhost:5000/x:1"), None, "x:1"),
            (Some("3.20"), None, "my-app:3.20"),
            (None, None, &by_digest),
        ] {
            assert_eq!(named(name, source, "my-app").as_deref(), Ok(expected), "{name:?} {source:?}");
        }
        for (name, source, stem, word) in [
            (Some("3.20"), None, "my app", "cannot be one"),
            (Some("-x"), None, "my-app", "invalid tag"),
            (None, Some("quay.io/not a name"), "x", "may not stand"),
            (Some("a/b"), None, "x", "invalid image name"),
        ] {
            let error = named(name, source, stem).unwrap_err();
            assert!(error.contains(word), "{name:?} {source:?}: {error}");
        }
    }

    #[test]
    fn a_given_name_is_for_images_without_one() {
        let rules = "version = 1\n[[rule]]\nname = \"quay\"\nsource = \"quay.io/*\"\ntarget = \"mirror/*\"\n";
        let config = crate::config::Config::parse(rules, Path::new("larder.toml")).unwrap();
        let entry = |name: Option<&str>, source: Option<&str>| {
            let descriptor = Descriptor::new("", Digest::sha256(b"x"), 1);
            IndexEntry { descriptor, name: name.map(str::to_owned), source: source.map(str::to_owned) }
        };
        for (given, name, source, expected) in [
            ("team/app:1", None, None, "team/app:1"),
            ("team/app:1", Some("7"), None, "team/app:1"),
            ("team/app", Some("7"), None, "team/app:7"),
            ("team/app", None, None, "team/app:latest"),
            ("app", None, None, "app:latest"),
            ("quay.io/a/b:2", None, None, "mirror/a/b:2"),
            ("ghcr.io/a/b:2", None, None, "a/b:2"),
            ("team/app:1", Some("library/redis:7"), None, "library/redis:7"),
        ] {
            let naming = NameMapping { rules: &config.rules, registry: true, given: Some(GivenName::parse(given).unwrap()) };
            let (repository, reference, _) = naming.name(&entry(name, source), "-").unwrap();
            assert_eq!(format!("{repository}{}", reference.suffix()), expected, "{given} {name:?}");
            assert_eq!(naming.given.unwrap().check().is_ok(), name != Some("library/redis:7"));
        }
        let naming = NameMapping { rules: &config.rules, registry: true, given: Some(GivenName::parse("team/app:1").unwrap()) };
        naming.name(&entry(None, None), "-").unwrap();
        naming.name(&entry(Some("2"), None), "-").unwrap();
        assert!(naming.given.unwrap().check().unwrap_err().contains("the name of one image, and 2 state no repository"));
        for text in ["", "a b", "Team/App", "x@sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"] {
            assert!(GivenName::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_stem_is_a_files_name_without_the_endings_of_archives() {
        for (path, expected) in [
            ("/a/My-App.tar", "my-app"),
            ("/a/app.oci.tar", "app"),
            ("/a/app.tar.gz", "app"),
            ("/a/app.tgz", "app"),
            ("/a/app.tar.zst", "app"),
            ("/a/b/layout", "layout"),
            ("/x/app-1.2", "app-1.2"),
        ] {
            assert_eq!(stem(Path::new(path)), expected);
        }
    }
}
