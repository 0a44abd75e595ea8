//! Unpacks compressed archives, and archives from a pipe, into a temporary file, because content is read by offset.
//!
//! The first bytes decide how a file is compressed, not its name. The temporary file has no name, so it is gone however
//! the program ends.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::path::Path;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

use super::tar_index::damaged;
use crate::bundle::preflight::free;
use crate::{Error, Kind, Operation, Result, Side};

/// The length in bytes of the longest magic number, xz's.
const FIRST: u64 = 6;

/// Memory for decompressing xz, in KiB. Files of `xz -9`, the highest level, take 65 MiB (xz(1)); zstd's own limit is
/// 128 MiB (ruzstd has the same).
const XZ_MEMORY_KIB: u32 = 128 * 1024;

/// Bytes that stay free on the disk that is unpacked to.
const RESERVE: u64 = 64 * 1024 * 1024;

/// Bytes unpacked between two checks of the free space.
const STEP: u64 = RESERVE / 2;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// Recognises magic numbers: RFC 1952 2.3.1; RFC 8878 3.1.1 and 3.1.2; the xz file format 2.1.1.1; bzip2's `BZh` and a
    /// block size.
    pub(super) fn of(first: &[u8]) -> Option<Self> {
        match first {
            [0x1f, 0x8b, 8, ..] => Some(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Compression::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Compression::Xz),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Compression::Bzip2),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Compression::Gzip => "gzip",
            Compression::Zstd => "zstd",
            Compression::Xz => "xz",
            Compression::Bzip2 => "bzip2",
        }
    }
}

/// The first bytes of a stream, and the whole stream.
pub(super) fn peek<R: Read>(mut stream: R) -> io::Result<(Vec<u8>, impl Read)> {
    let mut first = vec![];
    stream.by_ref().take(FIRST).read_to_end(&mut first)?;
    Ok((first.clone(), io::Cursor::new(first).chain(stream)))
}

/// Unpacks `stream` into a file without a name in `folder`. `from` is the stream's name in errors.
///
/// # Errors
/// `Kind::DiskFull` if there is no space; `Kind::Damaged` if the stream is damaged.
pub(super) fn unpack(stream: impl Read, compression: Option<Compression>, from: &Path, folder: &Path) -> Result<File> {
    let io = |error: io::Error| more_space(Error::io(Operation::UnpackArchive, folder, &error));
    std::fs::create_dir_all(folder).map_err(io)?;
    let mut file = tempfile::tempfile_in(folder).map_err(io)?;
    let stream = BufReader::with_capacity(1024 * 1024, stream);
    let mut unpacked: Box<dyn Read> = match compression {
        None => Box::new(stream),
        Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(stream)),
        Some(Compression::Zstd) => Box::new(Frames { stream: Some(stream), frame: None }),
        Some(Compression::Xz) => Box::new(XzReader::new_mem_limit(stream, true, XZ_MEMORY_KIB)),
        Some(Compression::Bzip2) => Box::new(MultiBzDecoder::new(stream)),
    };
    let mut buffer = vec![0; 256 * 1024];
    let mut until_check = 0;
    loop {
        let read = match unpacked.read(&mut buffer) {
            Ok(0) => return Ok(file),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                let what = compression.map_or_else(String::new, |compression| format!("damaged {} file: ", compression.name()));
                return Err(damaged(from, &format!("{what}{error}")));
            }
        };
        if until_check < read as u64 {
            if free(folder)? < RESERVE {
                let message = format!("no space left in {}, where {} is unpacked", folder.display(), from.display());
                return Err(more_space(Error::new(Side::Local, Operation::UnpackArchive, Kind::DiskFull, message)));
            }
            until_check = STEP;
        }
        until_check -= read as u64;
        file.write_all(buffer.get(..read).unwrap_or_default()).map_err(io)?;
    }
}

fn more_space(error: Error) -> Error {
    error.replace_remedy("name a folder with more space in the environment variable TMPDIR, or unpack it yourself and name what it holds")
}

/// All frames of a zstd file, one after the other; skippable frames are skipped (RFC 8878, 3.1.2).
struct Frames<R: BufRead> {
    /// At the beginning of the next frame.
    stream: Option<R>,
    frame: Option<Frame<R>>,
}

type Frame<R> = StreamingDecoder<Magic<R>, ruzstd::decoding::FrameDecoder>;
type Magic<R> = io::Chain<io::Cursor<[u8; 4]>, R>;

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = &mut self.frame {
                match frame.read(buffer)? {
                    0 => self.stream = self.frame.take().map(|frame| frame.into_inner().into_inner().1),
                    read => return Ok(read),
                }
            }
            let Some(mut stream) = self.stream.take() else { return Ok(0) };
            if stream.fill_buf()?.is_empty() {
                return Ok(0);
            }
            let mut magic = [0; 4];
            stream.read_exact(&mut magic)?;
            if matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18]) {
                let mut length = [0; 4];
                stream.read_exact(&mut length)?;
                let length = u64::from(u32::from_le_bytes(length));
                if io::copy(&mut stream.by_ref().take(length), &mut io::sink())? < length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.stream = Some(stream);
                continue;
            }
            let frame = StreamingDecoder::new(io::Cursor::new(magic).chain(stream));
            self.frame = Some(frame.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::{Seek as _, Write};

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(vec![], bzip2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    /// `printf 'larder\nlarder\n' | xz`
    const XZ: &str = concat!(
        "fd377a585a000004e6d6b4460200210116000000742fe5a301000d6c61726465720a6c61726465720a00000036415c80",
        "1f15104b0001260e081be0041fb6f37d010000000004595a"
    );

    fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
        let folder = tempfile::tempdir().unwrap();
        let (first, stream) = peek(bytes).unwrap();
        let mut file = unpack(stream, Compression::of(&first), Path::new("x"), folder.path())?;
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the file has no name");
        let mut all = vec![];
        file.rewind().unwrap();
        file.read_to_end(&mut all).unwrap();
        Ok(all)
    }

    #[test]
    fn each_format_is_recognised_by_its_first_bytes_and_may_have_several_members() {
        let bytes: Vec<u8> = (0..300_000u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let twice = [&bytes[..], b"more"].concat();
        let skippable = [&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for (packed, compression) in [
            ([gzip(&bytes), gzip(b"more")].concat(), Compression::Gzip),
            ([bzip2(&bytes), bzip2(b"more")].concat(), Compression::Bzip2),
            ([zstd(&bytes), skippable.clone(), zstd(b"more")].concat(), Compression::Zstd),
            ([skippable.clone(), zstd(&bytes), zstd(b"more"), skippable].concat(), Compression::Zstd),
        ] {
            assert_eq!(Compression::of(&packed), Some(compression));
            assert!(unpacked(&packed).unwrap() == twice, "{compression:?}");
            let cut = unpacked(&packed[..packed.len() / 2]).unwrap_err();
            assert_eq!(cut.kind(), Kind::Damaged);
            assert!(cut.message().starts_with(&format!("x: damaged {} file: ", compression.name())), "{cut}");
        }
        let xz = hex::decode(XZ).unwrap();
        assert_eq!(Compression::of(&xz), Some(Compression::Xz));
        assert_eq!(unpacked(&[&xz[..], &xz].concat()).unwrap(), b"larder\nlarder\n".repeat(2));
        assert!(unpacked(&twice).unwrap() == twice, "an uncompressed stream is copied");
        assert_eq!(unpacked(b"").unwrap(), b"");
    }

    #[test]
    fn a_dictionary_that_would_fill_the_memory_is_refused() {
        // An xz block header that asks for a dictionary of 4 GiB (xz file format 3.1, 5.3.1), with checksums.
        let mut bytes = vec![0xfd, b'7', b'z', b'X', b'Z', 0, 0, 1];
        bytes.extend(crc32(&[0, 1]).to_le_bytes());
        let block = [2, 0, 0x21, 1, 40, 0, 0, 0];
        bytes.extend(block);
        bytes.extend(crc32(&block).to_le_bytes());
        bytes.extend([0; 64]);
        let error = unpacked(&bytes).unwrap_err();
        assert!(error.message().contains("memory"), "{error}");
    }

    fn crc32(bytes: &[u8]) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    }

    proptest! {
        #[test]
        fn any_bytes_are_handled(at in 0usize..200, turned in 1u8..) {
            for mut packed in [gzip(b"larder larder larder"), bzip2(b"larder larder"), zstd(b"larder larder"), hex::decode(XZ).unwrap()] {
                let length = packed.len();
                packed[at % length] ^= turned;
                let _ = unpacked(&packed);
            }
        }
    }
}
