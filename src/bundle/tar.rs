//! The tar headers of volumes (POSIX pax: ustar headers, with an extended header where a length or a path does not fit).
//! Written here, not by the `tar` crate, because every byte of a volume must be known in advance: its length, to keep
//! `--volume-size`, and its content, so that two exports of the same images are equal. For a length that does not fit, the
//! crate only knows GNU's binary form.

use crate::{Error, Kind, Operation, Result, Side};

/// The length of a tar block in bytes. A tar file consists of whole blocks.
pub const BLOCK: u64 = 512;
/// The end of a tar file: two blocks of zeros.
pub const END: [u8; 1024] = [0; 1024];
/// The largest length that fits into the eleven octal digits of a ustar header: one byte less than 8 GiB.
const MAX_OCTAL: u64 = 0o77_777_777_777;
/// The longest path, in bytes, that fits into a ustar header without its prefix field.
const MAX_PATH: usize = 100;
/// The path of an extended header, for tools that unpack it as a file.
const EXTENDED_NAME: &str = "larder/pax";

/// The header of a file: one block, or three with an extended header.
pub fn header(path: &str, size: u64) -> Vec<u8> {
    let mut extended = String::new();
    if path.len() > MAX_PATH {
        extended += &record("path", path);
    }
    if size > MAX_OCTAL {
        extended += &record("size", &size.to_string());
    }
    let mut out = vec![];
    if !extended.is_empty() {
        out.extend_from_slice(&ustar(EXTENDED_NAME, extended.len() as u64, b'x'));
        out.extend_from_slice(extended.as_bytes());
        out.resize(out.len() + usize::try_from(padding(extended.len() as u64)).unwrap_or_default(), 0);
    }
    // The extended header counts. A length that does not fit is zero here, a path is cut, as other writers do.
    let size = if size > MAX_OCTAL { 0 } else { size };
    out.extend_from_slice(&ustar(path, size, b'0'));
    out
}

/// The number of zeros after a file of `size` bytes.
pub fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK
}

/// The length of a file of `size` bytes with its padding.
pub fn padded(size: u64) -> u64 {
    size + padding(size)
}

/// A file with its header and padding.
pub fn entry(path: &str, content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    let mut out = header(path, size);
    out.extend_from_slice(content);
    out.resize(out.len() + usize::try_from(padding(size)).unwrap_or_default(), 0);
    out
}

/// A record of an extended header: its length (its own digits counted), a blank, `key=value`, a line feed.
fn record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n")
}

/// A ustar header of a regular file, with owner 0 and time 0.
fn ustar(path: &str, size: u64, kind: u8) -> [u8; 512] {
    let mut block = [0; 512];
    let mut put = |at: usize, text: &[u8]| {
        for (to, from) in block.iter_mut().skip(at).zip(text) {
            *to = *from;
        }
    };
    put(0, path.as_bytes().get(..MAX_PATH).unwrap_or(path.as_bytes()));
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    for (to, from) in block.iter_mut().skip(148).zip(format!("{sum:06o}\0 ").bytes()) {
        *to = from;
    }
    block
}

/// Parses the header of a file in a volume's head, which must be the file `path`; its length in bytes.
///
/// # Errors
/// `Kind::Damaged` if it is another one, or no header.
pub fn expect(block: &[u8; 512], path: &str) -> Result<u64> {
    let digits = block.get(124..135).and_then(|digits| std::str::from_utf8(digits).ok());
    let size = digits.and_then(|digits| u64::from_str_radix(digits, 8).ok()).unwrap_or_default();
    if *block == ustar(path, size, b'0') {
        return Ok(size);
    }
    Err(Error::new(Side::Local, Operation::ReadVolume, Kind::Damaged, format!("the header of `{path}` is not as larder writes it")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    /// The list that GNU tar prints: type and mode, owner, size, date, time, path.
    fn listed(bytes: &[u8]) -> Vec<String> {
        let mut tar = Command::new("tar")
            .args(["--list", "--verbose", "--utc", "--numeric-owner", "--file=-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // tar may end before it has read everything.
        let _ = tar.stdin.take().unwrap().write_all(bytes);
        let done = tar.wait_with_output().unwrap();
        String::from_utf8(done.stdout).unwrap().lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
    }

    #[test]
    fn gnu_tar_reads_these_headers() {
        let sha512 = format!("blobs/sha512/{}", "a".repeat(128));
        let mut bytes = entry("oci-layout", b"{}");
        bytes.extend(entry(&sha512, &[7; 513]));
        bytes.extend(entry("empty", b""));
        bytes.extend(END);
        assert_eq!(bytes.len(), 512 + 512 + (3 * 512 + 1024) + 512 + 1024);
        assert_eq!(
            listed(&bytes),
            [
                "-rw-r--r-- 0/0 2 1970-01-01 00:00 oci-layout".to_owned(),
                format!("-rw-r--r-- 0/0 513 1970-01-01 00:00 {sha512}"),
                "-rw-r--r-- 0/0 0 1970-01-01 00:00 empty".to_owned()
            ]
        );
    }

    #[test]
    fn a_length_beyond_eight_gibibytes_is_in_an_extended_header() {
        let largest = 8 * 1024 * 1024 * 1024 - 1;
        assert_eq!(header("blobs/sha256/x", largest).len(), 512);
        for size in [largest + 1, 9_000_000_000, 1 << 53] {
            let bytes = header("blobs/sha256/x", size);
            assert_eq!(bytes.len(), 3 * 512);
            let expected = format!("{} size={size}\n", 9 + size.to_string().len());
            assert_eq!(&bytes[512..512 + expected.len()], expected.as_bytes());
            // tar lists the member before it misses its bytes.
            assert_eq!(listed(&bytes), [format!("-rw-r--r-- 0/0 {size} 1970-01-01 00:00 blobs/sha256/x")]);
        }
    }

    #[test]
    fn a_record_counts_its_own_digits() {
        for length in 1..1200 {
            let text = record("path", &"x".repeat(length));
            assert_eq!(text.split_once(' ').unwrap().0, text.len().to_string());
        }
    }

    #[test]
    fn only_the_expected_file_is_accepted() {
        let block: [u8; 512] = header("index.json", 77).try_into().unwrap();
        assert_eq!(expect(&block, "index.json").unwrap(), 77);
        assert!(expect(&block, "oci-layout").is_err());
        assert!(expect(&[0; 512], "index.json").is_err());
        for at in 0..512 {
            let mut other = block;
            other[at] ^= 1;
            assert!(expect(&other, "index.json").is_err(), "a flipped bit in byte {at}");
        }
    }
}
