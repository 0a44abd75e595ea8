//! From what was named on the command line to what is in it: bundles, their volumes, the images they are for.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::heads::{self, VolumeHead};
use super::shelf::{BundleSource, ContentFile, Piece, Where};
use super::stage::StagingArea;
use sha2::Digest as _;

use crate::bundle::format::{BUNDLE_SUFFIX, Bundle, VolumeMember, default_name};
use crate::bundle::interchange::{self, Contents};
use crate::content::{Descriptor, Digest, Manifest, PlatformFilter, Repository, SPARSE};
use crate::folder;
use crate::layout::IndexEntry;
use crate::name::Reference;
use crate::{Error, Kind, Result, Side};

const OP: &str = "read bundle";

/// A bundle of which something has arrived, now or earlier.
#[derive(Debug)]
pub struct ArrivedBundle {
    /// Its identity.
    pub id: Digest,
    /// Its name.
    pub name: String,
    /// Its record, if that has arrived.
    pub record: Option<Bundle>,
    /// How many volumes it has.
    pub volumes: u32,
    /// The volumes at hand.
    pub available: BTreeSet<u32>,
    /// What those carry.
    pub members: Vec<VolumeMember>,
    /// Parts of blobs that were kept of earlier volumes: which blob, and the part's number.
    pub kept: BTreeSet<(Digest, u32)>,
}

/// An image that something at hand names.
#[derive(Debug, Clone)]
pub struct NamedImage {
    /// What it points to, and its names.
    pub entry: IndexEntry,
    /// Where it belongs at a target, without prefix.
    pub repository: Repository,
    /// Its tag or digest there.
    pub reference: Reference,
    /// Which bundle it is of; none for a layout or archive.
    pub bundle: Option<usize>,
    /// Other bundles that have the same image.
    pub also: Vec<usize>,
    /// The file that names it.
    pub file: String,
    /// Its place among the images of that file, from 1.
    pub line: usize,
    /// A remark on its name.
    pub note: Option<String>,
    /// What of its index is there, where that is not all.
    pub present: Option<interchange::Present>,
}

impl NamedImage {
    /// What it was copied from, or what it is called.
    pub fn source(&self) -> String {
        self.entry.source.clone().or_else(|| self.entry.name.clone()).unwrap_or_else(|| self.entry.descriptor.digest.to_string())
    }
}

/// Everything at hand.
pub struct GatheredContent {
    /// The content.
    pub shelf: BundleSource,
    /// The bundles, those that others build on first.
    pub bundles: Vec<ArrivedBundle>,
    /// The images, each name once: of several bundles the one that builds on the others, or was named last.
    pub entries: Vec<NamedImage>,
    /// Volumes that cannot be read at all, and what else is wrong but stops nothing.
    pub troubles: Vec<Error>,
    /// Remarks.
    pub notes: Vec<String>,
}

/// What is being found.
pub struct BundleReader<'a> {
    stage: Option<&'a StagingArea>,
    /// Where archives are unpacked that cannot be read where they lie.
    unpack: PathBuf,
    /// The platforms that are asked for; none: all.
    platforms: Vec<PlatformFilter>,
    names: &'a dyn Fn(&IndexEntry, &str) -> interchange::Named,
    pub(in crate::bundle) shelf: BundleSource,
    pub(super) bundles: Vec<ArrivedBundle>,
    /// By bundle, or by its own for each layout and archive: what names images.
    pub(super) groups: Vec<(Option<usize>, Vec<NamedImage>)>,
    by_id: HashMap<Digest, usize>,
    seen: BTreeSet<PathBuf>,
    /// Volumes at hand, to be put on the shelf once all records are known.
    volumes: Vec<(PathBuf, usize, VolumeHead)>,
    troubles: Vec<Error>,
    notes: Vec<String>,
    /// Manifests without a name: some are about others.
    nameless: Vec<Descriptor>,
    /// Tags by which what is about a manifest is found.
    about: Vec<(Repository, String, Descriptor)>,
}

impl<'a> BundleReader<'a> {
    /// Nothing yet. `names` says where an image of a layout or archive belongs that has no bundle's name.
    pub fn new(stage: Option<&'a StagingArea>, names: &'a dyn Fn(&IndexEntry, &str) -> interchange::Named) -> Self {
        BundleReader {
            stage,
            unpack: std::env::temp_dir(),
            platforms: vec![],
            names,
            shelf: BundleSource::default(),
            bundles: vec![],
            groups: vec![],
            by_id: HashMap::new(),
            seen: BTreeSet::new(),
            volumes: vec![],
            troubles: vec![],
            notes: vec![],
            nameless: vec![],
            about: vec![],
        }
    }

    /// Unpacks what is compressed, or comes through a pipe, into `folder`.
    #[must_use]
    pub fn unpacking_into(self, folder: PathBuf) -> Self {
        BundleReader { unpack: folder, ..self }
    }

    /// Looks for these platforms only, where an archive has not all of an index.
    #[must_use]
    pub fn of_platforms(self, platforms: Vec<PlatformFilter>) -> Self {
        BundleReader { platforms, ..self }
    }

    /// Adds what is at these paths, records first: what they say is checked, which a volume's own head cannot be. Blocks.
    ///
    /// # Errors
    /// As [`BundleReader::add`].
    pub fn add_all(&mut self, paths: &[PathBuf]) -> Result<()> {
        let (records, others): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| is_record(path));
        records.into_iter().chain(others).try_for_each(|path| self.add(path))
    }

    /// Adds what is at `path`: a folder of bundles, a bundle's record with the volumes beside it, a volume, a layout, or an archive, also
    /// a compressed one; `-` is an archive from standard input. Blocks.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let io = |error: std::io::Error| Error::io(OP, path, &error);
        if path == Path::new("-") {
            return if self.known(path) { Ok(()) } else { self.stream(std::io::stdin().lock(), path) };
        }
        let meta = std::fs::metadata(path).map_err(io)?;
        if let Some(why) = crate::input::unsuitable(path, &meta).filter(|_| !meta.is_dir()) {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)));
        }
        let path = &folder::named(path);
        let io = |error: std::io::Error| Error::io(OP, path, &error);
        if meta.is_dir() {
            return if folder::is_file(&path.join("oci-layout")) { interchange::layout(self, path) } else { self.folder(path) };
        }
        if is_record(path) {
            let record = heads::record(path)?;
            let files: Vec<PathBuf> = record.volumes.iter().map(|volume| path.with_file_name(&volume.file)).collect();
            self.record(path, record);
            return files.iter().filter(|file| folder::is_file(file)).try_for_each(|file| self.add(file));
        }
        if self.known(path) {
            return Ok(());
        }
        if !meta.is_file() {
            return self.stream(std::fs::File::open(path).map_err(io)?, path);
        }
        if interchange::is_compressed(path)? {
            return self.stream(folder::read_found(path).map_err(io)?, path);
        }
        match VolumeHead::read(path) {
            Ok(head) => {
                self.volume(path, head);
                Ok(())
            }
            Err(error) => match self.told(path) {
                Some(head) => {
                    self.notes.push(stands_in(path));
                    self.volume(path, head);
                    Ok(())
                }
                None => match interchange::archive(self, path, &Arc::new(folder::read_found(path).map_err(io)?)) {
                    Ok(Contents::Images) => Ok(()),
                    Ok(Contents::Other(_)) | Err(_) if heads::named(path).is_some() => {
                        self.trouble(path, &error);
                        Ok(())
                    }
                    Ok(Contents::Other(what)) => Err(no_bundle(path, &what)),
                    Err(error) => Err(error),
                },
            },
        }
    }

    /// An archive that is read from its beginning to its end.
    fn stream(&mut self, stream: impl std::io::Read, path: &Path) -> Result<()> {
        let folder = self.unpack.clone();
        match interchange::stream(self, stream, path, &folder)? {
            Contents::Images => Ok(()),
            Contents::Other(what) => Err(no_bundle(path, &what)),
        }
    }

    /// Whether the file was there before; each counts once, however it is reached.
    fn known(&mut self, path: &Path) -> bool {
        !self.seen.insert(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
    }

    /// All bundles in a folder.
    fn folder(&mut self, path: &Path) -> Result<()> {
        let entries = std::fs::read_dir(path).map_err(|error| Error::io(OP, path, &error))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| folder::is_file(path)).collect();
        files.sort();
        let (records, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_record(file));
        let volumes: Vec<PathBuf> = others.into_iter().filter(|file| heads::named(file).is_some()).collect();
        if records.is_empty() && volumes.is_empty() {
            return Err(no_bundle(path, interchange::found::folder(path)));
        }
        for file in &records {
            match heads::record(file) {
                Ok(record) => self.record(file, record),
                Err(error) => self.troubles.push(error),
            }
        }
        for file in volumes
            .iter()
            .filter(|file| !self.seen.contains(&file.canonicalize().unwrap_or_else(|_| (*file).clone())))
            .cloned()
            .collect::<Vec<_>>()
        {
            self.add(&file)?;
        }
        Ok(())
    }

    /// A bundle's record.
    fn record(&mut self, path: &Path, record: Bundle) {
        let volumes = u32::try_from(record.volumes.len()).unwrap_or(u32::MAX);
        let bundle = self.bundle(&record.id.clone(), volumes, path);
        if let Some(arrived) = self.bundles.get_mut(bundle)
            && arrived.record.is_none()
        {
            arrived.name.clone_from(&record.name);
            arrived.record = Some(record);
        }
        self.entries(bundle, path);
    }

    /// The bundle of this identity; what was kept of it is known from now on.
    fn bundle(&mut self, id: &Digest, volumes: u32, path: &Path) -> usize {
        if let Some(known) = self.by_id.get(id) {
            return *known;
        }
        let number = self.bundles.len();
        let record = self.stage.and_then(|stage| stage.record(id));
        let name = record.as_ref().map(|record| record.name.clone()).or_else(|| heads::named(path).map(|(name, _)| name));
        let name = name.unwrap_or_else(|| default_name(id));
        self.bundles.push(ArrivedBundle {
            id: id.clone(),
            name,
            record,
            volumes,
            available: BTreeSet::new(),
            members: vec![],
            kept: BTreeSet::new(),
        });
        self.by_id.insert(id.clone(), number);
        number
    }

    /// The images of a bundle, from its record or from a volume's index; once.
    fn entries(&mut self, bundle: usize, path: &Path) {
        if self.groups.iter().any(|(of, _)| *of == Some(bundle)) {
            return;
        }
        let Some(index) = self.bundles.get(bundle).and_then(|bundle| bundle.record.as_ref()).map(|record| record.index.clone()) else {
            return;
        };
        self.index(bundle, path, index.manifests);
    }

    fn index(&mut self, bundle: usize, path: &Path, manifests: Vec<Descriptor>) {
        self.shelf.learn(&manifests);
        let mut entries = vec![];
        for (at, descriptor) in manifests.into_iter().enumerate() {
            let entry = IndexEntry::of(descriptor);
            match entry.title() {
                Some((repository, Reference::Tag(tag))) if is_about(&tag) => self.about.push((repository, tag, entry.descriptor)),
                Some((repository, reference)) => {
                    let file = path.display().to_string();
                    entries.push(NamedImage {
                        entry,
                        repository,
                        reference,
                        bundle: Some(bundle),
                        also: vec![],
                        file,
                        line: at + 1,
                        note: None,
                        present: None,
                    });
                }
                None if entry.states_repository() => {
                    let file = path.display();
                    let name = entry.name.or(entry.source).unwrap_or_default();
                    self.troubles.push(Error::local(OP, format!("{file}:{}: `{name}` is no image name", at + 1)));
                }
                None => self.nameless.push(entry.descriptor),
            }
        }
        self.groups.push((Some(bundle), entries));
    }

    /// The head of a volume whose own is damaged, by the record beside it or one that was named before.
    fn told(&self, path: &Path) -> Option<VolumeHead> {
        let (_, number) = heads::named(path)?;
        let file = path.file_name()?.to_str()?;
        let known = self.bundles.iter().filter_map(|bundle| bundle.record.as_ref());
        let told = known
            .filter(|record| record.volumes.iter().any(|volume| volume.number == number && volume.file == file))
            .find_map(|record| VolumeHead::told(record, number));
        told.or_else(|| VolumeHead::told(&heads::record(&heads::beside(path)?).ok()?, number))
    }

    /// A volume, with the record that lies beside it; not with the other volumes there: some volumes are these volumes.
    fn volume(&mut self, path: &Path, head: VolumeHead) {
        if let Some(beside) = heads::beside(path)
            && !self.known(&beside)
        {
            match heads::record(&beside) {
                Ok(record) if record.id == head.record.bundle => self.record(&beside, record),
                Ok(_) => {}
                Err(error) => self.troubles.push(error),
            }
        }
        if let Some(note) = self.misplaced(path, &head) {
            self.notes.push(note);
            return;
        }
        let bundle = self.bundle(&head.record.bundle, head.record.volumes, path);
        self.entries(bundle, path);
        if !self.groups.iter().any(|(of, _)| *of == Some(bundle)) {
            self.index(bundle, path, head.index.manifests.clone());
        }
        let record = self.bundles.get(bundle).and_then(|bundle| bundle.record.as_ref());
        let head = match record.and_then(|record| VolumeHead::told(record, head.record.volume)) {
            // The record's identity was checked; nothing of a volume's head was.
            Some(told) if told.record != head.record || told.index != head.index => {
                self.notes.push(stands_in(path));
                told
            }
            _ => head,
        };
        if let Some(arrived) = self.bundles.get_mut(bundle)
            && arrived.available.insert(head.record.volume)
        {
            arrived.members.extend(head.record.members.iter().cloned());
        }
        self.volumes.push((path.to_owned(), bundle, head));
    }

    /// A volume under the name of a bundle whose record is here, and of another bundle: of last month, where each month's has the same name. It is
    /// left out, so that its images do not take the place of those that were meant.
    fn misplaced(&self, path: &Path, head: &VolumeHead) -> Option<String> {
        let (name, _) = heads::named(path)?;
        let meant = self.bundles.iter().find(|bundle| bundle.record.as_ref().is_some_and(|record| record.name == name))?;
        (meant.id != head.record.bundle).then(|| {
            let VolumeHead { record, .. } = head;
            let (number, other, id) = (record.volume, record.bundle.short(), meant.id.short());
            format!("{} is volume {number} of another bundle ({other}), not of {name} ({id}): it is left out", path.display())
        })
    }

    /// What is said of bundles of which only volumes are here, beside bundles whose record is here.
    fn strangers(&self) -> Vec<String> {
        let meant: Vec<&str> = self.bundles.iter().filter_map(|bundle| bundle.record.as_ref()).map(|record| record.name.as_str()).collect();
        let stray = |(path, of, head): &(PathBuf, usize, VolumeHead)| {
            let bundle = self.bundles.get(*of).filter(|bundle| bundle.record.is_none() && !meant.is_empty())?;
            let (number, name, id) = (head.record.volume, &bundle.name, bundle.id.short());
            Some(format!("{} is volume {number} of another bundle ({name}, {id}) than {}", path.display(), meant.join(" and ")))
        };
        self.volumes.iter().filter_map(stray).collect()
    }

    /// The images of a layout or archive.
    pub(in crate::bundle) fn others(&mut self, path: &Path, entries: Vec<IndexEntry>) {
        let stem = interchange::stem(path);
        let listed = self.children(&entries);
        let mut named = vec![];
        for (at, entry) in entries.into_iter().enumerate() {
            self.shelf.learn([&entry.descriptor]);
            if let Some((repository, Reference::Tag(tag))) = entry.title()
                && is_about(&tag)
            {
                self.about.push((repository, tag, entry.descriptor));
                continue;
            }
            if entry.name.is_none() && entry.source.is_none() {
                self.nameless.push(entry.descriptor.clone());
                // oras lists the children of an index beside it.
                if listed.contains(&entry.descriptor.digest) || self.shelf.refers(&entry.descriptor) {
                    continue;
                }
            }
            // What a strange entry says beside its name is of no use, and of many names it would be much.
            let mut entry = entry;
            entry.descriptor.annotations.retain(|key, _| key == SPARSE);
            let file = path.display().to_string();
            match (self.names)(&entry, &stem) {
                Ok((repository, reference, note)) => {
                    named.push(NamedImage {
                        entry,
                        repository,
                        reference,
                        bundle: None,
                        also: vec![],
                        file,
                        line: at + 1,
                        note,
                        present: None,
                    });
                }
                Err(why) => self.troubles.push(Error::local(OP, format!("{file}:{}: {why}", at + 1))),
            }
        }
        self.groups.push((None, named));
    }

    /// What the indexes among `entries` list, all the way down, if any entry has no name. Blocks.
    fn children(&self, entries: &[IndexEntry]) -> HashSet<Digest> {
        let mut listed = HashSet::new();
        if entries.iter().all(|entry| entry.name.is_some() || entry.source.is_some()) {
            return listed;
        }
        let mut stack: Vec<Digest> = entries.iter().map(|entry| entry.descriptor.digest.clone()).collect();
        let mut read = HashSet::new();
        while let Some(digest) = stack.pop() {
            if !read.insert(digest.clone()) {
                continue;
            }
            let manifest = self.shelf.peek(&digest).and_then(|bytes| Manifest::known(bytes, None, digest, Side::Local).ok());
            let children = manifest.and_then(|manifest| manifest.links().ok()).map(|links| links.manifests).unwrap_or_default();
            for child in children {
                listed.insert(child.digest.clone());
                stack.push(child.digest);
            }
        }
        listed
    }

    fn trouble(&mut self, path: &Path, error: &Error) {
        let message = format!("{}: this is no volume that can be read: {}", path.display(), error.message());
        let error = Error::new(Side::Local, OP, Kind::Damaged, message);
        let error = match heads::named(path) {
            Some((name, number)) => error.remedy(repair(&name, number)),
            None => error,
        };
        self.troubles.push(error);
    }

    /// Everything that was added. Blocks.
    pub fn done(mut self) -> GatheredContent {
        let strangers = self.strangers();
        self.notes.extend(strangers);
        self.index_content();
        for descriptor in std::mem::take(&mut self.nameless) {
            self.shelf.refer(&descriptor);
        }
        for (repository, tag, descriptor) in std::mem::take(&mut self.about) {
            self.shelf.tag(repository, tag, descriptor);
        }
        let order = self.order();
        let (mut entries, superseded) = self.settle(&order);
        self.look_for_parts(&mut entries);
        if superseded > 0 {
            let plural = if superseded == 1 { "image is" } else { "images are" };
            self.notes.push(format!("{superseded} {plural} left out: a later bundle has another one of that name"));
        }
        GatheredContent { shelf: self.shelf, bundles: self.bundles, entries, troubles: self.troubles, notes: self.notes }
    }

    /// Sees what of the indexes of layouts and archives is there. What a bundle lacks may come with its other volumes.
    fn look_for_parts(&self, entries: &mut [NamedImage]) {
        let mut known: HashMap<Digest, Option<interchange::Present>> = HashMap::new();
        let of_others = entries.iter_mut().filter(|entry| entry.bundle.is_none());
        for entry in of_others.filter(|entry| !entry.entry.descriptor.annotations.contains_key(SPARSE)) {
            let root = &entry.entry.descriptor;
            let present = known.entry(root.digest.clone()).or_insert_with(|| interchange::present(&self.shelf, root, &self.platforms));
            entry.present.clone_from(present);
        }
    }

    /// Puts volumes, and what was kept of earlier ones, on the shelf.
    fn index_content(&mut self) {
        for (path, bundle, head) in std::mem::take(&mut self.volumes) {
            let origin = self.shelf.origin(ContentFile { path: path.clone(), volume: Some((bundle, head.record.volume)) });
            let sure = std::cell::OnceCell::new();
            let shared: Arc<Path> = path.as_path().into();
            for (member, offset) in head.members() {
                let piece = Piece { origin, at: Where::File { path: Arc::clone(&shared), offset }, len: member.size };
                match member.part {
                    None => self.shelf.add(member.digest.clone(), piece),
                    Some(part) => {
                        // Only where the same part is there twice does it matter whether this volume is whole.
                        let again =
                            self.shelf.incomplete().any(|(digest, parts)| *digest == member.digest && parts.parts.contains_key(&part));
                        let sure = again
                            && *sure
                                .get_or_init(|| self.bundles.get(bundle).is_some_and(|bundle| whole(bundle, head.record.volume, &path)));
                        self.shelf.add_part(&member.digest, (part, member.offset, member.whole_size()), piece, sure);
                    }
                }
            }
        }
        if let Some(stage) = self.stage {
            self.index_staged(stage);
        }
        self.shelf.join();
    }

    /// Puts what was kept of earlier volumes on the shelf, behind what is at hand.
    fn index_staged(&mut self, stage: &StagingArea) {
        for (number, bundle) in self.bundles.iter_mut().enumerate() {
            let origin = self.shelf.origin(ContentFile { path: stage.folder().to_owned(), volume: None });
            let piece = |path: &Path, len, origin| Piece { origin, at: Where::File { path: path.into(), offset: 0 }, len };
            for (digest, path, len) in stage.manifests(&bundle.id) {
                self.shelf.add(digest, piece(&path, len, origin));
            }
            for part in stage.parts(&bundle.id) {
                // Which volume brought it, the record tells.
                let members = bundle.record.iter().flat_map(Bundle::members);
                let volume = members
                    .filter(|(_, member)| member.digest == part.digest && member.part == Some(part.number))
                    .map(|(volume, _)| volume)
                    .next();
                let origin = volume
                    .map_or(origin, |volume| self.shelf.origin(ContentFile { path: part.path.clone(), volume: Some((number, volume)) }));
                let location = (part.number, part.offset, part.whole);
                self.shelf.add_part(&part.digest, location, piece(&part.path, part.len, origin), false);
                bundle.kept.insert((part.digest, part.number));
            }
        }
    }
}

/// Whether a tag is one of those that what is about an image is found by: `sha256-<hex>` (distribution-spec "Referrers Tag Schema"), cosign's
/// `sha256-<hex>.sig`. It travels with what it is about.
fn is_about(tag: &str) -> bool {
    let stem = tag.split_once('.').map_or(tag, |(stem, _)| stem);
    stem.split_once('-')
        .is_some_and(|(algorithm, hex)| Digest::parse(&format!("{algorithm}:{hex}")).is_ok_and(|digest| digest.hasher().is_some()))
}

/// Whether the file at `path` has the hash that the bundle's record says.
pub(in crate::bundle) fn whole(bundle: &ArrivedBundle, number: u32, path: &Path) -> bool {
    let told = bundle.record.as_ref().and_then(|record| record.volumes.iter().find(|volume| volume.number == number));
    let Some(told) = told else { return false };
    let hash = || -> std::io::Result<String> {
        let mut hasher = sha2::Sha256::new();
        let mut file = folder::read_found(path)?;
        let mut buffer = vec![0; 1024 * 1024];
        loop {
            let read = std::io::Read::read(&mut file, &mut buffer)?;
            match buffer.get(..read) {
                Some([]) | None => return Ok(hex::encode(hasher.finalize())),
                Some(bytes) => hasher.update(bytes),
            }
        }
    };
    hash().is_ok_and(|found| found == told.sha256)
}

/// What brings a damaged or lost volume again.
pub(in crate::bundle) fn repair(name: &str, number: u32) -> String {
    format!("write it again where the bundle was made: larder export --repair {name}{BUNDLE_SUFFIX} --volume {number} --to DIR")
}

fn stands_in(path: &Path) -> String {
    format!("{}: what it begins with is damaged; the bundle's record stands in for it", path.display())
}

/// Whether what is at `path` is read as an archive: `-`, or a file that is neither a bundle's record nor a volume.
///
/// # Errors
/// If it cannot be looked at, or is a file that does not end.
pub fn is_archive(path: &Path) -> Result<bool> {
    let io = |error: std::io::Error| Error::io(OP, path, &error);
    if path == Path::new("-") {
        return Ok(true);
    }
    let meta = std::fs::metadata(path).map_err(io)?;
    if meta.is_dir() {
        return Ok(false);
    }
    if let Some(why) = crate::input::unsuitable(path, &meta) {
        return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)));
    }
    if is_record(path) {
        return Ok(false);
    }
    Ok(!meta.is_file() || interchange::is_compressed(path)? || (VolumeHead::read(path).is_err() && heads::named(path).is_none()))
}

fn is_record(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.ends_with(BUNDLE_SUFFIX))
}

fn no_bundle(path: &Path, what: &str) -> Error {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let error = Error::local(OP, format!("{name} is no bundle, volume, OCI layout or archive: it is {what}"));
    error.remedy("name a folder with volumes, NAME.bundle.json, volumes, an OCI layout, or a tar of a layout or of `docker save`")
}
