//! What is copied: two stocks of images, made of noise that is the same in every run.

use std::cell::RefCell;
use std::collections::HashSet;

use bytes::Bytes;
use larder::content::{Descriptor, Digest};

use super::support::corpus::{ImageSpec, Put, image, index};
use super::support::layer::layer;
use super::support::push::Push;

/// Images that an upstream has been filled with.
pub struct Stock {
    /// What it is, in a line.
    pub about: String,
    /// `repository:tag`; repositories have no `/`, because `skopeo sync` keeps only what follows the last one.
    pub images: Vec<String>,
    /// The manifest of each, with its media type.
    pub manifests: Vec<(String, Bytes)>,
}

impl Stock {
    /// Leaves one image of each repository.
    pub fn keep_first_tags(&mut self) {
        let both = self.images.drain(..).zip(self.manifests.drain(..));
        let (images, manifests) = both.filter(|(image, _)| image.ends_with(":v0")).unzip();
        (self.images, self.manifests) = (images, manifests);
        self.about = format!("The first tag of each of {} repositories", self.images.len());
    }
}

/// 512 MiB in 40 images of one platform that share nothing: 9, 3 and 0.8 MiB.
pub fn large(push: &Push) -> Stock {
    const IMAGES: usize = 40;
    const EACH: usize = (512 << 20) / IMAGES;
    let shelf = Shelf::new(push);
    for number in 0..IMAGES {
        let seed = 10 * number as u64;
        let sizes = [9 << 20, 3 << 20, EACH - (12 << 20)];
        let layers = sizes.iter().zip(seed..).map(|(size, seed)| layer(seed, *size));
        image(&shelf, &format!("large-{number:02}"), Some("v1"), &ImageSpec::new(layers));
    }
    shelf.close("512 MiB in 40 images of 3 layers each, nothing shared")
}

/// 100 images of two platforms as a build farm leaves them: 25 repositories of 4 tags; per platform 6 layers of 2 to 60 KiB,
/// of which 3 are one of five bases', 2 all tags of the repository share, and 1 is the tag's own.
pub fn small(push: &Push) -> Stock {
    const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];
    let shelf = Shelf::new(push);
    for repository in 0..25u64 {
        let name = format!("small-{repository:02}");
        for tag in 0..4u64 {
            let child = |platform: u64| {
                let base = (0..3).map(|n| layer(1000 + (repository % 5) * 10 + platform * 3 + n, 60_000 >> (n * 2)));
                let common = (0..2).map(|n| layer(2000 + repository * 10 + platform * 2 + n, 20_000 >> n));
                let own = std::iter::once(layer(4000 + repository * 10 + tag * 2 + platform, 2_000));
                let spec = ImageSpec::new(base.chain(common).chain(own)).platform(PLATFORMS[platform as usize]);
                image(&shelf, &name, None, &spec)
            };
            let children: Vec<Descriptor> = (0..2).map(child).collect();
            index(&shelf, &name, Some(&format!("v{tag}")), &children);
        }
    }
    shelf.close("100 images of 2 platforms in 25 repositories, small layers, most of them shared")
}

/// Pushes each blob once per repository, and remembers what was tagged.
struct Shelf<'a> {
    push: &'a Push,
    pushed: RefCell<HashSet<(String, Digest)>>,
    tagged: RefCell<Vec<(String, String, Bytes)>>,
}

impl<'a> Shelf<'a> {
    fn new(push: &'a Push) -> Self {
        Shelf { push, pushed: RefCell::default(), tagged: RefCell::default() }
    }

    fn close(self, about: &str) -> Stock {
        let blobs = self.pushed.into_inner();
        let distinct: HashSet<&Digest> = blobs.iter().map(|(_, digest)| digest).collect();
        let about = format!("{about}: {} blobs, {} with their repositories", distinct.len(), blobs.len());
        let mut stock = Stock { about, images: vec![], manifests: vec![] };
        for (image, media_type, bytes) in self.tagged.into_inner() {
            stock.images.push(image);
            stock.manifests.push((media_type, bytes));
        }
        stock
    }
}

impl Put for Shelf<'_> {
    fn store_blob(&self, repository: &str, digest: &Digest, bytes: Bytes) {
        if self.pushed.borrow_mut().insert((repository.to_owned(), digest.clone())) {
            self.push.store_blob(repository, digest, bytes);
        }
    }

    fn store_manifest(&self, repository: &str, tag: Option<&str>, digest: &Digest, media_type: &str, bytes: Bytes) {
        self.push.store_manifest(repository, tag, digest, media_type, bytes.clone());
        if let Some(tag) = tag {
            self.tagged.borrow_mut().push((format!("{repository}:{tag}"), media_type.to_owned(), bytes));
        }
    }
}
