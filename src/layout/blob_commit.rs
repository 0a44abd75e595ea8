//! Gives verified blobs their names. Their bytes are synced before: a power cut must not leave a name without the bytes. Blobs that are
//! complete at the same time are synced together, because a sync of one file costs about as much as a sync of all.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use super::files::{self, Files};
use super::group_commit::{GroupCommit, PendingChange};
use crate::content::Digest;
use crate::{Error, Operation, Result};

/// From this number of blobs on, one sync of the file system is cheaper than one of each file. Measured on ext4: a sync of a file takes
/// 4 ms, one of the file system with 200 new files 36 ms.
const SYNC_TOGETHER: usize = 3;

const OP: Operation = Operation::WriteBlob;

/// A partial file whose content was verified. Its lock is held until it has its name.
pub(super) struct VerifiedBlob {
    pub(super) file: fs::File,
    /// The partial file's name in the layout.
    pub(super) name: PathBuf,
    pub(super) digest: Digest,
    /// Bytes that are still to be written at the end of the file.
    pub(super) rest: Vec<u8>,
}

/// Where verified blobs wait for their names.
pub(super) struct BlobCommit {
    files: Files,
    group: GroupCommit<VerifiedBlob>,
}

impl BlobCommit {
    pub(super) fn new(files: Files) -> Self {
        // Without a rest: what comes while a batch is synced is the next batch.
        BlobCommit { files, group: GroupCommit::new(0) }
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Makes the blob's bytes durable and gives it its name. The name is durable after [`Files::sync_blob_names`].
    pub(super) async fn commit(&self, blob: VerifiedBlob) -> Result<()> {
        let files = self.files.clone();
        self.group.commit(blob, move |batch| name_all(&files, batch)).await
    }
}

/// Syncs and names a batch. A blob that fails is refused by itself.
fn name_all(files: &Files, batch: &[Arc<PendingChange<VerifiedBlob>>]) -> Result<()> {
    let failed = |blob: &VerifiedBlob, error: &io::Error| Error::io(OP, &files.path(&blob.name), error);
    let written = each(batch.iter(), failed, |blob| (&blob.file).write_all(&blob.rest));
    // The file system's error may be about a file of another program. Each file's own sync tells.
    let together = written.len() >= SYNC_TOGETHER && files.sync_all().unwrap_or(false);
    let synced = if together { written } else { each(written.into_iter(), failed, |blob| files.sync_file(&blob.file)) };
    each(synced.into_iter(), failed, |blob| give_name(files, blob));
    Ok(())
}

/// Does `step` for each blob, and refuses those for which it fails; the others.
fn each<'b>(
    blobs: impl Iterator<Item = &'b Arc<PendingChange<VerifiedBlob>>>,
    failed: impl Fn(&VerifiedBlob, &io::Error) -> Error,
    step: impl Fn(&VerifiedBlob) -> io::Result<()>,
) -> Vec<&'b Arc<PendingChange<VerifiedBlob>>> {
    let done = |blob: &&'b Arc<PendingChange<VerifiedBlob>>| match step(&blob.change) {
        Ok(()) => true,
        Err(error) => {
            blob.refuse(failed(&blob.change, &error));
            false
        }
    };
    blobs.filter(done).collect()
}

fn give_name(files: &Files, blob: &VerifiedBlob) -> io::Result<()> {
    let name = files::blob(&blob.digest);
    files.in_folder(&name, || files.folder().rename(&blob.name, &name))?;
    // Content never changes again. After the rename, because a partial file that cannot be written to could not be gone
    // on with. File systems that know no such thing (FAT) may refuse; it is a courtesy.
    if let Ok(meta) = blob.file.metadata() {
        let mut permissions = meta.permissions();
        permissions.set_readonly(true);
        let _ = blob.file.set_permissions(permissions);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};

    use super::super::Layout;
    use super::super::testing::{context, fill, folder, image, name};
    use crate::content::{Repository, Sink as _};

    const IMAGES: u64 = 1_000;

    /// Each image is three blobs, a manifest and a name.
    #[tokio::test(flavor = "multi_thread")]
    async fn images_that_come_together_share_syncs_and_writes_of_the_index() {
        let dir = folder();
        let layout = Layout::open_or_create(dir.path()).await.unwrap();
        let put = async |number: u64| {
            let (layout, image) = (layout.clone(), image(&[&format!("layer {number}"), &format!("other layer {number}")]));
            fill(&layout, &image).await;
            layout.put_manifest(&Repository::new("many"), &image.manifest, &context()).await.unwrap();
            name(&layout, &format!("many:{number}"), &image).await.unwrap();
        };
        stream::iter(0..IMAGES).map(put).buffer_unordered(64).collect::<Vec<()>>().await;
        assert_eq!(layout.names().await.unwrap().len() as u64, IMAGES);
        let (syncs, writes) = (layout.0.files.syncs(), layout.0.index.writes());
        // One by one it would be 4,000 blobs, and 1,000 writes of three syncs each.
        assert!(syncs <= IMAGES, "{syncs} syncs");
        assert!(writes <= IMAGES / 8, "{writes} writes of index.json");
        assert!(super::super::verify(dir.path(), &|_| {}).unwrap().ok());
    }
}
