//! Content that the target has already, or that is on its way there: inventories and earlier bundles (`--base`).

use std::collections::HashMap;
use std::path::Path;

use super::format::{BaseBundle, Bundle, BundleBase, MAX_RECORD, MemberKind, ReliedBlob};
use super::inventory::Inventory;
use super::plan::PlannedBlob;
use crate::content::Digest;
use crate::input;
use crate::{Error, Operation, Result};

const OP: Operation = Operation::ReadBase;

/// The number of repositories that are recorded for a blob at the target. One is enough to mount it from; a few more are for
/// those that are removed in the meantime.
const HELD: usize = 4;

/// All bases together.
#[derive(Debug, Default)]
pub struct CombinedBase {
    bundles: Vec<BaseBundle>,
    /// Inventories, each with the digest of its text.
    inventories: Vec<(Digest, Inventory)>,
    /// Content that bundles bring or rely on.
    brought: HashMap<Digest, CarriedContent>,
}

#[derive(Debug)]
struct CarriedContent {
    repositories: Vec<String>,
    /// The bundle whose volumes hold it; none if an inventory of that bundle's base lists it.
    bundle: Option<Digest>,
}

impl CombinedBase {
    /// Reads bundles' records and inventories. The first character of a file tells which it is.
    ///
    /// # Errors
    /// If one cannot be read, or is neither.
    pub fn read<P: AsRef<Path>>(paths: &[P]) -> Result<Self> {
        let mut bases = CombinedBase::default();
        for path in paths {
            bases.add(path.as_ref())?;
        }
        Ok(bases)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let io = |error| Error::io(OP, path, &error);
        let meta = std::fs::metadata(path).map_err(io)?;
        if meta.is_dir() {
            let error = Error::local(OP, format!("{} is a folder", path.display()));
            return Err(error.remedy("name the inventory, or the .bundle.json of the bundle"));
        }
        if begins_record(path)? {
            let bundle =
                Bundle::parse(&input::read(path, MAX_RECORD).map_err(io)?).map_err(|error| error.subject(path.display().to_string()))?;
            self.add_bundle(bundle);
        } else {
            let inventory = Inventory::read(path)?;
            self.inventories.push((Digest::sha256(inventory.to_text().as_bytes()), inventory));
        }
        Ok(())
    }

    /// Assumes that `bundle` is imported, and with it everything that its images need.
    pub fn add_bundle(&mut self, bundle: Bundle) {
        for volume in bundle.volumes {
            for member in volume.members.into_iter().filter(|member| member.kind == MemberKind::Blob) {
                let brought = CarriedContent { repositories: member.repositories, bundle: Some(bundle.id.clone()) };
                self.brought.entry(member.digest).or_insert(brought);
            }
        }
        for relied in bundle.base.content {
            let brought = CarriedContent { repositories: relied.held, bundle: relied.bundle };
            self.brought.entry(relied.digest).or_insert(brought);
        }
        self.bundles.push(BaseBundle { id: bundle.id, name: bundle.name });
    }

    /// Removes from `blobs` the configs and layers that the base has, and records that. All manifests stay.
    pub fn leave_out(&self, blobs: &mut Vec<PlannedBlob>) -> BundleBase {
        let mut content = vec![];
        blobs.retain(|blob| match self.relied(blob).filter(|_| blob.kind == MemberKind::Blob) {
            Some(relied) => {
                content.push(relied);
                false
            }
            None => true,
        });
        content.sort_by(|a: &ReliedBlob, b| a.digest.cmp(&b.digest));
        let mut bundles = self.bundles.clone();
        bundles.sort();
        bundles.dedup();
        let mut inventories: Vec<Digest> = self.inventories.iter().map(|(digest, _)| digest.clone()).collect();
        inventories.sort();
        inventories.dedup();
        BundleBase { bundles, inventories, content }
    }

    /// Whether the base has the content.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.brought.contains_key(digest) || self.inventories.iter().any(|(_, one)| one.holds(digest))
    }

    fn relied(&self, blob: &PlannedBlob) -> Option<ReliedBlob> {
        let relied = |held: Vec<String>, bundle| ReliedBlob {
            digest: blob.digest.clone(),
            size: blob.size,
            repositories: blob.repositories.clone(),
            held: best_sources(held, &blob.repositories),
            bundle,
        };
        // Content at the target is better than content on its way.
        let holders: Vec<String> =
            self.inventories.iter().flat_map(|(_, one)| one.repositories(&blob.digest)).map(ToString::to_string).collect();
        if !holders.is_empty() {
            return Some(relied(holders, None));
        }
        self.brought.get(&blob.digest).map(|brought| relied(brought.repositories.clone(), brought.bundle.clone()))
    }
}

/// A few of the repositories that hold a blob. Those that need it come first: there it does not have to be mounted.
fn best_sources(mut held: Vec<String>, needed: &[String]) -> Vec<String> {
    held.sort_by_key(|repository| (!needed.contains(repository), repository.clone()));
    held.dedup();
    held.truncate(HELD);
    held
}

/// Whether the file is JSON: an inventory's lines begin with a digest, or with zstd's magic number.
fn begins_record(path: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut first = [0];
    let read = input::open(path).and_then(|mut file| file.read(&mut first)).map_err(|error| Error::io(OP, path, &error))?;
    Ok(read == 1 && first == *b"{")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(content: &str, kind: MemberKind, repositories: &[&str]) -> PlannedBlob {
        let repositories = repositories.iter().map(|&repository| repository.to_owned()).collect();
        PlannedBlob { digest: Digest::sha256(content.as_bytes()), size: content.len() as u64, kind, repositories }
    }

    fn bases(text: &str) -> CombinedBase {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("inventory"), text).unwrap();
        CombinedBase::read(&[folder.path().join("inventory")]).unwrap()
    }

    #[test]
    fn manifests_are_in_the_bundle_even_if_the_base_has_them() {
        let there = piece("manifest", MemberKind::Manifest, &["a"]);
        let mut pieces = vec![there.clone(), piece("layer", MemberKind::Blob, &["a"])];
        let text = format!("{} a\n{} a\n", there.digest, pieces[1].digest);
        let base = bases(&text).leave_out(&mut pieces);
        assert_eq!((pieces, base.content.len()), (vec![there], 1));
        assert_eq!(base.inventories.len(), 1);
    }

    #[test]
    fn the_repositories_that_need_a_blob_are_named_first_and_not_all_of_them() {
        let mut pieces = vec![piece("layer", MemberKind::Blob, &["m/x", "z"])];
        let held = ["a", "b", "c", "d", "e", "z"];
        let text: String = held.iter().map(|repository| format!("{} {repository}\n", pieces[0].digest)).collect();
        let base = bases(&text).leave_out(&mut pieces);
        assert_eq!(base.content[0].held, ["z", "a", "b", "c"]);
    }

    #[test]
    fn an_empty_inventory_is_the_base_of_an_empty_store() {
        let mut pieces = vec![piece("layer", MemberKind::Blob, &["a"])];
        let base = bases("").leave_out(&mut pieces);
        assert_eq!((pieces.len(), base.content.len(), base.inventories.len()), (1, 0, 1));
    }
}
