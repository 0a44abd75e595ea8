//! The report of checking a bundle.

use crate::layout::LayoutFinding;

/// A damaged or absent volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeFinding {
    /// Its number.
    pub number: u32,
    /// The name of its file.
    pub file: String,
    /// The images that need content of it, in the order of the index.
    pub images: Vec<String>,
    /// The problem, as a message.
    pub why: String,
}

/// What [`verify()`](super::verify()) found in one bundle.
#[derive(Debug, Clone, Default)]
pub struct BundleReport {
    /// The bundle's name, from its record or its identity.
    pub name: String,
    /// How many images it has.
    pub images: usize,
    /// How many volumes it has.
    pub volumes: usize,
    /// How many of them are available.
    pub present: usize,
    /// Distinct undamaged manifests in the available volumes.
    pub manifests: usize,
    /// Distinct undamaged configs, layers and other content there.
    pub blobs: usize,
    /// Configs and layers that the base has to bring.
    pub relied: usize,
    /// Bytes hashed.
    pub bytes: u64,
    /// Volumes that do not match the record.
    pub damaged_volumes: Vec<VolumeFinding>,
    /// Volumes that are missing.
    pub absent_volumes: Vec<VolumeFinding>,
    /// Content in the available volumes whose bytes do not have its digest, sorted by digest.
    pub damaged: Vec<LayoutFinding>,
    /// Content that images need, and that neither the bundle nor its base has.
    pub missing: Vec<LayoutFinding>,
    /// Images that the available volumes and the base do not complete, each with the reason.
    pub incomplete: Vec<(String, String)>,
    /// Other problems.
    pub problems: Vec<String>,
}

impl BundleReport {
    /// Whether nothing is damaged, and the available volumes and the base complete every image.
    pub fn ok(&self) -> bool {
        let none = self.damaged_volumes.is_empty() && self.damaged.is_empty() && self.missing.is_empty();
        none && self.incomplete.is_empty() && self.problems.is_empty()
    }
}
