//! Estimates how many children an unread index has, from its size in a HEAD. Pure.
//!
//! The size bounds the number, because no descriptor is shorter than about 150 bytes. It also predicts the number:
//! there are a few common formats of an index (compact or indented, with or without attestations, with or without
//! Docker's annotations), and each has its own size per child, to which the names of architectures and variants add a
//! few bytes. The sizes of all indexes of a repository show its format. If one of them was read, its size per child is
//! used instead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use crate::content::MAX_MANIFEST;

/// Docker's media type of an index.
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The shortest descriptor in an index: a media type of the OCI or Docker, a sha256 digest, a size of one digit, and a
/// comma.
const SHORTEST_DESCRIPTOR: u64 = 150;
/// `{"schemaVersion":2,"manifests":[]}`, the shortest index.
const SHORTEST_INDEX: u64 = 33;
/// The most platforms of an image. Public images have fewer; a size that would mean more has another format.
const MAX_PLATFORMS: u64 = 16;
/// The most sizes that are used to find a repository's format. More would cost time and change nothing.
const MAX_SIZES: usize = 50;
/// How much each additional platform lowers the likelihood, as a natural logarithm: most indexes have two or three.
const PLATFORM_PENALTY: f64 = 0.08;
/// The likelihood of a size that no mix of the usual platforms explains.
const UNEXPLAINED_SIZE: f64 = 1e-9;

/// A format of an index. Sizes were measured on indexes of buildx, `docker manifest`, and Docker's official images.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Format {
    /// Bytes of the index without children.
    empty: u64,
    /// Bytes of `linux/amd64` with its attestation, if it has one.
    platform: u64,
    /// Children per platform.
    children: u64,
    differs: Differs,
    /// How much rarer than the most common format it is, as a natural logarithm: as an OCI index, and as a Docker list.
    rarity: [f64; 2],
}

/// Why the platforms of one index differ in size.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Differs {
    /// By the names of architectures, and by variants that take this many bytes (`,"variant":"v8"`).
    Names(u64),
    /// Also by annotations, with this standard deviation in bytes.
    Annotations(f64),
}

const fn format(empty: u64, platform: u64, children: u64, differs: Differs, rarity: [f64; 2]) -> Format {
    Format { empty, platform, children, differs, rarity }
}

/// Compact, with a space after commas and colons, indented by 2 and by 3; each without and with attestations; then with
/// the annotations of Docker's official images (compact, indented by 2 and by 3).
const FORMATS: [Format; 11] = [
    format(87, 202, 1, Differs::Names(15), [0.0, 0.0]),
    format(91, 213, 1, Differs::Names(17), [1.2, 1.2]),
    format(103, 271, 1, Differs::Names(25), [0.9, 1.2]),
    format(107, 298, 1, Differs::Names(29), [1.2, 0.3]),
    format(87, 579, 2, Differs::Names(15), [0.6, 1.2]),
    format(91, 606, 2, Differs::Names(17), [1.8, 1.8]),
    format(103, 752, 2, Differs::Names(25), [0.3, 1.2]),
    format(107, 820, 2, Differs::Names(29), [2.5, 1.8]),
    format(88, 1255, 2, Differs::Annotations(60.0), [1.2, 1.8]),
    format(103, 1537, 2, Differs::Annotations(60.0), [2.0, 2.4]),
    format(108, 1648, 2, Differs::Annotations(60.0), [2.5, 2.4]),
];

/// How many bytes longer Docker's media types are than the OCI's: of a list, and of an image.
const DOCKER_LONGER: (u64, u64) = (18, 10);

/// The size of an index that was read, and its number of children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReadIndex {
    pub(super) size: u64,
    pub(super) children: u64,
}

/// The estimate for an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChildEstimate {
    pub(super) children: u64,
    /// Children per platform: 2 if every image has an attestation.
    pub(super) per_platform: u64,
}

/// The most children that an index of `size` bytes can have; 0 means that the size is unknown.
pub(super) fn most_children(size: u64) -> u64 {
    let size = if size == 0 { MAX_MANIFEST as u64 } else { size };
    size.saturating_sub(SHORTEST_INDEX) / SHORTEST_DESCRIPTOR
}

/// Estimates the children of an index of `size` bytes. `sizes` are those of all known indexes of its repository,
/// including its own. `None` if no format fits.
pub(super) fn expected(media_type: &str, size: u64, sizes: &[u64]) -> Option<ChildEstimate> {
    let docker = media_type == DOCKER_LIST;
    // Equal sizes count once: they come from the same platforms.
    let sizes: BTreeSet<u64> = if sizes.is_empty() { [size].into() } else { sizes.iter().copied().collect() };
    let formats: Vec<(Format, f64)> = FORMATS
        .iter()
        .map(|format| {
            let rarity = format.rarity[usize::from(docker)];
            let format = if docker { format.docker() } else { *format };
            let fits =
                sizes.iter().take(MAX_SIZES).map(|size| format.likelihoods(*size).map(|(_, p)| p).sum::<f64>().max(f64::MIN_POSITIVE));
            (format, fits.map(f64::ln).sum::<f64>() - rarity)
        })
        .collect();
    let best = formats.iter().map(|(_, weight)| *weight).fold(f64::NEG_INFINITY, f64::max);
    let mut likelihoods: BTreeMap<(u64, u64), f64> = BTreeMap::new();
    for (format, weight) in formats {
        let all: f64 = format.likelihoods(size).map(|(_, p)| p).sum();
        for (platforms, p) in format.likelihoods(size).filter(|_| all > 0.0) {
            *likelihoods.entry((platforms * format.children, format.children)).or_default() += (weight - best).exp() * p / all;
        }
    }
    let likeliest = likelihoods.into_iter().filter(|(_, p)| *p > 0.0).max_by(|(_, a), (_, b)| a.total_cmp(b));
    likeliest.map(|((children, per_platform), _)| ChildEstimate { children: children.min(most_children(size)), per_platform })
}

/// The children of an index of `size` bytes in the same format as `known`.
pub(super) fn alike(known: ReadIndex, size: u64) -> u64 {
    if known.children == 0 || size == 0 || known.size <= SHORTEST_INDEX {
        return known.children;
    }
    // All formats need about the same number of bytes without children.
    let empty = (FORMATS[0].empty as f64).min(known.size as f64 / 2.0);
    let of_one = (known.size as f64 - empty) / known.children as f64;
    let children = ((size as f64 - empty) / of_one).round().max(1.0);
    (children as u64).min(most_children(size)).max(1)
}

impl Format {
    /// The same format with Docker's media types.
    fn docker(self) -> Self {
        Format { empty: self.empty + DOCKER_LONGER.0, platform: self.platform + DOCKER_LONGER.1 * self.children, ..self }
    }

    /// The likelihood of an index of `size` bytes, for each possible number of platforms.
    fn likelihoods(self, size: u64) -> impl Iterator<Item = (u64, f64)> {
        let of = move |platforms: u64| -> Option<(u64, f64)> {
            let rest = size as f64 - (self.empty + platforms * self.platform) as f64;
            let count = platforms as f64;
            let p = match self.differs {
                Differs::Names(variant) => {
                    let most = count * (variant as f64 + BYTES_ABOVE_AMD64) + BYTES_ABOVE_AMD64;
                    if rest < -count * (BYTES_BELOW_AMD64 as f64 + 1.0) || rest > most {
                        return None;
                    }
                    // Sizes that are off by one byte are less likely.
                    let at = |by: f64| mixes(variant, platforms, rest + by + count * BYTES_BELOW_AMD64 as f64);
                    at(0.0).max(0.3 * at(-1.0)).max(0.3 * at(1.0)) + UNEXPLAINED_SIZE
                }
                Differs::Annotations(spread) => {
                    let spread = spread * count.sqrt();
                    (-(rest / spread).powi(2) / 2.0).exp() / (spread * std::f64::consts::TAU.sqrt())
                }
            };
            Some((platforms, p * (-PLATFORM_PENALTY * count).exp()))
        };
        (1..=MAX_PLATFORMS).filter_map(of)
    }
}

/// `386` and `arm` are two bytes shorter than `amd64`.
const BYTES_BELOW_AMD64: u64 = 2;
/// How many bytes more than `amd64` a platform's name and the size of its manifest take at most, without a variant.
const BYTES_ABOVE_AMD64: f64 = 9.0;

/// The likelihood of a mix of `platforms` platforms whose names take `bytes` more than if all were the shortest.
/// `variant`: the bytes of a variant.
fn mixes(variant: u64, platforms: u64, bytes: f64) -> f64 {
    /// By the bytes of a variant, then by the number of platforms.
    static MIXES: OnceLock<BTreeMap<u64, Vec<Vec<f64>>>> = OnceLock::new();
    let all = MIXES.get_or_init(|| {
        let variants = FORMATS.iter().filter_map(|format| if let Differs::Names(variant) = format.differs { Some(variant) } else { None });
        variants.map(|variant| (variant, mixes_of(variant))).collect()
    });
    let of = |bytes: f64| all.get(&variant)?.get(platforms as usize)?.get(bytes as usize).copied();
    if bytes < 0.0 { 0.0 } else { of(bytes).unwrap_or(0.0) }
}

/// The likelihoods of [`mixes`], for each number of platforms from 0.
fn mixes_of(variant: u64) -> Vec<Vec<f64>> {
    // How common platforms are among public images, with the bytes that they take more than the shortest: amd64, arm64
    // and s390x; 386; ppc64le and riscv64; arm64/v8; arm/v6 and arm/v7; mips64le; loong64 and others.
    let named = [(2, 0.52), (0, 0.04), (4, 0.10), (variant + 2, 0.14), (variant, 0.16), (5, 0.02), (10, 0.02)];
    // The size of a manifest has three or four digits.
    let one: Vec<(u64, f64)> = named.iter().flat_map(|(bytes, p)| [(*bytes, p * 0.55), (bytes + 1, p * 0.45)]).collect();
    let widest = one.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0) as usize;
    let mut all = vec![vec![1.0]];
    for _ in 0..MAX_PLATFORMS {
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
