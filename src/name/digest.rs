//! Digests: the names of bytes (OCI image-spec, descriptor.md "Digests").

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// `algorithm:encoded`, checked. sha256 and sha512 must have their exact lower-case hex length; other algorithms are kept
/// when their grammar is right (they can be carried by name, but [`Digest::hasher`] refuses them).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Arc<str>);

impl Digest {
    /// Checks and keeps `text`. The error says what is wrong, for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (algorithm, encoded) = text.split_once(':').ok_or_else(|| format!("`{text}` is not a digest (algorithm:hex)"))?;
        let component = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let algorithm_ok =
            !algorithm.is_empty() && algorithm.split(['+', '.', '_', '-']).all(|part| !part.is_empty() && part.chars().all(component));
        let encoded_ok = !encoded.is_empty() && encoded.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '=' | '_' | '-'));
        // A digest names a file in a layout, and file names end at 255 bytes; sha512, the longest registered one, has 135.
        if !algorithm_ok || !encoded_ok || text.len() > 200 {
            return Err(format!("`{text}` is not a digest (algorithm:hex)"));
        }
        let length = match algorithm {
            "sha256" => Some(64),
            "sha512" => Some(128),
            _ => None,
        };
        if let Some(length) = length
            && (encoded.len() != length || !encoded.chars().all(|c| c.is_ascii_digit() || matches!(c, 'a'..='f')))
        {
            return Err(format!("`{text}` is not a {algorithm} digest: {length} lower-case hex digits are needed"));
        }
        Ok(Digest(text.into()))
    }

    /// The sha256 digest of `bytes`.
    pub fn sha256(bytes: &[u8]) -> Self {
        Digest(format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes))).into())
    }

    /// The whole text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The part before the colon.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }
    /// The part after the colon.
    pub fn encoded(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, encoded)| encoded)
    }
    /// The first 12 characters of the encoded part, for people.
    pub fn short(&self) -> &str {
        let encoded = self.encoded();
        encoded.get(..12).unwrap_or(encoded)
    }

    /// A hasher of this digest's algorithm, or `None` when larder cannot compute it.
    pub fn hasher(&self) -> Option<Hasher> {
        match self.algorithm() {
            "sha256" => Some(Hasher::Sha256(sha2::Sha256::new())),
            "sha512" => Some(Hasher::Sha512(sha2::Sha512::new())),
            _ => None,
        }
    }

    /// Whether `bytes` have this digest. `false` too for algorithms that larder cannot compute.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        self.hasher().is_some_and(|mut hasher| {
            hasher.update(bytes);
            hasher.finish() == *self
        })
    }
}

/// A running hash of one of the algorithms larder computes.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// sha256
    Sha256(sha2::Sha256),
    /// sha512
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest of all bytes taken in.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hash) => Digest(format!("sha256:{}", hex::encode(hash.finalize())).into()),
            Hasher::Sha512(hash) => Digest(format!("sha512:{}", hex::encode(hash.finalize())).into()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::str::FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Digest::parse(text)
    }
}
impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_digests() {
        let empty = Digest::sha256(b"{}");
        assert_eq!(empty.as_str(), "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert!(empty.matches(b"{}"));
        assert!(!empty.matches(b"{ }"));
        assert_eq!(empty.short(), "44136fa355b3");
    }

    #[test]
    fn path_tricks_and_wrong_lengths_are_refused() {
        let hex64 = "a".repeat(64);
        for bad in [
            "",
            ":",
            "sha256",
            "sha256:",
            "sha256:abc",
            "sha256:../../etc/passwd",
            "../x:abc",
            "sha256:/etc",
            "a/b:cc",
            &format!("sha256:{}", hex64.to_uppercase()),
            &format!("SHA256:{hex64}"),
            &format!("sha512:{hex64}"),
            &format!("sha256:{hex64}\n"),
            &format!("x:{}", "a".repeat(300)),
        ] {
            assert!(Digest::parse(bad).is_err(), "{bad}");
        }
        assert!(Digest::parse("blake3:abcd").unwrap().hasher().is_none());
        assert!(Digest::parse(&format!("sha512:{}", "0".repeat(128))).is_ok());
    }

    proptest! {
        #[test]
        fn parse_never_panics_and_keeps_text(text in "\\PC{0,90}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.as_str(), text.as_str());
                prop_assert!(!digest.encoded().contains('/') && !digest.algorithm().contains('/'));
            }
        }
    }
}
