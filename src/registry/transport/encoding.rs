//! Content codings (RFC 9110, 8.4). Larder asks for none, because digests are of the bytes as they were pushed; some proxies compress
//! answers all the same.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use reqwest::header::{CONTENT_ENCODING, HeaderMap};

/// Why a compressed body cannot be used.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// It is longer than it may be.
    TooLong,
    /// It is damaged, or in a coding that larder does not read; in words.
    Unreadable(String),
}

/// How a gzip file begins (RFC 1952, 2.3.1). No manifest and no list begins so.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The coding of an answer's body, if it says one.
pub(crate) fn coding(headers: &HeaderMap) -> Option<String> {
    let said = headers.get(CONTENT_ENCODING)?.to_str().ok()?.trim().to_ascii_lowercase();
    (!said.is_empty() && said != "identity").then_some(said)
}

/// The body as it was before it was compressed, of at most `most` bytes. A body that is not in the coding that its header says is taken
/// as it is: some servers say `gzip` of files that are gzip files themselves.
pub(super) fn decoded(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, DecodeError> {
    let Some(coding) = coding(headers) else { return Ok(body) };
    if body.starts_with(&GZIP) {
        let mut plain = vec![];
        let bound = most.saturating_add(1) as u64;
        let read = MultiGzDecoder::new(&*body).take(bound).read_to_end(&mut plain);
        read.map_err(|error| {
            DecodeError::Unreadable(format!("the answer is compressed (Content-Encoding: {coding}) and damaged: {error}"))
        })?;
        return if plain.len() > most { Err(DecodeError::TooLong) } else { Ok(plain.into()) };
    }
    match body.trim_ascii_start().first() {
        None | Some(b'{' | b'[' | b'<') => Ok(body),
        Some(_) => Err(DecodeError::Unreadable(format!(
            "the answer is compressed (Content-Encoding: {coding}), which larder did not ask for and cannot read"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn said(coding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, coding.parse().unwrap())])
    }

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = flate2::write::GzEncoder::new(vec![], flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn gzip_is_decoded_within_the_bound_and_plain_bodies_are_taken_as_they_are() {
        let plain = Bytes::from_static(b"{\"a\": 1}");
        assert_eq!(decoded(&said("gzip"), gzip(&plain), 8).unwrap(), plain);
        assert_eq!(decoded(&said("x-gzip"), [gzip(b"{\"a\""), gzip(b": 1}")].concat().into(), 8).unwrap(), plain);
        assert!(matches!(decoded(&said("gzip"), gzip(&plain), 7), Err(DecodeError::TooLong)));
        assert_eq!(decoded(&said("gzip"), plain.clone(), 8).unwrap(), plain);
        assert_eq!(decoded(&said("identity"), gzip(&plain), 99).unwrap(), gzip(&plain));
        assert_eq!(decoded(&HeaderMap::new(), gzip(&plain), 99).unwrap(), gzip(&plain));
    }

    #[test]
    fn other_codings_and_damage_are_named() {
        let Err(DecodeError::Unreadable(why)) = decoded(&said("br"), Bytes::from_static(b"\x0b\x02\x80"), 99) else { panic!() };
        assert_eq!(why, "the answer is compressed (Content-Encoding: br), which larder did not ask for and cannot read");
        let cut = gzip(b"{\"a\": 1}").slice(..14);
        let Err(DecodeError::Unreadable(why)) = decoded(&said("gzip"), cut, 99) else { panic!() };
        assert!(why.starts_with("the answer is compressed (Content-Encoding: gzip) and damaged: "), "{why}");
    }
}
