//! Did it work? `--verify-warm` asks again until the cache answers by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::CachedImage;
use super::cache::{SETTLED, SETTLES};
use super::proof::context_without_account;
use super::read_content::RootManifest;
use crate::config::profiles::CacheLists;
use crate::content::{Descriptor, Digest, Manifest, RequestContext};
use crate::name::Reference;
use crate::registry::BlobSeen;
use crate::rules::WarmBlobs;
use crate::{Error, Kind, Operation, Result, Side};

/// How long a cache may take to import what was pulled through it. ACR imports in the background and says that it is at most 5 minutes
/// behind (docs/registries.md, "Azure: what a pull does"); twice that, because large images take their time.
const DEADLINE: Duration = Duration::from_secs(10 * 60);

/// The first wait between two questions; each is twice the one before. Small images are imported in a second or two. A cache that
/// does not say what it has of its own gets it before the first question, too: Distribution's proxy stores what it serves in the
/// background, and asked for a blob before that is done it would fetch it again.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// No wait is longer: what is imported after minutes is still noticed within a quarter of one.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// Questions of one image under way at once, as in the engine.
const AT_ONCE: usize = 8;

/// So many pieces are named when they are missing.
const NAMED: usize = 3;

/// What may be seen of a piece that the cache does not have.
const ABSENT: &str = "not there";
const PASSED_ON: &str = "its answer still comes from the upstream";

/// Something that the cache should have of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum CachePiece {
    Name,
    Manifest(Digest, String),
    Blob(Digest),
}

impl CachedImage {
    /// Asks for the image again until the cache answers all of it by itself.
    ///
    /// # Errors
    /// If it does not in time, with what was seen; if it cannot be asked; if `stop` was cancelled.
    pub(crate) async fn verify(&self, context: &RequestContext, stop: &CancellationToken) -> Result<()> {
        let context = context_without_account(context);
        let Some(root) = self.read().root.clone() else { return Ok(()) };
        let pieces = self.pieces(&root);
        let settled = self.cache.caching().says_origin;
        let left = repeated(pieces, settled, |pieces| self.missing(pieces, &root, &context));
        let left = tokio::select! {
            left = left => left?,
            () = stop.cancelled() => return Err(Error::cancelled(Operation::VerifyWarm)),
        };
        if left.is_empty() { Ok(()) } else { Err(unproved(self.cache.host(), settled, &self.reference, &left)) }
    }

    /// Whether the cache has stored the image's blobs, where it stores in the background what it passes on, and says so: a few
    /// questions right after the pull. If it has not, that is said, and the pull is no proof for later runs.
    pub(crate) async fn is_stored(&self, context: &RequestContext, stop: &CancellationToken) -> bool {
        let context = context_without_account(context);
        let mut left = self.blobs();
        left.retain(|blob| self.cache.passed_on(blob, &self.repository));
        if left.is_empty() {
            return true;
        }
        for nth in 0..SETTLED {
            tokio::select! {
                () = tokio::time::sleep(SETTLES * 2u32.pow(nth)) => {}
                () = stop.cancelled() => return false,
            }
            left = self.not_there(left, &context).await;
            if left.is_empty() {
                return true;
            }
        }
        let blobs = if left.len() == 1 { "1 blob still comes".to_owned() } else { format!("{} blobs still come", left.len()) };
        self.note(format!("{} has not stored all of it yet: {blobs} from its upstream", self.cache.host()));
        false
    }

    /// Which of these blobs the cache does not have of its own.
    async fn not_there(&self, blobs: Vec<Digest>, context: &RequestContext) -> Vec<Digest> {
        let look = |blob: Digest| async move {
            let seen = self.cache.store.look_for_blob(&self.repository, &blob, context).await;
            (!matches!(seen, Ok(BlobSeen::There))).then_some(blob)
        };
        stream::iter(blobs).map(look).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    /// All blobs of the manifests that were read, each once.
    fn blobs(&self) -> Vec<Digest> {
        let mut blobs: Vec<Digest> = self.read().blobs.iter().map(|blob| blob.digest.clone()).collect();
        blobs.sort();
        blobs.dedup();
        blobs
    }

    fn pieces(&self, root: &RootManifest) -> Vec<CachePiece> {
        let platform = |child: &Descriptor| child.platform.as_ref().map(ToString::to_string).unwrap_or_default();
        let manifests = root.chosen.iter().map(|child| CachePiece::Manifest(child.digest.clone(), platform(child)));
        let mut pieces: Vec<CachePiece> = std::iter::once(CachePiece::Name).chain(manifests).collect();
        if self.cache.caching().by_address {
            pieces.push(CachePiece::Manifest(root.digest.clone(), String::new()));
        }
        // A cache that says what is its own imports an image whole.
        if !self.cache.caching().says_origin && self.warm.blobs != WarmBlobs::None {
            pieces.extend(self.blobs().into_iter().map(CachePiece::Blob));
        }
        pieces.sort();
        pieces.dedup();
        pieces
    }

    /// Which of `pieces` the cache does not have yet, and what it answered.
    async fn missing(
        &self,
        pieces: Vec<CachePiece>,
        root: &RootManifest,
        context: &RequestContext,
    ) -> Result<BTreeMap<CachePiece, String>> {
        let mut answers = stream::iter(pieces)
            .map(|piece| async move { self.seen(&piece, root, context).await.map(|seen| seen.map(|seen| (piece, seen))) })
            .buffer_unordered(AT_ONCE);
        let mut missing = BTreeMap::new();
        while let Some(answer) = answers.next().await {
            missing.extend(answer?);
        }
        Ok(missing)
    }

    /// What is wrong with the cache's answer about `piece`; nothing, if it has it.
    async fn seen(&self, piece: &CachePiece, root: &RootManifest, context: &RequestContext) -> Result<Option<String>> {
        let (store, repository) = (&self.cache.store, &self.repository);
        let reference = match piece {
            CachePiece::Name => self.reference.clone(),
            CachePiece::Manifest(digest, _) => Reference::Digest(digest.clone()),
            CachePiece::Blob(digest) => {
                return Ok(match store.look_for_blob(repository, digest, context).await? {
                    BlobSeen::There => None,
                    BlobSeen::Absent => Some(ABSENT.to_owned()),
                    BlobSeen::PassedOn => Some(PASSED_ON.to_owned()),
                });
            }
        };
        let Some(looked) = store.look(repository, &reference, context).await? else { return Ok(Some(ABSENT.to_owned())) };
        let answered = &looked.descriptor.digest;
        if self.cache.caching().says_origin && !looked.own {
            return Ok(Some(PASSED_ON.to_owned()));
        }
        if *piece != CachePiece::Name || *answered == root.digest || *answered == root.source {
            // By HEAD it is there; a cache that keeps answers by address and method may not have it for a GET.
            let got = !self.cache.caching().by_address || store.pull(repository, &reference, context).await?.is_some();
            return Ok(if got { None } else { Some(ABSENT.to_owned()) });
        }
        if self.cache.caching().lists == CacheLists::Trimmed
            && let Some(list) = store.pull(repository, &Reference::Digest(answered.clone()), context).await?
            && is_part(&list, root)
        {
            self.note(super::differs::trimmed(self.cache.host(), answered, &root.source));
            if let Some(root) = &mut self.read().root {
                root.digest = answered.clone();
            }
            return Ok(None);
        }
        Ok(Some(format!("it answers {} instead of {}", answered.short(), root.digest.short())))
    }
}

/// A registry with restricted network access serves what it pulls, and keeps nothing of it (docs/registries.md, "Azure: what a pull does").
const TRUSTED_SERVICES: &str = "where its network access is restricted, Azure fills the cache only if trusted services are allowed (`az acr update \
                                --allow-trusted-services true`); if they are, run the same command again";

/// The failure of what the cache at `host` does not answer by itself; `azure`: it is Azure's.
fn unproved(host: &str, azure: bool, reference: &Reference, left: &BTreeMap<CachePiece, String>) -> Error {
    let name = |piece: &CachePiece| match piece {
        CachePiece::Name => match reference {
            Reference::Tag(tag) => format!("tag {tag}"),
            Reference::Digest(digest) => digest.short().to_owned(),
        },
        CachePiece::Manifest(digest, platform) if platform.is_empty() => digest.short().to_owned(),
        CachePiece::Manifest(digest, platform) => format!("{platform} ({})", digest.short()),
        CachePiece::Blob(digest) => format!("blob {}", digest.short()),
    };
    let mut seen: Vec<String> = left.iter().take(NAMED).map(|(piece, seen)| format!("{}: {seen}", name(piece))).collect();
    if left.len() > NAMED {
        seen.push(format!("and {} more", left.len() - NAMED));
    }
    let minutes = DEADLINE.as_secs() / 60;
    let message = format!("{host} has not imported it in {minutes} min: {}", seen.join("; "));
    Error::new(Side::Target, Operation::VerifyWarm, Kind::Unavailable, message).remedy(if azure {
        TRUSTED_SERVICES
    } else {
        "see whether the cache may write to its storage, and run the same command again"
    })
}

/// Whether a list that the cache answers with is the image's own without some children.
fn is_part(list: &Manifest, root: &RootManifest) -> bool {
    let children = &list.links().manifests;
    !children.is_empty() && children.iter().all(|child| root.listed.contains(&child.digest))
}

/// Asks about `pieces` until none is left or [`DEADLINE`] has passed; what is left then.
async fn repeated<A: Future<Output = Result<BTreeMap<CachePiece, String>>>>(
    mut pieces: Vec<CachePiece>,
    at_once: bool,
    ask: impl Fn(Vec<CachePiece>) -> A,
) -> Result<BTreeMap<CachePiece, String>> {
    let end = Instant::now() + DEADLINE;
    let mut wait = FIRST_WAIT;
    if !at_once {
        tokio::time::sleep(FIRST_WAIT).await;
    }
    loop {
        let left = ask(pieces).await?;
        if left.is_empty() || Instant::now() + wait > end {
            return Ok(left);
        }
        pieces = left.into_keys().collect();
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn left(pieces: &[CachePiece]) -> BTreeMap<CachePiece, String> {
        pieces.iter().map(|piece| (piece.clone(), "not there".to_owned())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_there_is_not_asked_for_again_and_waits_grow() {
        let blob = CachePiece::Blob(Digest::sha256(b"x"));
        let asked = AtomicUsize::new(0);
        let began = Instant::now();
        let done = repeated(vec![CachePiece::Name, blob.clone()], true, |pieces| {
            let nth = asked.fetch_add(1, Ordering::SeqCst);
            assert_eq!(pieces.len(), if nth == 0 { 2 } else { 1 });
            let answer = if nth < 5 { left(std::slice::from_ref(&blob)) } else { BTreeMap::new() };
            async move { Ok(answer) }
        });
        assert!(done.await.unwrap().is_empty());
        assert_eq!(began.elapsed(), Duration::from_secs(1 + 2 + 4 + 8 + 15));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_the_deadline_with_what_was_seen() {
        let began = Instant::now();
        let done = repeated(vec![CachePiece::Name], false, |pieces| async move { Ok(left(&pieces)) }).await.unwrap();
        assert_eq!(done, left(&[CachePiece::Name]));
        assert!(began.elapsed() <= DEADLINE && began.elapsed() > DEADLINE - LONGEST_WAIT);
    }

    #[test]
    fn what_was_seen_is_told() {
        let digest = |n: u8| Digest::sha256(&[n]);
        let mut left = left(&[
            CachePiece::Name,
            CachePiece::Manifest(digest(1), "linux/arm64".to_owned()),
            CachePiece::Blob(digest(2)),
            CachePiece::Blob(digest(3)),
        ]);
        left.insert(CachePiece::Name, PASSED_ON.to_owned());
        let error = unproved("cache.corp", false, &Reference::Tag("3.20".to_owned()), &left).subject("docker.io/library/alpine:3.20");
        insta::assert_snapshot!(error.to_string(), @"target: verify warm docker.io/library/alpine:3.20: cache.corp has not imported it in 10 min: tag 3.20: its answer still comes from the upstream; linux/arm64 (4bf5122f3445): not there; blob 084fed08b978: not there; and 1 more (see whether the cache may write to its storage, and run the same command again)");
        let error = unproved("contoso.azurecr.io", true, &Reference::Tag("3.20".to_owned()), &left);
        assert!(error.message().contains("trusted services are allowed"), "{}", error.message());
    }
}
