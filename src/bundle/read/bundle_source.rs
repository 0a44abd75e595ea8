//! A [`Source`] that reads all available content by offset, and remembers which copies are damaged.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::pieces::{self, OP, Piece};
use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, Links, MAX_MANIFEST, Manifest, ManifestKind, Repository, RequestContext, Source, kind_of,
};
use crate::internal::blocking;
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

/// containerd's annotation for the subject of a referrer in a layout, which larder's layouts have too
/// (containerd `core/images/archive`).
const SUBJECT: &str = "io.containerd.manifest.subject";

/// A file that content is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFile {
    /// Its path.
    pub path: PathBuf,
    /// Of a volume: the index of its bundle, and its number there.
    pub volume: Option<(usize, u32)>,
}

/// A copy of a whole blob: one piece, or its parts in order.
#[derive(Debug, Clone)]
struct Copy {
    size: u64,
    pieces: Vec<Piece>,
}

/// Some of the parts of a blob.
#[derive(Debug, Default)]
pub(in crate::bundle) struct Parts {
    /// The blob's size.
    pub(in crate::bundle) whole: u64,
    /// By number: the offset of each in the blob, and its bytes.
    pub(in crate::bundle) parts: BTreeMap<u32, (u64, Piece)>,
}

impl Parts {
    /// The blob, if nothing is missing.
    fn joined(&self) -> Option<Copy> {
        let mut end = 0;
        for (offset, piece) in self.parts.values() {
            if *offset != end {
                return None;
            }
            end = piece.len.saturating_add(end);
        }
        let pieces = self.parts.values().map(|(_, piece)| piece.clone()).collect();
        (end == self.whole).then_some(Copy { size: end, pieces })
    }
}

/// Content whose bytes do not have its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its digest.
    pub digest: Digest,
    /// Indexes of the files it was read from, for [`BundleSource::file`]. Of a blob in parts, any of them may be damaged.
    pub origins: Vec<usize>,
    /// The reason, as a message.
    pub why: String,
}

/// Whether content can be read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Here,
    /// All copies of it are damaged.
    Damaged,
    /// There is no copy of it.
    Absent,
}

/// All available content: in volumes, layouts, archives and the staging area.
#[derive(Default)]
pub struct BundleSource {
    files: Vec<ContentFile>,
    copies: HashMap<Digest, Vec<Copy>>,
    parts: BTreeMap<Digest, Parts>,
    /// Referrers by subject.
    referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Tags that lead to referrers, such as `sha256-<hex>`.
    tags: HashMap<Repository, BTreeMap<String, Descriptor>>,
    state: Mutex<ReadState>,
}

/// Facts that reading brings to light.
#[derive(Default)]
struct ReadState {
    /// By content and copy.
    damaged: BTreeMap<(Digest, usize), Damage>,
    /// Media types that descriptors give to manifests.
    types: HashMap<Digest, String>,
    /// How often each blob was opened.
    opened: HashMap<Digest, u64>,
}

impl BundleSource {
    /// Adds a file that content is read from; its index.
    pub(in crate::bundle) fn add_file(&mut self, file: ContentFile) -> usize {
        self.files.push(file);
        self.files.len() - 1
    }

    /// Adds a copy of a whole blob, behind other copies of it.
    pub(in crate::bundle) fn add(&mut self, digest: Digest, piece: Piece) {
        let copies = self.copies.entry(digest).or_default();
        // Nearly every blob has one copy, and there are many blobs.
        copies.reserve_exact(1);
        copies.push(Copy { size: piece.len, pieces: vec![piece] });
    }

    /// Adds a part of a blob, given its number, its offset and the blob's size. `replace`: also if the part is there already.
    pub(in crate::bundle) fn add_part(&mut self, digest: &Digest, (number, offset, whole): (u32, u64, u64), piece: Piece, replace: bool) {
        let parts = self.parts.entry(digest.clone()).or_default();
        parts.whole = whole;
        if replace || !parts.parts.contains_key(&number) {
            parts.parts.insert(number, (offset, piece));
        }
    }

    /// Joins the parts of blobs that have all of them. The others stay incomplete.
    pub(in crate::bundle) fn join(&mut self) {
        let copies = &mut self.copies;
        self.parts.retain(|digest, parts| match parts.joined() {
            Some(copy) => {
                copies.entry(digest.clone()).or_default().push(copy);
                false
            }
            None => true,
        });
    }

    /// Adds a manifest to the referrers of its subject, if it has one. Blocks.
    pub(in crate::bundle) fn add_referrer(&mut self, manifest: &Descriptor) {
        let stated = manifest.annotations.get(SUBJECT).and_then(|digest| Digest::parse(digest).ok());
        let read = self.verified_manifest(&manifest.digest);
        let subject = stated.or_else(|| Some(read.as_ref()?.links().subject.as_ref()?.digest.clone()));
        let Some(subject) = subject else { return };
        let mut referrer = read.map_or_else(|| manifest.clone(), |read| read.as_referrer());
        referrer.annotations.remove(SUBJECT);
        self.insert_referrer(subject, referrer);
    }

    fn insert_referrer(&mut self, subject: Digest, referrer: Descriptor) {
        let all = self.referrers.entry(subject).or_default();
        if !all.iter().any(|known| known.digest == referrer.digest) {
            all.push(referrer);
        }
    }

    /// Adds a tag that leads to referrers: that of an index of referrers, or one of cosign's. Blocks.
    pub(in crate::bundle) fn add_referrer_tag(&mut self, repository: Repository, tag: String, manifest: Descriptor) {
        let listed = self.verified_links(&manifest.digest).map(|links| links.manifests.clone()).unwrap_or_default();
        if let Some(subject) = tag.split_once('-').and_then(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")).ok()) {
            self.note_media_types(&listed);
            listed.into_iter().for_each(|referrer| self.insert_referrer(subject.clone(), referrer));
        }
        self.note_media_types([&manifest]);
        self.tags.entry(repository).or_default().insert(tag, manifest);
    }

    /// Whether there are any referrers.
    pub(in crate::bundle) fn has_referrers(&self) -> bool {
        !self.referrers.is_empty() || !self.tags.is_empty()
    }

    /// The referrers of `subject`: those listed, and those with cosign's tags in `repository`.
    pub(in crate::bundle) fn all_referrers(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        let tags = self.tags.get(repository);
        let cosign = tags.into_iter().flat_map(|tags| {
            let named = DigestTags::of(tags.keys()).cosign(subject);
            named.into_iter().filter_map(|(tag, _)| tags.get(&tag).cloned()).collect::<Vec<_>>()
        });
        self.referrers.get(subject).into_iter().flatten().cloned().chain(cosign).collect()
    }

    /// Whether the manifest has a subject. Blocks.
    pub(in crate::bundle) fn is_referrer(&self, manifest: &Descriptor) -> bool {
        manifest.annotations.contains_key(SUBJECT) || self.verified_links(&manifest.digest).is_some_and(|links| links.subject.is_some())
    }

    /// The problem with the copy of `digest` that would be read, if there is one. Blocks.
    pub(in crate::bundle) fn check(&self, digest: &Digest, progress: &dyn Fn(u64)) -> Option<String> {
        let (_, copy) = self.copy(digest)?;
        pieces::check(&copy.pieces, digest, progress).unwrap_or_else(|error| Some(error.message()))
    }

    /// The bytes of a manifest, if they have its digest. Blocks.
    pub(in crate::bundle) fn verified_bytes(&self, manifest: &Digest) -> Option<Bytes> {
        let (_, copy) = self.copy(manifest).filter(|(_, copy)| copy.size <= MAX_MANIFEST as u64)?;
        pieces::read(&copy.pieces).ok().filter(|bytes| manifest.matches(bytes))
    }

    /// As [`BundleSource::verified_bytes`], parsed; `None` also if it is no manifest. Blocks.
    pub(in crate::bundle) fn verified_manifest(&self, manifest: &Digest) -> Option<Manifest> {
        Manifest::known(self.verified_bytes(manifest)?, None, manifest.clone(), Side::Local).ok()
    }

    /// The links of [`BundleSource::verified_manifest`]. Blocks.
    pub(in crate::bundle) fn verified_links(&self, manifest: &Digest) -> Option<Arc<Links>> {
        Some(Arc::clone(self.verified_manifest(manifest)?.links()))
    }

    /// Blobs of which some parts are missing.
    pub(in crate::bundle) fn incomplete(&self) -> impl Iterator<Item = (&Digest, &Parts)> {
        self.parts.iter()
    }

    /// All whole content: digest and size in bytes.
    pub(in crate::bundle) fn content(&self) -> impl Iterator<Item = (&Digest, u64)> {
        self.copies.iter().filter_map(|(digest, copies)| Some((digest, copies.first()?.size)))
    }

    /// Blobs whose parts are all here.
    pub(in crate::bundle) fn joined(&self) -> impl Iterator<Item = &Digest> {
        let in_parts = |copies: &Vec<Copy>| copies.iter().any(|copy| copy.pieces.len() > 1);
        self.copies.iter().filter(move |(_, copies)| in_parts(copies)).map(|(digest, _)| digest)
    }

    /// The file of this index.
    pub fn file(&self, index: usize) -> Option<&ContentFile> {
        self.files.get(index)
    }

    /// Whether a blob can be read; a descriptor of size 0 matches any size.
    pub fn availability(&self, blob: &Descriptor) -> Availability {
        match self.copies.get(&blob.digest) {
            None => Availability::Absent,
            Some(copies) if copies.iter().all(|copy| blob.size != 0 && copy.size != blob.size) => Availability::Absent,
            Some(_) if self.copy(&blob.digest).is_some() => Availability::Here,
            Some(_) => Availability::Damaged,
        }
    }

    /// The number of the copy of `digest` that is read now.
    pub(in crate::bundle) fn current_copy(&self, digest: &Digest) -> Option<usize> {
        self.copy(digest).map(|(number, _)| number)
    }

    /// Indexes of the files that `digest` is read from now.
    pub(in crate::bundle) fn origins_of(&self, digest: &Digest) -> Vec<usize> {
        self.copy(digest).map(|(_, copy)| origins(copy)).unwrap_or_default()
    }

    /// How often the blob was opened.
    pub(in crate::bundle) fn times_opened(&self, digest: &Digest) -> u64 {
        self.state().opened.get(digest).copied().unwrap_or_default()
    }

    /// Marks copy `number` of `digest` as damaged, so that it is not read again.
    pub(in crate::bundle) fn mark_damaged(&self, digest: &Digest, number: usize, why: String) {
        let Some(copy) = self.copies.get(digest).and_then(|copies| copies.get(number)) else { return };
        let damage = Damage { digest: digest.clone(), origins: origins(copy), why };
        self.state().damaged.entry((digest.clone(), number)).or_insert(damage);
    }

    /// All damage met so far, sorted by digest.
    pub fn damage(&self) -> Vec<Damage> {
        self.state().damaged.values().cloned().collect()
    }

    /// Remembers the media types that descriptors give to manifests, whose bytes may not state any.
    pub(in crate::bundle) fn note_media_types<'d>(&self, descriptors: impl IntoIterator<Item = &'d Descriptor>) {
        let mut state = self.state();
        for descriptor in descriptors.into_iter().filter(|descriptor| !descriptor.media_type.is_empty()) {
            if self.copies.contains_key(&descriptor.digest) && !state.types.contains_key(&descriptor.digest) {
                state.types.insert(descriptor.digest.clone(), descriptor.media_type.clone());
            }
        }
    }

    /// The manifest of this digest, from the first undamaged copy. `None` also if it is not meant to be a manifest.
    ///
    /// # Errors
    /// `Kind::Damaged` if all copies are damaged.
    pub(in crate::bundle) async fn read_manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        self.read_as(digest, self.is_opaque(digest)).await
    }

    /// As [`BundleSource::read_manifest`], for the manifest that an image's name points to: it must be one.
    ///
    /// # Errors
    /// As [`BundleSource::read_manifest`], and if it is not a manifest.
    pub(in crate::bundle) async fn read_root(&self, digest: &Digest) -> Result<Option<Manifest>> {
        self.read_as(digest, false).await
    }

    /// `opaque`: it need not be a manifest, and the answer is `None` then.
    async fn read_as(&self, digest: &Digest, opaque: bool) -> Result<Option<Manifest>> {
        while let Some((number, copy)) = self.copy(digest) {
            if copy.size > MAX_MANIFEST as u64 {
                if opaque {
                    return Ok(None);
                }
                self.mark_damaged(digest, number, format!("it has {} bytes, and a manifest at most {MAX_MANIFEST}", copy.size));
                continue;
            }
            let pieces = copy.pieces.clone();
            match blocking(OP, move || pieces::read(&pieces)).await {
                Ok(bytes) if digest.hasher().is_some() && !digest.matches(&bytes) => {
                    self.mark_damaged(digest, number, format!("the bytes hash to {}", Digest::sha256(&bytes)));
                }
                Ok(bytes) => match self.parse(bytes, digest) {
                    // An index may list blobs (BuildKit's cache does).
                    Err(_) if opaque => return Ok(None),
                    parsed => return parsed.map(Some),
                },
                Err(error) => self.mark_damaged(digest, number, error.message()),
            }
        }
        if self.copies.contains_key(digest) { Err(self.damaged(digest)) } else { Ok(None) }
    }

    /// Whether descriptors give it a media type that is not a manifest's.
    fn is_opaque(&self, digest: &Digest) -> bool {
        self.state().types.get(digest).is_some_and(|media_type| kind_of(media_type) == ManifestKind::Opaque)
    }

    /// The media type in the bytes counts; the descriptor's only where the bytes state none.
    fn parse(&self, bytes: Bytes, digest: &Digest) -> Result<Manifest> {
        let hint = self.state().types.get(digest).cloned();
        let manifest = Manifest::verify(bytes.clone(), hint.as_deref(), digest, Side::Local)
            .or_else(|_| Manifest::verify(bytes, None, digest, Side::Local))?;
        self.note_media_types(&manifest.links().manifests);
        Ok(manifest)
    }

    /// The first undamaged copy.
    fn copy(&self, digest: &Digest) -> Option<(usize, &Copy)> {
        let state = self.state();
        let mut copies = self.copies.get(digest)?.iter().enumerate();
        copies.find(|(number, _)| !state.damaged.contains_key(&(digest.clone(), *number)))
    }

    fn damaged(&self, digest: &Digest) -> Error {
        let state = self.state();
        let why = state.damaged.values().find(|damage| damage.digest == *digest).map_or("it is damaged", |damage| damage.why.as_str());
        Error::new(Side::Local, OP, Kind::Damaged, format!("{digest}: {why}"))
    }

    fn state(&self) -> MutexGuard<'_, ReadState> {
        self.state.lock()
    }
}

fn origins(copy: &Copy) -> Vec<usize> {
    let mut origins: Vec<usize> = copy.pieces.iter().map(|piece| piece.origin).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

#[async_trait]
impl Source for BundleSource {
    /// Images are resolved before the import: only digests and the tags of referrers are asked for here.
    async fn resolve(&self, repository: &Repository, reference: &Reference, _context: &RequestContext) -> Result<Option<Descriptor>> {
        let digest = match reference {
            Reference::Digest(digest) => digest,
            Reference::Tag(tag) => return Ok(self.tags.get(repository).and_then(|tags| tags.get(tag)).cloned()),
        };
        let media_type = self.state().types.get(digest).cloned().unwrap_or_default();
        Ok(self.copy(digest).map(|(_, copy)| Descriptor::new(media_type, digest.clone(), copy.size)))
    }

    async fn tags(&self, repository: &Repository, _context: &RequestContext) -> Result<Vec<String>> {
        Ok(self.tags.get(repository).into_iter().flat_map(BTreeMap::keys).cloned().collect())
    }

    async fn manifest(&self, _repository: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        let manifest = self.read_manifest(digest).await?;
        if let Some(manifest) = &manifest {
            context.tally.add_read(manifest.bytes().len() as u64);
        }
        Ok(manifest)
    }

    fn cached(&self, manifest: &Digest) -> Option<Manifest> {
        self.parse(self.verified_bytes(manifest)?, manifest).ok()
    }

    async fn referrers(&self, _repository: &Repository, subject: &Digest, _context: &RequestContext) -> Result<Vec<Descriptor>> {
        Ok(self.referrers.get(subject).cloned().unwrap_or_default())
    }

    async fn blob(&self, _repository: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        let Some((_, copy)) = self.copy(&blob.digest) else {
            return if self.copies.contains_key(&blob.digest) { Err(self.damaged(&blob.digest)) } else { Ok(None) };
        };
        *self.state().opened.entry(blob.digest.clone()).or_default() += 1;
        let tally = Arc::clone(&context.tally);
        let pieces = stream::iter(pieces::after(&copy.pieces, offset)).then(|(piece, skip)| piece.stream(skip)).try_flatten();
        Ok(Some(pieces.inspect_ok(move |chunk| tally.add_read(chunk.len() as u64)).boxed()))
    }
}

#[cfg(test)]
#[path = "bundle_source_tests.rs"]
mod tests;
