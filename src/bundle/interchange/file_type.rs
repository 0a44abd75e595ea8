//! Describes files and folders that cannot be imported, for the error message.

use super::unpack::Compression;

/// The number of first bytes that are needed, for tar's magic number in the first block.
pub(super) const PREFIX: u64 = 512;

/// A description of a file by its first bytes, for a message.
pub(super) fn describe(first: &[u8]) -> String {
    if let Some(compression) = Compression::of(first) {
        return format!("compressed by {}", compression.name());
    }
    match first {
        [] => "empty".to_owned(),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => "a zip file".to_owned(),
        [0x7f, b'E', b'L', b'F', ..] => "a program (ELF)".to_owned(),
        [b'%', b'P', b'D', b'F', ..] => "a PDF document".to_owned(),
        _ if first.get(257..262) == Some(b"ustar") => "a tar file of something else".to_owned(),
        _ => match text(first) {
            Some(text) if text.starts_with(['{', '[']) => "JSON".to_owned(),
            Some(text) if text.starts_with('<') => "HTML or XML".to_owned(),
            Some(text) => {
                format!("text that begins with `{}`", text.lines().next().unwrap_or_default().chars().take(40).collect::<String>())
            }
            None => format!("binary data that begins with {}", hex::encode(first.get(..8).unwrap_or(first))),
        },
    }
}

/// The bytes as text without leading white space, if they are text.
fn text(first: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(first) {
        Ok(text) => text,
        // The end is in the middle of a character.
        Err(error) if error.error_len().is_none() => std::str::from_utf8(first.get(..error.valid_up_to())?).ok()?,
        Err(_) => return None,
    };
    let text = text.trim_start();
    let is_text = |c: char| !c.is_control() || matches!(c, '\n' | '\r' | '\t');
    (!text.is_empty() && text.chars().all(is_text)).then_some(text)
}

/// A description of a folder without a bundle or a layout, for a message.
pub(in crate::bundle) fn describe_folder(path: &std::path::Path) -> &'static str {
    let has = |name: &str| path.join(name).is_file();
    match (has("manifest.json"), has("version"), has("index.json")) {
        (true, true, _) => "a folder of skopeo's dir: transport; copy it to oci: or oci-archive:",
        (true, false, _) => "an unpacked `docker save` archive; pack it into a tar file again",
        (false, _, true) => "a folder with an index.json, but no `oci-layout`",
        (false, _, false) => "a folder without `oci-layout`, NAME.bundle.json or volumes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_described_by_its_first_bytes() {
        let mut tar = [0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        for (first, expected) in [
            (&b""[..], "empty"),
            (b"PK\x03\x04....", "a zip file"),
            (b"\x7fELF\x02", "a program (ELF)"),
            (b"%PDF-1.7", "a PDF document"),
            (&tar, "a tar file of something else"),
            (b" \n{\"a\":1}", "JSON"),
            (b"<!DOCTYPE html>", "HTML or XML"),
            (b"nginx:1.27\nredis:7\n", "text that begins with `nginx:1.27`"),
            ("gr\u{fc}n".as_bytes().split_at(3).0, "text that begins with `gr`"),
            (b"\x1f\x8b\x08\x00", "compressed by gzip"),
            (&[0; 100], "binary data that begins with 0000000000000000"),
            (b"\xff", "binary data that begins with ff"),
        ] {
            assert_eq!(describe(first), expected, "{first:?}");
        }
    }
}
