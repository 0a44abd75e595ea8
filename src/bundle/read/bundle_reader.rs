//! Finds bundles, their volumes and their images at the paths that the user names.

use std::cell::OnceCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::arrived::{ArrivedBundle, GatheredContent, NamedImage, is_referrer_tag, repair_command};
use super::bundle_source::{BundleSource, ContentFile, Parts};
use super::named_path::nothing_to_import;
use super::pieces::{Piece, PieceLocation};
use super::staging_area::StagingArea;
use super::supersede::{ImageGroup, latest_by_name};
use super::volume_head::{VolumeHead, read_checked_record, record_beside};
use crate::bundle::format::{Bundle, default_name, is_bundle_file, parse_volume_file};
use crate::bundle::interchange::{self, AvailablePlatforms, Contents, Named};
use crate::content::{Descriptor, Digest, PlatformFilter, Repository, SPARSE};
use crate::folder;
use crate::layout::IndexEntry;
use crate::name::Reference;
use crate::{Error, Kind, Operation, Result, Side};

const OP: Operation = Operation::ReadBundle;

/// Collects what is at the paths that are added.
pub struct BundleReader<'a> {
    stage: Option<&'a StagingArea>,
    /// The folder for unpacked archives that cannot be read in place.
    unpack: PathBuf,
    /// The platforms asked for; none: all.
    platforms: Vec<PlatformFilter>,
    names: &'a dyn Fn(&IndexEntry, &str) -> Named,
    source: BundleSource,
    bundles: Vec<ArrivedBundle>,
    groups: Vec<ImageGroup>,
    by_id: HashMap<Digest, usize>,
    /// Files that were added, so that each counts once.
    seen: BTreeSet<PathBuf>,
    /// Volumes with the index of their bundle. Their content is added once all records are known.
    volumes: Vec<(PathBuf, usize, VolumeHead)>,
    problems: Vec<Error>,
    notes: Vec<String>,
    /// Manifests without a name: some are referrers.
    nameless: Vec<Descriptor>,
    /// Tags that lead to referrers.
    referrer_tags: Vec<(Repository, String, Descriptor)>,
}

impl<'a> BundleReader<'a> {
    /// A reader without content. `names` gives images of layouts and archives their name at the target.
    pub fn new(stage: Option<&'a StagingArea>, names: &'a dyn Fn(&IndexEntry, &str) -> Named) -> Self {
        BundleReader {
            stage,
            unpack: std::env::temp_dir(),
            platforms: vec![],
            names,
            source: BundleSource::default(),
            bundles: vec![],
            groups: vec![],
            by_id: HashMap::new(),
            seen: BTreeSet::new(),
            volumes: vec![],
            problems: vec![],
            notes: vec![],
            nameless: vec![],
            referrer_tags: vec![],
        }
    }

    /// Unpacks compressed archives, and those from a pipe, into `folder`.
    #[must_use]
    pub fn unpacking_into(self, folder: PathBuf) -> Self {
        BundleReader { unpack: folder, ..self }
    }

    /// Looks for these platforms only, where an archive lacks a part of an index.
    #[must_use]
    pub fn of_platforms(self, platforms: Vec<PlatformFilter>) -> Self {
        BundleReader { platforms, ..self }
    }

    /// Adds the content of these paths. Records come first: their identity can be checked, the head of a volume cannot. Blocks.
    ///
    /// # Errors
    /// As [`BundleReader::add`].
    pub fn add_all(&mut self, paths: &[PathBuf]) -> Result<()> {
        let (records, others): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| is_bundle_file(path));
        records.into_iter().chain(others).try_for_each(|path| self.add(path))
    }

    /// Adds what is at `path`: a folder of bundles, a bundle's record with the volumes beside it, a volume, a layout, or an
    /// archive, which may be compressed; `-` is an archive from standard input. Blocks.
    ///
    /// # Errors
    /// If it is not one of these.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let io = |error: std::io::Error| Error::io(OP, path, &error);
        if path == Path::new("-") {
            return if self.is_known(path) { Ok(()) } else { self.add_stream(std::io::stdin().lock(), path) };
        }
        let meta = std::fs::metadata(path).map_err(io)?;
        if let Some(why) = crate::input::unsuitable(path, &meta).filter(|_| !meta.is_dir()) {
            return Err(io(std::io::Error::new(std::io::ErrorKind::InvalidInput, why)));
        }
        let path = &folder::named(path);
        let io = |error: std::io::Error| Error::io(OP, path, &error);
        if meta.is_dir() {
            if !folder::is_file(&path.join("oci-layout")) {
                return self.add_folder(path);
            }
            let entries = interchange::layout(&mut self.source, path)?;
            self.add_images(path, entries);
            return Ok(());
        }
        if is_bundle_file(path) {
            let record = read_checked_record(path)?;
            let files: Vec<PathBuf> = record.volumes.iter().map(|volume| path.with_file_name(&volume.file)).collect();
            self.add_record(path, record);
            return files.iter().filter(|file| folder::is_file(file)).try_for_each(|file| self.add(file));
        }
        if self.is_known(path) {
            return Ok(());
        }
        if !meta.is_file() {
            return self.add_stream(std::fs::File::open(path).map_err(io)?, path);
        }
        if interchange::is_compressed(path)? {
            return self.add_stream(folder::read_found(path).map_err(io)?, path);
        }
        match VolumeHead::read(path) {
            Ok(head) => self.add_volume(path, head),
            Err(error) => match self.recorded_head(path) {
                Some(head) => {
                    self.notes.push(head_replaced(path));
                    self.add_volume(path, head);
                }
                None => return self.add_archive(path, &error),
            },
        }
        Ok(())
    }

    /// Adds a file that is no readable volume, for which `error` is the reason.
    fn add_archive(&mut self, path: &Path, error: &Error) -> Result<()> {
        let file = Arc::new(folder::read_found(path).map_err(|error| Error::io(OP, path, &error))?);
        match interchange::archive(&mut self.source, path, &file) {
            Ok(Contents::Images(entries)) => self.add_images(path, entries),
            Ok(Contents::Other(_)) | Err(_) if parse_volume_file(path).is_some() => self.add_unreadable_volume(path, error),
            Ok(Contents::Other(what)) => return Err(nothing_to_import(path, &what)),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Adds an archive that has to be read from start to end.
    fn add_stream(&mut self, stream: impl std::io::Read, path: &Path) -> Result<()> {
        match interchange::stream(&mut self.source, stream, path, &self.unpack)? {
            Contents::Images(entries) => self.add_images(path, entries),
            Contents::Other(what) => return Err(nothing_to_import(path, &what)),
        }
        Ok(())
    }

    /// Whether the file was added before, by whatever path.
    fn is_known(&mut self, path: &Path) -> bool {
        !self.seen.insert(resolved(path))
    }

    /// Adds all bundles in a folder.
    fn add_folder(&mut self, path: &Path) -> Result<()> {
        let entries = std::fs::read_dir(path).map_err(|error| Error::io(OP, path, &error))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| folder::is_file(path)).collect();
        files.sort();
        let (records, others): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_bundle_file(file));
        let volumes: Vec<PathBuf> = others.into_iter().filter(|file| parse_volume_file(file).is_some()).collect();
        if records.is_empty() && volumes.is_empty() {
            return Err(nothing_to_import(path, interchange::describe_folder(path)));
        }
        for file in &records {
            match read_checked_record(file) {
                Ok(record) => self.add_record(file, record),
                Err(error) => self.problems.push(error),
            }
        }
        let new: Vec<PathBuf> = volumes.into_iter().filter(|file| !self.seen.contains(&resolved(file))).collect();
        new.iter().try_for_each(|file| self.add(file))
    }

    /// Adds a bundle's record.
    fn add_record(&mut self, path: &Path, record: Bundle) {
        let volumes = u32::try_from(record.volumes.len()).unwrap_or(u32::MAX);
        let bundle = self.bundle(&record.id.clone(), volumes, path);
        if let Some(arrived) = self.bundles.get_mut(bundle)
            && arrived.record.is_none()
        {
            arrived.name.clone_from(&record.name);
            arrived.record = Some(record);
        }
        self.add_recorded_images(bundle, path);
    }

    /// The index of the bundle of this identity. A new bundle gets its staged record, if there is one.
    fn bundle(&mut self, id: &Digest, volumes: u32, path: &Path) -> usize {
        if let Some(known) = self.by_id.get(id) {
            return *known;
        }
        let record = self.stage.and_then(|stage| stage.record(id));
        let name = record.as_ref().map(|record| record.name.clone()).or_else(|| parse_volume_file(path).map(|(name, _)| name));
        self.bundles.push(ArrivedBundle {
            id: id.clone(),
            name: name.unwrap_or_else(|| default_name(id)),
            record,
            volumes,
            available: BTreeSet::new(),
            members: vec![],
            staged_parts: BTreeSet::new(),
        });
        self.by_id.insert(id.clone(), self.bundles.len() - 1);
        self.bundles.len() - 1
    }

    fn record_of(&self, bundle: usize) -> Option<&Bundle> {
        self.bundles.get(bundle)?.record.as_ref()
    }

    fn has_images(&self, bundle: usize) -> bool {
        self.groups.iter().any(|group| group.bundle == Some(bundle))
    }

    /// Adds the images in a bundle's record, once.
    fn add_recorded_images(&mut self, bundle: usize, path: &Path) {
        if self.has_images(bundle) {
            return;
        }
        if let Some(index) = self.record_of(bundle).map(|record| record.index.clone()) {
            self.add_index(bundle, path, index.manifests);
        }
    }

    /// Adds the images in a bundle's index.
    fn add_index(&mut self, bundle: usize, path: &Path, manifests: Vec<Descriptor>) {
        self.source.note_media_types(&manifests);
        let file = path.display().to_string();
        let mut images = vec![];
        for (line, descriptor) in (1..).zip(manifests) {
            let entry = IndexEntry::of(descriptor);
            match entry.title() {
                Some((repository, Reference::Tag(tag))) if is_referrer_tag(&tag) => {
                    self.referrer_tags.push((repository, tag, entry.descriptor));
                }
                Some((repository, reference)) => images.push(NamedImage {
                    entry,
                    repository,
                    reference,
                    bundle: Some(bundle),
                    also_in: vec![],
                    file: file.clone(),
                    line,
                    note: None,
                    available_platforms: None,
                }),
                None if entry.states_repository() => {
                    let name = entry.name.or(entry.source).unwrap_or_default();
                    self.problems.push(Error::local(OP, format!("{file}:{line}: invalid image name `{name}`")));
                }
                None => self.nameless.push(entry.descriptor),
            }
        }
        self.groups.push(ImageGroup { bundle: Some(bundle), images });
    }

    /// The head of a volume whose own is damaged, from a record that was added before or lies beside it.
    fn recorded_head(&self, path: &Path) -> Option<VolumeHead> {
        let (_, number) = parse_volume_file(path)?;
        let file = path.file_name()?.to_str()?;
        let known = self.bundles.iter().filter_map(|bundle| bundle.record.as_ref());
        let head = known
            .filter(|record| record.volumes.iter().any(|volume| volume.number == number && volume.file == file))
            .find_map(|record| VolumeHead::recorded(record, number));
        head.or_else(|| VolumeHead::recorded(&read_checked_record(&record_beside(path)?).ok()?, number))
    }

    /// Adds a volume, with the record beside it but not the other volumes there: the user may have named some of them.
    fn add_volume(&mut self, path: &Path, head: VolumeHead) {
        if let Some(beside) = record_beside(path)
            && !self.is_known(&beside)
        {
            match read_checked_record(&beside) {
                Ok(record) if record.id == head.record.bundle => self.add_record(&beside, record),
                Ok(_) => {}
                Err(error) => self.problems.push(error),
            }
        }
        if let Some(note) = self.of_another_bundle(path, &head) {
            self.notes.push(note);
            return;
        }
        let bundle = self.bundle(&head.record.bundle, head.record.volumes, path);
        self.add_recorded_images(bundle, path);
        if !self.has_images(bundle) {
            self.add_index(bundle, path, head.index.manifests.clone());
        }
        let head = match self.record_of(bundle).and_then(|record| VolumeHead::recorded(record, head.record.volume)) {
            // The identity of the record was checked; nothing in a volume's head was.
            Some(recorded) if recorded.record != head.record || recorded.index != head.index => {
                self.notes.push(head_replaced(path));
                recorded
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

    /// The note on a volume that has the file name of a bundle whose record is here, but is of another bundle: last
    /// month's, where all have the same name. It is left out, so that its images do not replace this month's.
    fn of_another_bundle(&self, path: &Path, head: &VolumeHead) -> Option<String> {
        let (name, _) = parse_volume_file(path)?;
        let expected = self.bundles.iter().find(|bundle| bundle.record.as_ref().is_some_and(|record| record.name == name))?;
        (expected.id != head.record.bundle).then(|| {
            let (number, other, id) = (head.record.volume, head.record.bundle.short(), expected.id.short());
            format!("{} is volume {number} of another bundle ({other}), not of {name} ({id}): it is left out", path.display())
        })
    }

    /// Notes on volumes of bundles without a record, beside bundles whose record is here.
    fn notes_on_stray_volumes(&self) -> Vec<String> {
        let names: Vec<&str> = self.bundles.iter().filter_map(|bundle| bundle.record.as_ref()).map(|record| record.name.as_str()).collect();
        let stray = |(path, of, head): &(PathBuf, usize, VolumeHead)| {
            let bundle = self.bundles.get(*of).filter(|bundle| bundle.record.is_none() && !names.is_empty())?;
            let (number, name, id) = (head.record.volume, &bundle.name, bundle.id.short());
            Some(format!("{} is volume {number} of another bundle ({name}, {id}) than {}", path.display(), names.join(" and ")))
        };
        self.volumes.iter().filter_map(stray).collect()
    }

    /// Adds the images of a layout or archive.
    fn add_images(&mut self, path: &Path, entries: Vec<IndexEntry>) {
        let stem = interchange::stem(path);
        let file = path.display().to_string();
        let listed = self.children(&entries);
        let mut images = vec![];
        for (line, mut entry) in (1..).zip(entries) {
            self.source.note_media_types([&entry.descriptor]);
            if let Some((repository, Reference::Tag(tag))) = entry.title()
                && is_referrer_tag(&tag)
            {
                self.referrer_tags.push((repository, tag, entry.descriptor));
                continue;
            }
            if entry.name.is_none() && entry.source.is_none() {
                self.nameless.push(entry.descriptor.clone());
                // oras lists the children of an index beside it.
                if listed.contains(&entry.descriptor.digest) || self.source.is_referrer(&entry.descriptor) {
                    continue;
                }
            }
            // Other annotations are not used, and those of many entries would take much memory.
            entry.descriptor.annotations.retain(|key, _| key == SPARSE);
            match (self.names)(&entry, &stem) {
                Ok((repository, reference, note)) => images.push(NamedImage {
                    entry,
                    repository,
                    reference,
                    bundle: None,
                    also_in: vec![],
                    file: file.clone(),
                    line,
                    note,
                    available_platforms: None,
                }),
                Err(why) => self.problems.push(Error::local(OP, format!("{file}:{line}: {why}"))),
            }
        }
        self.groups.push(ImageGroup { bundle: None, images });
    }

    /// The descendants of the indexes among `entries`, if any entry has no name. Blocks.
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
            for child in self.source.verified_links(&digest).map(|links| links.manifests.clone()).unwrap_or_default() {
                listed.insert(child.digest.clone());
                stack.push(child.digest);
            }
        }
        listed
    }

    fn add_unreadable_volume(&mut self, path: &Path, error: &Error) {
        let message = format!("{}: cannot read volume: {}", path.display(), error.message());
        let error = Error::new(Side::Local, OP, Kind::Damaged, message);
        self.problems.push(match parse_volume_file(path) {
            Some((name, number)) => error.remedy(repair_command(&name, number)),
            None => error,
        });
    }

    /// Everything that was added. Blocks.
    pub fn finish(mut self) -> GatheredContent {
        let stray = self.notes_on_stray_volumes();
        self.notes.extend(stray);
        self.add_volume_content();
        for descriptor in std::mem::take(&mut self.nameless) {
            self.source.add_referrer(&descriptor);
        }
        for (repository, tag, descriptor) in std::mem::take(&mut self.referrer_tags) {
            self.source.add_referrer_tag(repository, tag, descriptor);
        }
        let (mut images, superseded) = latest_by_name(&self.bundles, self.groups);
        find_available_platforms(&self.source, &self.platforms, &mut images);
        if superseded > 0 {
            let plural = if superseded == 1 { "image is" } else { "images are" };
            self.notes.push(format!("{superseded} {plural} left out: a later bundle has another one of that name"));
        }
        GatheredContent { source: self.source, bundles: self.bundles, images, problems: self.problems, notes: self.notes }
    }

    /// Adds the content of volumes to the source, then that of the staging area.
    fn add_volume_content(&mut self) {
        for (path, bundle, head) in std::mem::take(&mut self.volumes) {
            let number = head.record.volume;
            let origin = self.source.add_file(ContentFile { path: path.clone(), volume: Some((bundle, number)) });
            let is_whole = OnceCell::new();
            let shared: Arc<Path> = path.as_path().into();
            for (member, offset) in head.members() {
                let piece = Piece { origin, location: PieceLocation::File { path: Arc::clone(&shared), offset }, len: member.size };
                let Some(part) = member.part else {
                    self.source.add(member.digest.clone(), piece);
                    continue;
                };
                // Hash the volume only if there is another copy of the part: then this one replaces it if the volume is whole.
                let is_same = |(digest, parts): (&Digest, &Parts)| *digest == member.digest && parts.parts.contains_key(&part);
                let again = self.source.incomplete().any(is_same);
                let bundle = self.bundles.get(bundle);
                let replace = again && *is_whole.get_or_init(|| bundle.is_some_and(|bundle| bundle.has_recorded_hash(number, &path)));
                self.source.add_part(&member.digest, (part, member.offset, member.whole_size()), piece, replace);
            }
        }
        if let Some(stage) = self.stage {
            self.add_staged_content(stage);
        }
        self.source.join();
    }

    /// Adds staged content to the source, behind what volumes hold.
    fn add_staged_content(&mut self, stage: &StagingArea) {
        for (number, bundle) in self.bundles.iter_mut().enumerate() {
            let origin = self.source.add_file(ContentFile { path: stage.folder().to_owned(), volume: None });
            let piece = |path: &Path, len, origin| Piece { origin, location: PieceLocation::File { path: path.into(), offset: 0 }, len };
            for (digest, path, len) in stage.manifests(&bundle.id) {
                self.source.add(digest, piece(&path, len, origin));
            }
            for part in stage.parts(&bundle.id) {
                // The record says which volume the part came with.
                let mut members = bundle.record.iter().flat_map(Bundle::members);
                let volume = members.find(|(_, member)| member.digest == part.digest && member.part == Some(part.number));
                let origin = volume.map_or(origin, |(volume, _)| {
                    self.source.add_file(ContentFile { path: part.path.clone(), volume: Some((number, volume)) })
                });
                let position = (part.number, part.offset, part.whole);
                self.source.add_part(&part.digest, position, piece(&part.path, part.len, origin), false);
                bundle.staged_parts.insert((part.digest, part.number));
            }
        }
    }
}

/// Finds the platforms of indexes in layouts and archives that are not complete. The rest of a bundle's image may come
/// with other volumes.
fn find_available_platforms(source: &BundleSource, platforms: &[PlatformFilter], images: &mut [NamedImage]) {
    let mut known: HashMap<Digest, Option<AvailablePlatforms>> = HashMap::new();
    let of_others = images.iter_mut().filter(|image| image.bundle.is_none());
    for image in of_others.filter(|image| !image.entry.descriptor.annotations.contains_key(SPARSE)) {
        let root = &image.entry.descriptor;
        let available = known.entry(root.digest.clone()).or_insert_with(|| interchange::available_platforms(source, root, platforms));
        image.available_platforms.clone_from(available);
    }
}

fn resolved(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn head_replaced(path: &Path) -> String {
    format!("{}: the head of the volume is damaged; the bundle's record is used instead", path.display())
}
