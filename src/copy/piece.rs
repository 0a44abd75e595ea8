//! Pieces of images that are not complete yet: what is at hand of them is brought all the same, and named when the rest has come.

use super::engine::{CopyImage, Engine};
use crate::Result;
use crate::content::{Descriptor, Digest, Repository};

impl Engine {
    /// Whether some repository of the target is known to hold `digest`: then it need not be moved.
    pub fn knows(&self, digest: &Digest) -> bool {
        self.presence.anywhere(digest).is_some()
    }

    /// `repository` of the target holds `digest`, as its caller has found out.
    pub fn note(&self, repository: &Repository, digest: &Digest) {
        self.presence.add(repository, digest);
    }

    /// Makes the repository of `image` hold `blob`, without regard to the rest of the image.
    ///
    /// # Errors
    /// If it cannot be read or written.
    pub async fn carry(&self, image: &CopyImage, blob: &Descriptor) -> Result<()> {
        self.blob(image, blob).await.map(drop).map_err(|error| error.subject(&*image.context.image))
    }
}
