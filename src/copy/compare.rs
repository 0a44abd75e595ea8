//! Compares what the upstream names with what the target has.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::comparison::{Comparison, TargetIndex};
use super::image::CopyImage;
use super::reader::{CONCURRENT_CHILDREN, ContentReader};
use super::selection::{check, names};
use super::target::TargetState;
use crate::content::{
    ChildChoice, Descriptor, Digest, IndexMode, Manifest, ManifestKind, PlatformFilter, Policy, Presence as At, SPARSE, is_cut_of,
    is_schema1, kind_of, rewrite, schema1, source_of,
};
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side};

/// Compares what the upstream names with what the target has.
pub(super) struct ImageComparer {
    target: Arc<TargetState>,
    reader: ContentReader,
}

impl ImageComparer {
    pub(super) fn new(target: Arc<TargetState>) -> Self {
        ImageComparer { reader: ContentReader::new(Arc::clone(&target)), target }
    }

    /// What the target has under an immutable tag, which cannot have changed at the upstream.
    ///
    /// # Errors
    /// If the target cannot be asked.
    pub(super) async fn immutable(&self, image: &CopyImage) -> Result<Option<Digest>> {
        if !image.immutable {
            return Ok(None);
        }
        let held = self.target.sink().published(&image.to, &image.publish, &image.context).await?;
        Ok(held.filter(|held| fits(&image.policy, held)).map(|held| held.digest))
    }

    /// Asks both sides for the image's name, and compares the answers.
    ///
    /// # Errors
    /// If one of them cannot be asked, or the upstream does not have the image.
    pub(super) async fn compare(&self, image: &CopyImage) -> Result<Comparison> {
        self.target.check_running(Operation::ResolveTag)?;
        let upstream = async {
            let wanted = match (&image.wanted, &image.resolved) {
                (Reference::Digest(digest), _) => Descriptor::new("", digest.clone(), 0),
                (Reference::Tag(_), Some(resolved)) => resolved.clone(),
                (Reference::Tag(_), None) => {
                    image.upstream.resolve(&image.from, &image.wanted, &image.context).await?.ok_or_else(|| not_found(image))?
                }
            };
            // ReadIndex from the HEAD, before a pull is spent on it.
            if is_schema1(&wanted.media_type) { Err(schema1(Side::Upstream)) } else { Ok(wanted) }
        };
        let target = self.target.sink().published(&image.to, &image.publish, &image.context);
        // The target comes first: while it is down, the upstream is not asked.
        let (held, wanted) = futures_util::future::try_join(target, upstream).await?;
        self.compare_content(image, wanted, held).await
    }

    /// Whether the target holds what the policy makes of `wanted`. If the policy names platforms, the target's index is
    /// read for that.
    async fn compare_content(&self, image: &CopyImage, wanted: Descriptor, held: Option<Descriptor>) -> Result<Comparison> {
        let held = held.filter(|held| fits(&image.policy, held));
        self.target.child_counts().note(&image.to, &wanted, held.as_ref());
        let mut comparison = Comparison::of(wanted, held.as_ref().map(|held| held.digest.clone()));
        if let Some(held) = held
            && !image.policy.platforms.is_empty()
            && kind_of(&held.media_type) != ManifestKind::Image
        {
            self.compare_index(image, &held, &mut comparison).await?;
        }
        Ok(comparison)
    }

    async fn compare_index(&self, image: &CopyImage, held: &Descriptor, comparison: &mut Comparison) -> Result<()> {
        let index = self.reader.intact_target_manifest(&image.to, &held.digest, &image.context).await?;
        if index.as_ref().is_some_and(|manifest| manifest.kind() != ManifestKind::Index) {
            return Ok(());
        }
        // An index that cannot be read is copied again.
        let same = std::mem::take(&mut comparison.current);
        let Some(index) = index else { return Ok(()) };
        let policy = &image.policy;
        if same {
            let choice = self.choose_children(image, &index, comparison).await?;
            comparison.current = match policy.index {
                IndexMode::Rewrite => choice.left_out == 0,
                IndexMode::Sparse => self.holds_all(image, &choice.kept).await?,
            };
        } else if policy.index == IndexMode::Rewrite && source_of(&index).as_ref() == Some(&comparison.wanted.digest) {
            comparison.made_from = Some(comparison.wanted.digest.clone());
            let source = self.reader.cached_manifest(image, &comparison.wanted);
            comparison.current = match &source {
                Some(source) => *rewrite(source, &policy.platforms)?.digest() == held.digest,
                None => is_cut_of(&index, &comparison.wanted.digest, &policy.platforms)? == Some(true),
            };
            if source.is_some() || comparison.current {
                self.choose_children(image, source.as_ref().unwrap_or(&index), comparison).await?;
            }
        }
        comparison.target_index.index = Some(index);
        Ok(())
    }

    /// The children of `index` that the policy selects, noted in `comparison`. Nested indexes are read at the target.
    ///
    /// # Errors
    /// If it has none of the policy's platforms, or lacks a required one.
    async fn choose_children(&self, image: &CopyImage, index: &Manifest, comparison: &mut Comparison) -> Result<ChildChoice> {
        let mut choice = ChildChoice::of(&index.links().manifests, &image.policy.platforms);
        let nested: Vec<Descriptor> = if choice.missing.is_empty() { vec![] } else { choice.nested().cloned().collect() };
        let read = stream::iter(nested)
            .map(|child| async move { self.target.source().manifest(&image.to, &child.digest, &image.context).await })
            .buffered(CONCURRENT_CHILDREN);
        for nested in read.try_collect::<Vec<_>>().await?.into_iter().flatten() {
            choice.look_inside(&nested.links().manifests);
        }
        let notes = check(&image.policy, &choice)?.into_iter().collect();
        *comparison.target_index = TargetIndex { index: None, platforms: names(&choice.delivered), children: choice.kept.clone(), notes };
        Ok(choice)
    }

    async fn holds_all(&self, image: &CopyImage, children: &[Descriptor]) -> Result<bool> {
        let held = stream::iter(children.to_vec()).map(|child| async move {
            let known = self.target.presence().has(&image.to, &child.digest);
            Ok::<_, Error>(known || self.target.sink().holds_manifest(&image.to, &child, &image.context).await? == At::Here)
        });
        held.buffer_unordered(CONCURRENT_CHILDREN).try_all(|held| async move { held }).await
    }
}

/// Whether the target's manifest is one that `policy` would deliver: complete, or a sparse index with the same
/// platforms.
fn fits(policy: &Policy, held: &Descriptor) -> bool {
    let platforms = held.annotations.get(SPARSE);
    platforms.is_none_or(|platforms| policy.index == IndexMode::Sparse && *platforms == PlatformFilter::joined(&policy.platforms))
}

fn not_found(image: &CopyImage) -> Error {
    Error::new(Side::Upstream, Operation::ResolveTag, Kind::NotFound, "the upstream has no such tag or repository")
        .status(404)
        .code("MANIFEST_UNKNOWN")
        .subject(&image.name)
        .remedy("check the name and tag in the list")
}
