//! The report as CSV: a row an image, nested values as columns of their own, lists joined by `;`.

use std::io;
use std::path::Path;

use super::{ImageOutcome, Status};
use crate::{Error, Operation, Result};

const COLUMNS: [&str; 21] = [
    "source",
    "target",
    "rule",
    "file",
    "line",
    "status",
    "digest",
    "source_digest",
    "platforms",
    "referrers",
    "bytes",
    "pulls",
    "seconds",
    "notes",
    "reason",
    "until",
    "error_side",
    "error_operation",
    "error_status",
    "error_code",
    "error_message",
];

/// Writes the whole file.
pub(super) fn write_rows(images: &[ImageOutcome], file: &mut dyn io::Write) -> io::Result<()> {
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(COLUMNS)?;
    for image in images {
        writer.write_record(row(image))?;
    }
    writer.flush()
}

fn row(image: &ImageOutcome) -> [String; 21] {
    let digest = |digest: &Option<crate::content::Digest>| digest.as_ref().map(ToString::to_string).unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let error = image.error.as_ref();
    [
        image.source.clone(),
        image.target.clone(),
        text(&image.rule),
        image.file.clone(),
        image.line.to_string(),
        image.status.as_str().to_owned(),
        digest(&image.digest),
        digest(&image.source_digest),
        image.platforms.join(";"),
        image.referrers.to_string(),
        image.bytes.to_string(),
        image.pulls.to_string(),
        image.seconds.to_string(),
        image.notes.join(";"),
        text(&image.reason),
        text(&image.until),
        error.map(|error| error.side().to_string()).unwrap_or_default(),
        error.map(|error| error.operation().to_string()).unwrap_or_default(),
        error.and_then(crate::Error::http_status).map(|status| status.to_string()).unwrap_or_default(),
        error.and_then(|error| error.registry_code().map(str::to_owned)).unwrap_or_default(),
        error.map(crate::Error::message).unwrap_or_default(),
    ]
}

/// The columns of [`write_failed_list`].
const FAILED_COLUMNS: [&str; 6] = ["image", "tags", "exclude", "platforms", "target", "priority"];

/// Whether a list is what [`write_failed_list`] writes when nothing failed.
pub(crate) fn is_empty_failed_list(list: &[u8]) -> bool {
    list.trim_ascii() == FAILED_COLUMNS.join(",").as_bytes()
}

/// Writes what was not delivered to `path`, as a CSV image list that can be given back.
///
/// # Errors
/// A local error that names the file.
pub fn write_failed_list(images: &[ImageOutcome], path: &Path) -> Result<()> {
    let written = super::file::replace_with(path, |file| {
        let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(file);
        writer.write_record(FAILED_COLUMNS)?;
        for image in images.iter().filter(|image| matches!(image.status, Status::Failed | Status::Deferred)) {
            writer.serialize(&image.again)?;
        }
        writer.flush()
    });
    written.map_err(|error| Error::io(Operation::WriteFailedList, path, &error))
}
