//! What is missing and what would bring it; what is damaged, and what that keeps from being imported.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::need::MissingContent;
use crate::bundle::format::{Bundle, VolumeMember, volume_file};
use crate::bundle::read::{ArrivedBundle, Availability, BundleSource, Damage, repair_command};
use crate::content::{Descriptor, Digest};
use crate::mutex::Mutex;
use crate::{Error, Kind, Operation, Side};

/// As many digests are named in a reason; the first of them are enough to look for, and the volumes are named all.
const MOST_NAMED: usize = 100;

/// What would bring something: volumes in their order, bundles after them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Provider {
    /// Bundle and number.
    rank: (usize, u32),
    pub(super) what: String,
    /// It says only that nothing can.
    nothing: bool,
}

/// Why an image is not delivered.
pub(super) enum Reason {
    /// It waits for these.
    Waits(String, BTreeSet<Provider>),
    /// Something of it can never come.
    Never(Error),
}

/// Something that images wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingImages {
    /// What would bring it: `volume 3 of february (february-0003.tar)`, `bundle january`.
    pub what: String,
    /// The images that wait for it.
    pub images: Vec<String>,
}

/// A file with damaged content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// What it is: `volume 7 of february (/media/a/february-0007.tar)`, or its path.
    pub what: String,
    /// The digests whose bytes are wrong, each with what is wrong.
    pub content: Vec<(Digest, String)>,
    /// The images that could not be imported because of that.
    pub images: Vec<String>,
    /// What brings it again, if it is a volume.
    pub remedy: Option<String>,
    /// Whether all of it was to be had elsewhere.
    pub mended: bool,
}

/// Knows which bundle and volume has what.
pub(super) struct Providers<'a> {
    bundles: &'a [ArrivedBundle],
    /// Content that is in volumes, by the records of their bundles.
    volumes: HashMap<&'a Digest, Vec<(usize, u32)>>,
    /// Content that bundles rely on.
    relied: HashMap<&'a Digest, (usize, Option<&'a Digest>)>,
}

impl<'a> Providers<'a> {
    pub(super) fn new(bundles: &'a [ArrivedBundle]) -> Self {
        let (mut volumes, mut relied): (HashMap<_, Vec<_>>, _) = (HashMap::new(), HashMap::new());
        for (number, record) in records(bundles) {
            let kept = bundles.get(number).map(|bundle| &bundle.staged_parts);
            let is_kept = |member: &VolumeMember| {
                kept.is_some_and(|kept| member.part.is_some_and(|part| kept.contains(&(member.digest.clone(), part))))
            };
            for (volume, member) in record.members().filter(|(_, member)| !is_kept(member)) {
                volumes.entry(&member.digest).or_default().push((number, volume));
            }
            for content in &record.base.content {
                relied.entry(&content.digest).or_insert((number, content.bundle.as_ref()));
            }
        }
        Providers { bundles, volumes, relied }
    }

    /// What would bring `digest`, for an image of `bundle`: of a blob in parts, all that are not here.
    fn of(&self, digest: &Digest, bundle: Option<usize>) -> Vec<Provider> {
        let named = |(at, number): &(usize, u32)| {
            let bundle = self.bundles.get(*at)?;
            let missing = !bundle.available.contains(number);
            let what = format!("volume {number} of {} ({})", bundle.name, volume_file(&bundle.name, *number));
            missing.then_some(Provider { rank: (*at, *number), what, nothing: false })
        };
        let missing: Vec<Provider> = self.volumes.get(digest).into_iter().flatten().filter_map(named).collect();
        if !missing.is_empty() {
            return missing;
        }
        let (what, nothing) = self.beyond(digest, bundle);
        vec![Provider { rank: (usize::MAX, 0), what, nothing }]
    }

    /// What brings content that is in no volume of the bundles known, and whether that is nothing.
    fn beyond(&self, digest: &Digest, bundle: Option<usize>) -> (String, bool) {
        match self.relied.get(digest) {
            Some((by, Some(base))) => (format!("bundle {}", self.bundle_name(*by, base)), false),
            Some((by, None)) => {
                let name = self.bundles.get(*by).map_or("the bundle", |bundle| bundle.name.as_str());
                (format!("the target was said to have it when {name} was made: export that again with a new inventory"), false)
            }
            None => self.unknown(bundle),
        }
    }

    fn bundle_name(&self, by: usize, base: &Digest) -> String {
        let record = self.bundles.get(by).and_then(|bundle| bundle.record.as_ref());
        let named = record.and_then(|record| record.base.bundles.iter().find(|bundle| bundle.id == *base));
        named.map_or_else(|| base.short().to_owned(), |bundle| bundle.name.clone())
    }

    /// Of a bundle without its record nobody knows which volume has what, or what it builds on.
    fn unknown(&self, bundle: Option<usize>) -> (String, bool) {
        let Some(bundle) = bundle.and_then(|bundle| self.bundles.get(bundle)) else {
            return ("it was not carried along, and the target does not have it".to_owned(), true);
        };
        let missing: Vec<String> =
            (1..=bundle.volumes).filter(|number| !bundle.available.contains(number)).map(|number| number.to_string()).collect();
        let what = match (bundle.record.is_some(), missing.as_slice()) {
            (true, _) => return (format!("no volume of {} has it, and neither does the target", bundle.name), true),
            (false, []) => format!("what {} builds on; its .bundle.json says what that is", bundle.name),
            (false, missing) => format!(
                "a volume of {} that is not here ({}), or what it builds on; its .bundle.json says which",
                bundle.name,
                missing.join(", ")
            ),
        };
        (what, false)
    }

    /// Why an image is not delivered. If one piece of it can never come, it can never be complete.
    pub(super) fn reason(&self, lacks: &[MissingContent], bundle: Option<usize>) -> Reason {
        let mut by: BTreeMap<Provider, Vec<&Digest>> = BTreeMap::new();
        for lack in lacks {
            for bringer in self.of(&lack.descriptor.digest, bundle) {
                by.entry(bringer).or_default().push(&lack.descriptor.digest);
            }
        }
        let part = |(Provider { what, .. }, digests): (&Provider, &Vec<&Digest>)| {
            let mut named: Vec<String> = digests.iter().take(MOST_NAMED).map(ToString::to_string).collect();
            if digests.len() > MOST_NAMED {
                named.push(format!("and {} more", digests.len() - MOST_NAMED));
            }
            format!("{what}: {}", named.join(", "))
        };
        if by.keys().any(|bringer| bringer.nothing) {
            let parts: Vec<String> = by.iter().filter(|(bringer, _)| bringer.nothing).map(part).collect();
            let error = Error::new(Side::Local, Operation::Import, Kind::ContentMissing, parts.join("; "));
            return Reason::Never(error.remedy("make or carry it again, whole"));
        }
        let parts: Vec<String> = by.iter().map(part).collect();
        Reason::Waits(format!("not here yet: {}", parts.join("; ")), by.into_keys().collect())
    }
}

fn records(bundles: &[ArrivedBundle]) -> impl Iterator<Item = (usize, &Bundle)> {
    bundles.iter().enumerate().filter_map(|(number, bundle)| Some((number, bundle.record.as_ref()?)))
}

/// What a file is called.
pub(super) fn called(shelf: &BundleSource, bundles: &[ArrivedBundle], origin: usize) -> String {
    let Some(origin) = shelf.file(origin) else { return String::new() };
    let path = origin.path.display();
    match origin.volume.and_then(|(bundle, number)| Some((bundles.get(bundle)?, number))) {
        Some((bundle, number)) => format!("volume {number} of {} ({path})", bundle.name),
        None => path.to_string(),
    }
}

/// Which volumes' hashes are wrong: each is read once, when it is first asked about.
#[derive(Default)]
pub(super) struct Verdicts(Mutex<HashMap<usize, bool>>);

impl Verdicts {
    /// Blocks, also while another thread reads a volume.
    fn is_wrong(&self, shelf: &BundleSource, bundles: &[ArrivedBundle], origin: usize) -> bool {
        let mut known = self.0.lock();
        *known.entry(origin).or_insert_with(|| {
            let volume = shelf.file(origin).and_then(|found| Some((found, found.volume?)));
            // A part that was kept is no volume, and was kept of one that was whole.
            let volume = volume.filter(|(found, _)| found.path.extension().is_some_and(|extension| extension == "tar"));
            volume.is_some_and(|(found, (bundle, number))| {
                bundles.get(bundle).is_some_and(|bundle| bundle.record.is_some() && !bundle.has_recorded_hash(number, &found.path))
            })
        })
    }
}

/// The files that damaged content was read from, each with the images that `affected` says need it. Blocks: where a blob was in
/// parts, the volumes' own hashes tell which of them is wrong.
pub(super) fn files(
    verdicts: &Verdicts,
    shelf: &BundleSource,
    bundles: &[ArrivedBundle],
    damage: &[Damage],
    affected: &HashMap<Digest, BTreeSet<String>>,
) -> Vec<DamagedFile> {
    #[derive(Default)]
    struct ProviderMatch {
        content: Vec<(Digest, String)>,
        images: BTreeSet<String>,
    }
    let mut files: BTreeMap<usize, ProviderMatch> = BTreeMap::new();
    for damage in damage {
        for origin in culprits(verdicts, shelf, bundles, &damage.origins) {
            let file = files.entry(origin).or_default();
            file.content.push((damage.digest.clone(), damage.why.clone()));
            file.images.extend(affected.get(&damage.digest).into_iter().flatten().cloned());
        }
    }
    let file = |(origin, ProviderMatch { content, images }): (usize, ProviderMatch)| DamagedFile {
        what: called(shelf, bundles, origin),
        mended: content.iter().all(|(digest, _)| shelf.availability(&Descriptor::new("", digest.clone(), 0)) == Availability::Here),
        content,
        images: images.into_iter().collect(),
        remedy: remedy(shelf, bundles, origin),
    };
    files.into_iter().map(file).collect()
}

/// Of several volumes those whose hash is wrong; all, if that tells nothing.
fn culprits(verdicts: &Verdicts, shelf: &BundleSource, bundles: &[ArrivedBundle], origins: &[usize]) -> Vec<usize> {
    if origins.len() < 2 {
        return origins.to_vec();
    }
    let wrong: Vec<usize> = origins.iter().copied().filter(|origin| verdicts.is_wrong(shelf, bundles, *origin)).collect();
    if wrong.is_empty() { origins.to_vec() } else { wrong }
}

fn remedy(shelf: &BundleSource, bundles: &[ArrivedBundle], origin: usize) -> Option<String> {
    let (bundle, number) = shelf.file(origin)?.volume?;
    Some(repair_command(&bundles.get(bundle)?.name, number))
}

/// The failure of an image that lacks damaged content; it names the same files as [`files`]. Blocks, as that.
pub(super) fn failure(verdicts: &Verdicts, shelf: &BundleSource, bundles: &[ArrivedBundle], lacks: &[MissingContent]) -> Error {
    let damage = shelf.damage();
    let of = |lack: &MissingContent| damage.iter().find(|damage| damage.digest == lack.descriptor.digest);
    let found: Vec<&Damage> = lacks.iter().filter(|lack| lack.damaged).filter_map(of).collect();
    let files: BTreeSet<usize> = found.iter().flat_map(|damage| culprits(verdicts, shelf, bundles, &damage.origins)).collect();
    let named: Vec<String> = files.iter().map(|origin| called(shelf, bundles, *origin)).collect();
    let digests: Vec<String> = found.iter().take(MOST_NAMED).map(|damage| damage.digest.to_string()).collect();
    let verb = if files.len() == 1 { "is damaged" } else { "are damaged, or one of them is" };
    let why = found.first().map(|damage| format!(" ({})", damage.why)).unwrap_or_default();
    let error = Error::new(
        Side::Local,
        Operation::ReadVolume,
        Kind::Damaged,
        format!("{} {verb}: {}{why}", named.join(" and "), digests.join(", ")),
    );
    match files.iter().find_map(|origin| remedy(shelf, bundles, *origin)) {
        Some(remedy) => error.remedy(remedy),
        None => error.remedy("make or carry it again"),
    }
}
