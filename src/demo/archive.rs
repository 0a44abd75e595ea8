//! Layers: real tar archives, gzipped without compression.
//!
//! Written by hand, because a tar header and a stored gzip block are short, and two more dependencies are not: POSIX
//! ustar (IEEE 1003.1, `pax`, "ustar Interchange Format") and gzip (RFC 1952) with stored deflate blocks (RFC 1951,
//! 3.2.4). The content is random bytes, which would not compress anyway.

/// The time of everything in the demo: 2026-01-01T00:00:00Z, in seconds since 1970.
const MADE: u64 = 1_767_225_600;

const BLOCK: usize = 512;

/// A tar archive that is being written.
#[derive(Default)]
pub(super) struct DemoTar(Vec<u8>);

impl DemoTar {
    /// Adds a regular file; `path` has at most 100 bytes (ustar's name field).
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.header(path, mode, content.len(), b'0');
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    /// Adds a directory; `path` ends with a slash.
    pub(super) fn directory(&mut self, path: &str) {
        self.header(path, 0o755, 0, b'5');
    }

    /// The archive with its end mark, two blocks of zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8) {
        debug_assert!(path.len() <= 100, "{path} is too long for ustar");
        let mut block = [0; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, path);
        put(100, &format!("{mode:07o}"));
        put(108, "0000000"); // uid
        put(116, "0000000"); // gid
        put(124, &format!("{size:011o}"));
        put(136, &format!("{MADE:011o}"));
        put(148, "        "); // the checksum counts itself as spaces
        put(257, "ustar\x0000");
        put(265, "root");
        put(297, "root");
        block[156] = kind;
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }
}

/// `content` as a gzip file of stored blocks.
pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    // A stored block's length is 16 bits (RFC 1951, 3.2.4).
    const MOST: usize = 65_535;
    // Magic, deflate, no flags, no time, no extra flags, unknown system (RFC 1952, 2.3).
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    out.reserve(content.len() + content.len() / MOST * 5 + 32);
    let (full, last) = content.split_at(content.len() / MOST * MOST);
    for block in full.chunks(MOST) {
        stored(&mut out, block, false);
    }
    stored(&mut out, last, true);
    out.extend_from_slice(&crc32(content).to_le_bytes());
    // ISIZE is the length modulo 2^32 (RFC 1952, 2.3.1), so truncating is correct.
    out.extend_from_slice(&(content.len() as u32).to_le_bytes());
    out
}

/// One stored block; `block` has at most 65,535 bytes.
fn stored(out: &mut Vec<u8>, block: &[u8], is_last: bool) {
    let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
    out.push(u8::from(is_last));
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(block);
}

/// CRC-32 as gzip wants it (RFC 1952, 8), a byte at a time.
fn crc32(content: &[u8]) -> u32 {
    const TABLE: [u32; 256] = crc_table();
    !content.iter().fold(!0u32, |crc, &byte| TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)] ^ (crc >> 8))
}

const fn crc_table() -> [u32; 256] {
    let mut table = [0u32; 256];
    let mut n = 0;
    while n < 256 {
        // `as` because `From` cannot be called in a const fn; n is below 256.
        let mut c = n as u32;
        let mut bit = 0;
        while bit < 8 {
            c = if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 };
            bit += 1;
        }
        table[n] = c;
        n += 1;
    }
    table
}

/// `length` pseudo-random bytes, always the same for one `seed` (xorshift64*, Vigna 2016, "An experimental exploration
/// of Marsaglia's xorshift generators, scrambled").
pub(super) fn noise(seed: &str, length: usize) -> Vec<u8> {
    // FNV-1a turns the text into a number; the generator must not start at 0.
    let mut state =
        seed.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)).max(1);
    let mut out = Vec::with_capacity(length.next_multiple_of(8));
    while out.len() < length {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads stored blocks by the specification, not with the writer's code.
    fn gunzip(file: &[u8]) -> Vec<u8> {
        assert_eq!(file[..4], [0x1f, 0x8b, 8, 0]);
        let (mut at, mut out) = (10, vec![]);
        loop {
            let (head, length) = (file[at], u16::from_le_bytes([file[at + 1], file[at + 2]]));
            assert_eq!(length, !u16::from_le_bytes([file[at + 3], file[at + 4]]));
            assert_eq!(head & 0b110, 0, "a stored block");
            out.extend_from_slice(&file[at + 5..at + 5 + usize::from(length)]);
            at += 5 + usize::from(length);
            if head & 1 == 1 {
                break;
            }
        }
        assert_eq!(file[at + 4..], (out.len() as u32).to_le_bytes());
        assert_eq!(file[at..at + 4], crc32(&out).to_le_bytes());
        out
    }

    #[test]
    fn crc32_of_the_check_string() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn gzip_gives_back_what_went_in() {
        for length in [0, 1, 65_534, 65_535, 65_536, 131_070, 200_000] {
            let content = noise("gzip", length);
            assert_eq!(gunzip(&gzip(&content)), content, "{length}");
        }
    }

    #[test]
    fn tar_headers_say_what_follows() {
        let mut tar = DemoTar::default();
        tar.directory("etc/");
        tar.file("etc/motd", 0o644, &[b'x'; 513]);
        let tar = tar.finish();
        assert_eq!(tar.len(), 512 + 512 + 1024 + 1024);
        for (header, name, kind, size) in [(&tar[..512], "etc/", b'5', "00000000000"), (&tar[512..1024], "etc/motd", b'0', "00000001001")] {
            assert_eq!(&header[..name.len() + 1], format!("{name}\0").as_bytes());
            assert_eq!((header[156], &header[124..135], &header[257..265]), (kind, size.as_bytes(), b"ustar\x0000".as_slice()));
            let said = u32::from_str_radix(std::str::from_utf8(&header[148..154]).unwrap(), 8).unwrap();
            let sum: u32 = header.iter().enumerate().map(|(at, &b)| u32::from(if (148..156).contains(&at) { b' ' } else { b })).sum();
            assert_eq!(said, sum, "{name}");
        }
        assert!(tar[tar.len() - 1024..].iter().all(|&b| b == 0));
    }

    #[test]
    fn noise_depends_on_its_seed_alone() {
        assert_eq!(noise("a", 1001), noise("a", 1001));
        assert_eq!(noise("a", 1001)[..500], noise("a", 500));
        assert_ne!(noise("a", 64), noise("b", 64));
        assert_eq!(noise("", 3).len(), 3);
    }
}
