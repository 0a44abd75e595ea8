//! Referrers in a layout. Each is an entry of `index.json` without a name that says what it is about, and the subject's index of
//! referrers is the entry `repo:sha256-<hex>`, as tools without the referrers API look for it; cosign's tags are entries of theirs.
//!
//! All three say what they are about in an annotation of containerd's, so that nobody has to read them to know; and so that [`gc`](super::gc())
//! tells them from images: they stay as long as their subject does.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use serde_json::json;

use super::entry::{IndexEntry, SUBJECT, entry_json};
use super::files::{self, Files, damaged};
use super::graph;
use super::index::LayoutIndex;
use crate::content::{Descriptor, Digest, Manifest, Repository, fallback_tag, with_referrers};
use crate::mutex::Mutex;
use crate::{Kind, Operation, Result, Side};

/// Which entries refer to which manifest.
#[derive(Debug, Default)]
pub(super) struct SubjectIndex {
    /// What manifests of entries that do not say it themselves are about; read once.
    manifests: Mutex<HashMap<Digest, Option<Arc<SubjectManifest>>>>,
    /// For the index that was asked about last, so that a question for each image does not look at each entry.
    last: Mutex<Option<IndexReferrers>>,
}

/// The referrers in one state of the index, by subject and by their own digests.
#[derive(Debug)]
struct IndexReferrers {
    index: Weak<LayoutIndex>,
    by_subject: HashMap<Digest, BTreeMap<Digest, Descriptor>>,
}

/// A manifest that is about another one.
#[derive(Debug)]
struct SubjectManifest {
    subject: Digest,
    referrer: Descriptor,
}

/// Referrers on their way into the index.
pub(super) struct PendingReferrers {
    pub(super) repository: Repository,
    pub(super) subject: Digest,
    pub(super) referrers: Vec<Descriptor>,
}

impl SubjectIndex {
    /// All manifests in `index` that are about `subject`, by digest. Blocks.
    pub(super) fn referrers_of(&self, files: &Files, index: &Arc<LayoutIndex>, subject: &Digest) -> Result<Vec<Descriptor>> {
        let mut last = self.last.lock();
        let referrers = match last.take() {
            Some(last) if std::ptr::eq(last.index.as_ptr(), Arc::as_ptr(index)) => last,
            _ => self.read_all(files, index)?,
        };
        let found = referrers.by_subject.get(subject).map(|found| found.values().cloned().collect()).unwrap_or_default();
        *last = Some(referrers);
        Ok(found)
    }

    fn read_all(&self, files: &Files, index: &Arc<LayoutIndex>) -> Result<IndexReferrers> {
        let mut by_subject: HashMap<Digest, BTreeMap<Digest, Descriptor>> = HashMap::new();
        for entry in index.entries() {
            if let Some((subject, referrer)) = self.referrer(files, entry)? {
                by_subject.entry(subject).or_default().insert(referrer.digest.clone(), referrer);
            }
        }
        Ok(IndexReferrers { index: Arc::downgrade(index), by_subject })
    }

    /// The entry as a referrer, with its subject, if it is one. Blocks.
    fn referrer(&self, files: &Files, entry: &IndexEntry) -> Result<Option<(Digest, Descriptor)>> {
        if let Some(stated) = entry.subject() {
            let mut referrer = entry.descriptor.clone();
            referrer.annotations.remove(SUBJECT);
            return Ok(entry.name.is_none().then_some((stated, referrer)));
        }
        let digest = &entry.descriptor.digest;
        let known = self.manifests.lock().get(digest).cloned();
        let about = match known {
            Some(about) => about,
            None => {
                let about = read(files, entry)?.map(Arc::new);
                self.manifests.lock().insert(digest.clone(), about.clone());
                about
            }
        };
        Ok(about.map(|about| (about.subject.clone(), about.referrer.clone())))
    }
}

/// What an entry's manifest is about. One that is not there, or damaged, is about nothing: [`verify`](super::verify()) names it.
fn read(files: &Files, entry: &IndexEntry) -> Result<Option<SubjectManifest>> {
    let Descriptor { digest, media_type, .. } = &entry.descriptor;
    let manifest = match graph::manifest(files, digest, media_type) {
        Err(error) if error.kind() == Kind::Damaged => None,
        read => read?,
    };
    let Some(manifest) = manifest else { return Ok(None) };
    let subject = manifest.links().subject.as_ref();
    Ok(subject.map(|subject| SubjectManifest { subject: subject.digest.clone(), referrer: manifest.as_referrer() }))
}

impl PendingReferrers {
    /// Puts them into `index`, and writes the subject's index of referrers; whether anything changed. On an error `index` is as it was. Under
    /// the layout's lock. Blocks.
    pub(super) fn put(&self, files: &Files, index: &mut LayoutIndex) -> Result<bool> {
        let name = format!("{}:{}", self.repository, fallback_tag(&self.subject));
        let list = self.list(files, index, &name)?;
        let mut changed = false;
        for referrer in &self.referrers {
            let listed = |entry: &IndexEntry| {
                entry.name.is_none() && entry.descriptor.digest == referrer.digest && entry.subject().as_ref() == Some(&self.subject)
            };
            if !index.has(&referrer.digest) || !index.entries().any(listed) {
                let mut entry = referrer.clone();
                entry.annotations.insert(SUBJECT.to_owned(), self.subject.to_string());
                index.add(json!(entry));
                changed = true;
            }
        }
        if let Some(list) = list {
            changed |= index.name(&name, entry_json(&name, &list, None, Some(&self.subject)));
        }
        Ok(changed)
    }

    /// Writes the subject's index of referrers, which is called `name`; nothing if it lists them all.
    fn list(&self, files: &Files, index: &LayoutIndex, name: &str) -> Result<Option<Descriptor>> {
        let before = index.named(name).map(|entry| entry.descriptor.clone());
        let before = match before.map(|entry| graph::manifest(files, &entry.digest, &entry.media_type)).transpose() {
            // It is written anew.
            Err(error) if error.kind() == Kind::Damaged => None,
            read => read?.flatten(),
        };
        let lists = with_referrers(before.as_ref().map(|before| before.bytes().as_ref()), &self.referrers, &HashSet::new());
        let bytes = match lists {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => Bytes::from(bytes),
            Err(why) => {
                return Err(damaged(Operation::WriteLayout, format!("{name}, where referrers are listed, cannot be used: {why}")));
            }
        };
        let digest = Digest::sha256(&bytes);
        let manifest = Manifest::known(bytes, None, digest, Side::Local)?;
        files.replace(&files::blob(manifest.digest()), manifest.bytes())?;
        Ok(Some(manifest.descriptor()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Image, OCI_INDEX, OCI_MANIFEST, blob, context, fill, folder, image, index, names, put};
    use super::super::{Layout, gc, lock, verify};
    use super::*;
    use crate::content::{Publication, Sink as _, Source as _};
    use crate::name::Reference;
    use serde_json::Value;

    /// An artifact about `subject`.
    fn about(subject: &Manifest, artifact_type: &str, content: &str) -> Image {
        let (config, layer) = (Bytes::from_static(b"{}"), Bytes::from(content.to_owned()));
        let bytes = Bytes::from(
            json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": artifact_type, "config": blob(&config),
                "layers": [blob(&layer)], "subject": subject.descriptor(), "annotations": {"k": content}})
            .to_string(),
        );
        let manifest = Manifest::known(bytes.clone(), None, Digest::sha256(&bytes), Side::Upstream).unwrap();
        Image { manifest, blobs: vec![config, layer], children: vec![] }
    }

    async fn attach(layout: &Layout, repository: &str, subject: &Manifest, referrers: &[&Image]) {
        for referrer in referrers {
            fill(layout, referrer).await;
        }
        let manifests: Vec<Manifest> = referrers.iter().map(|referrer| referrer.manifest.clone()).collect();
        layout.attach(&Repository::new(repository), subject.digest(), &manifests, &context()).await.unwrap();
    }

    async fn listed(layout: &Layout, subject: &Manifest) -> Vec<Digest> {
        let found = layout.referrers(&Repository::new("any"), subject.digest(), &context()).await.unwrap();
        found.into_iter().map(|referrer| referrer.digest).collect()
    }

    fn sorted(images: &[&Image]) -> Vec<Digest> {
        let mut digests: Vec<Digest> = images.iter().map(|image| image.manifest.digest().clone()).collect();
        digests.sort();
        digests
    }

    #[tokio::test]
    async fn referrers_are_entries_without_a_name_and_an_index_under_their_subjects_tag() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let signed = image(&["layer"]);
        put(&layout, "a:1", &signed).await;
        let (one, two) = (about(&signed.manifest, "x/sig", "one"), about(&signed.manifest, "x/sbom", "two"));
        attach(&layout, "a", &signed.manifest, &[&one]).await;
        attach(&layout, "a", &signed.manifest, &[&two, &one]).await;
        let tag = fallback_tag(signed.manifest.digest());
        assert_eq!(names(&layout).await, ["a:1", "", &format!("a:{tag}"), ""]);
        let entries = layout.names().await.unwrap();
        let first = &entries[1].descriptor;
        assert_eq!((first.digest.clone(), first.artifact_type.as_deref()), (one.manifest.digest().clone(), Some("x/sig")));
        assert_eq!((first.annotations["k"].as_str(), first.annotations[SUBJECT].as_str()), ("one", signed.manifest.digest().as_str()));

        let referrers = layout.referrers(&Repository::new("a"), signed.manifest.digest(), &context()).await.unwrap();
        let mut expected = vec![one.manifest.as_referrer(), two.manifest.as_referrer()];
        expected.sort_by(|a, b| a.digest.cmp(&b.digest));
        assert_eq!(referrers, expected);
        let found = layout.resolve(&Repository::new("a"), &Reference::Tag(tag), &context()).await.unwrap().unwrap();
        assert_eq!(found.media_type, OCI_INDEX);
        let fallback = layout.manifest(&Repository::new("a"), &found.digest, &context()).await.unwrap().unwrap();
        assert_eq!(fallback.links().manifests, expected);
        assert!(verify(dir.path(), &|_| {}).unwrap().ok());
        // Once more is nothing new.
        let before = std::fs::read(dir.path().join("index.json")).unwrap();
        attach(&layout, "a", &signed.manifest, &[&one, &two]).await;
        assert_eq!(std::fs::read(dir.path().join("index.json")).unwrap(), before);
    }

    #[tokio::test]
    async fn a_refused_change_of_the_index_fails_alone() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let signed = image(&["layer"]);
        put(&layout, "a:1", &signed).await;
        // An image has the name under which referrers would be listed.
        put(&layout, &format!("a:{}", fallback_tag(signed.manifest.digest())), &image(&["in the way"])).await;
        let before = names(&layout).await;
        let attached = PendingReferrers {
            repository: Repository::new("a"),
            subject: signed.manifest.digest().clone(),
            referrers: vec![about(&signed.manifest, "x/sig", "one").manifest.as_referrer()],
        };
        let (index, root) = (&layout.0.index, signed.manifest.descriptor());
        let lock = lock::index(&layout.0.files).unwrap();
        // The first has the turn and waits for the lock; all others are written together after it.
        let mut first = Box::pin(index.publish("b:0".to_owned(), &root, "x"));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut refused = Box::pin(index.attach(attached));
        assert!(futures_util::poll!(&mut refused).is_pending());
        let mut others: Vec<_> = (1..20).map(|n| Box::pin(index.publish(format!("b:{n}"), &root, "x"))).collect();
        for other in &mut others {
            assert!(futures_util::poll!(other).is_pending());
        }
        drop(lock);
        first.await.unwrap();
        let (refused, others) = tokio::join!(refused, futures_util::future::join_all(others));
        let error = refused.unwrap_err();
        assert!(error.message().contains("where referrers are listed, cannot be used"), "{error}");
        assert!(others.iter().all(std::result::Result::is_ok), "{others:?}");
        let expected: Vec<String> = before.into_iter().chain((0..20).map(|n| format!("b:{n}"))).collect();
        assert_eq!(names(&layout).await, expected, "nothing of what was refused is there");
    }

    #[tokio::test]
    async fn what_is_not_complete_is_not_listed() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let signed = image(&["layer"]);
        let lacking = about(&signed.manifest, "x/sig", "one");
        let attached =
            layout.attach(&Repository::new("a"), signed.manifest.digest(), std::slice::from_ref(&lacking.manifest), &context()).await;
        assert_eq!(attached.unwrap_err().kind(), Kind::ContentMissing);
        assert!(names(&layout).await.is_empty());
    }

    #[tokio::test]
    async fn referrers_stay_as_long_as_their_subject_and_go_with_it() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let (kept, gone) = (index(vec![image(&["kept"])]), image(&["gone"]));
        put(&layout, "a:kept", &kept).await;
        put(&layout, "a:moving", &gone).await;
        // Of a child; of the image that goes; and a signature of an SBOM of each.
        let of_child = about(&kept.children[0], "x/sbom", "child's");
        let (of_sbom, of_gone) = (about(&of_child.manifest, "x/sig", "sbom's"), about(&gone.manifest, "x/sbom", "gone's"));
        let of_gones = about(&of_gone.manifest, "x/sig", "gone's sbom's");
        for (subject, referrer) in
            [(&kept.children[0], &of_child), (&of_child.manifest, &of_sbom), (&gone.manifest, &of_gone), (&of_gone.manifest, &of_gones)]
        {
            attach(&layout, "a", subject, &[referrer]).await;
        }
        let cosign = image(&["signature"]);
        fill(&layout, &cosign).await;
        for subject in [&kept.manifest, &gone.manifest] {
            let tag = format!("sha256-{}.sig", subject.digest().encoded());
            let publication = Publication {
                repository: Repository::new("a"),
                reference: Reference::Tag(tag),
                manifest: cosign.manifest.clone(),
                source: "docker.io/library/a:sig".into(),
                sparse: vec![],
            };
            layout.attach_tagged(&publication, subject.digest(), &context()).await.unwrap();
        }
        put(&layout, "a:moving", &kept).await;
        assert_eq!(listed(&layout, &gone.manifest).await, sorted(&[&of_gone]));
        drop(layout);

        let promised = gc(dir.path(), true).unwrap();
        let report = gc(dir.path(), false).unwrap();
        assert_eq!(report, promised);
        for image in [&of_gone, &of_gones, &gone] {
            assert!(report.removed.contains(image.manifest.digest()));
        }
        let layout = Layout::open(dir.path()).await.unwrap();
        assert_eq!(listed(&layout, &kept.children[0]).await, sorted(&[&of_child]));
        assert_eq!(listed(&layout, &of_child.manifest).await, sorted(&[&of_sbom]));
        assert!(listed(&layout, &gone.manifest).await.is_empty());
        let left: Vec<String> = names(&layout).await.into_iter().filter(|name| !name.is_empty()).collect();
        let tag = |of: &Manifest, suffix| format!("a:{}{suffix}", fallback_tag(of.digest()));
        assert_eq!(left, ["a:kept", "a:moving", &tag(&kept.children[0], ""), &tag(&of_child.manifest, ""), &tag(&kept.manifest, ".sig")]);
        let after = verify(dir.path(), &|_| {}).unwrap();
        assert!(after.ok() && after.unreferenced.is_empty(), "{after:?}");
        assert_eq!(gc(dir.path(), false).unwrap(), super::super::GcReport::default());
    }

    #[tokio::test]
    async fn what_other_tools_list_is_found_by_its_manifest_and_kept() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let signed = image(&["layer"]);
        put(&layout, "a:1", &signed).await;
        let (unnamed, named) = (about(&signed.manifest, "x/sig", "unnamed"), about(&signed.manifest, "x/sig", "named"));
        let orphan = about(&image(&["elsewhere"]).manifest, "x/sig", "orphan");
        for referrer in [&unnamed, &orphan] {
            fill(&layout, referrer).await;
            layout.put_manifest(&Repository::new("a"), &referrer.manifest, &context()).await.unwrap();
        }
        put(&layout, "a:named", &named).await;
        let path = dir.path().join("index.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let entries = file["manifests"].as_array_mut().unwrap();
        entries.extend([json!(unnamed.manifest.descriptor()), json!(orphan.manifest.descriptor())]);
        std::fs::write(&path, file.to_string()).unwrap();
        assert_eq!(listed(&layout, &signed.manifest).await, sorted(&[&unnamed, &named]));
        drop(layout);
        assert_eq!(gc(dir.path(), false).unwrap().removed, vec![], "what others wrote without a subject stays");
    }

    #[tokio::test]
    async fn damage_names_what_the_referrer_is_about() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let signed = image(&["layer"]);
        put(&layout, "a:1", &signed).await;
        let one = about(&signed.manifest, "x/sig", "one");
        attach(&layout, "a", &signed.manifest, &[&one]).await;
        std::fs::remove_file(super::super::testing::path_of(&layout, &Digest::sha256(b"one"))).unwrap();
        let report = verify(dir.path(), &|_| {}).unwrap();
        let tag = format!("a:{}", fallback_tag(signed.manifest.digest()));
        assert_eq!(report.missing[0].images, [format!("a referrer of {}", signed.manifest.digest()), tag]);
    }
}
