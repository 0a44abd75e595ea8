//! How many children an index has that nobody has read, from what a HEAD says of its size. Pure.
//!
//! The size bounds the number, because no descriptor is shorter than some 150 bytes. And it predicts the number: indexes are written in
//! a few ways (compact or indented, with attestations or without, with Docker's annotations or without), and each way has its own size
//! for a child. Which way it is, all indexes of one repository tell together. Where one of them was read, its own size for a child counts.

use crate::content::MAX_MANIFEST;

/// Docker's media type of an index.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The shortest descriptor that an index holds: a media type of the OCI or Docker, a sha256 digest, a size of one digit, and a comma.
const SHORTEST_DESCRIPTOR: u64 = 150;
/// `{"schemaVersion":2,"manifests":[]}`, the shortest index.
const SHORTEST_INDEX: u64 = 33;
/// More platforms than this have no image that people publish; a size that would mean more is of another way of writing.
const MOST_PLATFORMS: u64 = 16;

/// A way of writing an index: the bytes that are there without children, those of a platform with all that belongs to it, and how many
/// children that is. Measured on indexes of buildx, `docker manifest`, and the official images.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Style {
    empty: f64,
    platform: f64,
    children: u64,
    /// How much less usual it is, as a logarithm.
    unusual: f64,
    /// How much platforms differ in size: names and variants, annotations.
    spread: f64,
}

const fn style(empty: f64, platform: f64, children: u64, unusual: f64, spread: f64) -> Style {
    Style { empty, platform, children, unusual, spread }
}

const OCI: [Style; 9] = [
    style(88.0, 207.0, 1, 0.0, 9.0),
    style(88.0, 585.0, 2, 0.6, 13.0),
    style(103.0, 281.0, 1, 1.2, 9.0),
    style(108.0, 308.0, 1, 0.6, 9.0),
    style(103.0, 763.0, 2, 1.2, 13.0),
    style(108.0, 832.0, 2, 0.6, 13.0),
    style(88.0, 1255.0, 2, 1.2, 60.0),
    style(103.0, 1537.0, 2, 2.0, 60.0),
    style(108.0, 1648.0, 2, 2.0, 60.0),
];

const DOCKER: [Style; 6] = [
    style(105.0, 218.0, 1, 0.0, 9.0),
    style(124.0, 319.0, 1, 0.7, 9.0),
    style(119.0, 291.0, 1, 1.2, 9.0),
    style(105.0, 606.0, 2, 1.2, 13.0),
    style(119.0, 781.0, 2, 1.2, 13.0),
    style(124.0, 852.0, 2, 1.2, 13.0),
];

/// An index that was read: its size and its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) size: u64,
    pub(super) children: u64,
}

/// What is expected of an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) children: u64,
    /// Children for each platform: 2 where every image has its attestation.
    pub(super) per_platform: u64,
}

/// The most children that an index of `size` bytes has. Of 0 bytes, nothing was said.
pub(super) fn most_children(size: u64) -> u64 {
    let size = if size == 0 { MAX_MANIFEST as u64 } else { size };
    size.saturating_sub(SHORTEST_INDEX) / SHORTEST_DESCRIPTOR
}

/// What an index of `size` bytes and this media type has, beside others of its repository of which `sizes` are known (its own among them).
/// `None`: no usual way of writing an index fits.
pub(super) fn expected(media_type: &str, size: u64, sizes: &[u64]) -> Option<Expected> {
    let styles: &[Style] = if media_type == DOCKER_LIST { &DOCKER } else { &OCI };
    let others = if sizes.is_empty() { std::slice::from_ref(&size) } else { sizes };
    let fits = styles.iter().filter_map(|style| Some((style, style.misfit_of(others)?)));
    let (style, _) = fits.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let platforms = style.platforms(size)?;
    Some(Expected { children: (platforms * style.children).min(most_children(size)), per_platform: style.children })
}

/// What an index of `size` bytes has if it is written as `known` was.
pub(super) fn alike(known: Known, size: u64) -> u64 {
    if known.children == 0 || size == 0 || known.size <= SHORTEST_INDEX {
        return known.children;
    }
    // All ways of writing need about as much beside the children.
    let empty = OCI[0].empty.min(known.size as f64 / 2.0);
    let of_one = (known.size as f64 - empty) / known.children as f64;
    let children = ((size as f64 - empty) / of_one).round().max(1.0);
    (children as u64).min(most_children(size)).max(1)
}

impl Style {
    fn platforms(self, size: u64) -> Option<u64> {
        let platforms = ((size as f64 - self.empty) / self.platform).round().max(1.0) as u64;
        (platforms <= MOST_PLATFORMS).then_some(platforms)
    }

    /// How badly this way of writing explains the sizes: the negative logarithm of their likelihood, without what is the same for all.
    fn misfit_of(self, sizes: &[u64]) -> Option<f64> {
        let mut misfit = self.unusual;
        for size in sizes {
            let platforms = self.platforms(*size)? as f64;
            let spread = self.spread * platforms.sqrt();
            let off = (*size as f64 - self.empty - platforms * self.platform) / spread;
            misfit += off * off / 2.0 + spread.ln();
        }
        Some(misfit)
    }
}

#[cfg(test)]
mod tests;
