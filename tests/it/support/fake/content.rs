//! Blob bytes: kept, generated, or forgotten.

use std::ops::Range;

use bytes::Bytes;
use larder::content::Digest;

use super::super::layer::noise;

/// How much is handed to a connection at once: large enough that the cost per piece does not show, small enough that a
/// slow reader holds little.
const PIECE: u64 = 128 * 1024;

/// The pattern of a generated blob; odd, so that two pieces never hold the same bytes by chance.
const PATTERN: usize = (1 << 20) + 1;

/// The bytes of a blob.
#[derive(Clone)]
pub(super) enum Content {
    Kept(Bytes),
    /// `pattern`, again and again, `len` bytes of it.
    Fill {
        pattern: Bytes,
        len: u64,
    },
    /// Seen and hashed, not kept.
    Forgotten {
        len: u64,
    },
}

impl Content {
    /// `len` bytes that need no memory, and their digest.
    pub(super) fn fill(seed: u64, len: u64) -> (Digest, Content) {
        let content = Content::Fill { pattern: noise(seed, PATTERN).into(), len };
        let mut hasher = Digest::sha256(b"").hasher().unwrap();
        content.pieces(0..len).for_each(|piece| hasher.update(&piece));
        (hasher.finish(), content)
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Content::Kept(bytes) => bytes.len() as u64,
            Content::Fill { len, .. } | Content::Forgotten { len } => *len,
        }
    }

    pub(super) fn readable(&self) -> bool {
        !matches!(self, Content::Forgotten { .. })
    }

    /// The bytes of `range`, piece by piece.
    pub(super) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> + Send + use<> {
        let content = self.clone();
        let mut at = range.start;
        std::iter::from_fn(move || {
            let most = PIECE.min(range.end.saturating_sub(at)) as usize;
            let piece = match &content {
                Content::Kept(bytes) => bytes.slice(at as usize..at as usize + most),
                Content::Fill { pattern, .. } => {
                    let start = at as usize % pattern.len();
                    pattern.slice(start..pattern.len().min(start + most))
                }
                Content::Forgotten { .. } => Bytes::new(),
            };
            at += piece.len() as u64;
            (!piece.is_empty()).then_some(piece)
        })
    }
}
