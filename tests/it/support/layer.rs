//! Layers made of noise: real `tar.gz` files that any tool can unpack, without a compression library (deflate's *stored*
//! blocks, RFC 1951 3.2.4), so that their size is known and making half a gigabyte of them is quick.

use std::ops::Range;

use bytes::Bytes;
use larder::content::Digest;

/// `len` bytes of deterministic noise (splitmix64): no two seeds share content.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(len + 8);
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1);
    while out.len() < len {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        out.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    out.truncate(len);
    out
}

/// A gzipped tar with one file `data-<seed>` of `len` bytes of noise; about 2 KiB longer than `len`.
pub fn layer(seed: u64, len: usize) -> Bytes {
    gzip(&tar(&format!("data-{seed}"), &noise(seed, len)))
}

/// The smallest layer there is: a gzipped tar without a file, as `docker build` writes for instructions that change nothing.
pub fn empty_layer() -> Bytes {
    gzip(&[0; 1024])
}

/// What `layer`'s uncompressed content hashes to, as an image config's `rootfs.diff_ids` names it. For bytes that are
/// not [`gzip`]'s: their own digest.
pub fn diff_id(layer: &[u8]) -> Digest {
    Digest::sha256(&stored(layer).unwrap_or_else(|| layer.to_vec()))
}

/// A tar (POSIX ustar) of one file.
fn tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |range: Range<usize>, text: &str| header[range.start..range.start + text.len()].copy_from_slice(text.as_bytes());
    put(0..100, name);
    put(100..108, "0000644\0");
    put(108..116, "0000000\0");
    put(116..124, "0000000\0");
    put(124..136, &format!("{:011o}\0", data.len()));
    put(136..148, "00000000000\0");
    put(148..156, "        ");
    put(156..157, "0");
    put(257..265, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());

    let mut out = Vec::with_capacity(data.len() + 2048);
    out.extend_from_slice(&header);
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out
}

/// The header of a gzip file without name and time (RFC 1952 2.3.1), as made on an unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// `data` as a gzip file of stored blocks.
fn gzip(data: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(data.len() + data.len() / 8000 + 32);
    out.extend_from_slice(&GZIP_HEADER);
    let mut blocks = data.chunks(0xffff).peekable();
    while let Some(block) = blocks.next() {
        out.push(u8::from(blocks.peek().is_none()));
        let len = block.len() as u16;
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
    }
    out.extend_from_slice(&crc32(data).to_le_bytes());
    out.extend_from_slice(&(data.len() as u32).to_le_bytes());
    out.into()
}

/// The content of a gzip file of stored blocks.
fn stored(gzip: &[u8]) -> Option<Vec<u8>> {
    let mut rest = gzip.strip_prefix(&GZIP_HEADER)?;
    let mut out = Vec::with_capacity(gzip.len());
    loop {
        let (last, len) = (*rest.first()?, u16::from_le_bytes([*rest.get(1)?, *rest.get(2)?]) as usize);
        out.extend_from_slice(rest.get(5..5 + len)?);
        rest = &rest[5 + len..];
        if last == 1 {
            return Some(out);
        }
    }
}

/// CRC-32 as gzip has it (RFC 1952 8), by table.
fn crc32(data: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|n| (0..8).fold(n as u32, |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 }));
    !data.iter().fold(!0, |crc, byte| table[((crc ^ u32::from(*byte)) & 0xff) as usize] ^ (crc >> 8))
}
