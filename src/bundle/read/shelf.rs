//! Content at hand, wherever it lies: a [`Source`] that reads it by offset, and remembers what has turned out to be damaged.

use std::collections::{BTreeMap, HashMap};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use super::blocking;
use crate::content::{
    BlobStream, Descriptor, Digest, DigestTags, Links, MAX_MANIFEST, Manifest, ManifestKind, Repository, RequestContext, Source, kind_of,
};
use crate::folder;
use crate::mutex::{Mutex, MutexGuard};
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

const OP: &str = "read volume";

/// containerd's annotation for what a manifest in a layout is about, which larder's layouts have too (containerd `core/images/archive`).
const SUBJECT: &str = "io.containerd.manifest.subject";

/// As a layout reads: a hop to another thread each, and nothing in memory.
const CHUNK: usize = 256 * 1024;

/// A file that content is read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentFile {
    /// Where it is.
    pub path: PathBuf,
    /// Which bundle it belongs to, in the order of their arrival, and its number there; none for what is no volume.
    pub volume: Option<(usize, u32)>,
}

/// Bytes at hand.
#[derive(Debug, Clone)]
pub(in crate::bundle) struct Piece {
    /// Whose they are: a place among the shelf's origins.
    pub(in crate::bundle) origin: usize,
    pub(in crate::bundle) at: Where,
    pub(in crate::bundle) len: u64,
}

/// Where bytes are.
#[derive(Debug, Clone)]
pub(in crate::bundle) enum Where {
    File {
        path: Arc<Path>,
        offset: u64,
    },
    /// Of a file that is open: it may have no name.
    Open {
        file: Arc<std::fs::File>,
        offset: u64,
    },
    Memory(Bytes),
}

/// A whole blob: one piece, or its parts in order.
#[derive(Debug, Clone)]
struct Copy {
    size: u64,
    pieces: Vec<Piece>,
}

/// Some parts of a blob, but not all.
#[derive(Debug, Default)]
pub(in crate::bundle) struct Parts {
    /// The blob's size.
    pub(in crate::bundle) whole: u64,
    /// By number: where in the blob each begins, and its bytes.
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

/// Content that is not what its digest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub digest: Digest,
    /// The files it was read from: places among the shelf's origins. Of a blob in parts nobody can tell which one is wrong.
    pub origins: Vec<usize>,
    /// What is wrong, for a person.
    pub why: String,
}

/// Whether content can be read here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    /// It can.
    Here,
    /// It was, but is damaged.
    Damaged,
    /// It is not here.
    Absent,
}

/// All content at hand.
#[derive(Default)]
pub struct BundleSource {
    origins: Vec<ContentFile>,
    copies: HashMap<Digest, Vec<Copy>>,
    parts: BTreeMap<Digest, Parts>,
    /// By what they are about.
    referrers: HashMap<Digest, Vec<Descriptor>>,
    /// Tags by which what is about a manifest is found.
    tags: HashMap<Repository, BTreeMap<String, Descriptor>>,
    seen: Mutex<ReadState>,
}

/// What was learnt by reading.
#[derive(Default)]
struct ReadState {
    /// By content and copy.
    damaged: BTreeMap<(Digest, usize), Damage>,
    /// What descriptors said that manifests are.
    types: HashMap<Digest, String>,
    /// How often a blob was opened.
    opened: HashMap<Digest, u64>,
}

impl BundleSource {
    pub(in crate::bundle) fn origin(&mut self, origin: ContentFile) -> usize {
        self.origins.push(origin);
        self.origins.len() - 1
    }

    /// Puts a whole blob on the shelf, behind other copies of it.
    pub(in crate::bundle) fn add(&mut self, digest: Digest, piece: Piece) {
        self.copies.entry(digest).or_default().push(Copy { size: piece.len, pieces: vec![piece] });
    }

    /// Puts a part on the shelf; `sure` replaces one that is there.
    pub(in crate::bundle) fn add_part(&mut self, digest: &Digest, (number, offset, whole): (u32, u64, u64), piece: Piece, sure: bool) {
        let parts = self.parts.entry(digest.clone()).or_default();
        parts.whole = whole;
        if sure || !parts.parts.contains_key(&number) {
            parts.parts.insert(number, (offset, piece));
        }
    }

    /// Joins the parts of blobs that have all of them. What is left is incomplete.
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

    /// If the manifest is about another, it is noted with that. Blocks.
    pub(in crate::bundle) fn refer(&mut self, manifest: &Descriptor) {
        let said = manifest.annotations.get(SUBJECT).and_then(|digest| Digest::parse(digest).ok());
        let read = self.peek(&manifest.digest).and_then(|bytes| Manifest::known(bytes, None, manifest.digest.clone(), Side::Local).ok());
        let subject = said.or_else(|| Some(read.as_ref()?.links().ok()?.subject?.digest));
        let Some(subject) = subject else { return };
        let mut referrer = read.map_or_else(|| manifest.clone(), |read| read.as_referrer());
        referrer.annotations.remove(SUBJECT);
        self.refers_to(subject, referrer);
    }

    fn refers_to(&mut self, subject: Digest, referrer: Descriptor) {
        let all = self.referrers.entry(subject).or_default();
        if !all.iter().any(|known| known.digest == referrer.digest) {
            all.push(referrer);
        }
    }

    /// Notes a tag by which what is about a manifest is found: an index of referrers, or cosign's. Blocks.
    pub(in crate::bundle) fn tag(&mut self, repository: Repository, tag: String, manifest: Descriptor) {
        let index = self.peek(&manifest.digest).and_then(|bytes| Manifest::known(bytes, None, manifest.digest.clone(), Side::Local).ok());
        let listed = index.and_then(|index| index.links().ok()).map(|links| links.manifests).unwrap_or_default();
        if let Some(subject) = tag.split_once('-').and_then(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")).ok()) {
            self.learn(&listed);
            listed.into_iter().for_each(|referrer| self.refers_to(subject.clone(), referrer));
        }
        self.learn([&manifest]);
        self.tags.entry(repository).or_default().insert(tag, manifest);
    }

    /// Whether anything here is about another manifest.
    pub(in crate::bundle) fn has_referrers(&self) -> bool {
        !self.referrers.is_empty() || !self.tags.is_empty()
    }

    /// What is about `subject`, listed or by cosign's tags in `repository`.
    pub(in crate::bundle) fn about(&self, repository: &Repository, subject: &Digest) -> Vec<Descriptor> {
        let tags = self.tags.get(repository);
        let cosign = tags.into_iter().flat_map(|tags| {
            let named = DigestTags::of(tags.keys()).cosign(subject);
            named.into_iter().filter_map(|(tag, _)| tags.get(&tag).cloned()).collect::<Vec<_>>()
        });
        self.referrers.get(subject).into_iter().flatten().cloned().chain(cosign).collect()
    }

    /// Whether the manifest is about another. Blocks.
    pub(in crate::bundle) fn refers(&self, manifest: &Descriptor) -> bool {
        let read = self.peek(&manifest.digest).and_then(|bytes| Manifest::known(bytes, None, manifest.digest.clone(), Side::Local).ok());
        manifest.annotations.contains_key(SUBJECT) || read.and_then(|read| read.links().ok()).is_some_and(|links| links.subject.is_some())
    }

    /// What is wrong with the bytes of `digest` that would be read, if anything is. Blocks.
    pub(in crate::bundle) fn check(&self, digest: &Digest, progress: &dyn Fn(u64)) -> Option<String> {
        let (_, copy) = self.copy(digest)?;
        check(&copy.pieces, digest, progress).unwrap_or_else(|error| Some(error.message()))
    }

    /// The bytes of a manifest, if they are right. Blocks.
    pub(in crate::bundle) fn peek(&self, manifest: &Digest) -> Option<Bytes> {
        let (_, copy) = self.copy(manifest).filter(|(_, copy)| copy.size <= MAX_MANIFEST as u64)?;
        read(&copy.pieces).ok().filter(|bytes| manifest.matches(bytes))
    }

    /// Blobs of which some parts are here, and some not.
    pub(in crate::bundle) fn incomplete(&self) -> impl Iterator<Item = (&Digest, &Parts)> {
        self.parts.iter()
    }

    /// All whole content: its digest, its size, and whose it is.
    pub(in crate::bundle) fn content(&self) -> impl Iterator<Item = (&Digest, u64)> {
        self.copies.iter().filter_map(|(digest, copies)| Some((digest, copies.first()?.size)))
    }

    /// Blobs that are here in parts, all of them.
    pub(in crate::bundle) fn in_parts(&self) -> impl Iterator<Item = &Digest> {
        let cut = |copies: &Vec<Copy>| copies.iter().any(|copy| copy.pieces.len() > 1);
        self.copies.iter().filter(move |(_, copies)| cut(copies)).map(|(digest, _)| digest)
    }

    /// A file that content is read from.
    pub fn origin_of(&self, number: usize) -> Option<&ContentFile> {
        self.origins.get(number)
    }

    /// Whether `wanted` can be read here; a size of 0 says that nobody has told it.
    pub fn hand(&self, wanted: &Descriptor) -> Availability {
        match self.copies.get(&wanted.digest) {
            None => Availability::Absent,
            Some(copies) if copies.iter().all(|copy| wanted.size != 0 && copy.size != wanted.size) => Availability::Absent,
            Some(_) => {
                if self.copy(&wanted.digest).is_some() {
                    Availability::Here
                } else {
                    Availability::Damaged
                }
            }
        }
    }

    /// Which copy of `digest` is read now.
    pub(in crate::bundle) fn current(&self, digest: &Digest) -> Option<usize> {
        self.copy(digest).map(|(number, _)| number)
    }

    /// Whose the copy of `digest` is that is read now.
    pub(in crate::bundle) fn origins_of(&self, digest: &Digest) -> Vec<usize> {
        self.copy(digest).map(|(_, copy)| origins(copy)).unwrap_or_default()
    }

    /// How often the blob was opened here.
    pub(in crate::bundle) fn opened(&self, digest: &Digest) -> u64 {
        self.seen().opened.get(digest).copied().unwrap_or_default()
    }

    /// Copy `number` of `digest` is not what it should be: it is read no more.
    pub(in crate::bundle) fn mark_damaged(&self, digest: &Digest, number: usize, why: String) {
        let Some(copy) = self.copies.get(digest).and_then(|copies| copies.get(number)) else { return };
        let damage = Damage { digest: digest.clone(), origins: origins(copy), why };
        self.seen().damaged.entry((digest.clone(), number)).or_insert(damage);
    }

    /// What has turned out to be damaged, in the order of digests.
    pub fn damage(&self) -> Vec<Damage> {
        self.seen().damaged.values().cloned().collect()
    }

    /// Remembers what descriptors say that manifests are: their bytes need not.
    pub(in crate::bundle) fn learn<'d>(&self, descriptors: impl IntoIterator<Item = &'d Descriptor>) {
        let mut seen = self.seen();
        for descriptor in descriptors.into_iter().filter(|descriptor| !descriptor.media_type.is_empty()) {
            if self.copies.contains_key(&descriptor.digest) && !seen.types.contains_key(&descriptor.digest) {
                seen.types.insert(descriptor.digest.clone(), descriptor.media_type.clone());
            }
        }
    }

    /// The manifest of this digest, from whichever copy is right.
    ///
    /// # Errors
    /// `Kind::Damaged` if none is.
    pub(in crate::bundle) async fn read_manifest(&self, digest: &Digest) -> Result<Option<Manifest>> {
        self.read_as(digest, self.is_opaque(digest)).await
    }

    /// As [`BundleSource::read_manifest`], for what has an image's name: it is a manifest, whatever its media type says.
    ///
    /// # Errors
    /// As [`BundleSource::read_manifest`], and if it is not a manifest.
    pub(in crate::bundle) async fn read_root(&self, digest: &Digest) -> Result<Option<Manifest>> {
        self.read_as(digest, false).await
    }

    /// `opaque`: it need not be a manifest, and is `None` then.
    async fn read_as(&self, digest: &Digest, opaque: bool) -> Result<Option<Manifest>> {
        while let Some((number, copy)) = self.copy(digest) {
            if copy.size > MAX_MANIFEST as u64 {
                if opaque {
                    return Ok(None);
                }
                self.mark_damaged(digest, number, format!("it has {} bytes, more than a manifest may have ({MAX_MANIFEST})", copy.size));
                continue;
            }
            let pieces = copy.pieces.clone();
            match blocking(OP, move || read(&pieces)).await {
                Ok(bytes) if digest.hasher().is_some() && !digest.matches(&bytes) => {
                    self.mark_damaged(digest, number, format!("the bytes hash to {}", Digest::sha256(&bytes)));
                }
                Ok(bytes) => match self.parse(bytes, digest) {
                    // An index may list what is no manifest (BuildKit's cache lists blobs): it is none, and nothing is wrong with it.
                    Err(_) if opaque => return Ok(None),
                    parsed => return parsed.map(Some),
                },
                Err(error) => self.mark_damaged(digest, number, error.message()),
            }
        }
        if self.copies.contains_key(digest) { Err(self.damaged(digest)) } else { Ok(None) }
    }

    /// Whether descriptors say that it is something else than a manifest.
    fn is_opaque(&self, digest: &Digest) -> bool {
        self.seen().types.get(digest).is_some_and(|of| kind_of(of) == ManifestKind::Opaque)
    }

    /// The body's own media type counts; the descriptor's only where the body has none.
    fn parse(&self, bytes: Bytes, digest: &Digest) -> Result<Manifest> {
        let hint = self.seen().types.get(digest).cloned();
        let manifest = Manifest::verify(bytes.clone(), hint.as_deref(), digest, Side::Local)
            .or_else(|_| Manifest::verify(bytes, None, digest, Side::Local))?;
        if let Ok(Links { manifests, .. }) = manifest.links() {
            self.learn(&manifests);
        }
        Ok(manifest)
    }

    fn copy(&self, digest: &Digest) -> Option<(usize, &Copy)> {
        let seen = self.seen();
        let mut copies = self.copies.get(digest)?.iter().enumerate();
        copies.find(|(number, _)| !seen.damaged.contains_key(&(digest.clone(), *number)))
    }

    fn damaged(&self, digest: &Digest) -> Error {
        let seen = self.seen();
        let why = seen.damaged.values().find(|damage| damage.digest == *digest).map_or("it is damaged", |damage| damage.why.as_str());
        Error::new(Side::Local, OP, Kind::Damaged, format!("{digest}: {why}"))
    }

    fn seen(&self) -> MutexGuard<'_, ReadState> {
        self.seen.lock()
    }
}

fn origins(copy: &Copy) -> Vec<usize> {
    let mut origins: Vec<usize> = copy.pieces.iter().map(|piece| piece.origin).collect();
    origins.sort_unstable();
    origins.dedup();
    origins
}

/// What cannot be read, or is too short, is as useless as what is wrong.
fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Side::Local, OP, Kind::Damaged, format!("{}: {error}", path.display()))
}

/// A part of an open file, read without moving the file's own position, which others share.
pub(in crate::bundle) struct OpenPart {
    pub(in crate::bundle) file: Arc<std::fs::File>,
    pub(in crate::bundle) at: u64,
    pub(in crate::bundle) left: u64,
}

impl std::io::Read for OpenPart {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = std::os::unix::fs::FileExt::read_at(&*self.file, buffer.get_mut(..most).unwrap_or_default(), self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

/// The digest's problem, if the bytes of these pieces have another one. Blocks.
fn check(pieces: &[Piece], digest: &Digest, progress: &dyn Fn(u64)) -> Result<Option<String>> {
    let Some(mut hasher) = digest.hasher() else { return Ok(Some(format!("larder cannot compute {} digests", digest.algorithm()))) };
    let mut buffer = vec![0; 1024 * 1024];
    let (mut read_in_all, mut said) = (0, 0);
    for piece in pieces {
        said += piece.len;
        let mut bytes: Box<dyn std::io::Read> = match &piece.at {
            Where::Memory(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
            Where::Open { file, offset } => Box::new(OpenPart { file: Arc::clone(file), at: *offset, left: piece.len }),
            Where::File { path, offset } => {
                let file = folder::read_found(path).map_err(|error| unreadable(path, &error))?;
                Box::new(OpenPart { file: Arc::new(file), at: *offset, left: piece.len })
            }
        };
        loop {
            let read = bytes.read(&mut buffer).map_err(|error| unreadable(Path::new("archive"), &error))?;
            if read == 0 {
                break;
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            progress(read as u64);
            read_in_all += read as u64;
        }
    }
    if read_in_all != said {
        return Ok(Some(format!("it ends after {read_in_all} of {said} bytes")));
    }
    let found = hasher.finish();
    Ok((found != *digest).then(|| format!("the bytes hash to {found}")))
}

/// All bytes of these pieces. Blocks.
fn read(pieces: &[Piece]) -> Result<Bytes> {
    let mut all = vec![];
    for piece in pieces {
        match &piece.at {
            Where::Memory(bytes) => all.extend_from_slice(bytes),
            Where::File { path, offset } => {
                let mut append = || -> std::io::Result<()> {
                    let mut file = folder::read_found(path)?;
                    file.seek(SeekFrom::Start(*offset))?;
                    file.take(piece.len).read_to_end(&mut all).map(drop)
                };
                append().map_err(|error| unreadable(path, &error))?;
            }
            Where::Open { file, offset } => {
                let part = OpenPart { file: Arc::clone(file), at: *offset, left: piece.len };
                part.take(piece.len).read_to_end(&mut all).map_err(|error| unreadable(Path::new("archive"), &error))?;
            }
        }
    }
    Ok(all.into())
}

/// The piece's bytes from `skip` on.
async fn open(piece: Piece, skip: u64) -> Result<BlobStream> {
    match piece.at {
        Where::Memory(bytes) => {
            let start = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            Ok(stream::iter([Ok(bytes.slice(start..))]).boxed())
        }
        Where::Open { file, offset } => {
            let part = OpenPart { file, at: offset.saturating_add(skip), left: piece.len.saturating_sub(skip) };
            Ok(stream::try_unfold(part, |mut part| async move {
                let read = blocking(OP, move || {
                    let mut chunk = vec![0; CHUNK];
                    let read = part.read(&mut chunk).map_err(|error| unreadable(Path::new("archive"), &error))?;
                    chunk.truncate(read);
                    Ok((Bytes::from(chunk), part))
                });
                read.await.map(|(chunk, part)| (!chunk.is_empty()).then_some((chunk, part)))
            })
            .boxed())
        }
        Where::File { path, offset } => {
            let opened = blocking(OP, {
                let path = Arc::clone(&path);
                move || {
                    let io = |error: std::io::Error| unreadable(&path, &error);
                    let mut file = folder::read_found(&path).map_err(io)?;
                    file.seek(SeekFrom::Start(offset.saturating_add(skip))).map_err(io)?;
                    Ok(file)
                }
            });
            let bytes = tokio::fs::File::from_std(opened.await?).take(piece.len - skip);
            Ok(ReaderStream::with_capacity(bytes, CHUNK).map_err(move |error| unreadable(&path, &error)).boxed())
        }
    }
}

/// The pieces that hold what comes after `offset`, each with what is to be skipped of it.
fn after(pieces: &[Piece], mut offset: u64) -> Vec<(Piece, u64)> {
    let mut rest = vec![];
    for piece in pieces {
        if offset >= piece.len {
            offset -= piece.len;
        } else {
            rest.push((piece.clone(), offset));
            offset = 0;
        }
    }
    rest
}

#[async_trait]
impl Source for BundleSource {
    /// Names are the import's business; what is asked for here is asked for by digest, or by a tag of what is about another manifest.
    async fn resolve(&self, repository: &Repository, reference: &Reference, _charge: &RequestContext) -> Result<Option<Descriptor>> {
        let digest = match reference {
            Reference::Digest(digest) => digest,
            Reference::Tag(tag) => return Ok(self.tags.get(repository).and_then(|tags| tags.get(tag)).cloned()),
        };
        let media_type = self.seen().types.get(digest).cloned().unwrap_or_default();
        Ok(self.copy(digest).map(|(_, copy)| Descriptor::new(media_type, digest.clone(), copy.size)))
    }

    async fn tags(&self, repository: &Repository, _charge: &RequestContext) -> Result<Vec<String>> {
        Ok(self.tags.get(repository).into_iter().flat_map(BTreeMap::keys).cloned().collect())
    }

    async fn manifest(&self, _place: &Repository, digest: &Digest, context: &RequestContext) -> Result<Option<Manifest>> {
        let manifest = self.read_manifest(digest).await?;
        if let Some(manifest) = &manifest {
            context.tally.add_read(manifest.bytes.len() as u64);
        }
        Ok(manifest)
    }

    fn cached(&self, manifest: &Digest) -> Option<Manifest> {
        self.parse(self.peek(manifest)?, manifest).ok()
    }

    async fn referrers(&self, _place: &Repository, subject: &Digest, _charge: &RequestContext) -> Result<Vec<Descriptor>> {
        Ok(self.referrers.get(subject).cloned().unwrap_or_default())
    }

    async fn blob(&self, _place: &Repository, blob: &Descriptor, offset: u64, context: &RequestContext) -> Result<Option<BlobStream>> {
        let Some((_, copy)) = self.copy(&blob.digest) else {
            return if self.copies.contains_key(&blob.digest) { Err(self.damaged(&blob.digest)) } else { Ok(None) };
        };
        *self.seen().opened.entry(blob.digest.clone()).or_default() += 1;
        let tally = Arc::clone(&context.tally);
        let pieces = stream::iter(after(&copy.pieces, offset)).then(|(piece, skip)| open(piece, skip)).try_flatten();
        Ok(Some(pieces.inspect_ok(move |chunk| tally.add_read(chunk.len() as u64)).boxed()))
    }
}

#[cfg(test)]
#[path = "shelf_tests.rs"]
mod tests;
