//! Evidence: where every digest was put, so that an auditor can see that all of them were checked.
//!
//! It has a row for every image, manifest and blob, as JSON or CSV. The digest at its end is the sha256 of the rows as CSV,
//! with their header. It is the same in both forms, and can be computed without larder:
//! `head -n -1 evidence.csv | sha256sum`.

mod check;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::content::Digest;
use crate::report::file;
use crate::{Error, Kind, Operation, Result, Side};
pub use check::{Difference, check};

const OP: Operation = Operation::ReadEvidence;

/// The version of the format.
const VERSION: u32 = 1;

/// The largest evidence file that is read, in bytes. Evidence of tens of thousands of images has some hundred MB.
const MAX_FILE: u64 = 4 * 1024 * 1024 * 1024;

/// Content at a target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvidenceRow {
    /// The target: `far.example.com/mirror`, `oci:store`.
    pub target: String,
    /// The repository there, below the target's prefix.
    pub repository: String,
    /// Whether it is an image, manifest or blob.
    pub kind: EvidenceKind,
    /// An image's tag or digest; empty for other content.
    pub reference: String,
    /// Its digest.
    pub digest: String,
    /// Its size in bytes.
    pub size: u64,
    /// The source of an image.
    pub source: String,
    /// `written`, `mounted` from another repository of the target, or `present` before.
    pub how: String,
    /// When its bytes were hashed (RFC 3339); empty if larder did not write them.
    pub hashed: String,
    /// The file that its bytes were read from: a volume, a folder or an archive.
    pub from: String,
    /// The program that wrote it: `larder 0.1.0`.
    pub by: String,
}

/// The kind of content in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EvidenceKind {
    /// A named image: its top manifest.
    Image,
    /// A manifest below it.
    Manifest,
    /// A config or layer.
    Blob,
}

/// All rows, sorted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    rows: Vec<EvidenceRow>,
}

/// The JSON form.
#[derive(Serialize, Deserialize)]
struct EvidenceFile {
    version: u32,
    rows: Vec<EvidenceRow>,
    digest: Digest,
}

impl Evidence {
    /// Evidence of these rows.
    pub fn new(mut rows: Vec<EvidenceRow>) -> Self {
        rows.sort();
        rows.dedup();
        Evidence { rows }
    }

    /// Its rows, sorted.
    pub fn rows(&self) -> &[EvidenceRow] {
        &self.rows
    }

    /// The digest of all rows.
    ///
    /// # Errors
    /// None are expected: it writes to memory.
    pub fn digest(&self) -> Result<Digest> {
        Ok(Digest::sha256(&self.csv()?))
    }

    /// The rows as CSV, with their header.
    fn csv(&self) -> Result<Vec<u8>> {
        let wrong = |error: String| Error::local(Operation::WriteEvidence, error);
        let mut writer = csv::Writer::from_writer(vec![]);
        self.rows.iter().try_for_each(|row| writer.serialize(row)).map_err(|error| wrong(error.to_string()))?;
        if self.rows.is_empty() {
            let header = ["target", "repository", "kind", "reference", "digest", "size", "source", "how", "hashed", "from", "by"];
            writer.write_record(header).map_err(|error| wrong(error.to_string()))?;
        }
        writer.into_inner().map_err(|error| wrong(error.to_string()))
    }

    /// Writes it to `path`, as CSV if its name ends in `.csv`, else as JSON; in one step.
    ///
    /// # Errors
    /// A local error that names the file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let bytes = if is_csv(path) {
            let mut bytes = self.csv()?;
            let last = format!(",,evidence,,{},,,,,,\n", Digest::sha256(&bytes));
            bytes.extend(last.as_bytes());
            bytes
        } else {
            let file = EvidenceFile { version: VERSION, rows: self.rows.clone(), digest: self.digest()? };
            let mut bytes = serde_json::to_vec_pretty(&file).map_err(|error| Error::local(Operation::WriteEvidence, error.to_string()))?;
            bytes.push(b'\n');
            bytes
        };
        file::replace(path, &bytes).map_err(|error| Error::io(Operation::WriteEvidence, path, &error))
    }

    /// Reads what [`Evidence::write`] wrote.
    ///
    /// # Errors
    /// `Kind::Damaged` if it is invalid, or does not have its digest.
    pub fn read(path: &Path) -> Result<Self> {
        let io = |error| Error::io(OP, path, &error);
        let bytes = crate::input::read(path, MAX_FILE).map_err(io)?;
        let (rows, digest) = if is_csv(path) { from_csv(&bytes) } else { from_json(&bytes) }.map_err(|why| damaged(path, &why))?;
        let evidence = Evidence { rows };
        // Of CSV the bytes of the file are hashed, as `sha256sum` does.
        let actual = if is_csv(path) { Digest::sha256(without_last_line(&bytes)) } else { evidence.digest()? };
        if actual == digest {
            return Ok(evidence);
        }
        Err(damaged(path, &format!("it has been changed: its rows hash to {actual}, not to {digest}")))
    }
}

fn is_csv(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
}

fn damaged(path: &Path, why: &str) -> Error {
    Error::new(Side::Local, OP, Kind::Damaged, format!("{}: {why}", path.display()))
}

fn from_json(bytes: &[u8]) -> Result<(Vec<EvidenceRow>, Digest), String> {
    let file: EvidenceFile = serde_json::from_slice(bytes).map_err(|error| format!("invalid evidence: {error}"))?;
    if file.version != VERSION {
        return Err(format!("it has version {}; this larder knows {VERSION}", file.version));
    }
    Ok((file.rows, file.digest))
}

fn from_csv(bytes: &[u8]) -> Result<(Vec<EvidenceRow>, Digest), String> {
    let last = bytes.get(without_last_line(bytes).len()..).unwrap_or_default();
    let digest = String::from_utf8_lossy(last);
    let digest = digest
        .trim_end()
        .strip_prefix(",,evidence,,")
        .and_then(|rest| rest.split(',').next())
        .ok_or("its last line is not a digest: it is not evidence, or truncated")?;
    let digest = Digest::parse(digest)?;
    let rows = csv::Reader::from_reader(without_last_line(bytes)).deserialize().collect::<Result<_, _>>();
    rows.map(|rows| (rows, digest)).map_err(|error| format!("invalid evidence: {error}"))
}

/// All lines but the last.
fn without_last_line(bytes: &[u8]) -> &[u8] {
    let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let end = body.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    bytes.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence() -> Evidence {
        let row = |kind, reference: &str, n: u8| EvidenceRow {
            target: "far:5000".to_owned(),
            repository: "team/app".to_owned(),
            kind,
            reference: reference.to_owned(),
            digest: Digest::sha256(&[n]).to_string(),
            size: u64::from(n),
            source: "quay.io/team/app:1, \"quoted\"".to_owned(),
            how: "written".to_owned(),
            hashed: "2026-01-01T00:00:00Z".to_owned(),
            from: "volume 1 of january".to_owned(),
            by: "larder 0.1.0".to_owned(),
        };
        Evidence::new(vec![row(EvidenceKind::Blob, "", 2), row(EvidenceKind::Image, "1", 1)])
    }

    #[test]
    fn both_forms_have_the_same_rows_and_digest() {
        let folder = tempfile::tempdir().unwrap();
        for evidence in [evidence(), Evidence::new(vec![])] {
            for name in ["e.json", "e.csv"] {
                let path = folder.path().join(name);
                evidence.write(&path).unwrap();
                assert_eq!(Evidence::read(&path).unwrap(), evidence, "{name}");
                assert!(std::fs::read_to_string(&path).unwrap().contains(evidence.digest().unwrap().as_str()));
            }
        }
        let text = std::fs::read_to_string(folder.path().join("e.csv")).unwrap();
        let without: String = text.lines().take(text.lines().count() - 1).map(|line| format!("{line}\n")).collect();
        assert!(text.ends_with(&format!(",,evidence,,{},,,,,,\n", Digest::sha256(without.as_bytes()))));
    }

    #[test]
    fn a_changed_row_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["e.json", "e.csv"] {
            let path = folder.path().join(name);
            evidence().write(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::write(&path, text.replace("volume 1", "volume 2")).unwrap();
            let error = Evidence::read(&path).unwrap_err();
            assert!(error.kind() == Kind::Damaged && error.message().contains("it has been changed"), "{name}: {error}");
            std::fs::write(&path, text.get(..text.len() / 2).unwrap()).unwrap();
            assert_eq!(Evidence::read(&path).unwrap_err().kind(), Kind::Damaged, "{name} cut");
        }
    }
}
