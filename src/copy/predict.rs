//! How many children an index has that nobody has read, from what a HEAD says of its size. Pure.
//!
//! The size bounds the number, because no descriptor is shorter than some 150 bytes. And it predicts the number: indexes are written in
//! a few ways (compact or indented, with attestations or without, with Docker's annotations or without), and each way has its own size
//! for a child, to which the names of architectures and variants add a few bytes. Which way it is, all indexes of one repository tell
//! together. Where one of them was read, its own size for a child counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::content::MAX_MANIFEST;

/// Docker's media type of an index.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The shortest descriptor that an index holds: a media type of the OCI or Docker, a sha256 digest, a size of one digit, and a comma.
const SHORTEST_DESCRIPTOR: u64 = 150;
/// `{"schemaVersion":2,"manifests":[]}`, the shortest index.
const SHORTEST_INDEX: u64 = 33;
/// More platforms than this have no image that people publish; a size that would mean more is of another way of writing.
const MOST_PLATFORMS: u64 = 16;
/// So many sizes tell how a repository's indexes are written. More would cost time and change nothing.
const MOST_SIZES: usize = 50;
/// How much less likely an index is with each platform more, as a logarithm: most have two or three.
const FEWER: f64 = 0.08;
/// The likelihood of a size that no mix of the usual platforms has.
const UNUSUAL_SIZE: f64 = 1e-9;

/// A way of writing an index: the bytes that are there without children, those of `linux/amd64` with all that belongs to it, and how many
/// children that is. Measured on indexes of buildx, `docker manifest`, and the official images.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Style {
    empty: u64,
    platform: u64,
    children: u64,
    differs: Differs,
    /// How much less usual it is, as a logarithm: of an OCI index, and of a Docker list.
    unusual: [f64; 2],
}

/// By what the platforms of an index differ in size.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Differs {
    /// Architectures, and variants that take so many bytes (`,"variant":"v8"`).
    Names(u64),
    /// Annotations too, by so many bytes.
    Annotations(f64),
}

const fn style(empty: u64, platform: u64, children: u64, differs: Differs, unusual: [f64; 2]) -> Style {
    Style { empty, platform, children, differs, unusual }
}

/// Compact, with a space after commas and colons, indented by 2 and by 3; each without and with attestations; then with the annotations
/// of Docker's official images.
const STYLES: [Style; 11] = [
    style(87, 202, 1, Differs::Names(15), [0.0, 0.0]),
    style(91, 213, 1, Differs::Names(17), [1.2, 1.2]),
    style(103, 271, 1, Differs::Names(25), [0.9, 1.2]),
    style(107, 298, 1, Differs::Names(29), [1.2, 0.3]),
    style(87, 579, 2, Differs::Names(15), [0.6, 1.2]),
    style(91, 606, 2, Differs::Names(17), [1.8, 1.8]),
    style(103, 752, 2, Differs::Names(25), [0.3, 1.2]),
    style(107, 820, 2, Differs::Names(29), [2.5, 1.8]),
    style(88, 1255, 2, Differs::Annotations(60.0), [1.2, 1.8]),
    style(103, 1537, 2, Differs::Annotations(60.0), [2.0, 2.4]),
    style(108, 1648, 2, Differs::Annotations(60.0), [2.5, 2.4]),
];

/// Docker's media types are longer than the OCI's: that of a list, and that of an image.
const DOCKER_LONGER: (u64, u64) = (18, 10);

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
    let docker = media_type == DOCKER_LIST;
    // Equal sizes are one piece of evidence: the same platforms.
    let sizes: BTreeSet<u64> = if sizes.is_empty() { [size].into() } else { sizes.iter().copied().collect() };
    let ways: Vec<(Style, f64)> = STYLES
        .iter()
        .map(|style| {
            let unusual = style.unusual[usize::from(docker)];
            let style = if docker { style.docker() } else { *style };
            let fits =
                sizes.iter().take(MOST_SIZES).map(|size| style.likelihoods(*size).map(|(_, p)| p).sum::<f64>().max(f64::MIN_POSITIVE));
            (style, fits.map(f64::ln).sum::<f64>() - unusual)
        })
        .collect();
    let best = ways.iter().map(|(_, weight)| *weight).fold(f64::NEG_INFINITY, f64::max);
    let mut likelihoods: BTreeMap<(u64, u64), f64> = BTreeMap::new();
    for (style, weight) in ways {
        let all: f64 = style.likelihoods(size).map(|(_, p)| p).sum();
        for (platforms, p) in style.likelihoods(size).filter(|_| all > 0.0) {
            *likelihoods.entry((platforms * style.children, style.children)).or_default() += (weight - best).exp() * p / all;
        }
    }
    let likeliest = likelihoods.into_iter().filter(|(_, p)| *p > 0.0).max_by(|(_, a), (_, b)| a.total_cmp(b));
    likeliest.map(|((children, per_platform), _)| Expected { children: children.min(most_children(size)), per_platform })
}

/// What an index of `size` bytes has if it is written as `known` was.
pub(super) fn alike(known: Known, size: u64) -> u64 {
    if known.children == 0 || size == 0 || known.size <= SHORTEST_INDEX {
        return known.children;
    }
    // All ways of writing need about as much beside the children.
    let empty = (STYLES[0].empty as f64).min(known.size as f64 / 2.0);
    let of_one = (known.size as f64 - empty) / known.children as f64;
    let children = ((size as f64 - empty) / of_one).round().max(1.0);
    (children as u64).min(most_children(size)).max(1)
}

impl Style {
    /// The same way, with Docker's media types.
    fn docker(self) -> Self {
        Style { empty: self.empty + DOCKER_LONGER.0, platform: self.platform + DOCKER_LONGER.1 * self.children, ..self }
    }

    /// How likely it makes an index of `size` bytes, for each number of platforms that can be.
    fn likelihoods(self, size: u64) -> impl Iterator<Item = (u64, f64)> {
        let of = move |platforms: u64| -> Option<(u64, f64)> {
            let rest = size as f64 - (self.empty + platforms * self.platform) as f64;
            let count = platforms as f64;
            let p = match self.differs {
                Differs::Names(variant) => {
                    let most = count * (variant as f64 + LONGEST) + LONGEST;
                    if rest < -count * (SHORTER as f64 + 1.0) || rest > most {
                        return None;
                    }
                    // `by` is small: it is bounded by the number of platforms.
                    let at = |by: f64| mixes(variant, platforms, rest + by + count * SHORTER as f64);
                    at(0.0).max(0.3 * at(-1.0)).max(0.3 * at(1.0)) + UNUSUAL_SIZE
                }
                Differs::Annotations(spread) => {
                    let spread = spread * count.sqrt();
                    (-(rest / spread).powi(2) / 2.0).exp() / (spread * std::f64::consts::TAU.sqrt())
                }
            };
            Some((platforms, p * (-FEWER * count).exp()))
        };
        (1..=MOST_PLATFORMS).filter_map(of)
    }
}

/// `386` and `arm` are two bytes shorter than `amd64`.
const SHORTER: u64 = 2;
/// How many bytes a platform's name and the size of its manifest take more than those of `amd64`, at most, without a variant.
const LONGEST: f64 = 9.0;

/// How likely a mix of `platforms` platforms is whose names take so many bytes more than if all were the shortest. `variant`: the bytes of a
/// variant.
fn mixes(variant: u64, platforms: u64, bytes: f64) -> f64 {
    /// By the bytes of a variant, then by the number of platforms.
    static MIXES: OnceLock<BTreeMap<u64, Vec<Vec<f64>>>> = OnceLock::new();
    let all = MIXES.get_or_init(|| {
        let variants = STYLES.iter().filter_map(|style| if let Differs::Names(variant) = style.differs { Some(variant) } else { None });
        variants.map(|variant| (variant, mixes_of(variant))).collect()
    });
    let of = |bytes: f64| all.get(&variant)?.get(platforms as usize)?.get(bytes as usize).copied();
    if bytes < 0.0 { 0.0 } else { of(bytes).unwrap_or(0.0) }
}

/// The likelihoods of [`mixes`], for each number of platforms from 0.
fn mixes_of(variant: u64) -> Vec<Vec<f64>> {
    // How usual platforms are among images that people publish, with the bytes that they take more than the shortest: amd64, arm64 and s390x;
    // 386; ppc64le and riscv64; arm64/v8; arm/v6 and arm/v7; mips64le; loong64 and others.
    let named = [(2, 0.52), (0, 0.04), (4, 0.10), (variant + 2, 0.14), (variant, 0.16), (5, 0.02), (10, 0.02)];
    // The size of a manifest has three or four digits.
    let one: Vec<(u64, f64)> = named.iter().flat_map(|(bytes, p)| [(*bytes, p * 0.55), (bytes + 1, p * 0.45)]).collect();
    let widest = one.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0) as usize;
    let mut all = vec![vec![1.0]];
    for _ in 0..MOST_PLATFORMS {
        let before = all.last().cloned().unwrap_or_default();
        let mut next = vec![0.0; before.len() + widest];
        for (at, p) in before.iter().enumerate() {
            for (bytes, q) in &one {
                if let Some(sum) = next.get_mut(at + *bytes as usize) {
                    *sum += p * q;
                }
            }
        }
        all.push(next);
    }
    all
}

#[cfg(test)]
mod tests;
