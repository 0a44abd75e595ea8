//! The parts of an image that its policy selects.

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::image::CopyImage;
use super::job::CopyJob;
use super::reader::{CONCURRENT_CHILDREN, ContentReader};
use super::target::TargetState;
use crate::content::{
    ChildChoice, ChoiceVerdict, Descriptor, Digest, IndexMode, Links, Manifest, ManifestKind, Platform, PlatformFilter, Policy, is_cut_of,
    platforms_of, rewrite,
};
use crate::{Error, Kind, Operation, Result, Side};

/// The parts of an image that are delivered.
pub(super) struct SelectedContent {
    /// The manifest that gets the name: the upstream's, or one made from it.
    pub(super) manifest: Manifest,
    /// What is copied below it.
    pub(super) links: Links,
    /// The platforms that are delivered.
    pub(super) platforms: Vec<String>,
    /// The platforms of the policy, if the upstream's index is delivered without its other platforms.
    pub(super) sparse: Vec<PlatformFilter>,
}

impl SelectedContent {
    /// All parts.
    pub(super) fn whole(manifest: Manifest) -> Self {
        let links = Links::clone(manifest.links());
        let platforms = platforms_of(&links.manifests);
        SelectedContent { manifest, links, platforms, sparse: vec![] }
    }

    /// Selects from `manifest`, which the upstream's name points to.
    ///
    /// # Errors
    /// If it has none of the policy's platforms, or lacks a required one.
    pub(super) async fn select(target: &TargetState, reader: &ContentReader, job: &CopyJob<'_>, manifest: Manifest) -> Result<Self> {
        let policy = &job.image.policy;
        if policy.platforms.is_empty() || manifest.kind() == ManifestKind::Opaque {
            return Ok(Self::whole(manifest));
        }
        if manifest.kind() == ManifestKind::Image {
            let choice = ChildChoice::of_one(platform_of(target, reader, job.image, &manifest).await?, &policy.platforms);
            check(policy, &choice)?.into_iter().for_each(|note| job.note(note));
            return Ok(SelectedContent { platforms: names(&choice.delivered), ..Self::whole(manifest) });
        }
        let links = Arc::clone(manifest.links());
        let mut choice = ChildChoice::of(&links.manifests, &policy.platforms);
        for inner in nested_indexes(target, reader, job, &choice).await? {
            choice.look_inside(&inner.links().manifests);
        }
        check(policy, &choice)?.into_iter().for_each(|note| job.note(note));
        let platforms = names(&choice.delivered);
        if choice.left_out > 0 && policy.index == IndexMode::Sparse {
            target.presence().add_sparse(&job.image.to, manifest.digest());
            return Ok(SelectedContent {
                manifest,
                links: Links { manifests: choice.kept, ..Links::clone(&links) },
                platforms,
                sparse: policy.platforms.clone(),
            });
        }
        let made = rewrite(&manifest, &policy.platforms)?;
        if choice.left_out > 0 {
            // Another name, or other platforms, may need the source index, and the target will not have it.
            target.cached().add(manifest.digest(), manifest.bytes().clone());
            if is_cut_of(&made, manifest.digest(), &policy.platforms)? != Some(true) {
                // The new index does not say what was left out: the next run needs the source index to find out.
                job.keep(manifest.digest());
            }
        }
        Ok(SelectedContent { links: Links::clone(made.links()), manifest: made, platforms, sparse: vec![] })
    }

    /// Drops the children that the upstream turned out not to have. The manifest still lists them. Returns their
    /// digests.
    ///
    /// # Errors
    /// If no child remains, or the policy requires its platforms.
    pub(super) fn drop_absent(&mut self, job: &CopyJob<'_>) -> Result<Vec<Digest>> {
        let absent = job.absent();
        if absent.is_empty() {
            return Ok(vec![]);
        }
        let listed = self.links.manifests.len();
        self.links.manifests.retain(|child| !absent.iter().any(|one| one.digest == child.digest));
        let words: Vec<String> = absent.iter().map(child_name).collect();
        let lacks = format!("the upstream does not have {}, which its own index lists", words.join(", "));
        let policy = &job.image.policy;
        if self.links.manifests.is_empty() && listed > 0 || policy.platforms_required && !policy.platforms.is_empty() {
            return Err(Error::new(Side::Upstream, Operation::GetManifest, Kind::NotFound, lacks).status(404));
        }
        let (gone, remaining) = (platforms_of(&absent), platforms_of(&self.links.manifests));
        self.platforms.retain(|platform| remaining.contains(platform) || !gone.contains(platform));
        job.note(format!("{lacks}: the index is carried as it is"));
        Ok(absent.into_iter().map(|child| child.digest).collect())
    }
}

/// The remark that `choice` needs.
///
/// # Errors
/// If the image cannot be delivered.
pub(super) fn check(policy: &Policy, choice: &ChildChoice) -> Result<Option<String>> {
    let failed = |words: String| Error::new(Side::Upstream, Operation::ChoosePlatforms, Kind::NotFound, words);
    match choice.verdict() {
        ChoiceVerdict::Good => Ok(None),
        ChoiceVerdict::Lacking(words) if policy.platforms_required => Err(failed(words).remedy("`platforms_required` is set for its rule")),
        ChoiceVerdict::Lacking(words) => Ok(Some(words)),
        ChoiceVerdict::Nothing(words) => Err(failed(words).remedy("change `platforms` of the rule or the line")),
    }
}

pub(super) fn names(platforms: &[Platform]) -> Vec<String> {
    platforms.iter().map(ToString::to_string).collect()
}

/// A child as a reader knows it: by its platform, if it has one.
fn child_name(child: &Descriptor) -> String {
    match &child.platform {
        Some(platform) if platform.os != "unknown" && !platform.os.is_empty() => format!("{platform} ({})", child.digest.short()),
        _ => child.digest.to_string(),
    }
}

/// Reads the nested indexes that may contain the missing platforms. They are copied whole, so these reads cost no
/// additional pull.
async fn nested_indexes(target: &TargetState, reader: &ContentReader, job: &CopyJob<'_>, choice: &ChildChoice) -> Result<Vec<Manifest>> {
    let nested: Vec<Descriptor> = if choice.missing.is_empty() { vec![] } else { choice.nested().cloned().collect() };
    let read = stream::iter(nested).map(|child| async move {
        let held = target.holds_manifest(job.image, &child).await?;
        let manifest = reader.manifest(job, &child, &held).await?;
        target.cached().add(manifest.digest(), manifest.bytes().clone());
        Ok(manifest)
    });
    read.buffered(CONCURRENT_CHILDREN).try_collect().await
}

/// The platform in a single image's config; `None` if it has no image config or names no platform.
async fn platform_of(target: &TargetState, reader: &ContentReader, image: &CopyImage, manifest: &Manifest) -> Result<Option<Platform>> {
    let links = manifest.links();
    let Some(config) = links.blobs.iter().find(|blob| blob.is_image_config()) else { return Ok(None) };
    target.cached().add_inline(manifest);
    let bytes = reader.small_blob(image, manifest.digest(), config).await?;
    Ok(serde_json::from_slice(&bytes).ok())
}
