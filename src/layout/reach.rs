//! What a name of a layout reaches, and where its files are: for those who carry it elsewhere.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use super::Layout;
use super::files;
use super::graph::{self, ManifestRead};
use crate::content::{Descriptor, Digest, Manifest, NodeRole};
use crate::{Error, Kind, Operation, Result, Side};

const OP: Operation = Operation::ReadLayout;

/// Something that an image is made of.
#[derive(Debug, Clone)]
pub struct ReachedContent {
    /// What and how large it is.
    pub descriptor: Descriptor,
    /// Whether it is a manifest or index. Other content that an index lists is not (BuildKit's cache lists layers).
    pub manifest: bool,
}

impl Layout {
    /// Where the file of this blob is, if the layout has it. For messages and tests: to read it, [`Layout::open_blob`].
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.0.files.path(&files::blob(digest))
    }

    /// Opens the file of this blob, if the layout has it: a regular file, through no link. Its bytes are not checked. Blocks.
    ///
    /// # Errors
    /// If it cannot be opened, is a link, or is no regular file.
    pub fn open_blob(&self, digest: &Digest) -> Result<Option<File>> {
        self.0.files.open_blob(OP, digest)
    }

    /// How long the file of this blob is, if the layout has it. Blocks.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn blob_len(&self, digest: &Digest) -> Result<Option<u64>> {
        self.0.files.blob_len(digest)
    }

    /// How many bytes of this blob the layout lacks: what was begun of it is there. Blocks.
    ///
    /// # Errors
    /// If its folder cannot be read.
    pub fn lacks_of(&self, blob: &Descriptor) -> Result<u64> {
        if self.blob_len(&blob.digest)? == Some(blob.size) {
            return Ok(0);
        }
        Ok(blob.size.saturating_sub(self.0.files.partial_len(&blob.digest)?))
    }

    /// Takes the file of a blob out of the way, whose bytes are not what its name says; where it is now. Blocks.
    ///
    /// # Errors
    /// If it cannot be moved.
    pub fn set_aside(&self, digest: &Digest) -> Result<PathBuf> {
        self.0.files.set_aside(digest)
    }

    /// The manifest of this digest, checked, if there is a file of that name. `hint` is the media type that a descriptor gives it. Blocks.
    ///
    /// # Errors
    /// If it cannot be read, or is not what its name says.
    pub fn stored_manifest(&self, digest: &Digest, hint: &str) -> Result<Option<Manifest>> {
        graph::manifest(&self.0.files, digest, hint)
    }

    /// Everything that `root` reaches, itself included, each once: manifests checked by their hashes, blobs by their lengths.
    /// Foreign layers that are not there are left out. Blocks.
    ///
    /// # Errors
    /// `Kind::ContentMissing` if something is not there, `Kind::Damaged` if something is not what it should be.
    pub fn reach(&self, root: &Descriptor) -> Result<Vec<ReachedContent>> {
        let files = &self.0.files;
        let mut reached = vec![];
        graph::walk(root, NodeRole::of_child(&root.media_type), |node| {
            let descriptor = &node.descriptor;
            let (links, manifest) = match graph::read(files, node)? {
                ManifestRead::Found(links) => (links, true),
                ManifestRead::Blob => (Arc::default(), false),
                ManifestRead::Missing | ManifestRead::Damaged(_) if descriptor.is_foreign() => return Ok(Some(Arc::default())),
                ManifestRead::Missing => return Err(missing(descriptor)),
                ManifestRead::Damaged(why) => {
                    return Err(Error::new(Side::Local, OP, Kind::Damaged, format!("{}: {why}", descriptor.digest)));
                }
            };
            reached.push(ReachedContent { descriptor: descriptor.clone(), manifest });
            Ok(Some(links))
        })?;
        Ok(reached)
    }
}

fn missing(node: &Descriptor) -> Error {
    Error::new(Side::Local, OP, Kind::ContentMissing, format!("the layout does not have {}", node.digest))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{blob, folder, image, index, path_of, put};
    use super::*;

    #[tokio::test]
    async fn all_that_an_image_is_made_of_is_reached_once() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let both = index(vec![image(&["amd64", "shared"]), image(&["arm64", "shared"])]);
        put(&layout, "a:1", &both).await;
        let reached = layout.reach(&both.manifest.descriptor()).unwrap();
        let manifests = reached.iter().filter(|reached| reached.manifest).count();
        assert_eq!((manifests, reached.len()), (3, 3 + 2 + 3));
        for reached in &reached {
            let file = std::fs::read(layout.blob_path(&reached.descriptor.digest)).unwrap();
            assert_eq!(file.len() as u64, reached.descriptor.size);
        }
        let lost = blob(&both.blobs[1]);
        std::fs::remove_file(path_of(&layout, &lost.digest)).unwrap();
        let error = layout.reach(&both.manifest.descriptor()).unwrap_err();
        assert_eq!((error.kind(), error.message().contains(lost.digest.as_str())), (Kind::ContentMissing, true));
    }
}
