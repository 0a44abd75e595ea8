//! What of an image is delivered, as its policy has it, and whether the target holds just that already.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};

use super::engine::{Comparison, CopyImage, Engine};
use super::graph::{CHILDREN, CopyJob};
use crate::content::{
    ChildChoice, ChoiceVerdict, Descriptor, Digest, IndexMode, Links, MAX_MANIFEST, Manifest, ManifestKind, Platform, PlatformFilter,
    Policy, Presence as At, Repository, RequestContext, SPARSE, Source, Verified, is_cut_of, kind_of, platforms_of, rewrite, source_of,
};
use crate::{Error, Kind, Result, Side};

const OP: &str = "choose platforms";

/// What of an image's top manifest is delivered.
pub(super) struct SelectedContent {
    /// The manifest that gets the name: the upstream's, or the one that was made of it.
    pub(super) manifest: Manifest,
    /// What is brought below it.
    pub(super) links: Links,
    /// The platforms that are delivered.
    pub(super) platforms: Vec<String>,
    /// The platforms that are there, if others have been left out of the upstream's index.
    pub(super) sparse: Vec<PlatformFilter>,
}

/// What a look at the target's index has told.
#[derive(Debug, Clone, Default)]
pub(super) struct TargetIndex {
    /// The index.
    pub(super) index: Option<Manifest>,
    pub(super) platforms: Vec<String>,
    pub(super) children: Vec<Descriptor>,
    pub(super) notes: Vec<String>,
}

impl SelectedContent {
    /// All of it.
    pub(super) fn whole(manifest: Manifest) -> Result<Self> {
        let links = Links::clone(manifest.links());
        let platforms = platforms_of(&links.manifests);
        Ok(SelectedContent { manifest, links, platforms, sparse: vec![] })
    }
}

/// Whether an entry with these children left out (none, for most) is one that `policy` would make.
pub(super) fn fits(policy: &Policy, held: &Descriptor) -> bool {
    let there = held.annotations.get(SPARSE);
    there.is_none_or(|there| policy.index == IndexMode::Sparse && *there == PlatformFilter::joined(&policy.platforms))
}

/// The note that `choice` deserves.
///
/// # Errors
/// If it is no image to deliver.
fn judge(policy: &Policy, choice: &ChildChoice) -> Result<Option<String>> {
    let failed = |words: String| Error::new(Side::Upstream, OP, Kind::NotFound, words);
    match choice.verdict() {
        ChoiceVerdict::Good => Ok(None),
        ChoiceVerdict::Lacking(words) if policy.platforms_required => Err(failed(words).remedy("`platforms_required` is set for its rule")),
        ChoiceVerdict::Lacking(words) => Ok(Some(words)),
        ChoiceVerdict::Nothing(words) => Err(failed(words).remedy("change `platforms` of the rule or the line")),
    }
}

/// What to do where a registry takes no index whose children are not all there. They have just been put, or found: nothing that could be
/// brought again is missing.
pub(super) fn no_sparse(error: Error) -> Error {
    let about_the_index = error.kind() == Kind::ContentMissing || matches!(error.http_status(), Some(400 | 404 | 422));
    if about_the_index {
        error.remedy(
            "it takes no index without all of its platforms: set index = \"rewrite\" for the rule; where it is distribution's own registry, \
             `validation.manifests.indexes.platforms: none` (or `list`) in its configuration lets it take one",
        )
    } else {
        error
    }
}

fn named(platforms: &[Platform]) -> Vec<String> {
    platforms.iter().map(ToString::to_string).collect()
}

impl Engine {
    /// What of `manifest`, which the upstream names, is delivered.
    ///
    /// # Errors
    /// If it is for none of the platforms asked for, or lacks one and may not.
    pub(super) async fn portion(&self, job: &CopyJob<'_>, manifest: Manifest) -> Result<SelectedContent> {
        let policy = &job.image.policy;
        if policy.platforms.is_empty() || manifest.kind() == ManifestKind::Opaque {
            return SelectedContent::whole(manifest);
        }
        if manifest.kind() == ManifestKind::Image {
            let choice = ChildChoice::of_one(self.platform_of(job.image, &manifest).await?, &policy.platforms);
            judge(policy, &choice)?.into_iter().for_each(|note| job.note(note));
            return Ok(SelectedContent { platforms: named(&choice.delivered), ..SelectedContent::whole(manifest)? });
        }
        let links = Arc::clone(manifest.links());
        let mut choice = ChildChoice::of(&links.manifests, &policy.platforms);
        for inner in self.nested(job, &choice).await? {
            choice.look_inside(&inner.links().manifests);
        }
        judge(policy, &choice)?.into_iter().for_each(|note| job.note(note));
        let platforms = named(&choice.delivered);
        if choice.left_out > 0 && policy.index == IndexMode::Sparse {
            self.presence.add_sparse(&job.image.to, manifest.digest());
            return Ok(SelectedContent {
                manifest,
                links: Links { manifests: choice.kept, ..Links::clone(&links) },
                platforms,
                sparse: policy.platforms.clone(),
            });
        }
        let made = rewrite(&manifest, &policy.platforms)?;
        if choice.left_out > 0 {
            // The target will not have it for another name, or other platforms.
            self.at_hand.add(manifest.digest(), manifest.bytes().clone());
            if is_cut_of(&made, manifest.digest(), &policy.platforms)? != Some(true) {
                // The next run will have to ask it what was left out.
                job.keep(manifest.digest());
            }
        }
        Ok(SelectedContent { links: Links::clone(made.links()), manifest: made, platforms, sparse: vec![] })
    }

    /// The indexes in the index which may hold what is still missing. They are brought whole, so that reading them is for nothing.
    async fn nested(&self, job: &CopyJob<'_>, choice: &ChildChoice) -> Result<Vec<Manifest>> {
        let inner: Vec<Descriptor> = if choice.missing.is_empty() { vec![] } else { choice.nested().cloned().collect() };
        let read = stream::iter(inner).map(|child| async move {
            let held = self.holds_manifest(job, &child).await?;
            let manifest = self.read(job, &child, &held).await?;
            self.at_hand.add(manifest.digest(), manifest.bytes().clone());
            Ok(manifest)
        });
        read.buffered(CHILDREN).try_collect().await
    }

    /// What a single image is for: its config says so. `None`: it is no image to run, or does not say.
    async fn platform_of(&self, image: &CopyImage, manifest: &Manifest) -> Result<Option<Platform>> {
        let links = manifest.links();
        let Some(config) = links.blobs.iter().find(|blob| blob.is_image_config()) else { return Ok(None) };
        self.at_hand.add_inline(manifest);
        let bytes = self.small_blob(image, manifest.digest(), config).await?;
        // What is no JSON of this shape says nothing.
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// The whole of a small blob of `manifest`: from where it is at hand, else the target if it is known to be there, else the upstream.
    pub(super) async fn small_blob(&self, image: &CopyImage, manifest: &Digest, blob: &Descriptor) -> Result<Bytes> {
        if blob.size > MAX_MANIFEST as u64 {
            let message = format!("the config has {} bytes, too many to look into", blob.size);
            return Err(Error::new(Side::Upstream, OP, Kind::Unsupported, message));
        }
        let at_target = || {
            let with_its_manifest = self.presence.has(&image.to, manifest).then(|| image.to.clone());
            self.presence.anywhere(&blob.digest).or(with_its_manifest)
        };
        if self.at_hand.get(&blob.digest).is_none() && at_target().is_none() {
            image.upstream.ready().await;
        }
        let _leading = self.leaders.hold(blob.digest.clone()).await;
        if let Some(bytes) = self.at_hand.get(&blob.digest) {
            return Ok(bytes);
        }
        let mut bytes = None;
        if let Some(repository) = at_target() {
            bytes = match collected(&*self.target.source, &repository, blob, &image.context, Side::Target).await {
                Err(error) if error.kind() == Kind::Damaged => None,
                read => read?,
            };
        }
        if bytes.is_none() {
            bytes = collected(&*image.upstream, &image.from, blob, &image.context, Side::Upstream).await?;
        }
        let bytes = bytes.ok_or_else(|| super::blob::not_there(blob))?;
        self.at_hand.add(&blob.digest, bytes.clone());
        Ok(bytes)
    }

    /// Weighs what both sides said: whether the target holds what the policy makes of what the upstream names. Where the policy asks
    /// for platforms, that takes a look at the target's index; the upstream is not asked.
    pub(super) async fn compare_content(&self, image: &CopyImage, wanted: Descriptor, held: Option<Descriptor>) -> Result<Comparison> {
        let held = held.filter(|held| fits(&image.policy, held));
        self.seen.note(&image.to, &wanted, held.as_ref());
        let mut survey = Comparison::of(wanted, held.as_ref().map(|held| held.digest.clone()));
        if let Some(held) = held
            && !image.policy.platforms.is_empty()
            && kind_of(&held.media_type) != ManifestKind::Image
        {
            self.look_inside(image, &held, &mut survey).await?;
        }
        Ok(survey)
    }

    async fn look_inside(&self, image: &CopyImage, held: &Descriptor, survey: &mut Comparison) -> Result<()> {
        let index = match self.target.source.manifest(&image.to, &held.digest, &image.context).await {
            Ok(Some(manifest)) if manifest.kind() != ManifestKind::Index => return Ok(()),
            Ok(index) => index,
            Err(error) if error.kind() == Kind::Damaged => None,
            Err(error) => return Err(error),
        };
        // What cannot be read is brought again.
        let same = std::mem::take(&mut survey.current);
        let Some(index) = index else { return Ok(()) };
        let policy = &image.policy;
        if same {
            let choice = self.take_in(image, &index, survey).await?;
            survey.current = match policy.index {
                IndexMode::Rewrite => choice.left_out == 0,
                IndexMode::Sparse => self.holds_all(image, &choice.kept).await?,
            };
        } else if policy.index == IndexMode::Rewrite && source_of(&index).as_ref() == Some(&survey.wanted.digest) {
            survey.made_from = Some(survey.wanted.digest.clone());
            let source = self.manifest_at_hand(image, &survey.wanted);
            survey.current = match &source {
                Some(source) => *rewrite(source, &policy.platforms)?.digest() == held.digest,
                None => is_cut_of(&index, &survey.wanted.digest, &policy.platforms)? == Some(true),
            };
            if source.is_some() || survey.current {
                self.take_in(image, source.as_ref().unwrap_or(&index), survey).await?;
            }
        }
        survey.look.index = Some(index);
        Ok(())
    }

    /// A manifest that nobody need be asked for.
    pub(super) fn manifest_at_hand(&self, image: &CopyImage, manifest: &Descriptor) -> Option<Manifest> {
        let bytes = self.at_hand.get(&manifest.digest);
        let known = |bytes| Manifest::known(bytes, Some(&manifest.media_type), manifest.digest.clone(), Side::Upstream).ok();
        bytes.and_then(known).or_else(|| image.upstream.cached(&manifest.digest))
    }

    /// What the policy keeps of `index`, whose kept children are at the target; noted in the survey.
    ///
    /// # Errors
    /// If it is for none of the platforms asked for, or lacks one and may not.
    async fn take_in(&self, image: &CopyImage, index: &Manifest, survey: &mut Comparison) -> Result<ChildChoice> {
        let mut choice = ChildChoice::of(&index.links().manifests, &image.policy.platforms);
        let inner: Vec<Descriptor> = if choice.missing.is_empty() { vec![] } else { choice.nested().cloned().collect() };
        let read = stream::iter(inner)
            .map(|child| async move { self.target.source.manifest(&image.to, &child.digest, &image.context).await })
            .buffered(CHILDREN);
        for inner in read.try_collect::<Vec<_>>().await?.into_iter().flatten() {
            choice.look_inside(&inner.links().manifests);
        }
        let notes = judge(&image.policy, &choice)?.into_iter().collect();
        *survey.look = TargetIndex { index: None, platforms: named(&choice.delivered), children: choice.kept.clone(), notes };
        Ok(choice)
    }

    /// Whether the target holds all of `children`.
    async fn holds_all(&self, image: &CopyImage, children: &[Descriptor]) -> Result<bool> {
        let held = stream::iter(children.to_vec()).map(|child| async move {
            let known = self.presence.has(&image.to, &child.digest);
            Ok::<_, Error>(known || self.target.sink.holds_manifest(&image.to, &child, &image.context).await? == At::Here)
        });
        held.buffer_unordered(CHILDREN).try_all(|held| async move { held }).await
    }
}

/// All bytes of `blob`, checked.
async fn collected(
    source: &dyn Source,
    repository: &Repository,
    blob: &Descriptor,
    context: &RequestContext,
    side: Side,
) -> Result<Option<Bytes>> {
    let Some(stream) = source.blob(repository, blob, 0, context).await? else { return Ok(None) };
    let mut checked = Verified::whole(stream, blob, side)?;
    let mut bytes = BytesMut::new();
    while let Some(chunk) = checked.try_next().await? {
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}
