//! Parses one line of any format. Errors are messages; the caller adds file and line.

use super::{ImageSelection, TargetName};
use crate::content::PlatformFilter;
use crate::name::{ImageName, RegistryRepository, check_path, check_tag};
use crate::select::Selector;

/// The tag of a line without a tag (docs/lists.md).
pub(super) const DEFAULT_TAG: &str = "latest";

/// A parsed line without its position.
#[derive(Debug)]
pub(super) struct ParsedLine {
    pub(super) source: RegistryRepository,
    pub(super) selection: ImageSelection,
    pub(super) target: Option<TargetName>,
    pub(super) platforms: Vec<PlatformFilter>,
    pub(super) priority: i64,
}

/// A single reference: a line of a text list, or `--image`.
pub(super) fn reference(image: &str) -> Result<ParsedLine, String> {
    CsvFields { image, ..CsvFields::default() }.meaning()
}

/// The fields of a CSV record, trimmed; empty if the record or its header lacks them.
#[derive(Default)]
pub(super) struct CsvFields<'a> {
    pub(super) image: &'a str,
    pub(super) tags: &'a str,
    pub(super) exclude: &'a str,
    pub(super) platforms: &'a str,
    pub(super) target: &'a str,
    pub(super) priority: &'a str,
}

impl CsvFields<'_> {
    pub(super) fn meaning(&self) -> Result<ParsedLine, String> {
        if self.image.is_empty() {
            return Err("the image is missing".to_owned());
        }
        if self.image.starts_with("helm+https://") {
            return Err(format!("`{}`: charts of a chart repository (`helm+https://`) are not in this version", self.image));
        }
        let image = ImageName::parse(self.image).map_err(|why| self.with_hint(why))?;
        let source = image.repository.clone();
        let selection = self.selection(image)?;
        let target = match self.target {
            "" => None,
            target => Some(target_name(target, &selection).map_err(|why| format!("target `{target}`: {why}"))?),
        };
        Ok(ParsedLine { source, selection, target, platforms: self.platforms()?, priority: self.priority()? })
    }

    /// Says where a pattern belongs that was written as the tag.
    fn with_hint(&self, why: String) -> String {
        let is_pattern = self.image.rsplit_once(':').is_some_and(|(_, tag)| !tag.contains('/') && tag.contains(['*', '?']));
        if is_pattern { format!("{why}; patterns of tags belong in the `tags` column of a CSV list") } else { why }
    }

    fn platforms(&self) -> Result<Vec<PlatformFilter>, String> {
        self.platforms.split(';').map(str::trim).filter(|text| !text.is_empty()).map(PlatformFilter::parse).collect()
    }

    fn selection(&self, image: ImageName) -> Result<ImageSelection, String> {
        let ImageName { tag, digest, .. } = image;
        if self.tags.is_empty() && self.exclude.is_empty() {
            let neither = tag.is_none() && digest.is_none();
            return Ok(ImageSelection::One { tag: if neither { Some(DEFAULT_TAG.to_owned()) } else { tag }, digest });
        }
        let column = if self.tags.is_empty() { "exclude" } else { "tags" };
        for (part, there) in [("tag", tag.is_some()), ("digest", digest.is_some())] {
            if there {
                return Err(format!("`{}` has a {part}, and `{column}` is not empty: only one of the two can choose", self.image));
            }
        }
        let selector = Selector::parse(self.tags, self.exclude)?;
        // One exact tag is the same as `name:tag`.
        Ok(match selector.sole_tag() {
            Some(tag) => ImageSelection::One { tag: Some(tag.to_owned()), digest: None },
            None => ImageSelection::Terms(Box::new(selector)),
        })
    }

    fn priority(&self) -> Result<i64, String> {
        match self.priority {
            "" => Ok(0),
            text => text.parse().map_err(|_| format!("priority `{text}` is not an integer")),
        }
    }
}

/// Parses `repository[:tag]`, for a line that selects `selection`.
fn target_name(text: &str, selection: &ImageSelection) -> Result<TargetName, String> {
    if text.contains('@') {
        return Err("a digest is what the source has; the target takes a repository".to_owned());
    }
    let (repository, tag) = match text.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, Some(tag)),
        _ => (text, None),
    };
    check_path(repository)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
        match selection {
            ImageSelection::One { tag: Some(_), .. } => {}
            ImageSelection::One { tag: None, .. } => {
                return Err(format!("the line has a digest and no tag: write `:{tag}` before the `@` in `image` instead"));
            }
            ImageSelection::Terms(_) => return Err("the line can mean several tags: leave the tag out, they keep their names".to_owned()),
        }
    }
    Ok(TargetName { repository: repository.to_owned(), tag: tag.map(str::to_owned) })
}
