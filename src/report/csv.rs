//! The report as CSV: a row an image, nested values as columns of their own, lists joined by `;`.

use super::{ImageOutcome, Status};

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

/// The whole file.
pub(super) fn rows(images: &[ImageOutcome]) -> Result<Vec<u8>, String> {
    let mut writer = csv::Writer::from_writer(vec![]);
    let written = writer.write_record(COLUMNS).and_then(|()| images.iter().try_for_each(|image| writer.write_record(row(image))));
    written.map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
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
        error.map(|error| error.operation().to_owned()).unwrap_or_default(),
        error.and_then(crate::Error::http_status).map(|status| status.to_string()).unwrap_or_default(),
        error.and_then(|error| error.registry_code().map(str::to_owned)).unwrap_or_default(),
        error.map(crate::Error::message).unwrap_or_default(),
    ]
}

/// The columns of [`failed_list`].
const FAILED_COLUMNS: [&str; 6] = ["image", "tags", "exclude", "platforms", "target", "priority"];

/// Whether a list is what [`failed_list`] writes when nothing failed.
pub(crate) fn is_empty_failed_list(list: &[u8]) -> bool {
    list.trim_ascii() == FAILED_COLUMNS.join(",").as_bytes()
}

/// What was not delivered, as a CSV image list that can be given back.
///
/// # Errors
/// Never in practice: writing to memory.
pub fn failed_list(images: &[ImageOutcome]) -> Result<Vec<u8>, String> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(vec![]);
    let undelivered = images.iter().filter(|image| matches!(image.status, Status::Failed | Status::Deferred));
    let written = writer
        .write_record(FAILED_COLUMNS)
        .and_then(|()| undelivered.map(|image| &image.again).try_for_each(|again| writer.serialize(again)));
    written.map_err(|error| error.to_string())?;
    writer.into_inner().map_err(|error| error.to_string())
}
